//! A minion's side: readers are reported, tasks are carried out, journal bytes
//! are passed on. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::{
    self, Holding, Report, SessionChange, Tasks, report, session_change,
};
use velociraptor_proto::proto::VeloMessage;

use super::outbox::{Outbox, Told};
use crate::cluster::Uplink;
use crate::services::flows::job::Hash;
use crate::services::ids::OrgId;
use crate::services::sessions::Key;
use crate::services::state::to_hash;
use crate::services::tasks::What;
use crate::services::wakes::Wakes;
use crate::store::journal::Position;

/// Session changes wait this long for others, so that a herd costs few frames.
const GATHER: Duration = Duration::from_millis(5);

/// A client that has not been held here for this long is taken to be elsewhere,
/// and its tasks go back. Stock agents poll again after about a second.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// A reader's opening, and each later check-in of it.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Organisation.
    pub org: OrgId,
    /// Client.
    pub client: String,
    /// The reader, unique in this process.
    pub session: u64,
    /// The client process.
    pub cipher: Hash,
    /// Hash of the sealed check-in; `None` for later ones of the same reader.
    pub request: Option<Hash>,
    /// Peer address as known to the frontend.
    pub remote: String,
    /// What the client program calls itself.
    pub agent: String,
    /// Protocol version it speaks.
    pub api_version: u32,
    /// The event table version it says it has.
    pub table_claim: Option<u64>,
    /// Microseconds since the epoch.
    pub time: u64,
}

#[derive(Debug, Default)]
struct Slot {
    outbox: Outbox,
    readers: BTreeMap<u64, Opening>,
    empty_since: Option<Instant>,
    /// Tasks in files that this process reaches for: perhaps its own already.
    reached: BTreeSet<u64>,
}

impl Slot {
    /// Of a client that is not held now.
    fn unread() -> Self {
        Self { empty_since: Some(Instant::now()), ..Self::default() }
    }
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeMap<Key, Slot>,
    changes: Vec<SessionChange>,
    reports: Vec<Report>,
}

/// What this node holds for its master.
#[derive(Debug)]
pub struct Relay {
    state: Mutex<State>,
    applied: Mutex<Position>,
    /// When tasks became durable at the master, by its clock.
    pub wakes: Wakes,
    dirty: Notify,
    uplink: Uplink,
}

fn change(o: &Opening, what: session_change::What) -> SessionChange {
    SessionChange {
        org_id: o.org.id().to_owned(),
        client_id: o.client.clone(),
        session: o.session,
        what: what.into(),
        cipher_hash: o.cipher.to_vec(),
        remote_addr: o.remote.clone(),
        user_agent: o.agent.clone(),
        api_version: o.api_version,
        table_claim: o.table_claim,
        time: o.time,
        request_hash: o.request.map(|h| h.to_vec()).unwrap_or_default(),
    }
}

impl State {
    fn tell(&mut self, key: &Key, told: Vec<Told>) {
        self.reports.extend(told.into_iter().map(|(task_id, what)| {
            Report {
                org_id: key.0.id().to_owned(),
                client_id: key.1.clone(),
                task_id,
                what: match what {
                    What::Received => report::What::Received,
                    What::Back => report::What::Back,
                    What::Doubt => report::What::Doubt,
                }
                .into(),
            }
        }));
    }

    fn with(&mut self, key: &Key, f: impl FnOnce(&mut Outbox) -> Vec<Told>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let told = f(&mut slot.outbox);
        self.tell(key, told);
    }
}

impl Relay {
    /// A relay that reports over `uplink`.
    pub fn new(uplink: Uplink) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            applied: Mutex::default(),
            wakes: Wakes::default(),
            dirty: Notify::new(),
            uplink,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the master has applied this process's journal.
    pub fn applied(&self) -> Position {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The master says how far it has come.
    pub fn set_applied(&self, p: Position) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        *applied = p.max(*applied);
    }

    /// The way to the master.
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    /// A reader is held, or the one held has checked in again.
    pub fn opened(&self, o: Opening) {
        {
            let mut state = self.state();
            let c = change(&o, session_change::What::Opened);
            let slot = state.slots.entry((o.org.clone(), o.client.clone())).or_default();
            slot.empty_since = None;
            slot.readers.insert(o.session, o);
            state.changes.push(c);
        }
        self.dirty.notify_one();
    }

    /// The reader is over.
    pub fn closed(&self, key: &Key, session: u64) {
        {
            let mut state = self.state();
            let Some(slot) = state.slots.get_mut(key) else { return };
            let Some(o) = slot.readers.remove(&session) else { return };
            if slot.readers.is_empty() {
                slot.empty_since = Some(Instant::now());
            }
            state.changes.push(change(&o, session_change::What::Closed));
        }
        self.dirty.notify_one();
    }

