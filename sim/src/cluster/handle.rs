//! What a scenario can do: task clients as users do, and break things.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use velociraptor::services::Server;
use velociraptor::services::acl::Policy;
use velociraptor_proto::proto::hunt::State as HuntState;
use velociraptor_proto::proto::hunt_condition::UnionField;
use velociraptor_proto::proto::hunt_os_condition::Os;
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, ArtifactParameters, ArtifactSpec, Hunt, HuntCondition,
    HuntLabelCondition, HuntMutation, HuntOsCondition, VqlEnv,
};

use super::frontend::{Gone, Remote};
use super::{Cluster, Script};
use crate::client::{Order, Remote as ClientRemote};
use crate::faults::{Fault, Hosts};
use crate::ledger::{Books, Fact, Part, ToldHunt, Whom, now};
use crate::plan::Plan;

#[derive(Default)]
pub(super) struct Shared {
    /// How far the wall clocks have leapt, nanoseconds.
    pub leap: Arc<AtomicU64>,
    pub coverage: Mutex<BTreeMap<&'static str, u64>>,
}

/// A scenario's hold on the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) books: Books,
    pub(super) frontends: BTreeMap<String, Remote>,
    pub(super) clients: Vec<ClientRemote>,
    pub(super) cluster: Arc<Cluster>,
    /// Frontends that are down, the trouble that is, and what ends it.
    pub(super) down: Arc<Mutex<BTreeMap<String, (usize, Fault)>>>,
    /// Crashes so far.
    pub(super) crashes: Arc<AtomicU64>,
    pub(super) hosts: Hosts,
    /// The frontend on the machine that stands ready, and what starts it.
    pub(super) spare: Remote,
    pub(super) called: CancellationToken,
}

/// Clients that hear nothing: see [`Handle::deafen`].
#[derive(Debug)]
pub struct Deaf {
    trouble: usize,
    pairs: Vec<(String, String)>,
}

