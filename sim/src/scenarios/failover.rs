//! A master, minions and their clients: frontends die and come back, the network
//! between them breaks, clients go from one to the other.

use std::time::Duration;

use rand::Rng;

use super::work::{Flows, some};
use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::EVENTS;

pub const SCENARIO: Scenario = Scenario {
    name: "failover",
    about: "a master and two minions: crashes, partitions, fail-over",
    run: |seed, s| run(seed, s, false),
};

pub const BALANCED: Scenario = Scenario {
    name: "balanced",
    about: "the same behind a balancer: every POST may go to any frontend",
    run: |seed, s| run(seed, s, true),
};

fn run(seed: u64, s: Settings, balanced: bool) -> Outcome {
    let c = cluster(seed, s).minions(2).clients(12).sockets(4).old(2).eager(3).balanced(balanced);
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let mut flows = Flows::new();
    for _ in 0..rng.random_range(2..5) {
        some(&c, &mut rng, &mut flows, 12).await;
        let frontends = c.cluster().frontends();
        let victim = &frontends[rng.random_range(0..frontends.len())];
        match rng.random_range(0..8) {
            0 => {
                let time = Duration::from_millis(rng.random_range(500..9000));
                c.partition("server", &format!("minion{}", rng.random_range(1..3)), time).await;
            }
            1 => {
                let time = Duration::from_millis(rng.random_range(500..6000));
                c.delay("server", &format!("minion{}", rng.random_range(1..3)), time).await;
            }
            2 => {
                let time = Duration::from_millis(rng.random_range(500..9000));
                c.partition(victim, "edge0", time).await;
            }
            3 => c.leap(Duration::from_secs(86_400)),
            4 => {
                for f in &frontends {
                    c.crash(f).await;
                }
                for f in &frontends {
                    c.start(f).await;
                }
            }
            _ => {
                c.restart(victim, Duration::from_millis(rng.random_range(0..4000))).await;
            }
        }
        c.sleep(Duration::from_millis(rng.random_range(0..6000))).await;
    }
    Ok(())
}
