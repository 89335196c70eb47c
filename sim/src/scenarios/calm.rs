//! Nothing breaks: collections, uploads, cancels, labels and events on one
//! frontend, with a fine grain of time so that wake-ups can be measured.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario =
    Scenario { name: "calm", about: "one frontend, nothing breaks", run };

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).clients(6).sockets(2).old(1).eager(2);
    c.tick(Duration::from_millis(1)).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let clients = c.cluster().clients;
    let mut flows = Vec::new();
    for n in 0..12 {
        let client = rng.random_range(0..clients);
        let mut plan = Plan::rows(rng.random_range(1..5), rng.random_range(1..40))
            .lasting(rng.random_range(100..5000));
        plan.two = rng.random_bool(0.3);
        plan.urgent = rng.random_bool(0.2);
        plan.fails = rng.random_bool(0.1);
        if rng.random_bool(0.4) {
            plan = plan.uploads(&[rng.random_range(0..400_000)]);
        }
        if let Some(f) = c.collect(client, plan).await {
            flows.push((client, f));
        }
        if n % 4 == 1 {
            let (client, flow) = &flows[rng.random_range(0..flows.len())];
            c.cancel(*client, flow).await;
        }
        if n % 3 == 2 {
            let label = format!("label-{}", rng.random_range(0..3));
            c.label(rng.random_range(0..clients), &label, rng.random_bool(0.7)).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..3000))).await;
    }
    c.seconds(5).await;
    Ok(())
}
