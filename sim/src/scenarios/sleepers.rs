//! Laptops are closed before they hear that their last POSTs were taken, and opened
//! days later: by then all of it is in stock files, what was remembered of it is
//! forgotten, journals are deleted, frontends have started anew. They send the very
//! same POSTs again.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "sleepers",
    about: "days pass between a POST and its repeat, and frontends start anew",
    run,
};

/// Journals are rolled so early that what was needed days ago is deleted.
const JOURNAL: u64 = 8 << 10;

/// Seconds after which a process that ended has left nothing, and a little: its last
/// journal stays for two minutes, and those with what clients said of themselves until
/// its successor has written the snapshot of all clients, after five.
const DEAD: u64 = 320;

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions(usize::from(seed % 3 == 2)).clients(6).sockets(2).eager(3);
    c.steady().journal_bytes(JOURNAL).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    let frontends = c.cluster().frontends();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    for _ in 0..2 {
        // Few, and mostly over by then: what runs on keeps its journal.
        for _ in 0..rng.random_range(0..3) {
            let plan = Plan::rows(rng.random_range(2..6), rng.random_range(1..30))
                .lasting(rng.random_range(500..3000));
            c.collect(rng.random_range(0..c.cluster().clients), plan).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(1000..6000))).await;
        let trouble = c.deafen(&frontends).await;
        // Every client has sent something by then that nobody confirmed.
        c.seconds(5).await;
        c.leap(Duration::from_secs(86_400 * rng.random_range(1..20)));
        // Settled, forgotten, deleted.
        c.seconds(rng.random_range(8..14)).await;
        let (starts, apart) = match rng.random_bool(0.4) {
            true => (2, DEAD),
            false => (rng.random_range(0..3), rng.random_range(1..9)),
        };
        for n in 0..starts {
            if n > 0 {
                c.seconds(apart).await;
            }
            for f in &frontends {
                c.restart(f, Duration::from_millis(rng.random_range(0..1500))).await;
            }
        }
        c.seconds(rng.random_range(1..9)).await;
        c.cover("days between a POST and its repeat");
        c.hear(trouble).await;
        // The clients give up what they waited for, and send it again.
        c.seconds(40).await;
    }
    Ok(())
}
