//! One frontend and one agent of the production code, from one seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;
use velociraptor::config::generate::{self, Choices, Keys};
use velociraptor::config::{Document, Loaded, Role, document, load, patch, split};
use velociraptor::crypto::{ClientId, PrivateKey};
use velociraptor::env::Env;
use velociraptor::node::{Extras, Node};
use velociraptor::services::Server;
use velociraptor::services::flows::Rows;
use velociraptor_proto::proto::ArtifactCollectorArgs;

use crate::crypto;
use crate::disk::Disk;
use crate::net::{EPOCH, Inline, SimClock, SimEntropy, SimNet};
use crate::trace::{Detail, Record, Recorder};

/// Latency of a call to the file server.
const STORE: Duration = Duration::from_millis(1);
/// Rows of the collection in the script.
const ROWS: u64 = 5000;

/// What a run left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Log events and packets with virtual times, one a line.
    pub trace: Vec<String>,
    /// Rows stored of each collection, in order.
    pub rows: Vec<u64>,
    /// What no correct program does to a file server.
    pub faults: Vec<String>,
    /// Why the run failed.
    pub error: Option<String>,
}

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The frontend is killed in the middle of the second collection.
    pub crash: bool,
}

/// tokio hands out task ids from one process-wide counter and shards its task
/// list by their low bits, so the order in which a crash drops tasks depends on
/// every task ever spawned. One simulation at a time, from an aligned id.
static ONE: Mutex<()> = Mutex::new(());

fn align_task_ids() {
    let Ok(rt) = tokio::runtime::Builder::new_current_thread().build() else { return };
    while rt.spawn(async {}).id().to_string().parse::<u64>().is_ok_and(|id| id % 64 != 63) {}
}

/// Held for the length of a run; task ids are aligned when this returns.
pub fn one_at_a_time() -> std::sync::MutexGuard<'static, ()> {
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    align_task_ids();
    one
}

/// Runs on a thread of its own, so every thread-local starts from nothing.
#[allow(clippy::disallowed_methods)] // the one place that may start a thread
pub fn run(plan: Plan) -> Outcome {
    let _one = one_at_a_time();
    let thread = std::thread::Builder::new().stack_size(32 << 20).spawn(move || {
        crypto::reseed(plan.seed);
        let record = Record::default();
        let layer = Recorder { record: record.clone(), detail: Detail::Shape };
        let subscriber = tracing_subscriber::registry().with(layer);
        let mut out = tracing::subscriber::with_default(subscriber, || drive(plan));
        out.trace = record.take().into_iter().map(|(_, line)| line).collect();
        out
    });
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(out)) => out,
        _ => Outcome { error: Some("the simulation panicked".into()), ..Outcome::default() },
    }
}

fn key(pem: &str) -> Result<PrivateKey, String> {
    PrivateKey::from_pem(pem).map_err(|e| e.to_string())
}

/// Writes the configuration of both sides to their disks.
fn configure(seed: u64, server: &Disk, agent: &Disk) -> Result<(), String> {
    let keys = Keys {
        ca: key(include_str!("../data/ca.pem"))?,
        frontend: key(include_str!("../data/frontend.pem"))?,
        gateway: key(include_str!("../data/gateway.pem"))?,
    };
    let choices =
        Choices { hostname: "server".into(), datastore: "/store".into(), ..Choices::default() };
    let now = UNIX_EPOCH + EPOCH - Duration::from_secs(3600);
    let entropy = SimEntropy::new(seed);
    let made = generate::server_with(&entropy, now, &choices, &keys);
    let mut value = made.map_err(|e| e.to_string())?;
    // What the endpoint's own memory use looks like would differ between runs.
    let quiet = json!({
        "Frontend": { "default_client_monitoring_artifacts": null },
        "Client": {
            "writeback_linux": "/agent/writeback.yaml",
            "local_buffer": { "filename_linux": "/agent/buffer" },
            "max_poll": 5,
        },
    });
    patch::merge(&mut value, &quiet);
    let doc =
        Document::from_value(value, "the simulated configuration").map_err(|e| e.to_string())?;
    let client = split::client(&doc, None).map_err(|e| e.to_string())?;
    server.put("/etc/server.config.yaml", document::to_yaml(&doc.value).as_bytes());
    agent.put("/agent/client.config.yaml", document::to_yaml(&client).as_bytes());
    let pem = include_str!("../data/client.pem");
    let id = ClientId::of(key(pem)?.public()).to_string();
    let writeback = json!({"client_id": id, "private_key": pem, "install_time": EPOCH.as_secs()});
    agent.put("/agent/writeback.yaml", document::to_yaml(&writeback).as_bytes());
    Ok(())
}

fn env(disk: &Disk, host: &str, seed: u64) -> Env {
    Env {
        net: Arc::new(SimNet),
        clock: Arc::new(SimClock::default()),
        entropy: Arc::new(SimEntropy::new(seed)),
        fs: disk.mount(host, STORE),
        crypto: Arc::new(crypto::provider()),
        cpu: Arc::new(Inline),
        tasks: Arc::new(Inline),
        sabotage: velociraptor::env::Sabotage::NONE,
    }
}

