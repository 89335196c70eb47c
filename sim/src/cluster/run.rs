//! Drives a run: one thread, one simulation, from the first step to the verdict.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use velociraptor::env::{Env, FileSystem};

use super::handle::{Handle, Shared};
use super::{Cluster, Outcome, Script, config, frontend};
use crate::check::{self, Violation};
use crate::client;
use crate::crypto;
use crate::disk::Disk;
use crate::faults::{Fault, Hosts, Machine, Schedule};
use crate::ledger::{Books, now};
use crate::net::{EPOCH, Inline, SimClock, SimEntropy, SimNet};
use crate::nfs::{FileServer, ServerOptions};
use crate::trace::{Detail, Record, Recorder};
use crate::watch::Watch;
use crate::world;

/// Clients on one simulated host.
pub(super) const PER_EDGE: usize = 25;
/// How long a service manager waits before it starts a process again.
const RESTART: Duration = Duration::from_secs(2);

/// The machines of the frontends, each with its own disk, around a file server.
fn machines(c: &Cluster, made: &config::Made) -> Hosts {
    let store = FileServer::new(c.seed ^ 0x0f5e, ServerOptions::default());
    store.set_finished_names(crate::watch::is_stock);
    let hosts = Hosts::new(c.seed, store.clone());
    for (name, list) in &made.files {
        let machine = Machine::with_store(super::STORE, c.mount.clone());
        for (path, text) in list {
            machine.disk.put(path, text.as_bytes());
        }
        hosts.machine(name, machine.clone());
        hosts.process(name, name);
        store.link(name, |l| l.latency = c.store..c.store * 3);
        if c.spare.as_ref() == Some(name) {
            let disk = Disk::default();
            list.iter().for_each(|(path, text)| disk.put(path, text.as_bytes()));
            hosts.machine(super::SPARE, Machine { disk, ..machine });
            hosts.process(super::SPARE, super::SPARE);
            store.link(super::SPARE, |l| l.latency = c.store..c.store * 3);
        }
    }
    hosts
}

/// Makes the environment of each process that starts on a host.
fn world_of(
    host: &str,
    hosts: &Hosts,
    watch: &Watch,
    c: &Arc<Cluster>,
) -> impl Fn() -> Option<Env> + Clone + 'static {
    let (host, hosts, watch, c) = (host.to_owned(), hosts.clone(), watch.clone(), c.clone());
    move || {
        let mut env = hosts.env(&host)?;
        env.fs = watch.mount(&host, env.fs);
        if let Some(m) = c.mutant {
            env.sabotage(m);
        }
        Some(env)
    }
}

/// Ends the process of a host. Its service manager starts it again after a while,
/// unless it was to stop.
fn exit_of(host: &str, hosts: &Hosts) -> impl Fn(frontend::Again) + Clone + 'static {
    let (host, hosts) = (host.to_owned(), hosts.clone());
    move |again| {
        hosts.later(now(), Fault::Exit(host.clone()));
        if again == frontend::Again::Yes {
            hosts.later(now() + RESTART, Fault::Start(host.clone()));
        }
    }
}

/// See [`Cluster::run`].
#[allow(clippy::disallowed_methods)] // the one place that may start a thread
pub(super) fn run<F, Fut>(cluster: Cluster, script: F) -> Outcome
where
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future<Output = Script> + Send + 'static,
{
    let _one = world::one_at_a_time();
    let panics = Panics::watch();
    let thread = std::thread::Builder::new().stack_size(32 << 20).spawn(move || {
        crypto::reseed(cluster.seed);
        let record = Record::default();
        let detail = if cluster.traced { Detail::Shape } else { Detail::Warnings };
        let layer = Recorder { record: record.clone(), detail };
        let subscriber = tracing_subscriber::registry().with(layer);
        let traced = cluster.traced;
        let mut out = tracing::subscriber::with_default(subscriber, || drive(cluster, script));
        let lines = record.take().into_iter().map(|(_, line)| line).collect();
        if traced {
            out.trace = lines
        } else {
            out.log = lines
        }
        out
    });
    let mut out = match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(out)) => out,
        _ => Outcome::default(),
    };
    for p in panics.take() {
        out.violations.push(Violation { invariant: "NO_PANIC", story: p });
    }
    out
}

