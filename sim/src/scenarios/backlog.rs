//! The frontend is away for long, so that clients gather much; when it is back,
//! what is urgent overtakes what waited.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "backlog",
    about: "long outages in the middle of long flows: reports overtake rows",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).clients(6).sockets(2).old(1);
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    for client in 0..6 {
        let parts = rng.random_range(15..40);
        let plan = Plan::rows(parts, rng.random_range(5..30)).lasting(parts * 600);
        c.collect(client, plan).await;
    }
    for _ in 0..2 {
        c.sleep(Duration::from_millis(rng.random_range(10..3000))).await;
        c.restart("server", Duration::from_millis(rng.random_range(3000..14_000))).await;
    }
    Ok(())
}
