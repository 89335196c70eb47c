//! What users and clients do in the middle of whatever a scenario breaks.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::client::Order;
use crate::cluster::Handle;
use crate::plan::Plan;

/// Collections that users were told of: client and flow.
pub type Flows = Vec<(usize, String)>;

/// A few collections, with cancels, labels, restarts of clients and old POSTs
/// between; each of these once in `rare` collections.
pub async fn some(c: &Handle, rng: &mut SmallRng, flows: &mut Flows, rare: u32) {
    let clients = c.cluster().clients;
    for _ in 0..rng.random_range(2..8) {
        let client = rng.random_range(0..clients);
        let mut plan = Plan::rows(rng.random_range(1..6), rng.random_range(1..60))
            .lasting(rng.random_range(100..8000));
        plan.two = rng.random_bool(0.2);
        plan.urgent = rng.random_bool(0.2);
        if rng.random_bool(0.4) {
            plan = plan.uploads(&[rng.random_range(0..700_000)]);
        }
        if let Some(f) = c.collect(client, plan).await {
            flows.push((client, f));
        }
        match rng.random_range(0..rare) {
            0 if !flows.is_empty() => {
                let (client, flow) = &flows[rng.random_range(0..flows.len())];
                c.cancel(*client, flow).await;
            }
            1 => {
                let label = format!("label-{}", rng.random_range(0..3));
                c.label(rng.random_range(0..clients), &label, rng.random_bool(0.7)).await;
            }
            2 => {
                let rest = Duration::from_millis(rng.random_range(100..5000));
                c.order(rng.random_range(0..clients), Order::Restart(rest)).await;
            }
            3 => {
                c.order(rng.random_range(0..clients), Order::Replay(rng.random_range(1..4))).await;
            }
            _ => {}
        }
        c.sleep(Duration::from_millis(rng.random_range(0..1500))).await;
    }
}
