//! The master's side of tasks that lie in files: left there for clients that nobody
//! holds, and taken back before they are handed out.
//!
//! The one rule: a task whose file may carry another name than this process's is
//! not sent ([`Server::take_back`] comes first). Who has it, the file says; for
//! which client process, the record that each minion writes before it reaches for
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::VeloMessage;

use super::task_files::TaskFile;
use super::{Applied, Role};
use crate::services::server::{Org, Server, ServiceError};
use crate::services::sessions::Key;
use crate::store::StoreError;
use crate::store::journal::{ProcessId, marker_path};
use crate::store::objects::read_whole;

/// Distance of looks at clients for which something was said.
const TICK: Duration = Duration::from_secs(1);

/// So many ticks between looks at all clients, and at files of tasks that are over.
const ALL: u64 = 5;

/// A client that was heard more recently than this, microseconds, is between two
/// polls.
const AWAY: u64 = 5_000_000;

/// Clients whose files are worked on at the same time.
const AT_ONCE: usize = 8;

/// The gate of a client's task files.
const GATE: &str = "tasks";

/// Longest marker read, bytes.
const MARKER: usize = 4096;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Counted {
    /// Tasks left in files.
    pub left: AtomicU64,
    /// Tasks taken back to be handed out here, or withdrawn.
    pub taken_back: AtomicU64,
    /// Tasks that another process had taken.
    pub elsewhere: AtomicU64,
    /// Calls to the store that failed; tried again.
    pub failed: AtomicU64,
}

