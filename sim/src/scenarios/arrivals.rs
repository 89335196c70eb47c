//! Clients come for the first time, with data that cannot wait, while the
//! frontend is killed again and again.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "arrivals",
    about: "clients enrol with data in hand while the frontend is killed",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).clients(12).sockets(3).eager(12).arriving(Duration::from_secs(12));
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    for _ in 0..6 {
        c.sleep(Duration::from_millis(rng.random_range(200..2500))).await;
        c.restart("server", Duration::from_millis(rng.random_range(0..800))).await;
    }
    c.enrolled().await?;
    for client in 0..c.cluster().clients {
        c.collect(client, Plan::rows(2, 5)).await;
    }
    if rng.random_bool(0.5) {
        c.leap(Duration::from_secs(86_400 * 3));
        c.seconds(65).await;
    }
    c.restart("server", Duration::from_secs(1)).await;
    c.seconds(10).await;
    Ok(())
}
