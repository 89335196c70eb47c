//! Shell sessions as the web page has them: a flow that goes on for long, and further
//! runs in it, one for each command; cancels of it just before a restart.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "shells",
    about: "further runs in flows that go on, are over, or are settled; cancels before a restart",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions((seed % 3) as usize).clients(4).sockets(2).eager(1);
    c.run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    c.enrolled().await?;
    let mut sessions = Vec::new();
    for client in 0..4 {
        // The first command goes on for as long as the shell does.
        let mut plan = Plan::rows(rng.random_range(2..30), rng.random_range(1..4))
            .lasting(rng.random_range(500..90_000));
        plan.urgent = true;
        if rng.random_bool(0.3) {
            plan = plan.uploads(&[rng.random_range(0..300_000)]);
        }
        sessions.extend(c.collect(client, plan).await.map(|flow| (client, flow)));
    }
    if sessions.is_empty() {
        return Ok(());
    }
    for _ in 0..rng.random_range(4..9) {
        for _ in 0..rng.random_range(1..4) {
            let (client, flow) = &sessions[rng.random_range(0..sessions.len())];
            command(&c, &mut rng, *client, flow).await;
            c.sleep(Duration::from_millis(rng.random_range(0..3000))).await;
        }
        trouble(&c, &mut rng, &sessions).await;
        c.sleep(Duration::from_millis(rng.random_range(0..4000))).await;
    }
    stop_at_restart(&c, &mut rng).await;
    Ok(())
}

async fn command(c: &Handle, rng: &mut SmallRng, client: usize, flow: &str) {
    let mut plan = Plan::rows(rng.random_range(1..5), rng.random_range(1..4))
        .lasting(rng.random_range(10..6000));
    plan.urgent = rng.random_bool(0.9);
    plan.fails = rng.random_bool(0.1);
    if rng.random_bool(0.3) {
        plan = plan.uploads(&[rng.random_range(0..200_000)]);
    }
    c.run_again(client, flow, plan).await;
}

async fn trouble(c: &Handle, rng: &mut SmallRng, sessions: &[(usize, String)]) {
    let frontends = c.cluster().frontends();
    let victim = &frontends[rng.random_range(0..frontends.len())];
    let rest = Duration::from_millis(rng.random_range(0..3000));
    let (client, flow) = &sessions[rng.random_range(0..sessions.len())];
    match rng.random_range(0..10) {
        // Everything into stock files, and begun again from there.
        0 | 1 => drop(c.renew("server", rest).await),
        2..=4 => drop(c.restart(victim, rest).await),
        // Long enough for what is over to be settled.
        5 => c.seconds(45).await,
        6 => c.order(*client, Order::Restart(rest)).await,
        7 => c.order(*client, Order::Replay(2)).await,
        8 => drop(c.cancel(*client, flow).await),
        _ => {}
    }
}

/// A long flow is given to its client, and before the client can show that it has it,
/// nobody hears it any more; the flow is cancelled, and the master starts anew.
async fn stop_at_restart(c: &Handle, rng: &mut SmallRng) {
    let trip = c.cluster().network.1;
    let frontends = c.cluster().frontends();
    for client in 0..4 {
        let mut plan = Plan::rows(1, 1).lasting(900_000);
        plan.urgent = true;
        let Some(flow) = c.collect(client, plan).await else { continue };
        c.sleep(trip * rng.random_range(0..250) / 100).await;
        let apart = Duration::from_millis(rng.random_range(1000..4000));
        let edges = (0..c.cluster().edges()).map(|i| format!("edge{i}"));
        let ways = edges.flat_map(|e| frontends.iter().map(move |f| (f.clone(), e.clone())));
        let ways = ways.map(|(f, e)| async move { c.partition(&f, &e, apart).await });
        let restart = async {
            c.cancel(client, &flow).await;
            c.restart("server", Duration::from_millis(rng.random_range(0..1000))).await;
        };
        futures::future::join(futures::future::join_all(ways), restart).await;
        c.seconds(5).await;
    }
    c.seconds(120).await;
}
