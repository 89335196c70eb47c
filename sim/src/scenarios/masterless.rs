//! Clients are away when something is asked of them, and come back while there is
//! no master: minions deliver what it had left, once, also if it is back too soon
//! or a minion dies meanwhile.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "masterless",
    about: "clients come back while there is no master, and get what it had left for them",
    run,
};

/// Clients that are away at first.
const AWAY: usize = 4;

fn run(seed: u64, s: Settings) -> Outcome {
    cluster(seed, s).minions(2).clients(8).sockets(3).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    for client in 0..AWAY {
        c.order(client, Order::Sleep(Duration::from_millis(rng.random_range(13_000..18_000))))
            .await;
    }
    c.seconds(7).await;
    let mut flows = Vec::new();
    for client in 0..AWAY {
        let plan = Plan::rows(2, rng.random_range(1..30)).lasting(rng.random_range(100..2000));
        flows.extend(c.collect(client, plan).await.map(|f| (client, f)));
    }
    c.seconds(3).await;
    c.crash("server").await;
    if rng.random_bool(0.6) {
        // Agents that met a frontend which is down take their time to try another.
        c.until("delivered without a master", Duration::from_secs(90), |c| {
            let has =
                |(i, f): &(usize, String)| c.books().client(*i, |b| b.executions.contains_key(f));
            flows.iter().all(has)
        })
        .await?;
        c.cover("delivered without a master");
    } else {
        c.sleep(Duration::from_millis(rng.random_range(0..14_000))).await;
        if rng.random_bool(0.5) {
            c.restart("minion1", Duration::from_millis(rng.random_range(0..4000))).await;
        }
    }
    c.start("server").await;
    c.seconds(20).await;
    Ok(())
}
