//! The master's side: what minions tell is applied, and their clients get tasks
//! through them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::{
    Forget, Hello, OrgFact, Orgs, Recall, Refused, Release, Report, SessionChange, Sharing, Steer,
    Tasks, UpBeat, Welcome, report, session_change,
};

use super::steering;
use crate::cluster::{Downlink, FromMaster, FromMinion, MasterSide, Process};
use crate::services::deleted::DeadClient;
use crate::services::deliver::CheckIn;
use crate::services::flows::job::Hash;
use crate::services::ids::OrgId;
use crate::services::server::{Org, Server};
use crate::services::sessions::{Key, Remote, Wakes};
use crate::services::state::to_hash;
use crate::services::tasks::{Way, What};
use crate::store::journal::{Position as Place, ProcessId};

/// Clients of one minion that are given tasks at the same time: each waits for
/// one commit, which they share.
const AT_ONCE: usize = 64;

/// How often clients with flows under way are looked at, for questions about
/// those that have gone quiet.
const LOOK: Duration = Duration::from_secs(15);

/// A minion without a stream for this long cannot be asked what it did with its
/// tasks; if the client is elsewhere, the client is asked.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// How often the state of minions is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Something to be said to minions that comes from other services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Give back what is not sent of this client's tasks. The client process may have
    /// checked in here: with its cipher, and the hash of what it sent.
    Recall(Key, Option<(Hash, Hash)>),
    /// The client was deleted or has another key: everybody forgets it.
    Forget(Key),
}

#[derive(Debug)]
struct Node {
    downlink: Option<Downlink>,
    wakes: Wakes,
    product: String,
    beat: Option<UpBeat>,
    beat_at: Option<Instant>,
    /// Since when there is or is no stream.
    since: Instant,
    streams: u64,
    /// What it had was put in doubt, since it could not be asked.
    doubted: bool,
    /// What it was told to do with its clients.
    steer: Option<Steer>,
    /// Among how many nodes it was told to divide limits, on this stream.
    told: u32,
}

/// What is known of a minion.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Which.
    pub process: ProcessId,
    /// Whether there is a stream.
    pub connected: bool,
    /// For how long there is one, or none.
    pub since: Duration,
    /// Streams so far.
    pub streams: u64,
    /// Program and version.
    pub product: String,
    /// Its last beat and how old it is.
    pub beat: Option<(UpBeat, Duration)>,
    /// Clients it holds.
    pub clients: usize,
    /// How far its journal has been applied.
    pub applied: Place,
    /// Frames and bytes waiting for it.
    pub waiting: (usize, usize),
}

/// Who applies the journals of other processes, see docs/CLUSTER.md.
pub trait Journals: Send + Sync {
    /// How far the journal of `process` has been applied.
    fn position(&self, process: &ProcessId) -> Place;
    /// Journal bytes came from `process`: whole records from `start` on.
    fn records<'a>(
        &'a self,
        process: &'a ProcessId,
        start: Place,
        data: bytes::Bytes,
    ) -> BoxFuture<'a, ()>;
    /// `process` says that its journal ends at `end` at its time `clock`,
    /// microseconds: what is missing is read from the store.
    fn beat<'a>(&'a self, process: &'a ProcessId, end: Place, clock: u64) -> BoxFuture<'a, ()>;
    /// There is, or is no longer, a stream with `process`.
    fn streamed(&self, process: &ProcessId, on: bool);
    /// `process` has ended: there is a newer one of its node.
    fn ended(&self, process: &ProcessId);
    /// What living processes may remove.
    fn releases(&self) -> Vec<(ProcessId, Release)>;
}

/// All minions.
pub struct Hub {
    me: Weak<Self>,
    server: Arc<Server>,
    journals: Arc<dyn Journals>,
    term: u64,
    nodes: Mutex<BTreeMap<ProcessId, Node>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("term", &self.term).finish_non_exhaustive()
    }
}

