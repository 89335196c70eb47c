//! Two machines with one client id: an image was copied. Results of one are
//! stored, tasks go to one, and nobody is confused for ever.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario =
    Scenario { name: "clones", about: "clients whose id was copied to a second machine", run };

fn run(seed: u64, s: Settings) -> Outcome {
    let minions = (seed % 2) as usize;
    cluster(seed, s).minions(minions).clients(5).clones(3).sockets(2).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    for _ in 0..rng.random_range(6..14) {
        let plan = Plan::rows(rng.random_range(1..5), rng.random_range(1..30))
            .lasting(rng.random_range(100..6000));
        c.collect(rng.random_range(0..5), plan).await;
        if rng.random_bool(0.15) {
            c.restart("server", Duration::from_millis(rng.random_range(0..2000))).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..2500))).await;
    }
    Ok(())
}
