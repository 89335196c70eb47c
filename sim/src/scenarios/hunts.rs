//! Hunts over a master and two minions: clients that are there, that come later,
//! that get a label later; hunts that are started late, stopped, full or deleted;
//! and crashes of all kinds in between.

use std::time::Duration;

use rand::Rng;
use velociraptor_proto::proto::hunt::State;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::ledger::Whom;
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "hunts",
    about: "hunts: labels, limits, late clients; crashes while clients are recruited",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let late = Duration::from_secs(20);
    cluster(seed, s).minions(2).clients(20).sockets(8).old(2).arriving(late).run(script)
}

/// Crashes of a frontend, or nothing.
async fn trouble(c: &Handle, rng: &mut impl Rng) {
    let frontends = c.cluster().frontends();
    match rng.random_range(0..5) {
        0 => {
            let down = Duration::from_millis(rng.random_range(0..3000));
            c.restart("server", down).await;
        }
        1 => {
            let victim = &frontends[rng.random_range(0..frontends.len())];
            let down = Duration::from_millis(rng.random_range(0..3000));
            c.restart(victim, down).await;
        }
        2 => {
            for f in &frontends {
                c.crash(f).await;
            }
            for f in &frontends {
                c.start(f).await;
            }
        }
        _ => {}
    }
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    let clients = c.cluster().clients;
    // Some clients are there, the others come while hunts run.
    c.seconds(rng.random_range(2..8)).await;
    let mut hunts = Vec::new();
    let plan = |rng: &mut rand::rngs::SmallRng| {
        let mut p = Plan::rows(rng.random_range(1..4), rng.random_range(1..20))
            .lasting(rng.random_range(100..4000));
        p.fails = rng.random_bool(0.2);
        p
    };
    for whom in [Whom::All, Whom::Label("red".into()), Whom::Nobody] {
        let p = plan(&mut rng);
        hunts.extend(c.hunt(whom, 0, p, true).await);
        c.sleep(Duration::from_millis(rng.random_range(0..1500))).await;
    }
    trouble(&c, &mut rng).await;
    c.enrolled().await?;
    // A few at most.
    let (limit, p) = (rng.random_range(2..8), plan(&mut rng));
    c.hunt(Whom::All, limit, p, true).await;
    let p = plan(&mut rng);
    let late = c.hunt(Whom::Not("red".into()), 0, p, false).await;
    for _ in 0..rng.random_range(3..7) {
        match rng.random_range(0..4) {
            0 => {
                let client = rng.random_range(0..clients);
                let rest = Duration::from_millis(rng.random_range(100..6000));
                let order = match rng.random_bool(0.5) {
                    true => Order::Restart(rest),
                    false => Order::Sleep(rest),
                };
                c.order(client, order).await;
            }
            1 => {
                let p = plan(&mut rng);
                let Some(id) = c.hunt(Whom::All, 0, p, true).await else { continue };
                // In the middle of recruiting.
                c.sleep(Duration::from_millis(rng.random_range(0..3000))).await;
                let to = match rng.random_range(0..4) {
                    0 => State::Deleted,
                    1 => State::Paused,
                    _ => State::Stopped,
                };
                if c.change_hunt(&id, to).await && rng.random_bool(0.3) && to != State::Deleted {
                    c.seconds(1).await;
                    c.change_hunt(&id, State::Running).await;
                }
            }
            _ => {
                c.label(rng.random_range(0..clients), "red", true).await;
            }
        }
        if rng.random_bool(0.5) {
            trouble(&c, &mut rng).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..2500))).await;
    }
    if let Some(id) = late {
        c.change_hunt(&id, State::Running).await;
        c.sleep(Duration::from_millis(rng.random_range(0..2500))).await;
        trouble(&c, &mut rng).await;
    }
    c.seconds(rng.random_range(0..6)).await;
    Ok(())
}
