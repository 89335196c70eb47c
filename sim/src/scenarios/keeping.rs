//! Journals are small and little of them is kept, so that flows, events and tasks
//! are put into stock files while they go on; frontends crash in the middle.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "keeping",
    about: "flows outlast journals: they are put into files early, again and again; crashes",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions(1).clients(8).sockets(3).old(1).eager(2);
    c.journal_bytes(16 << 10).keep_bytes(32 << 10).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let clients = c.cluster().clients;
    for client in 0..4 {
        // A minute or two, and some of it now and then.
        let parts = rng.random_range(10..30);
        let plan = Plan::rows(parts, rng.random_range(2..30)).lasting(parts * 4000);
        c.collect(client, plan).await;
    }
    for _ in 0..rng.random_range(4..8) {
        for _ in 0..rng.random_range(2..6) {
            let client = rng.random_range(0..clients);
            let mut plan = Plan::rows(rng.random_range(1..6), rng.random_range(20..100))
                .lasting(rng.random_range(100..5000));
            if rng.random_bool(0.2) {
                plan = plan.uploads(&[rng.random_range(0..200_000)]);
            }
            let flow = c.collect(client, plan).await;
            match (rng.random_range(0..8), flow) {
                (0, Some(flow)) => {
                    c.cancel(client, &flow).await;
                }
                (1, _) => {
                    let rest = Duration::from_millis(rng.random_range(100..20_000));
                    c.order(client, Order::Sleep(rest)).await;
                }
                (2, _) => c.order(client, Order::Replay(rng.random_range(1..4))).await,
                _ => {}
            }
            c.sleep(Duration::from_millis(rng.random_range(0..3000))).await;
        }
        let frontends = c.cluster().frontends();
        match rng.random_range(0..4) {
            0 => {
                for f in &frontends {
                    c.crash(f).await;
                }
                for f in &frontends {
                    c.start(f).await;
                }
            }
            1 => {
                c.restart("server", Duration::from_millis(rng.random_range(0..4000))).await;
            }
            2 => {
                let victim = &frontends[rng.random_range(0..frontends.len())];
                c.restart(victim, Duration::from_millis(rng.random_range(0..4000))).await;
            }
            _ => {}
        }
        c.seconds(rng.random_range(1..12)).await;
    }
    Ok(())
}