impl Handle {
    /// Everybody's books.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// As it was built.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A generator of the scenario's own choices.
    pub fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(self.cluster.seed ^ 0x5c7e_11a5)
    }

    /// Counts something worth counting.
    pub fn cover(&self, what: &'static str) {
        let mut all = self.shared.coverage.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(what).or_default() += 1;
    }

    /// Lets virtual time pass.
    pub async fn sleep(&self, time: Duration) {
        sleep(time).await;
    }

    /// Lets this many virtual seconds pass.
    pub async fn seconds(&self, n: u64) {
        sleep(Duration::from_secs(n)).await;
    }

    /// Looks every 50 ms until `what` holds; an error that names it after `limit`.
    pub async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Script {
        let end = now() + limit;
        while !holds(self) {
            if now() >= end {
                return Err(format!("{what}: not within {limit:?}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    // --- users -------------------------------------------------------------

    /// The master, for calls.
    pub fn master(&self) -> &Remote {
        self.frontend("server")
    }

    /// A frontend, for calls.
    pub fn frontend(&self, name: &str) -> &Remote {
        // Names come from `Cluster::frontends`; another is a mistake of the scenario.
        self.frontends.get(name).unwrap_or_else(|| panic!("no frontend is called {name}"))
    }

    /// The id of a client.
    pub fn id(&self, client: usize) -> String {
        self.books.client(client, |b| b.id.clone())
    }

    /// Makes a call on the master as a user; `None` if it failed or was cut off.
    /// Each is watched: one that does not end in time is a violation.
    pub(super) async fn ask<T, F>(
        &self,
        what: String,
        call: impl FnOnce(Arc<Server>) -> F + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let key = (now(), what);
        self.books.lock().asked.insert(key.clone());
        let answer = self.master().call(call).await;
        self.books.lock().asked.remove(&key);
        match answer {
            Ok(Ok(t)) => Some(t),
            Ok(Err(_)) => {
                self.cover("user told of a failure");
                None
            }
            Err(Gone) => {
                self.cover("user cut off");
                None
            }
        }
    }

    /// Cancels a flow. `false`: the user was not told that it is.
    pub async fn cancel(&self, client: usize, flow: &str) -> bool {
        let (id, f) = (self.id(client), flow.to_owned());
        let call = move |server: Arc<Server>| async move {
            let org = server.root();
            server.cancel(&org, &id, &f, "user").await.map_err(|e| e.to_string())?;
            Ok(now())
        };
        let Some(at) = self.ask(format!("cancel {flow}"), call).await else { return false };
        self.cover("cancel");
        let mut books = self.books.lock();
        if let Some(t) = books.flows.iter_mut().find(|t| t.flow == flow) {
            t.cancelled.get_or_insert(at);
            t.cancelled_first.get_or_insert(at);
            for r in &mut t.runs {
                r.cancelled.get_or_insert(at);
            }
        }
        true
    }

    /// Deletes a flow, which may run.
    pub async fn delete_flow(&self, client: usize, flow: &str) -> bool {
        let (id, f) = (self.id(client), flow.to_owned());
        let note = |told: bool| {
            let mut books = self.books.lock();
            if let Some(t) = books.flows.iter_mut().find(|t| t.flow == flow) {
                t.deleting = true;
                t.deleted |= told;
            }
        };
        note(false);
        let call = move |server: Arc<Server>| async move {
            let org = server.root();
            let removed = server.delete_flow(&org, &id, &f, "user").await;
            let removed = removed.map_err(|e| e.to_string())?;
            match removed.into_iter().find(|r| !r.error.is_empty()) {
                Some(r) => Err(format!("{}: {}", r.path, r.error)),
                None => Ok(()),
            }
        };
        let told = self.ask(format!("delete {flow}"), call).await.is_some();
        note(told);
        told
    }

    /// Labels a client.
    pub async fn label(&self, client: usize, label: &str, add: bool) -> bool {
        let (id, l) = (self.id(client), vec![label.to_owned()]);
        self.books.lock().tried.insert((client, label.to_owned()));
        let call = move |server: Arc<Server>| async move {
            let (plus, minus) = if add { (l, vec![]) } else { (vec![], l) };
            server
                .label(&server.root(), &id, "user", &plus, &minus)
                .await
                .map_err(|e| e.to_string())
        };
        let told = self.ask(format!("label {client}"), call).await.is_some();
        if told {
            let label = label.to_owned();
            let fact = if add { Fact::Label(client, label) } else { Fact::NoLabel(client, label) };
            self.books.lock().facts.push((now(), fact));
        }
        told
    }

    /// Starts a hunt, or prepares one. `None`: the user was not told that it is there.
    pub async fn hunt(&self, whom: Whom, limit: u64, plan: Plan, running: bool) -> Option<String> {
        let label = |l: &str| HuntLabelCondition { label: vec![l.to_owned()] };
        let condition = match &whom {
            Whom::All => None,
            Whom::Label(l) => Some(HuntCondition {
                union_field: Some(UnionField::Labels(label(l))),
                excluded_labels: None,
            }),
            Whom::Not(l) => {
                Some(HuntCondition { union_field: None, excluded_labels: Some(label(l)) })
            }
            Whom::Nobody => Some(HuntCondition {
                union_field: Some(UnionField::Os(HuntOsCondition { os: Os::Windows.into() })),
                excluded_labels: None,
            }),
        };
        let env = vec![VqlEnv { key: "Plan".into(), value: plan.to_text(), ..Default::default() }];
        let spec = ArtifactSpec {
            artifact: plan.artifact().to_owned(),
            parameters: Some(ArtifactParameters { env }),
            ..Default::default()
        };
        let request = ArtifactCollectorArgs {
            artifacts: vec![plan.artifact().to_owned()],
            specs: vec![spec],
            urgent: plan.urgent,
            ..Default::default()
        };
        let hunt = Hunt {
            state: if running { HuntState::Running } else { HuntState::Paused }.into(),
            client_limit: limit,
            condition,
            start_request: Some(request),
            ..Default::default()
        };
        let call = move |server: Arc<Server>| async move {
            let policy = Policy::super_user();
            let made = server.create_hunt(&server.root(), "user", &policy, hunt).await;
            made.map(|h| h.hunt_id).map_err(|e| e.to_string())
        };
        let id = self.ask("hunt".into(), call).await?;
        self.cover("hunt");
        self.books.lock().hunts.push(ToldHunt {
            id: id.clone(),
            whom,
            limit,
            plan,
            runs: Some(running),
            stopped: None,
            deleted: false,
        });
        Some(id)
    }

    /// Changes the state of a hunt. `false`: the user was not told that it is.
    pub async fn change_hunt(&self, id: &str, state: HuntState) -> bool {
        let change = |f: &dyn Fn(&mut ToldHunt)| {
            self.books.lock().hunts.iter_mut().filter(|h| h.id == id).for_each(f);
        };
        // Until there is an answer it may be either.
        change(&|h| (h.runs, h.stopped) = (None, None));
        let mutation =
            HuntMutation { hunt_id: id.to_owned(), state: state.into(), ..Default::default() };
        let call = move |server: Arc<Server>| async move {
            let done = server.modify_hunt(&server.root(), "user", &mutation).await;
            done.map(|()| now()).map_err(|e| e.to_string())
        };
        let Some(at) = self.ask(format!("hunt {id}"), call).await else { return false };
        change(&|h| {
            h.runs = Some(state == HuntState::Running);
            h.stopped = (state != HuntState::Running).then_some(at);
            h.deleted = state == HuntState::Deleted;
        });
        true
    }

    /// Gives every client an event table with these artifacts.
    pub async fn monitor(&self, artifacts: &[&str]) -> bool {
        let artifacts: Vec<String> = artifacts.iter().map(|a| a.to_string()).collect();
        let call = move |server: Arc<Server>| async move {
            let table = velociraptor_proto::proto::ClientEventTable {
                artifacts: Some(ArtifactCollectorArgs { artifacts, ..Default::default() }),
                ..Default::default()
            };
            server.set_monitoring(&server.root(), table).await.map_err(|e| e.to_string())
        };
        self.ask("event table".into(), call).await.is_some()
    }

    /// Waits until all clients are known to the master, with their names.
    pub async fn enrolled(&self) -> Script {
        let want = self.cluster.clients;
        let end = now() + Duration::from_secs(90);
        loop {
            let known = self.master().call(|server| async move {
                let org = server.root();
                let state = org.state();
                state.clients.iter().filter(|(_, c)| !c.info.hostname.is_empty()).count()
            });
            if known.await.is_ok_and(|n| n >= want) {
                return Ok(());
            }
            if now() >= end {
                return Err("not all clients were enrolled and known within 90 s".into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    // --- trouble -----------------------------------------------------------

    /// Lets something happen to a host, a link or the store, before the next step.
    pub async fn happen(&self, fault: Fault) {
        self.hosts.later(now(), fault);
        sleep(self.cluster.tick * 2).await;
    }

    /// The machines and the file server.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Kills a frontend's process. It stays down until [`Handle::start`].
    pub async fn kill(&self, name: &str) {
        let n = name.to_owned();
        self.down(name, Fault::Kill(n.clone()), Fault::Start(n)).await;
    }

    /// A frontend's host loses power: what its kernel had not written is gone.
    pub async fn power_off(&self, name: &str) {
        let n = name.to_owned();
        self.down(name, Fault::PowerOff(n.clone()), Fault::PowerOn(n)).await;
    }

    /// One or the other.
    pub async fn crash(&self, name: &str) {
        let n = self.crashes.fetch_add(1, Ordering::Relaxed);
        match (n ^ self.cluster.seed) & 1 {
            0 => self.kill(name).await,
            _ => self.power_off(name).await,
        }
    }

    async fn down(&self, name: &str, how: Fault, end: Fault) {
        self.cover("crash");
        let trouble = self.books.lock().begin(Part::Host, format!("{name} is down"));
        self.down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), (trouble, end));
        self.happen(how).await;
    }

    /// Starts a frontend and waits until it is up, at most a minute.
    pub async fn start(&self, name: &str) -> bool {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let (trouble, end) = match down {
            Some((t, f)) => (Some(t), f),
            None => (None, Fault::PowerOn(name.to_owned())),
        };
        self.happen(end).await;
        let up = |c: &Self| c.frontend(name).is_up();
        let up = self.until("frontend up", Duration::from_secs(60), up).await.is_ok();
        if let Some(t) = trouble {
            self.books.lock().end(t, self.reunion());
        }
        up
    }

    /// Kills a frontend and starts it again after a while.
    pub async fn restart(&self, name: &str, down: Duration) -> bool {
        self.crash(name).await;
        sleep(down).await;
        self.start(name).await
    }

    /// A clean stop and another start, as after an update.
    pub async fn renew(&self, name: &str, rest: Duration) -> bool {
        let trouble = self.books.lock().begin(Part::Host, format!("{name} is stopped"));
        let stopped = self.stop(name).await;
        sleep(rest).await;
        let up = self.start(name).await;
        self.books.lock().end(trouble, self.reunion());
        stopped && up
    }

    /// A clean stop, as a service manager does it; everything is settled.
    pub async fn stop(&self, name: &str) -> bool {
        self.frontend(name).stop().await.is_ok()
    }

    /// Until its frontends have come up and found each other a cluster is not healthy:
    /// clients are held by minions before there is any master. The same is granted
    /// after a restart.
    pub(super) async fn begin(self) {
        let trouble = self.books.lock().begin(Part::Host, "the cluster starts");
        while !self.frontends.values().all(Remote::is_up) {
            sleep(Duration::from_millis(50)).await;
        }
        self.books.lock().end(trouble, self.reunion());
    }

    /// How long frontends may take to find each other again: the longest wait
    /// before a stream is tried again, and a little.
    fn reunion(&self) -> Duration {
        if self.cluster.minions > 0 { Duration::from_secs(6) } else { Duration::from_millis(500) }
    }

    /// A frontend's machine stands still for a while, its clock for users of it
    /// too, and then goes on with what it believed.
    pub async fn freeze(&self, name: &str, time: Duration) {
        self.cover("freeze");
        let trouble = self.books.lock().begin(Part::Host, format!("{name} stands still"));
        self.happen(Fault::Freeze(name.to_owned())).await;
        sleep(time).await;
        self.happen(Fault::Continue(name.to_owned())).await;
        // It may find that it is nobody any more, and start anew.
        self.books.lock().end(trouble, self.reunion() + Duration::from_secs(10));
    }

    /// A frontend's machine stands still until its successor runs on the spare
    /// machine, then goes on with what it believed; a while later the successor
    /// stops. Once a run.
    pub async fn succeed(&self, name: &str, together: Duration) -> Script {
        let trouble = self.books.lock().begin(Part::Host, format!("{name} has a successor"));
        self.happen(Fault::Freeze(name.to_owned())).await;
        self.called.cancel();
        let up = |c: &Self| c.spare.is_up();
        self.until("successor up", Duration::from_secs(90), up).await?;
        self.seconds(2).await;
        self.happen(Fault::Continue(name.to_owned())).await;
        self.cover("resume with a stale epoch");
        sleep(together).await;
        if self.spare.stop().await.is_err() {
            return Err("the successor did not stop".into());
        }
        // The first one's service manager tries again.
        let up = |c: &Self| c.frontend(name).is_up();
        self.until("first one up again", Duration::from_secs(60), up).await?;
        self.books.lock().end(trouble, self.reunion());
        Ok(())
    }

    /// Nothing passes between two hosts for a while: what is sent is lost, and
    /// connections break or hang.
    pub async fn partition(&self, a: &str, b: &str, time: Duration) {
        self.cover("partition");
        let trouble = self.books.lock().begin(Part::Network, format!("no way from {a} to {b}"));
        let (a, b) = (a.to_owned(), b.to_owned());
        self.happen(Fault::Cut(a.clone(), b.clone())).await;
        sleep(time).await;
        self.happen(Fault::Uncut(a, b)).await;
        self.books.lock().end(trouble, self.reunion());
    }

    /// Clients hear nothing from these frontends any more: what they send arrives,
    /// and the answers are lost. Until [`Handle::hear`], which gets what this gives.
    pub async fn deafen(&self, frontends: &[String]) -> Deaf {
        self.cover("answers lost");
        let trouble = self.books.lock().begin(Part::Network, "answers are lost");
        let edges = (0..self.cluster.edges()).map(|i| format!("edge{i}"));
        let pairs: Vec<(String, String)> =
            edges.flat_map(|e| frontends.iter().map(move |f| (f.clone(), e.clone()))).collect();
        for (f, e) in &pairs {
            self.hosts.later(now(), Fault::CutOneWay(f.clone(), e.clone()));
        }
        sleep(self.cluster.tick * 2).await;
        Deaf { trouble, pairs }
    }

    /// See [`Handle::deafen`].
    pub async fn hear(&self, deaf: Deaf) {
        for (f, e) in deaf.pairs {
            self.hosts.later(now(), Fault::UncutOneWay(f, e));
        }
        sleep(self.cluster.tick * 2).await;
        // Connections that lost something stall until their clients give them up.
        self.books.lock().end(deaf.trouble, self.reunion() + Duration::from_secs(40));
    }

    /// Packets between two hosts wait for a while, and then all arrive.
    pub async fn delay(&self, a: &str, b: &str, time: Duration) {
        self.cover("delay");
        let trouble = self.books.lock().begin(Part::Network, format!("{a} waits for {b}"));
        let (a, b) = (a.to_owned(), b.to_owned());
        self.happen(Fault::Hold(a.clone(), b.clone())).await;
        sleep(time).await;
        self.happen(Fault::Release(a, b)).await;
        self.books.lock().end(trouble, self.reunion());
    }

    /// Something of the store is broken for a while.
    async fn store_trouble(&self, what: &'static str, time: Duration, begin: Fault, end: Fault) {
        self.cover(what);
        let trouble = self.books.lock().begin(Part::Store, what);
        self.happen(begin).await;
        sleep(time).await;
        self.happen(end).await;
        self.books.lock().end(trouble, Duration::from_secs(1));
    }

    /// The file server answers nobody for a while.
    pub async fn stall_store(&self, time: Duration) {
        self.store_trouble("store stalls", time, Fault::StoreStall, Fault::StoreResume).await;
    }

    /// The file server has no room for a while.
    pub async fn fill_store(&self, time: Duration) {
        let (full, free) = (Fault::StoreNearlyFull(0), Fault::StoreCapacity(None));
        self.store_trouble("store is full", time, full, free).await;
    }

    /// The file server loses power for a while, and what it had in memory only.
    pub async fn restart_store(&self, time: Duration) {
        self.store_trouble("store restarts", time, Fault::StoreOff, Fault::StoreOn).await;
    }

    /// One host does not reach the file server for a while.
    pub async fn cut_store(&self, host: &str, time: Duration) {
        let (cut, mend) = (Fault::StoreCut(host.to_owned()), Fault::StoreUncut(host.to_owned()));
        self.store_trouble("store is cut off", time, cut, mend).await;
    }

    /// The next `n` calls of a kind from a host fail.
    pub fn fail_calls(&self, host: &str, kind: crate::nfs::Kind, part: &str, n: u32) {
        use crate::nfs::{Effect, Rule};
        self.cover("call fails");
        let effect = Effect::Fail(std::io::ErrorKind::Other);
        self.hosts.store().inject(Rule::next(host, kind, effect).at(part).times(n));
        let mut books = self.books.lock();
        let trouble = books.begin(Part::Store, "calls fail");
        books.end(trouble, Duration::from_secs(5));
    }

    /// All wall clocks leap ahead: days pass for whoever looks at the calendar.
    pub fn leap(&self, time: Duration) {
        self.cover("leap");
        for f in self.cluster.frontends() {
            self.hosts.later(now(), Fault::ClockJump(f, time.as_millis() as i64));
        }
        self.shared.leap.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Gives an order to a client.
    pub async fn order(&self, client: usize, order: Order) {
        self.cover(match order {
            Order::Restart(_) => "client restart",
            Order::Sleep(_) => "client sleep",
            Order::Roam => "client roams",
            Order::Replay(_) => "replay",
            Order::Leave => "client leaves",
        });
        self.clients[client].order(order).await;
    }
}