/// What a master knows of tasks in files.
#[derive(Debug, Default)]
pub struct Offers {
    /// Files of each client that exist, as far as is known; `true`: in this
    /// process's name.
    files: Mutex<BTreeMap<Key, BTreeMap<u64, bool>>>,
    /// Clients whose directory was there at the start and was not listed yet.
    unlisted: Mutex<BTreeSet<Key>>,
    /// Clients to be looked at.
    due: Mutex<BTreeSet<Key>>,
    /// Held clients whose tasks could not be granted: their readers look again when
    /// this process can decide.
    ungranted: Mutex<BTreeSet<Key>>,
    /// Counters.
    pub counted: Counted,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Offers {
    /// Something of this client's tasks has changed.
    pub fn look_at(&self, key: Key) {
        lock(&self.due).insert(key);
    }

    /// The right to send this client's tasks could not be stored.
    pub fn not_granted(&self, key: Key) {
        lock(&self.ungranted).insert(key);
    }

    /// Held clients whose tasks wait for that right.
    pub fn waiting_for_grants(&self) -> usize {
        lock(&self.ungranted).len()
    }

    /// Tasks in files, as far as is known.
    pub fn len(&self) -> usize {
        lock(&self.files).values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn note(&self, key: &Key, id: u64, mine: bool) {
        lock(&self.files).entry(key.clone()).or_default().insert(id, mine);
    }

    fn forget(&self, key: &Key, id: u64) {
        let mut files = lock(&self.files);
        if let Some(ids) = files.get_mut(key) {
            ids.remove(&id);
            if ids.is_empty() {
                files.remove(key);
            }
        }
    }

    fn failed(&self, client: &str, what: &str, e: &dyn std::fmt::Display) {
        Applied::add(&self.counted.failed, 1);
        tracing::warn!(client, error = %e, "{what}; tried again");
    }
}

/// What the file of a task says.
enum Whose {
    /// It is this process's, or there is none.
    Ours,
    /// It is this process's now, and before nobody had sent the task.
    Unsent,
    /// Another process's.
    Theirs(ProcessId),
    /// Somebody was quicker: look again.
    Changed,
}

impl Server {
    /// At the start: clients with files of earlier masters, which have to be looked
    /// at before anything of theirs is sent.
    pub(in crate::services) async fn find_offers(&self) -> Result<(), ServiceError> {
        let io = StoreError::from;
        if !self.options.minions && !self.task_files.any().await.map_err(io)? {
            return Ok(());
        }
        for org in self.orgs() {
            for client in self.task_files.clients(&org.id).await.map_err(io)? {
                if let Some(c) = org.state().clients.get_mut(&client) {
                    c.queue.may_be_in_files();
                }
                let key = (org.id.clone(), client);
                self.offers.look_at(key.clone());
                lock(&self.offers.unlisted).insert(key);
            }
        }
        Ok(())
    }

    /// Looks after tasks in files until `stop`.
    pub async fn look_after_offers(self: Arc<Self>, stop: CancellationToken) {
        let mut n = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            n += 1;
            self.offer_due(n % ALL == 0).await;
        }
    }

    /// One look: tasks of clients that are away go into files, and readers whose tasks
    /// could not be granted try again. `all`: not only clients of which something was
    /// said.
    pub async fn offer_due(&self, all: bool) {
        if !self.is_master() || !self.standing.may_decide() {
            return;
        }
        for (org, client) in std::mem::take(&mut *lock(&self.offers.ungranted)) {
            self.sessions.wake(&org, &client);
        }
        let mut due = std::mem::take(&mut *lock(&self.offers.due));
        if all {
            for org in self.orgs() {
                let state = org.state();
                let waiting = state.clients.iter().filter(|(_, c)| c.queue.waits_for_client());
                due.extend(waiting.map(|(id, _)| (org.id.clone(), id.clone())));
            }
        }
        let work = futures::stream::iter(due);
        work.for_each_concurrent(AT_ONCE, |key| async move {
            let Some(org) = self.org(&key.0) else { return };
            self.take_back_of(&org, &key.1, None, true).await;
            if self.options.minions {
                self.leave_in_files(&org, &key).await;
            }
        })
        .await;
        if all {
            self.sweep_offers().await;
        }
    }

    fn is_away(&self, org: &Org, client: &str) -> bool {
        let heard = org.state().clients.get(client).map_or(0, |c| c.info.ping);
        self.sessions.held(&org.id, client).is_none()
            && heard.saturating_add(AWAY) <= self.env.clock.micros()
    }

    /// Leaves what waits for a client that is away in files.
    async fn leave_in_files(&self, org: &Org, key: &Key) {
        let client = key.1.as_str();
        let _alone = org.gates.close((client.to_owned(), GATE.to_owned())).await;
        if !self.is_away(org, client) {
            return;
        }
        let tasks = match org.state().clients.get_mut(client) {
            Some(c) => c.queue.leave(),
            None => return,
        };
        for t in tasks {
            match self.leave_one(org, key, &t).await {
                Ok(()) => Applied::add(&self.offers.counted.left, 1),
                Err(e) => {
                    self.offers.failed(client, "task not left for minions", &e);
                    self.offers.look_at(key.clone());
                }
            }
        }
    }

    async fn leave_one(&self, org: &Org, key: &Key, t: &VeloMessage) -> std::io::Result<()> {
        let (client, id) = (key.1.as_str(), t.task_id);
        let mine = lock(&self.offers.files).get(key).and_then(|ids| ids.get(&id)).copied();
        let from = match mine {
            Some(true) => self.task_files.mine(id),
            // One of a try that failed is found out about first.
            Some(false) => return Ok(()),
            None => {
                self.offers.note(key, id, false);
                self.task_files.make(&org.id, client, t).await?;
                TaskFile::New(id)
            }
        };
        // A successor looks once this is no more so, and finds the file as it is now.
        if !self.standing.may_decide() {
            return Ok(());
        }
        self.offers.note(key, id, false);
        self.task_files.free(&org.id, client, &from).await
    }

    /// Before tasks of a client, of `flow` or all, are handed out or withdrawn: those in
    /// files are taken back, as far as nobody else has them.
    pub(in crate::services) async fn take_back(&self, org: &Org, client: &str, flow: Option<&str>) {
        self.take_back_of(org, client, flow, false).await;
    }

    /// `claimed`: only if a minion has said that it reaches for them.
    async fn take_back_of(&self, org: &Org, client: &str, flow: Option<&str>, claimed: bool) {
        let wanted = || {
            let state = org.state();
            let queue = state.clients.get(client).map(|c| &c.queue);
            queue.map(|q| q.in_files(flow, claimed)).unwrap_or_default()
        };
        if !self.is_master() || wanted().is_empty() {
            return;
        }
        let _alone = org.gates.close((client.to_owned(), GATE.to_owned())).await;
        for _ in 0..4 {
            let ids = wanted();
            if ids.is_empty() {
                return;
            }
            match self.ask_files(org, client, &ids).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => return self.offers.failed(client, "files of tasks not looked at", &e),
            }
        }
    }

    /// `true`: something changed meanwhile.
    async fn ask_files(&self, org: &Org, client: &str, ids: &[u64]) -> Result<bool, ServiceError> {
        let key = (org.id.clone(), client.to_owned());
        let listed = self.task_files.list(&org.id, client).await.map_err(StoreError::from)?;
        let files: BTreeMap<u64, TaskFile> = listed.into_iter().map(|f| (f.id(), f)).collect();
        let mut again = false;
        for id in ids {
            let whose = self.whose(org, client, *id, files.get(id)).await?;
            if let Whose::Theirs(p) = &whose {
                Applied::add(&self.offers.counted.elsewhere, 1);
                self.offers.note(&key, *id, false);
                self.learn_of(org, client, *id, p).await?;
                continue;
            }
            match files.get(id) {
                Some(_) => self.offers.note(&key, *id, !matches!(whose, Whose::Changed)),
                None => self.offers.forget(&key, *id),
            }
            let unsent = match whose {
                Whose::Ours => false,
                Whose::Unsent => true,
                _ => {
                    again = true;
                    continue;
                }
            };
            Applied::add(&self.offers.counted.taken_back, 1);
            if let Some(c) = org.state().clients.get_mut(client) {
                c.queue.taken_back(*id, unsent);
            }
        }
        Ok(again)
    }

