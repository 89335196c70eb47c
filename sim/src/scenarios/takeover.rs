//! A machine stands still for so long that its successor starts with its name,
//! and then goes on: it must find that it is nobody any more.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "takeover",
    about: "a frontend stands still, its successor starts, and then it goes on",
    run,
};

/// Who has a successor.
fn victim(seed: u64) -> &'static str {
    if seed.is_multiple_of(2) { "server" } else { "minion1" }
}

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions(1).clients(8).sockets(3).eager(4).spare(victim(seed));
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    some(&c, &mut rng).await;
    let together = Duration::from_millis(rng.random_range(0..6000));
    c.succeed(victim(c.cluster().seed), together).await?;
    some(&c, &mut rng).await;
    if rng.random_bool(0.5) {
        c.restart("server", Duration::from_millis(rng.random_range(0..2000))).await;
    }
    Ok(())
}

async fn some(c: &Handle, rng: &mut SmallRng) {
    for _ in 0..rng.random_range(2..6) {
        let client = rng.random_range(0..c.cluster().clients);
        let mut plan = Plan::rows(rng.random_range(1..6), rng.random_range(1..60))
            .lasting(rng.random_range(100..30_000));
        if rng.random_bool(0.5) {
            plan = plan.uploads(&[rng.random_range(0..700_000)]);
        }
        if let Some(flow) = c.collect(client, plan).await
            && rng.random_bool(0.15)
        {
            c.cancel(client, &flow).await;
        }
        c.label(client, "met", rng.random_bool(0.8)).await;
        c.sleep(Duration::from_millis(rng.random_range(0..1500))).await;
    }
}