/// Panics of spawned tasks are silent otherwise.
struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    fn watch() -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = seen.clone();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.to_string();
            into.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }));
        Self(seen)
    }

    fn take(&self) -> Vec<String> {
        drop(std::panic::take_hook());
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn env(fs: Arc<dyn FileSystem>, seed: u64, shared: &Shared) -> Env {
    Env {
        net: Arc::new(SimNet),
        clock: Arc::new(SimClock { ahead: shared.leap.clone() }),
        entropy: Arc::new(SimEntropy::new(seed)),
        fs,
        crypto: Arc::new(crypto::provider()),
        cpu: Arc::new(Inline),
        tasks: Arc::new(Inline),
        sabotage: velociraptor::env::Sabotage::NONE,
    }
}

fn drive<F, Fut>(cluster: Cluster, script: F) -> Outcome
where
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future<Output = Script> + Send + 'static,
{
    let failed = |why: String| Outcome {
        violations: vec![Violation { invariant: "SCENARIO", story: why }],
        ..Outcome::default()
    };
    let made = match config::make(&cluster) {
        Ok(m) => m,
        Err(e) => return failed(e),
    };
    let setups = match config::clients(&cluster, &made.deployment) {
        Ok(s) => s,
        Err(e) => return failed(e),
    };
    let mut b = turmoil::Builder::new();
    b.rng_seed(cluster.seed)
        .epoch(UNIX_EPOCH + EPOCH)
        .simulation_duration(cluster.limit)
        .tick_duration(cluster.tick)
        .min_message_latency(cluster.network.0)
        .max_message_latency(cluster.network.1)
        .tcp_capacity(4096);
    let mut sim = b.build();
    let hosts = machines(&cluster, &made);
    let books = Books::default();
    if let Some(menu) = &cluster.faults {
        let schedule = Schedule::from_seed(cluster.seed, menu);
        let first = schedule.faults().next().map(|(at, _)| at);
        if let Some(first) = first {
            books.lock().troubles.push(crate::ledger::Trouble {
                part: crate::ledger::Part::Host,
                from: first,
                to: None,
                what: "scheduled faults".into(),
            });
        }
        hosts.plan(schedule);
    }
    let watch = Watch::new(books.clone());
    let shared = Arc::new(Shared::default());
    let cluster = Arc::new(cluster);
    let mut frontends = BTreeMap::new();
    for name in cluster.frontends() {
        let remote = frontend::Remote::default();
        frontends.insert(name.clone(), remote.clone());
        let c = cluster.clone();
        let make = world_of(&name, &hosts, &watch, &c);
        let exit = exit_of(&name, &hosts);
        sim.host(name.clone(), move || {
            let (name, remote, make) = (name.clone(), remote.clone(), make.clone());
            let exit = exit.clone();
            async move {
                frontend::serve(name, remote, make, exit).await;
                Ok(())
            }
        });
    }
    let spare = frontend::Remote::default();
    let called = CancellationToken::new();
    if let Some(of) = cluster.spare.clone() {
        let make = world_of(super::SPARE, &hosts, &watch, &cluster);
        let (spare, called) = (spare.clone(), called.clone());
        let exit = exit_of(super::SPARE, &hosts);
        sim.host(super::SPARE, move || {
            let (of, spare, make) = (of.clone(), spare.clone(), make.clone());
            let (called, exit) = (called.clone(), exit.clone());
            async move {
                called.cancelled().await;
                frontend::serve(of, spare, make, exit).await;
                Ok(())
            }
        });
    }
    let mut remotes = Vec::new();
    let mut edges: Vec<Vec<(client::Setup, client::Orders)>> = Vec::new();
    for setup in setups {
        let (remote, orders) = client::orders();
        remotes.push(remote);
        books.lock().clients.push(crate::ledger::ClientBook {
            id: setup.id.clone(),
            can_answer: setup.can_answer(),
            cloned: setup.book >= cluster.clients,
            ..Default::default()
        });
        if setup.book % PER_EDGE == 0 {
            edges.push(Vec::new());
        }
        if let Some(e) = edges.last_mut() {
            e.push((setup, orders));
        }
    }
    for (i, members) in edges.into_iter().enumerate() {
        let (books, shared, c) = (books.clone(), shared.clone(), cluster.clone());
        hosts.peer(&format!("edge{i}"));
        let fs = Disk::default().mount(&format!("edge{i}"), Duration::ZERO);
        sim.client(format!("edge{i}"), async move {
            for (setup, orders) in members {
                let seed = c.seed ^ (setup.book as u64 + 1) << 16;
                let env = env(fs.clone(), seed, &shared);
                let delay = env.jitter(Duration::ZERO, c.start_spread);
                tokio::spawn(client::live(env, Arc::new(setup), books.clone(), orders, delay));
            }
            std::future::pending::<()>().await;
            Ok(())
        });
    }
    let handle = Handle {
        shared: shared.clone(),
        books: books.clone(),
        frontends,
        clients: remotes,
        cluster: cluster.clone(),
        down: Arc::default(),
        crashes: Arc::default(),
        hosts: hosts.clone(),
        spare,
        called,
    };
    let verdict: Arc<Mutex<Option<Vec<Violation>>>> = Arc::default();
    let (h, v) = (handle.clone(), verdict.clone());
    sim.client("script", async move {
        let mut found = Vec::new();
        tokio::spawn(h.clone().begin());
        let watcher = tokio::spawn(check::during(h.clone()));
        if let Err(why) = script(h.clone()).await {
            found.push(Violation { invariant: "SCENARIO", story: why });
        }
        found.extend(check::after(&h).await);
        watcher.abort();
        *v.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(())
    });
    let end = loop {
        let done = verdict.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if done {
            break None;
        }
        if let Err(e) = sim.step() {
            break Some(e.to_string());
        }
        hosts.after_step(&mut sim);
        for gone in hosts.gone() {
            watch.crash(&gone);
        }
    };
    let mut violations =
        verdict.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    if let Some(e) = end {
        violations.push(Violation { invariant: "SCENARIO", story: e });
    }
    violations.extend(check::ledger(&books.lock(), &cluster));
    let faults = hosts.store().faults().into_iter();
    violations.extend(faults.map(|story| Violation { invariant: "ONE_WRITER", story }));
    shared.leap.store(0, Ordering::Relaxed);
    let mut coverage = shared.coverage.lock().unwrap_or_else(PoisonError::into_inner).clone();
    coverage.extend(hosts.coverage());
    check::count(&books.lock(), &mut coverage);
    let story = match violations.is_empty() {
        true => vec![],
        false => check::tell(&books.lock(), &violations),
    };
    Outcome { violations, story, coverage, virtual_time: sim.elapsed(), ..Outcome::default() }
}
