//! A minion without its master: takes tasks that were left in files for clients
//! which it holds.
//!
//! Before it reaches for a task it writes in its journal that it does, and for which
//! client process. So whoever finds a task in its name finds that record too, and
//! the task is delivered, reported and asked about like one that the master gave.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::Tasks;
use velociraptor_proto::journal::Grant;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::proto::VeloMessage;

use super::Applied;
use super::relay::Relay;
use super::task_files::TaskFile;
use crate::services::flows::job::Hash;
use crate::services::server::{Org, Server, ServiceError};
use crate::services::sessions::Key;
use crate::store::StoreError;

/// How often it is seen whether the master is there.
const TICK: Duration = Duration::from_secs(1);

/// How often the list of clients with tasks in files is read, without a master.
const LIST: Duration = Duration::from_secs(2);

/// The files of one client process are looked at again after this long.
const AGAIN: Duration = Duration::from_secs(10);

/// Clients whose files are looked at at the same time.
const AT_ONCE: usize = 16;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Claims {
    /// Tasks taken to be handed out.
    pub taken: AtomicU64,
    /// Tasks that another process had first.
    pub lost: AtomicU64,
    /// Tries that failed, to be repeated.
    pub failed: AtomicU64,
}

impl Claims {
    /// All, with the names that metrics give them.
    pub fn named(&self) -> [(&'static str, u64); 3] {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        [("taken", get(&self.taken)), ("lost", get(&self.lost)), ("failed", get(&self.failed))]
    }
}

/// Reached for, and not known whether it is ours.
#[derive(Clone, Debug)]
struct Owed {
    message: VeloMessage,
    cipher: Hash,
}

/// Takes tasks for a minion's clients.
#[derive(Debug)]
pub struct Claimer {
    server: Arc<Server>,
    relay: Arc<Relay>,
    /// The master must have been away for this long (`cluster.claim_after_seconds`).
    after: Duration,
    owed: Mutex<BTreeMap<(Key, u64), Owed>>,
    /// When the files of a client process were looked at last.
    looked: Mutex<BTreeMap<Key, (Hash, Instant)>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claimer {
    /// For the minion `server`.
    pub fn new(server: Arc<Server>, relay: Arc<Relay>, after: Duration) -> Self {
        Self { server, relay, after, owed: Mutex::default(), looked: Mutex::default() }
    }

    /// Takes tasks while there is no master, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (mut away, mut last) = (Instant::now(), None::<Instant>);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            // What it is the master will ask for, it must know.
            self.settle_owed().await;
            if self.relay.uplink().connected() {
                away = Instant::now();
                lock(&self.looked).clear();
                continue;
            }
            if away.elapsed() < self.after || last.is_some_and(|t| t.elapsed() < LIST) {
                continue;
            }
            last = Some(Instant::now());
            self.look().await;
        }
    }

    /// One look at what lies there for clients held here.
    pub async fn look(&self) {
        let mut held: BTreeMap<Key, Hash> = self.relay.held().into_iter().collect();
        {
            let mut looked = lock(&self.looked);
            looked.retain(|key, _| held.contains_key(key));
            held.retain(|key, cipher| {
                looked.get(key).is_none_or(|(c, at)| c != cipher || at.elapsed() >= AGAIN)
            });
        }
        if held.is_empty() {
            return;
        }
        for org in self.server.orgs() {
            let clients = match self.server.task_files.clients(&org.id).await {
                Ok(c) => c,
                Err(e) => {
                    self.failed("", &e);
                    continue;
                }
            };
            let theirs = clients.into_iter().filter_map(|client| {
                let key = (org.id.clone(), client);
                let cipher = held.get(&key).copied()?;
                Some((key, cipher))
            });
            let work = futures::stream::iter(theirs.collect::<Vec<_>>());
            work.for_each_concurrent(AT_ONCE, |(key, cipher)| {
                let org = org.clone();
                async move {
                    match self.claim(&org, &key, cipher).await {
                        Ok(()) => {
                            lock(&self.looked).insert(key, (cipher, Instant::now()));
                        }
                        Err(e) => self.failed(&key.1, &e),
                    }
                }
            })
            .await;
        }
    }

    /// Takes what lies there for a client, for its process `cipher`: of flows that are
    /// not urgent as many as a client may work on at once, and more when it is
    /// looked at again.
    async fn claim(&self, org: &Org, key: &Key, cipher: Hash) -> Result<(), ServiceError> {
        let (server, client) = (&self.server, key.1.as_str());
        let io = StoreError::from;
        let files = server.task_files.list(&org.id, client).await.map_err(io)?;
        let mut room = server.options.flows_in_flight;
        let mut tasks = Vec::new();
        for f in files.iter().filter(|f| matches!(f, TaskFile::Free(_))) {
            let Some(m) = server.task_files.read(&org.id, client, f).await.map_err(io)? else {
                continue;
            };
            if m.flow_request.is_some() && !m.urgent {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            tasks.push(m);
        }
        if tasks.is_empty() {
            return Ok(());
        }
        let me = server.process();
        let claim = Grant {
            task_id: tasks.iter().map(|m| m.task_id).collect(),
            cipher_hash: cipher.to_vec(),
            node: me.node,
            epoch: me.epoch,
        };
        // From here on a master that comes back is told that they may be here.
        self.relay.reach(key, claim.task_id.iter().copied());
        if let Err(e) = server.decide(org, client, "", Kind::Claim(claim)).await {
            // Whether it was written: without the rename it means nothing.
            self.relay.let_go(key, tasks.iter().map(|m| m.task_id));
            return Err(e.into());
        }
        for message in tasks {
            let id = message.task_id;
            lock(&self.owed).insert((key.clone(), id), Owed { message, cipher });
            self.take(org, key, id).await;
        }
        Ok(())
    }

    /// Tries of which it is not known what became of them.
    async fn settle_owed(&self) {
        let owed: Vec<(Key, u64)> = lock(&self.owed).keys().cloned().collect();
        for (key, id) in owed {
            if let Some(org) = self.server.org(&key.0) {
                self.take(&org, &key, id).await;
            }
        }
    }

    async fn take(&self, org: &Org, key: &Key, id: u64) {
        let Some(owed) = lock(&self.owed).get(&(key.clone(), id)).cloned() else { return };
        let claims = &self.server.claims;
        match self.server.task_files.take(&org.id, &key.1, &TaskFile::Free(id)).await {
            // Still owed: it may happen yet.
            Err(e) => return self.failed(&key.1, &e),
            Ok(false) => {
                Applied::add(&claims.lost, 1);
                self.relay.let_go(key, [id]);
            }
            Ok(true) => {
                Applied::add(&claims.taken, 1);
                tracing::info!(
                    client = key.1,
                    task = id,
                    flow = owed.message.session_id,
                    "task taken: there is no master to hand it out"
                );
                self.relay.hand_out(Tasks {
                    org_id: key.0.id().to_owned(),
                    client_id: key.1.clone(),
                    cipher_hash: owed.cipher.to_vec(),
                    durable: 0,
                    messages: vec![owed.message],
                });
                self.server.sessions.wake(&key.0, &key.1);
            }
        }
        lock(&self.owed).remove(&(key.clone(), id));
    }

    fn failed(&self, client: &str, e: &dyn std::fmt::Display) {
        Applied::add(&self.server.claims.failed, 1);
        tracing::warn!(client, error = %e, "tasks in files not taken; tried again");
    }
}