    /// A check-in with bytes of this hash came.
    pub fn checked_in(&self, key: &Key, cipher: Hash, request: Hash) {
        self.change(key, |o| o.checked_in(cipher, request));
    }

    /// A WebSocket client consumed this reply.
    pub fn consumed(&self, key: &Key, reply: Hash) {
        self.change(key, |o| o.consumed(reply));
    }

    /// The reply did not go out whole.
    pub fn give_back(&self, key: &Key, reply: Hash) {
        self.change(key, |o| {
            o.give_back(reply);
            vec![]
        });
    }

    /// What goes into the reply `reply` to the client process `cipher`.
    pub fn take(&self, key: &Key, cipher: Hash, reply: Hash) -> Vec<VeloMessage> {
        let mut out = Vec::new();
        self.change(key, |o| {
            let (messages, told) = o.take(cipher, reply);
            out = messages;
            told
        });
        out
    }

    fn change(&self, key: &Key, f: impl FnOnce(&mut Outbox) -> Vec<Told>) {
        let told = {
            let mut state = self.state();
            state.with(key, f);
            !state.reports.is_empty()
        };
        if told {
            self.dirty.notify_one();
        }
    }

    /// The master lets this node hand these out. The caller wakes the reader.
    pub fn give(&self, t: Tasks) -> Key {
        if t.durable > 0 {
            let ids = t.messages.iter().map(|m| m.task_id).filter(|id| *id > 0);
            self.wakes.durable(ids, t.durable);
        }
        let key = (OrgId::new(t.org_id.as_str()), t.client_id);
        let mut state = self.state();
        let slot = state.slots.entry(key.clone()).or_default();
        if slot.readers.is_empty() {
            slot.empty_since.get_or_insert_with(Instant::now);
        }
        slot.outbox.give(to_hash(&t.cipher_hash), t.messages);
        key
    }

    /// Clients held here, each with its present process.
    pub fn held(&self) -> Vec<(Key, Hash)> {
        let state = self.state();
        let held = state.slots.iter();
        held.filter_map(|(k, s)| Some((k.clone(), s.readers.values().next_back()?.cipher)))
            .collect()
    }

    /// This process reaches for tasks that lie in files. A master that it meets from
    /// now on is told that they are here.
    pub fn reach(&self, key: &Key, ids: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        state.slots.entry(key.clone()).or_insert_with(Slot::unread).reached.extend(ids);
    }

    /// They are somebody else's.
    pub fn let_go(&self, key: &Key, ids: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        if let Some(slot) = state.slots.get_mut(key) {
            for id in ids {
                slot.reached.remove(&id);
            }
        }
    }

    /// Tasks that this process has taken. If their client process is not held now,
    /// they go back: it may be served elsewhere.
    pub fn hand_out(&self, t: Tasks) {
        let key = (OrgId::new(t.org_id.as_str()), t.client_id);
        let (cipher, ids) = (to_hash(&t.cipher_hash), t.messages.iter().map(|m| m.task_id));
        let ids: Vec<u64> = ids.collect();
        {
            let mut state = self.state();
            let slot = state.slots.entry(key.clone()).or_insert_with(Slot::unread);
            slot.reached.retain(|id| !ids.contains(id));
            match slot.readers.values().any(|o| o.cipher == cipher) {
                true => slot.outbox.give(cipher, t.messages),
                false => state.tell(&key, ids.into_iter().map(|id| (id, What::Back)).collect()),
            }
        }
        self.dirty.notify_one();
    }

    /// The client is served elsewhere: what is here goes back.
    pub fn recall(&self, key: &Key, elsewhere: Option<(Hash, Hash)>) {
        self.change(key, |o| o.recall(elsewhere));
    }

    /// What a new stream begins with.
    pub fn introduce(&self) -> (Vec<Holding>, Vec<SessionChange>) {
        let state = self.state();
        let (mut holdings, mut readers) = (Vec::new(), Vec::new());
        for (key, slot) in &state.slots {
            holdings.extend(slot.outbox.holdings().map(|(task_id, sent)| Holding {
                org_id: key.0.id().to_owned(),
                client_id: key.1.clone(),
                task_id,
                sent,
                told: false,
            }));
            holdings.extend(slot.reached.iter().map(|task_id| Holding {
                org_id: key.0.id().to_owned(),
                client_id: key.1.clone(),
                task_id: *task_id,
                sent: false,
                told: false,
            }));
            let opened = session_change::What::Opened;
            readers.extend(slot.readers.values().map(|o| change(o, opened)));
        }
        // What was told and has not arrived is not here, and not lost either.
        let owed = self.uplink.owed_reports();
        holdings.extend(state.reports.iter().chain(&owed).map(|r| Holding {
            org_id: r.org_id.clone(),
            client_id: r.client_id.clone(),
            task_id: r.task_id,
            sent: true,
            told: true,
        }));
        (holdings, readers)
    }

