//! The file server stands still while big uploads come. Clients move on, and send what
//! was not answered to another frontend, grouped otherwise: two frontends commit the same
//! data, and of two records one is used. A while later, when what nobody needs is gone,
//! the power fails, and the next master may meet the other one first.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "repeats",
    about: "big uploads are sent to two frontends while the store stands still, then the power fails",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    cluster(seed, s).minions(2).clients(8).sockets(1).balanced(true).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    let clients = c.cluster().clients;
    c.enrolled().await?;
    for _ in 0..rng.random_range(2..4) {
        for client in 0..clients {
            // Each of one piece: one that is sent twice has a file of its own each time.
            let sizes: Vec<u64> =
                (0..rng.random_range(1..6)).map(|_| rng.random_range(66_000..125_000)).collect();
            let plan = Plan::rows(rng.random_range(1..4), rng.random_range(1..20))
                .lasting(rng.random_range(100..1500))
                .uploads(&sizes);
            c.collect(client, plan).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(100..1500))).await;
        let stands = Duration::from_millis(rng.random_range(1500..8000));
        let moves = async {
            for _ in 0..rng.random_range(2..6) {
                c.sleep(Duration::from_millis(rng.random_range(200..1000))).await;
                for client in 0..clients {
                    c.order(client, Order::Roam).await;
                }
            }
        };
        tokio::join!(c.stall_store(stands), moves);
        // Files go every few seconds, and their owners are told then.
        c.sleep(Duration::from_millis(rng.random_range(6000..14_000))).await;
        let victims = match rng.random_bool(0.5) {
            true => c.cluster().frontends(),
            false => vec!["server".to_owned()],
        };
        for f in &victims {
            c.power_off(f).await;
        }
        for f in &victims {
            c.start(f).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..4000))).await;
    }
    Ok(())
}
