//! Collections are deleted while they run, when they are over, and while what they
//! sent is still on its way through a minion that is cut off: none comes back.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "deletions",
    about: "collections are deleted early and late; late POSTs, partitions, crashes, masters",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    cluster(seed, s).minions(2).clients(10).sockets(4).old(2).eager(3).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    let clients = c.cluster().clients;
    let mut flows: Vec<(usize, String)> = Vec::new();
    for _ in 0..rng.random_range(2..5) {
        for _ in 0..rng.random_range(3..8) {
            let client = rng.random_range(0..clients);
            let mut plan = Plan::rows(rng.random_range(1..6), rng.random_range(1..60))
                .lasting(rng.random_range(100..9000));
            plan.two = rng.random_bool(0.2);
            if rng.random_bool(0.3) {
                plan = plan.uploads(&[rng.random_range(0..500_000)]);
            }
            flows.extend(c.collect(client, plan).await.map(|f| (client, f)));
            if rng.random_bool(0.2) {
                let rest = Duration::from_millis(rng.random_range(100..4000));
                c.order(client, Order::Restart(rest)).await;
            }
            c.sleep(Duration::from_millis(rng.random_range(0..1200))).await;
        }
        // Sometimes they are settled first.
        c.seconds(if rng.random_bool(0.3) { 40 } else { rng.random_range(0..4) }).await;
        let cut = rng.random_range(0..4);
        if cut > 0 {
            // What its clients send waits there.
            let time = Duration::from_millis(rng.random_range(500..9000));
            c.partition("server", &format!("minion{}", cut.min(2)), time).await;
        }
        for _ in 0..rng.random_range(1..5) {
            if flows.is_empty() {
                break;
            }
            let (client, flow) = flows.swap_remove(rng.random_range(0..flows.len()));
            c.delete_flow(client, &flow).await;
            if rng.random_bool(0.5) {
                c.order(client, Order::Replay(rng.random_range(1..4))).await;
            }
            c.sleep(Duration::from_millis(rng.random_range(0..800))).await;
        }
        let frontends = c.cluster().frontends();
        match rng.random_range(0..5) {
            0 => {
                for f in &frontends {
                    c.crash(f).await;
                }
                for f in &frontends {
                    c.start(f).await;
                }
            }
            1 | 2 => {
                c.restart("server", Duration::from_millis(rng.random_range(0..3000))).await;
            }
            3 => {
                let victim = &frontends[rng.random_range(0..frontends.len())];
                c.restart(victim, Duration::from_millis(rng.random_range(0..3000))).await;
            }
            _ => {}
        }
        for client in 0..clients {
            if rng.random_bool(0.3) {
                c.order(client, Order::Replay(2)).await;
            }
        }
        c.sleep(Duration::from_millis(rng.random_range(0..5000))).await;
    }
    Ok(())
}