fn id(p: &Process) -> ProcessId {
    ProcessId::new(p.node.as_str(), p.epoch.as_str())
}

fn forget(org: &Org, client: &str, dead: Option<&DeadClient>) -> Forget {
    Forget {
        org_id: org.id.id().to_owned(),
        client_id: client.to_owned(),
        time: dead.map_or(0, |d| d.at),
        life: dead.map(|d| d.lives.iter().copied().collect()).unwrap_or_default(),
    }
}

impl Hub {
    /// For `server`, the master of this `term`.
    pub fn new(server: Arc<Server>, journals: Arc<dyn Journals>, term: u64) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            server,
            journals,
            term,
            nodes: Mutex::default(),
        })
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn downlink(&self, process: &ProcessId) -> Option<Downlink> {
        self.nodes().get(process)?.downlink.clone()
    }

    fn orgs(&self) -> Orgs {
        let orgs = self.server.orgs();
        let fact = |o: &Arc<Org>| OrgFact {
            org_id: o.id.id().to_owned(),
            name: o.name.clone(),
            nonce: o.nonce.clone(),
        };
        Orgs { orgs: orgs.iter().map(fact).collect() }
    }

    /// Everybody who was deleted, as a minion is told that may not know.
    fn deleted(&self) -> Vec<Forget> {
        let mut all = Vec::new();
        for org in self.server.orgs() {
            let state = org.state();
            let dead = state.clients.deleted.clients();
            all.extend(dead.map(|(client, d)| forget(&org, client, Some(d))));
        }
        all
    }

    /// Whether this process has been connected: what it has is asked of it first.
    pub fn knows(&self, process: &ProcessId) -> bool {
        self.nodes().contains_key(process)
    }

    /// What is known of every minion.
    pub fn status(&self) -> Vec<NodeStatus> {
        let held = self.server.sessions.by_process();
        let nodes = self.nodes();
        let status = |(p, n): (&ProcessId, &Node)| NodeStatus {
            process: p.clone(),
            connected: n.downlink.is_some(),
            since: n.since.elapsed(),
            streams: n.streams,
            product: n.product.clone(),
            beat: n.beat.clone().zip(n.beat_at.map(|t| t.elapsed())),
            clients: held.get(&Some(p.clone())).copied().unwrap_or(0),
            applied: self.journals.position(p),
            waiting: n.downlink.as_ref().map_or((0, 0), Downlink::waiting),
        };
        nodes.iter().map(status).collect()
    }

    /// Background work until `stop`: questions, minions that are away, files that
    /// may go, news for all.
    pub async fn run(
        self: Arc<Self>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        stop: CancellationToken,
    ) {
        let mut look = Instant::now() + LOOK;
        let mut orgs = self.orgs();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                order = orders.recv() => match order {
                    Some(order) => {
                        self.carry_out(order);
                        continue;
                    }
                    None => return,
                },
                () = tokio::time::sleep(TICK) => {}
            }
            self.share();
            self.doubt_unreachable();
            self.steer();
            self.release().await;
            let now = self.orgs();
            if now != orgs {
                orgs = now;
                self.tell_all(|| FromMaster::Orgs(orgs.clone()));
            }
            if look <= Instant::now() {
                look = Instant::now() + LOOK;
                self.recall_strays();
                self.look();
            }
        }
    }

    /// Nodes that take clients, with how many each holds.
    fn takers(&self) -> BTreeMap<String, u64> {
        let held = self.server.sessions.by_process();
        let drained = self.server.steer.drained();
        let count = |p: Option<&ProcessId>| held.get(&p.cloned()).copied().unwrap_or(0) as u64;
        let mut out = BTreeMap::new();
        let own = &self.server.options.node;
        if !drained.contains(own) && !self.server.steer.leaves() {
            out.insert(own.clone(), count(None));
        }
        for (p, n) in self.nodes().iter().filter(|(_, n)| n.downlink.is_some()) {
            let stats = n.beat.as_ref().and_then(|b| b.stats.as_ref());
            if !drained.contains(&p.node) && !stats.is_some_and(|s| s.leaving) {
                out.insert(p.node.clone(), count(Some(p)));
            }
        }
        out
    }

    /// Tells every node what to do with its clients, if that is news.
    fn steer(&self) {
        let takers = self.takers();
        let drained = self.server.steer.drained();
        let mut shares = steering::shares(&takers, &self.server.options.fleet.balance);
        let others =
            |node: &str| -> Vec<String> { takers.keys().filter(|n| *n != node).cloned().collect() };
        let own = &self.server.options.node;
        self.server.steer.set(drained.contains(own), others(own).into_iter().collect());
        if let Some(share) = shares.remove(own) {
            self.server.steer.share(share);
        }
        for (p, n) in self.nodes().iter_mut() {
            let Some(down) = &n.downlink else { continue };
            let mut steer = Steer {
                drain: drained.contains(&p.node),
                nodes: others(&p.node),
                ..Default::default()
            };
            let share = shares.remove(&p.node);
            if n.steer.as_ref() == Some(&steer) && share.is_none() {
                continue;
            }
            n.steer = Some(steer.clone());
            if let Some(share) = share {
                (steer.share, steer.share_to) = (share.clients, share.to);
            }
            if let Err(e) = down.try_send(FromMaster::Steer(steer)) {
                n.steer = None;
                tracing::debug!(node = %p, error = %e, "not told which nodes take clients");
            }
        }
    }

    /// Divides the limits of the whole cluster among the nodes that are there, this
    /// one with them.
    fn share(&self) {
        let mut all = self.nodes();
        let minions = all.values().filter(|n| n.downlink.is_some()).count();
        let nodes = u32::try_from(minions).unwrap_or(u32::MAX).saturating_add(1);
        self.server.share_among(nodes);
        for n in all.values_mut().filter(|n| n.told != nodes) {
            let Some(d) = &n.downlink else { continue };
            match d.try_send(FromMaster::Sharing(Sharing { nodes })) {
                Ok(()) => n.told = nodes,
                Err(e) => tracing::debug!(node = %d.to(), error = %e, "told again"),
            }
        }
    }

    fn carry_out(&self, order: Order) {
        match order {
            Order::Recall(key, here) => self.recall(&key, None, here),
            Order::Forget((org, client)) => {
                let Some(org) = self.server.org(&org) else { return };
                let frame = forget(&org, &client, org.state().clients.deleted.get(&client));
                self.tell_all(|| FromMaster::Forget(frame.clone()));
            }
        }
    }

    fn tell_all(&self, what: impl Fn() -> FromMaster) {
        let all: Vec<Downlink> = self.nodes().values().filter_map(|n| n.downlink.clone()).collect();
        for d in all {
            if let Err(e) = d.try_send(what()) {
                // Its next stream begins with everything.
                tracing::warn!(node = %d.to(), error = %e, "a minion is not told");
            }
        }
    }

    /// Asks the minions that have tasks of a client to give them back; not the
    /// one that holds it.
    fn recall(&self, key: &Key, except: Option<&ProcessId>, elsewhere: Option<(Hash, Hash)>) {
        let Some(org) = self.server.org(&key.0) else { return };
        let away: Vec<ProcessId> = {
            let state = org.state();
            let queue = state.clients.get(&key.1).map(|c| &c.queue);
            queue.map(|q| q.away().into_iter().cloned().collect()).unwrap_or_default()
        };
        for p in away.iter().filter(|p| Some(*p) != except) {
            if let Some(d) = self.downlink(p) {
                let (cipher, request) = elsewhere.unzip();
                let frame = Recall {
                    org_id: key.0.id().to_owned(),
                    client_id: key.1.clone(),
                    cipher_hash: cipher.map(|h| h.to_vec()).unwrap_or_default(),
                    request_hash: request.map(|h| h.to_vec()).unwrap_or_default(),
                };
                if let Err(e) = d.try_send(FromMaster::Recall(frame)) {
                    tracing::warn!(node = %p, client = key.1, error = %e, "tasks not recalled");
                }
            }
        }
    }

    /// Asks once more for tasks that are at a minion while their client is held elsewhere:
    /// the recall was lost with a stream, or where the newest reader is was learnt late.
    fn recall_strays(&self) {
        for org in self.server.orgs() {
            let away: Vec<(String, BTreeSet<ProcessId>)> = {
                let state = org.state();
                let all = state.clients.iter().map(|(id, c)| (id, c.queue.away()));
                all.filter(|(_, away)| !away.is_empty())
                    .map(|(id, away)| (id.clone(), away.into_iter().cloned().collect()))
                    .collect()
            };
            for (client, away) in away {
                let Some(held) = self.server.sessions.held(&org.id, &client) else { continue };
                if away.iter().any(|p| Some(p) != held.process()) {
                    self.recall(&(org.id.clone(), client), held.process(), None);
                }
            }
        }
    }

    /// What minions had that cannot be asked is in doubt once the client is held
    /// elsewhere.
    fn doubt_unreachable(&self) {
        let silent: Vec<ProcessId> = (self.nodes().iter())
            .filter(|(_, n)| n.downlink.is_none() && n.since.elapsed() >= UNREACHABLE)
            .map(|(p, _)| p.clone())
            .collect();
        for p in silent {
            // Its readers have had time to go elsewhere, or are cut off with it.
            let first =
                self.nodes().get_mut(&p).is_some_and(|n| !std::mem::replace(&mut n.doubted, true));
            if first {
                self.server.sessions.forget_process(&p);
            }
            for org in self.server.orgs() {
                let with: Vec<String> = {
                    let state = org.state();
                    let all = state.clients.iter();
                    all.filter(|(_, c)| c.queue.away().contains(&p))
                        .map(|(id, _)| id.clone())
                        .collect()
                };
                for client in with {
                    if self.server.sessions.held(&org.id, &client).is_some() {
                        org.state().clients.entry(&client).queue.process_gone(&p);
                        self.server.sessions.wake(&org.id, &client);
                    }
                }
            }
        }
    }

    /// Clients of minions that have something under way.
    fn look(&self) {
        let mut with = BTreeSet::new();
        for org in self.server.orgs() {
            let state = org.state();
            let all = state.clients.iter();
            let busy = all.filter(|(_, c)| c.queue.has_work() || !c.queue.inflight().is_empty());
            with.extend(busy.map(|(id, _)| (org.id.clone(), id.clone())));
        }
        self.server.sessions.wake_where(|key| with.contains(key));
    }

    /// Tells minions which of their files nobody needs any more.
    async fn release(&self) {
        for (process, what) in self.journals.releases() {
            let Some(d) = self.downlink(&process) else { continue };
            if let Err(e) = d.send(FromMaster::Release(what)).await {
                tracing::debug!(node = %process, error = %e, "files not released yet");
            }
        }
    }

    /// Gives clients of one minion their tasks, as they are woken.
    async fn pump(
        self: Arc<Self>,
        process: ProcessId,
        out: Downlink,
        mut rx: mpsc::UnboundedReceiver<Key>,
    ) {
        let keys = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
        let work = keys.for_each_concurrent(AT_ONCE, |key| self.give(&process, &out, key));
        tokio::select! {
            biased;
            () = out.closed() => {}
            () = work => {}
        }
    }

    async fn give(&self, process: &ProcessId, out: &Downlink, key: Key) {
        let Some(org) = self.server.org(&key.0) else { return };
        let held = match self.server.sessions.held(&key.0, &key.1) {
            Some(h) if h.process() == Some(process) => h,
            _ => return,
        };
        self.server.meet(&org, &key.1).await;
        self.server.end_orphans(&org, &key.1, held.cipher).await;
        let way = Way::Node(process);
        let messages = self.server.next_tasks(&org, &key.1, held.cipher, way).await;
        if messages.is_empty() {
            return;
        }
        let ids: Vec<u64> = messages.iter().map(|m| m.task_id).filter(|id| *id > 0).collect();
        let durable = self.server.wakes.take(ids.iter().copied()).unwrap_or(0);
        let frame = Tasks {
            durable,
            org_id: key.0.id().to_owned(),
            client_id: key.1.clone(),
            cipher_hash: held.cipher.to_vec(),
            messages,
        };
        if let Err(e) = out.send(FromMaster::Tasks(frame)).await {
            tracing::warn!(node = %process, client = key.1, error = %e, "tasks not handed over");
            self.server.not_delegated(&org, &key.1, process, &ids);
        }
    }

    /// Another start of a node we know: the earlier one has ended.
    fn bury(&self, newer: &ProcessId) {
        let dead: Vec<ProcessId> = (self.nodes().keys())
            .filter(|p| p.node == newer.node && p.epoch != newer.epoch)
            .cloned()
            .collect();
        for p in dead {
            self.nodes().remove(&p);
            self.server.sessions.forget_process(&p);
            self.journals.ended(&p);
            for org in self.server.orgs() {
                let mut state = org.state();
                let ids: Vec<String> = (state.clients.iter())
                    .filter(|(_, c)| c.queue.away().contains(&p))
                    .map(|(id, _)| id.clone())
                    .collect();
                for client in ids {
                    state.clients.entry(&client).queue.process_gone(&p);
                }
            }
        }
    }

    fn reconcile(&self, process: &ProcessId, hello: &Hello) {
        let mut has: BTreeMap<Key, [BTreeSet<u64>; 2]> = BTreeMap::new();
        for h in &hello.holdings {
            let key = (OrgId::new(h.org_id.as_str()), h.client_id.clone());
            has.entry(key).or_default()[usize::from(h.told)].insert(h.task_id);
        }
        let none = Default::default();
        for org in self.server.orgs() {
            let mut state = org.state();
            let ids: Vec<String> = state.clients.iter().map(|(id, _)| id.clone()).collect();
            for client in ids {
                let key = (org.id.clone(), client);
                let [here, told] = has.get(&key).unwrap_or(&none);
                state.clients.entry(&key.1).queue.reconcile(process, here, told);
            }
        }
    }

    async fn session(&self, process: &ProcessId, c: SessionChange, known_before: bool) {
        let Some(org) = self.server.org(&OrgId::new(c.org_id.as_str())) else { return };
        let client = c.client_id.as_str();
        if c.what() == session_change::What::Closed {
            self.server.sessions.unregister_remote(&org.id, client, process, c.session);
            return;
        }
        let check_in =
            CheckIn { time: c.time, remote: c.remote_addr.clone(), table_claim: c.table_claim };
        self.server.note_check_in(&org, client, &check_in);
        let cipher = to_hash(&c.cipher_hash);
        let Some(wakes) = self.nodes().get(process).map(|n| n.wakes.clone()) else { return };
        let known_before = known_before.then_some(c.time);
        let at = Remote { process, session: c.session, wakes: &wakes, known_before };
        let reader =
            self.server.sessions.register_remote(&org.id, client, cipher, &c.remote_addr, &at);
        if let Some(old) = reader {
            old.supersede();
            if old.cipher != cipher {
                self.server.note_conflict(&org, client, &c.remote_addr, &c.user_agent).await;
            }
        }
        if known_before.is_none() && !c.request_hash.is_empty() {
            let request = to_hash(&c.request_hash);
            let now = self.server.env.clock.micros();
            // What this process sent itself; minions judge what they sent.
            org.state().clients.entry(client).queue.checked_in(cipher, request, now);
            let key = (org.id.clone(), client.to_owned());
            self.recall(&key, Some(process), Some((cipher, request)));
        }
        self.server.sessions.wake(&org.id, client);
    }

    fn tell_position(&self, process: &ProcessId) {
        if let Some(d) = self.downlink(process) {
            let _ = d.applied(self.journals.position(process).into());
        }
    }

    fn report(&self, by: &ProcessId, r: &Report) {
        let Some(org) = self.server.org(&OrgId::new(r.org_id.as_str())) else { return };
        let what = match r.what() {
            report::What::Received => What::Received,
            report::What::Back => What::Back,
            report::What::Doubt => What::Doubt,
        };
        let now = self.server.env.clock.micros();
        org.state().clients.entry(&r.client_id).queue.reported(by, r.task_id, what, now);
        self.server.sessions.wake(&org.id, &r.client_id);
    }
}