    /// Clients held.
    pub fn clients(&self) -> usize {
        self.state().slots.values().filter(|s| !s.readers.is_empty()).count()
    }

    /// Sends what has to be told, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut sweep = Instant::now() + AWAY_AFTER / 2;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.dirty.notified() => {}
                () = tokio::time::sleep_until(sweep) => {
                    sweep = Instant::now() + AWAY_AFTER / 2;
                    self.sweep();
                }
            }
            self.flush();
            // What comes in the meantime goes together.
            tokio::time::sleep(GATHER).await;
        }
        self.surrender_all();
        self.flush();
    }

    fn flush(&self) {
        let mut state = self.state();
        let (reports, changes) =
            (std::mem::take(&mut state.reports), std::mem::take(&mut state.changes));
        // Under the lock, so that the order of calls is the order of changes.
        if !reports.is_empty() {
            self.uplink.reports(reports);
        }
        if !changes.is_empty() {
            self.uplink.sessions(changes);
        }
    }

    /// Tasks of clients that are not held any more go back.
    fn sweep(&self) {
        let mut state = self.state();
        let gone: Vec<Key> = (state.slots.iter())
            .filter(|(_, s)| s.empty_since.is_some_and(|t| t.elapsed() >= AWAY_AFTER))
            .filter(|(_, s)| s.reached.is_empty())
            .map(|(k, _)| k.clone())
            .collect();
        for key in gone {
            state.with(&key, Outbox::surrender);
            state.slots.remove(&key);
        }
    }

    /// Before the process ends: everything goes back.
    fn surrender_all(&self) {
        let mut state = self.state();
        let keys: Vec<Key> = state.slots.keys().cloned().collect();
        for key in keys {
            state.with(&key, Outbox::surrender);
        }
    }
}

/// A frame of the stream as bytes of the journal of `process`.
pub fn records(file: u64, offset: u64, data: bytes::Bytes) -> fleet::Records {
    fleet::Records { start: Some(fleet::Position { file, offset }), data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(session: u64) -> Opening {
        Opening {
            org: OrgId::root(),
            client: "C.1".into(),
            session,
            cipher: [1; 16],
            request: None,
            remote: "r".into(),
            agent: String::new(),
            api_version: 4,
            table_claim: None,
            time: 1,
        }
    }

    fn relay() -> Arc<Relay> {
        Relay::new(Uplink::new(crate::cluster::Limits::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_of_a_client_that_went_away_go_back() {
        let (r, key) = (relay(), (OrgId::root(), "C.1".to_owned()));
        r.opened(opening(1));
        r.give(Tasks {
            org_id: OrgId::root().id().to_owned(),
            client_id: "C.1".into(),
            cipher_hash: vec![1; 16],
            durable: 0,
            messages: vec![VeloMessage { task_id: 7, ..Default::default() }],
        });
        r.closed(&key, 1);
        // The pause between two polls is no absence.
        tokio::time::advance(Duration::from_secs(3)).await;
        r.sweep();
        assert_eq!(r.introduce().0.len(), 1);
        r.opened(opening(2));
        r.closed(&key, 2);
        tokio::time::advance(AWAY_AFTER).await;
        r.sweep();
        // Not here, and not lost: the report follows.
        assert!(r.introduce().0.iter().all(|h| h.told));
        let state = r.state();
        assert_eq!(state.reports.len(), 1);
        assert_eq!(state.reports[0].what, i32::from(report::What::Back));
        assert_eq!(state.changes.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_is_reported_once() {
        let (r, key) = (relay(), (OrgId::root(), "C.1".to_owned()));
        r.opened(opening(1));
        r.give(Tasks {
            org_id: OrgId::root().id().to_owned(),
            client_id: "C.1".into(),
            cipher_hash: vec![1; 16],
            durable: 0,
            messages: vec![VeloMessage { task_id: 7, ..Default::default() }],
        });
        assert_eq!(r.take(&key, [1; 16], [9; 16]).len(), 1);
        r.checked_in(&key, [1; 16], [10; 16]);
        r.checked_in(&key, [1; 16], [11; 16]);
        assert_eq!(r.state().reports.len(), 1);
        assert_eq!(r.state().reports[0].what, i32::from(report::What::Received));
    }
}
