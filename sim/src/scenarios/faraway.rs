//! The file server is far away: every call to it takes 30 to 90 ms. Everything
//! takes longer, and nothing else changes.

use std::time::Duration;

use rand::Rng;

use super::work::{Flows, some};
use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::EVENTS;

pub const SCENARIO: Scenario = Scenario {
    name: "faraway",
    about: "a file server 30 to 90 ms away: a master, a minion, crashes",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions(1).clients(10).sockets(4).old(1).eager(2);
    c.nfs(Duration::from_millis(30)).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let mut flows = Flows::new();
    let frontends = c.cluster().frontends();
    for _ in 0..2 {
        for _ in 0..2 {
            some(&c, &mut rng, &mut flows, 12).await;
        }
        if rng.random_bool(0.6) {
            let victim = &frontends[rng.random_range(0..frontends.len())];
            c.restart(victim, Duration::from_millis(rng.random_range(0..4000))).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..6000))).await;
    }
    Ok(())
}