    async fn whose(
        &self,
        org: &Org,
        client: &str,
        id: u64,
        file: Option<&TaskFile>,
    ) -> Result<Whose, ServiceError> {
        let Some(file) = file else { return Ok(Whose::Ours) };
        let unsent = match file {
            TaskFile::New(_) | TaskFile::Free(_) => true,
            f if *f == self.task_files.mine(id) => return Ok(Whose::Ours),
            TaskFile::Taken(_, p) => {
                let given_back =
                    (org.state().clients.get(client)).is_some_and(|c| c.queue.gave_back(id, p));
                if !given_back && !self.was_master(p).await? {
                    return Ok(Whose::Theirs(p.clone()));
                }
                false
            }
        };
        let taken = self.task_files.take(&org.id, client, file).await.map_err(StoreError::from)?;
        Ok(match (taken, unsent) {
            (false, _) => Whose::Changed,
            (true, true) => Whose::Unsent,
            (true, false) => Whose::Ours,
        })
    }

    /// Whether a process was a master, or one of which nothing is left: a minion's
    /// journal stays for as long as what it took is not over.
    async fn was_master(&self, p: &ProcessId) -> Result<bool, ServiceError> {
        if let Some(known) = self.processes.get(p) {
            return Ok(known.role == Role::Master);
        }
        let path = marker_path(&self.processes.fleet, p);
        let marker = read_whole(&*self.env.fs, &path, MARKER).await.map_err(StoreError::from)?;
        Ok(marker.is_none_or(|m| Role::of_marker(&m) == Role::Master))
    }

    /// A minion has taken a task: its journal says for which client process.
    async fn learn_of(
        &self,
        org: &Org,
        client: &str,
        id: u64,
        p: &ProcessId,
    ) -> Result<(), ServiceError> {
        let heard = self.hub().is_some_and(|h| h.knows(p));
        let now_known = || {
            let mut state = org.state();
            let c = state.clients.get_mut(client);
            c.is_none_or(|c| c.queue.taken_by(id, p, heard))
        };
        if now_known() {
            return Ok(());
        }
        // Not applied yet; what is streamed comes, and what is not is read every few
        // seconds.
        self.offers.look_at((org.id.clone(), client.to_owned()));
        Ok(())
    }

    /// Before the end of a server without minions: nothing stays in files.
    pub(in crate::services) async fn take_all_back(&self) {
        let all: BTreeSet<Key> = {
            let unlisted = lock(&self.offers.unlisted);
            lock(&self.offers.files).keys().chain(unlisted.iter()).cloned().collect()
        };
        for key in all {
            let Some(org) = self.org(&key.0) else { continue };
            self.take_back(&org, &key.1, None).await;
            let open = |id: u64| {
                let state = org.state();
                let queue = state.clients.get(&key.1).map(|c| &c.queue);
                queue.is_some_and(|q| q.in_files(None, false).contains(&id))
            };
            match self.task_files.remove(&key.0, &key.1, |id| !open(id)).await {
                Ok(()) => drop(lock(&self.offers.files).remove(&key)),
                Err(e) => self.offers.failed(&key.1, "files of tasks not removed", &e),
            }
        }
    }

    /// Removes files of tasks that are over.
    async fn sweep_offers(&self) {
        let unlisted = std::mem::take(&mut *lock(&self.offers.unlisted));
        for key in unlisted {
            match self.task_files.list(&key.0, &key.1).await {
                Ok(files) => files.iter().for_each(|f| {
                    lock(&self.offers.files)
                        .entry(key.clone())
                        .or_default()
                        .entry(f.id())
                        .or_insert(false);
                }),
                Err(e) => {
                    self.offers.failed(&key.1, "files of tasks not listed", &e);
                    lock(&self.offers.unlisted).insert(key);
                }
            }
        }
        let all: Vec<(Key, Vec<u64>)> = (lock(&self.offers.files).iter())
            .map(|(key, ids)| (key.clone(), ids.keys().copied().collect()))
            .collect();
        let over = all.into_iter().filter_map(|(key, ids)| {
            let org = self.org(&key.0)?;
            let gone: BTreeSet<u64> = {
                let state = org.state();
                let queue = state.clients.get(&key.1).map(|c| &c.queue);
                ids.into_iter().filter(|id| queue.is_none_or(|q| !q.has(*id))).collect()
            };
            (!gone.is_empty()).then_some((org, key, gone))
        });
        let work = futures::stream::iter(over.collect::<Vec<_>>());
        work.for_each_concurrent(AT_ONCE, |(org, key, gone)| async move {
            let _alone = org.gates.close((key.1.clone(), GATE.to_owned())).await;
            match self.task_files.remove(&key.0, &key.1, |id| gone.contains(&id)).await {
                Ok(()) => gone.iter().for_each(|id| self.offers.forget(&key, *id)),
                Err(e) => self.offers.failed(&key.1, "files of tasks not removed", &e),
            }
        })
        .await;
    }
}

impl Counted {
    /// All, with the names that metrics give them.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        [
            ("left", get(&self.left)),
            ("taken_back", get(&self.taken_back)),
            ("elsewhere", get(&self.elsewhere)),
            ("failed", get(&self.failed)),
        ]
    }
}
