//! The store misbehaves: it stalls, is full, restarts, refuses single calls.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, Outcome, Script};
use crate::nfs::Kind;
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "store",
    about: "one frontend whose store stalls, fills up, restarts, refuses calls",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    cluster(seed, s).clients(8).sockets(2).old(1).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let clients = c.cluster().clients;
    for _ in 0..rng.random_range(3..6) {
        for _ in 0..rng.random_range(2..6) {
            let mut plan = Plan::rows(rng.random_range(2..8), rng.random_range(1..60))
                .lasting(rng.random_range(1000..9000));
            if rng.random_bool(0.4) {
                plan = plan.uploads(&[rng.random_range(0..700_000)]);
            }
            c.collect(rng.random_range(0..clients), plan).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(200..2500))).await;
        match rng.random_range(0..6) {
            0 => c.stall_store(Duration::from_millis(rng.random_range(500..40_000))).await,
            1 => c.fill_store(Duration::from_millis(rng.random_range(500..8000))).await,
            2 => c.restart_store(Duration::from_millis(rng.random_range(200..8000))).await,
            3 => c.fail_calls("server", Kind::Commit, ".journal", rng.random_range(1..3)),
            4 => c.fail_calls("server", Kind::Write, "", rng.random_range(1..4)),
            _ => c.fail_calls("server", Kind::Link, "", rng.random_range(1..4)),
        }
        c.sleep(Duration::from_millis(rng.random_range(0..4000))).await;
        if rng.random_bool(0.5) {
            c.restart("server", Duration::from_millis(rng.random_range(0..2000))).await;
        }
    }
    Ok(())
}