type Shared<T> = Arc<Mutex<Option<T>>>;

fn get<T: Clone>(s: &Shared<T>) -> Option<T> {
    s.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn drive(plan: Plan) -> Outcome {
    let mut b = turmoil::Builder::new();
    b.rng_seed(plan.seed)
        .epoch(UNIX_EPOCH + EPOCH)
        .simulation_duration(Duration::from_secs(300))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .tcp_capacity(1024);
    let mut sim = b.build();
    let (server_disk, agent_disk) = (Disk::default(), Disk::default());
    if let Err(e) = configure(plan.seed, &server_disk, &agent_disk) {
        return Outcome { error: Some(e), ..Outcome::default() };
    }
    let running: Shared<Arc<Server>> = Shared::default();
    let (disk, slot) = (server_disk.clone(), running.clone());
    sim.host("server", move || {
        let (env, slot) = (env(&disk, "server", plan.seed ^ 1), slot.clone());
        async move {
            let mut loaded: Loaded =
                load(&env, "/etc/server.config.yaml", None, Role::Server).await?;
            loaded.settings.journal.reserve_bytes = Some(1 << 20);
            let extras = Extras {
                registry: velociraptor::plugins::server::registry(),
                definitions: vec![],
                takeover: false,
            };
            let node = Node::start(env, &loaded, extras).await?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.server.clone());
            std::future::pending::<()>().await;
            Ok(())
        }
    });
    let disk = agent_disk.clone();
    sim.host("agent", move || {
        let env = env(&disk, "agent", plan.seed ^ 2);
        async move {
            let _stop = velociraptor::cli::client::start_as(
                &env,
                "/agent/client.config.yaml",
                Some(velociraptor::pool::Persona::Linux.host(0, "H.1")),
            )
            .await?;
            std::future::pending::<()>().await;
            Ok(())
        }
    });
    let rows: Arc<Mutex<Vec<u64>>> = Arc::default();
    let crash_now: Arc<Mutex<bool>> = Arc::default();
    let (slot, counted, crash) = (running.clone(), rows.clone(), crash_now.clone());
    sim.client("script", async move {
        let client = enrolled(&slot).await?;
        for round in 0..2 {
            let flow = schedule(&slot, &client).await?;
            if plan.crash && round == 1 {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
                *crash.lock().unwrap_or_else(PoisonError::into_inner) = true;
            }
            let n = finished(&slot, &client, &flow).await?;
            counted.lock().unwrap_or_else(PoisonError::into_inner).push(n);
        }
        Ok(())
    });
    let result = loop {
        match sim.step() {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(e) => break Err(e),
        }
        let now = std::mem::take(&mut *crash_now.lock().unwrap_or_else(PoisonError::into_inner));
        if now {
            sim.crash("server");
            server_disk.crash("server");
            sim.bounce("server");
        }
    };
    let mut faults = server_disk.faults();
    faults.extend(agent_disk.faults());
    let rows = rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Outcome { trace: vec![], rows, faults, error: result.err().map(|e| e.to_string()) }
}

type Failed = Box<dyn std::error::Error>;

async fn enrolled(slot: &Shared<Arc<Server>>) -> Result<String, Failed> {
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(server) = get(slot) else { continue };
        let org = server.root();
        let state = org.state();
        let known = state.clients.iter().find(|(_, c)| !c.info.hostname.is_empty());
        if let Some((id, _)) = known {
            return Ok(id.clone());
        }
    }
    Err("no client was interrogated within a minute".into())
}

async fn schedule(slot: &Shared<Arc<Server>>, client: &str) -> Result<String, Failed> {
    let server = get(slot).ok_or("the server is not up")?;
    let org = server.root();
    let text = format!(
        "name: Custom.Sim.Rows\nsources:\n  - query: |\n      SELECT * FROM foreach(\n        \
         row={{ SELECT _value AS A, sleep(ms=100) AS S FROM range(start=0, end={}, step=1) }},\n        \
         query={{ SELECT A * 100 + _value AS I FROM range(start=0, end=100, step=1) }})\n",
        ROWS / 100
    );
    if org.repository.get("Custom.Sim.Rows").is_none() {
        org.repository.set(&text)?;
    }
    let mut request = ArtifactCollectorArgs {
        client_id: client.to_owned(),
        artifacts: vec!["Custom.Sim.Rows".into()],
        ..Default::default()
    };
    server.compile_into(&org, &mut request).await?;
    Ok(server.schedule(&org, "script", request).await?)
}

async fn finished(slot: &Shared<Arc<Server>>, client: &str, flow: &str) -> Result<u64, Failed> {
    let set = Rows::Results("Custom.Sim.Rows".into());
    for _ in 0..2000 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(server) = get(slot) else { continue };
        let org = server.root();
        let Some(c) = server.flow(&org, client, flow).await? else { continue };
        use velociraptor_proto::proto::artifact_collector_context::State;
        match c.state() {
            State::Finished => return Ok(server.row_count(&org, client, flow, &set).await?),
            State::Error => return Err(format!("flow ended: {}", c.status).into()),
            _ => {}
        }
    }
    Err("the flow did not finish".into())
}
