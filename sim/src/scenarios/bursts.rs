//! More work for a few clients than they may have at once, urgent work between,
//! and cancels of what waits and of what runs.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "bursts",
    about: "many flows for few clients: limits, urgent work, cancels, offline queues",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).clients(3).sockets(1);
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    let mut flows = Vec::new();
    for round in 0..3 {
        let client = round % 3;
        let asleep = rng.random_bool(0.4);
        if asleep {
            let rest = Duration::from_millis(rng.random_range(2000..9000));
            c.order(client, crate::client::Order::Sleep(rest)).await;
        }
        for _ in 0..rng.random_range(6..10) {
            let mut plan =
                Plan::rows(rng.random_range(1..4), 5).lasting(rng.random_range(500..4000));
            plan.urgent = rng.random_bool(0.15);
            if let Some(f) = c.collect(client, plan).await {
                flows.push((client, f));
            }
        }
        for _ in 0..3 {
            let (client, flow) = &flows[rng.random_range(0..flows.len())];
            c.cancel(*client, flow).await;
            c.sleep(Duration::from_millis(rng.random_range(0..700))).await;
        }
        if rng.random_bool(0.3) {
            c.restart("server", Duration::from_millis(rng.random_range(0..2000))).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..3000))).await;
    }
    Ok(())
}
