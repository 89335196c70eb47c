//! Nodes are taken out of service while clients work, by a user or by being told to
//! end, and come back. Nothing else goes wrong, so no client may be without a reader
//! for long.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;

use super::{Scenario, Settings, cluster};
use crate::cluster::{Handle, MAX_POLL, Outcome, Script, node_name};
use crate::ledger::now;
use crate::plan::Plan;

pub const SCENARIO: Scenario = Scenario {
    name: "drain",
    about: "nodes are drained, end in order, and come back; clients keep their readers",
    run,
};

/// Longest that a client may be held by nobody: a stock agent waits one and a half
/// `max_poll` after a failure, and as long before it follows a redirect after another;
/// a second between two polls; and what the network and the directory take.
const READERLESS: Duration = Duration::from_secs(MAX_POLL * 3 + 3);
/// How soon a drained node is to be without clients: all are told at once here.
const EMPTY: Duration = Duration::from_secs(15);

fn run(seed: u64, s: Settings) -> Outcome {
    cluster(seed, s).minions(2).clients(12).sockets(4).old(2).run(script)
}

async fn script(c: Handle) -> Script {
    c.enrolled().await?;
    c.seconds(3).await;
    let watching = watch(c.clone());
    tokio::select! {
        biased;
        done = work(c) => done,
        late = watching => Err(late),
    }
}

async fn work(c: Handle) -> Script {
    let mut rng = c.rng();
    let frontends = c.cluster().frontends();
    for _ in 0..rng.random_range(2..4) {
        collect(&c, &mut rng, 4).await;
        // The master too: it goes on leading.
        let victim = &frontends[rng.random_range(0..frontends.len())];
        if rng.random_bool(0.6) || victim == "server" {
            drain(&c, victim, true).await?;
            c.cover("node drained");
            empty(&c, victim).await?;
            collect(&c, &mut rng, 3).await;
            c.sleep(Duration::from_millis(rng.random_range(0..8000))).await;
            if rng.random_bool(0.3) && victim != "server" {
                // It holds nobody, and is drained still when it is back.
                c.restart(victim, Duration::from_millis(500)).await;
            }
            drain(&c, victim, false).await?;
        } else {
            c.frontend(victim).retire().await.map_err(|_| format!("{victim} did not end"))?;
            c.cover("node ended in order");
            collect(&c, &mut rng, 3).await;
            c.sleep(Duration::from_millis(rng.random_range(0..3000))).await;
            c.restart(victim, Duration::from_millis(100)).await;
        }
        c.sleep(Duration::from_millis(rng.random_range(0..4000))).await;
    }
    Ok(())
}

async fn collect(c: &Handle, rng: &mut impl Rng, n: usize) {
    for _ in 0..n {
        let mut plan = Plan::rows(rng.random_range(1..6), rng.random_range(1..60))
            .lasting(rng.random_range(100..6000));
        if rng.random_bool(0.4) {
            plan = plan.uploads(&[rng.random_range(0..300_000)]);
        }
        c.collect(rng.random_range(0..c.cluster().clients), plan).await;
        c.sleep(Duration::from_millis(rng.random_range(0..800))).await;
    }
}

async fn drain(c: &Handle, frontend: &str, on: bool) -> Script {
    let node = node_name(frontend);
    let call = c.master().call(move |server| async move {
        server.set_drained(&node, on).await.map_err(|e| e.to_string())
    });
    match call.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(format!("{frontend} not drained: {e}")),
        Err(_) => Err("no master".into()),
    }
}

/// Waits until a node holds no client.
async fn empty(c: &Handle, frontend: &str) -> Script {
    let end = now() + EMPTY;
    loop {
        let held = c.frontend(frontend).call(|server| async move {
            let here = server.sessions.by_process();
            here.get(&None).copied().unwrap_or(0)
        });
        match held.await {
            Ok(0) => return Ok(()),
            Ok(n) if now() >= end => {
                return Err(format!("{frontend} still holds {n} clients after {EMPTY:?}"));
            }
            _ => c.sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Ends with a story when a client was held by nobody for too long.
async fn watch(c: Handle) -> String {
    let mut last = BTreeMap::new();
    loop {
        c.sleep(Duration::from_millis(100)).await;
        let ids: Vec<(usize, String)> = {
            let books = c.books().lock();
            let awake = books.clients.iter().enumerate().filter(|(_, b)| b.awake);
            awake.map(|(i, b)| (i, b.id.clone())).collect()
        };
        let held = c.master().call(move |server| async move {
            let org = server.root();
            let held = |id: &str| server.sessions.held(&org.id, id).is_some();
            ids.into_iter().map(|(i, id)| (i, held(&id))).collect::<Vec<_>>()
        });
        let Ok(held) = held.await else { return "the master was not there".into() };
        for (client, held) in held {
            let since = last.entry(client).or_insert_with(now);
            if held {
                *since = now();
            } else if now() > *since + READERLESS {
                return format!("client {client} was held by nobody since {since:?}");
            }
        }
    }
}