impl MasterSide for Hub {
    fn hello<'a>(
        &'a self,
        from: &'a Process,
        hello: Hello,
        out: Downlink,
    ) -> BoxFuture<'a, Result<Welcome, Refused>> {
        Box::pin(async move {
            let process = id(from);
            self.bury(&process);
            self.server.sessions.forget_process(&process);
            self.reconcile(&process, &hello);
            let (wakes, rx) = mpsc::unbounded_channel();
            {
                let mut nodes = self.nodes();
                let streams = nodes.get(&process).map_or(0, |n| n.streams) + 1;
                nodes.insert(
                    process.clone(),
                    Node {
                        downlink: Some(out.clone()),
                        wakes,
                        product: hello.product,
                        beat: None,
                        beat_at: None,
                        since: Instant::now(),
                        streams,
                        doubted: false,
                        steer: None,
                        told: 0,
                    },
                );
            }
            self.steer();
            self.journals.streamed(&process, true);
            if let Some(hub) = self.me.upgrade() {
                self.server.env.spawn(hub.pump(process.clone(), out.clone(), rx));
            }
            let deleted = self.deleted();
            self.server.env.spawn(async move {
                for frame in deleted {
                    if out.send(FromMaster::Forget(frame)).await.is_err() {
                        // Its next stream begins with all of them again.
                        return;
                    }
                }
            });
            let applied = self.journals.position(&process);
            tracing::info!(node = %process, ?applied, "a minion has joined");
            Ok(Welcome {
                master: Some(self.server.process().into()),
                product: crate::ABOUT.to_owned(),
                applied: Some(applied.into()),
                orgs: Some(self.orgs()),
                term: self.term,
                ..Default::default()
            })
        })
    }

    fn frame<'a>(&'a self, from: &'a Process, frame: FromMinion) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let process = id(from);
            match frame {
                // The same reader may have checked in again since: then a change follows.
                FromMinion::Snapshot(changes) => {
                    for c in changes {
                        self.session(&process, c, true).await;
                    }
                    self.recall_strays();
                }
                FromMinion::Sessions(changes) => {
                    for c in changes {
                        self.session(&process, c, false).await;
                    }
                }
                FromMinion::Reports(reports) => {
                    reports.iter().for_each(|r| self.report(&process, r));
                }
                FromMinion::Records(r) => {
                    let start = r.start.unwrap_or_default().into();
                    self.journals.records(&process, start, r.data).await;
                    self.tell_position(&process);
                }
                FromMinion::Beat(beat) => {
                    let end = beat.end.unwrap_or_default();
                    let clock = beat.clock_micros;
                    if let Some(n) = self.nodes().get_mut(&process) {
                        n.beat = Some(beat);
                        n.beat_at = Some(Instant::now());
                    }
                    self.journals.beat(&process, end.into(), clock).await;
                    self.tell_position(&process);
                }
            }
        })
    }

    fn gone(&self, from: &Process) {
        let process = id(from);
        if let Some(n) = self.nodes().get_mut(&process) {
            n.downlink = None;
            n.since = Instant::now();
        }
        self.journals.streamed(&process, false);
        tracing::warn!(node = %process, "a minion's stream has ended");
    }
}
