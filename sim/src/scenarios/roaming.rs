//! Clients move from network to network while the store stands still: what they
//! send is on its way to the journal when it comes a second time. Then the power
//! fails.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "roaming",
    about: "connections break in the middle of commits, then the power fails",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    cluster(seed, s).clients(8).sockets(2).eager(6).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    let clients = c.cluster().clients;
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    for _ in 0..rng.random_range(2..5) {
        for _ in 0..rng.random_range(1..5) {
            let mut plan = Plan::rows(rng.random_range(2..8), rng.random_range(1..40))
                .lasting(rng.random_range(500..9000));
            if rng.random_bool(0.4) {
                plan = plan.uploads(&[rng.random_range(0..700_000)]);
            }
            c.collect(rng.random_range(0..clients), plan).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(200..2500))).await;
        let stands = Duration::from_millis(rng.random_range(1500..6000));
        let fails = rng.random_bool(0.7);
        let moves = async {
            for _ in 0..rng.random_range(1..4) {
                c.sleep(Duration::from_millis(rng.random_range(300..900))).await;
                for client in 0..clients {
                    c.order(client, Order::Roam).await;
                }
            }
            if fails {
                c.sleep(Duration::from_millis(rng.random_range(100..400))).await;
                c.power_off("server").await;
            }
        };
        tokio::join!(c.stall_store(stands), moves);
        if fails {
            c.start("server").await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..4000))).await;
    }
    Ok(())
}
