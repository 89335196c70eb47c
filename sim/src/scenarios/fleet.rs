//! The whole: a master, three minions and fifty clients for ten virtual minutes.
//! Users work all the time, and every half minute something breaks.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::ledger::now;
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "fleet",
    about: "a master, three minions, 50 clients, ten minutes, faults all the time",
    run,
};

/// How long users work.
const TIME: Duration = Duration::from_secs(600);

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions(3).clients(50).sockets(15).old(3).eager(5);
    // Results are what this is about; a hundred event queries would cost more than all
    // the rest.
    let c = c.events_every(Duration::from_secs(3)).tick(Duration::from_millis(10));
    c.balanced(seed.is_multiple_of(5)).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    c.monitor(&[EVENTS]).await;
    let mut flows: Vec<(usize, String)> = Vec::new();
    let mut next = now() + Duration::from_secs(10);
    while now() < TIME {
        user(&c, &mut rng, &mut flows).await;
        if now() >= next {
            trouble(&c, &mut rng).await;
            next = now() + Duration::from_millis(rng.random_range(15_000..45_000));
        }
        c.sleep(Duration::from_millis(rng.random_range(0..8000))).await;
    }
    Ok(())
}

async fn user(c: &Handle, rng: &mut SmallRng, flows: &mut Vec<(usize, String)>) {
    let client = rng.random_range(0..c.cluster().clients);
    let mut plan = Plan::rows(rng.random_range(1..8), rng.random_range(1..60))
        .lasting(rng.random_range(100..15_000));
    plan.two = rng.random_bool(0.2);
    plan.urgent = rng.random_bool(0.2);
    plan.fails = rng.random_bool(0.05);
    if rng.random_bool(0.4) {
        plan = plan.uploads(&[rng.random_range(0..700_000)]);
    }
    if let Some(f) = c.collect(client, plan).await {
        flows.push((client, f));
    }
    match rng.random_range(0..14) {
        0 if !flows.is_empty() => {
            // One of the last: it may be anywhere on its way.
            let back = rng.random_range(1..=flows.len().min(4));
            let (client, flow) = &flows[flows.len() - back];
            c.cancel(*client, flow).await;
        }
        1 => {
            let label = format!("label-{}", rng.random_range(0..3));
            c.label(client, &label, rng.random_bool(0.7)).await;
        }
        2 => {
            let rest = Duration::from_millis(rng.random_range(100..20_000));
            c.order(client, Order::Restart(rest)).await;
        }
        3 => c.order(client, Order::Replay(rng.random_range(1..4))).await,
        _ => {}
    }
}

async fn trouble(c: &Handle, rng: &mut SmallRng) {
    let frontends = c.cluster().frontends();
    let victim = &frontends[rng.random_range(0..frontends.len())];
    let minion = format!("minion{}", rng.random_range(1..4));
    let mut time = |most: u64| Duration::from_millis(rng.random_range(500..most));
    let (short, long) = (time(6000), time(15_000));
    match rng.random_range(0..12) {
        0 => c.partition("server", &minion, long).await,
        1 => c.delay("server", &minion, short).await,
        2 => c.partition(victim, "edge0", long).await,
        3 => c.stall_store(short).await,
        4 => c.restart_store(short).await,
        5 => c.cut_store(victim, short).await,
        6 => c.freeze(victim, long).await,
        7 => {
            for f in &frontends {
                c.crash(f).await;
            }
            for f in &frontends {
                c.start(f).await;
            }
        }
        8 if rng.random_bool(0.3) => c.leap(Duration::from_secs(86_400)),
        _ => {
            c.restart(victim, short).await;
        }
    }
}
