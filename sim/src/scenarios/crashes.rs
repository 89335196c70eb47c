//! The frontend is killed again and again in the middle of everything, clients
//! restart and sleep, old POSTs arrive again.

use std::time::Duration;

use rand::Rng;

use super::work::{Flows, some};
use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::EVENTS;

pub const SCENARIO: Scenario = Scenario {
    name: "crashes",
    about: "one frontend, killed in the middle; clients restart, sleep, repeat themselves",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).clients(10).sockets(3).old(2).eager(4);
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    let clients = c.cluster().clients;
    if rng.random_bool(0.3) {
        // In the middle of enrolment.
        c.sleep(Duration::from_millis(rng.random_range(500..4000))).await;
        c.restart("server", Duration::from_millis(rng.random_range(0..3000))).await;
    }
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let mut flows = Flows::new();
    for _ in 0..rng.random_range(2..5) {
        some(&c, &mut rng, &mut flows, 10).await;
        match rng.random_range(0..5) {
            0 => {
                // Long enough for flows to be settled, and then the past comes back.
                c.seconds(45).await;
                if rng.random_bool(0.5) {
                    // So late that only the last POSTs of a client tell.
                    c.leap(Duration::from_secs(3600));
                    c.seconds(5).await;
                }
                for client in 0..clients {
                    c.order(client, Order::Replay(2)).await;
                }
            }
            1 => c.leap(Duration::from_secs(86_400)),
            _ => {}
        }
        c.restart("server", Duration::from_millis(rng.random_range(0..4000))).await;
        c.sleep(Duration::from_millis(rng.random_range(0..6000))).await;
    }
    Ok(())
}
