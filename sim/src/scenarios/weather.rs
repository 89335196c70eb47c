//! Anything may happen to the cluster, several things at once: the fault
//! scheduler draws from everything it knows.

use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::client::Order;
use crate::cluster::{Handle, Outcome, Script};
use crate::faults::Menu;
use crate::plan::{EVENTS, Plan};

pub const SCENARIO: Scenario = Scenario {
    name: "weather",
    about: "a master and two minions under every kind of fault at once",
    run,
};

fn run(seed: u64, s: Settings) -> Outcome {
    let c = cluster(seed, s).minions(2).clients(10).sockets(4).old(1).eager(2);
    let names = c.frontends();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut menu = Menu::all(&names, &names);
    menu.peers = vec!["edge0".into()];
    menu.lasting = Duration::from_millis(200)..Duration::from_secs(12);
    c.balanced(seed.is_multiple_of(4)).faults(menu).run(script)
}

async fn script(c: Handle) -> Script {
    let mut rng = c.rng();
    let clients = c.cluster().clients;
    let mut flows: Vec<(usize, String)> = Vec::new();
    c.monitor(&[EVENTS]).await;
    while crate::ledger::now() < Duration::from_secs(75) {
        let client = rng.random_range(0..clients);
        let mut plan = Plan::rows(rng.random_range(1..6), rng.random_range(1..60))
            .lasting(rng.random_range(100..8000));
        plan.urgent = rng.random_bool(0.2);
        if rng.random_bool(0.3) {
            plan = plan.uploads(&[rng.random_range(0..700_000)]);
        }
        if let Some(f) = c.collect(client, plan).await {
            flows.push((client, f));
        }
        match rng.random_range(0..14) {
            0 if !flows.is_empty() => {
                let (client, flow) = &flows[rng.random_range(0..flows.len())];
                c.cancel(*client, flow).await;
            }
            1 => drop(c.label(client, "stormy", rng.random_bool(0.7)).await),
            2 => {
                let rest = Duration::from_millis(rng.random_range(100..5000));
                c.order(client, Order::Restart(rest)).await;
            }
            3 => c.order(client, Order::Replay(rng.random_range(1..4))).await,
            _ => {}
        }
        c.sleep(Duration::from_millis(rng.random_range(0..4000))).await;
    }
    Ok(())
}
