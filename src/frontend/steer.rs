//! Sending clients to other frontends: a few at a time, each in the way that
//! costs its agent least.
//!
//! Over HTTPS a held poll ends, the client comes back within a second or two and is
//! told where to go (301). Over a WebSocket there is no such answer: a status makes
//! the agent take its next URL, after the wait it takes after any failure (stock: 60
//! to 90 s). Behind a balancer the connection is closed, and the client's next one goes
//! elsewhere. Results are taken from whoever sends them, all the while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Frontend;
use super::reader::HeldReader;
use super::ways::Ways;
use crate::comms::server::{Answer, Transport};
use crate::services::fleet::steering::{Share, Steering};
use crate::services::sessions::Key;

/// Distance of steps.
const STEP: Duration = Duration::from_millis(100);
/// A client that comes back sooner found nobody else, and is served.
const AGAIN: Duration = Duration::from_secs(300);
/// A client whose poll was ended so that it can be sent elsewhere comes back sooner, or not at all.
const MARKED: Duration = Duration::from_secs(60);

/// How clients are sent away.
#[derive(Clone, Debug)]
pub struct SteerLimits {
    /// Where to; `None` where there are no other nodes.
    pub ways: Option<Ways>,
    /// Clients a second; 0: all at once.
    pub per_second: u32,
    /// A process that ends takes so long at most.
    pub stop: Duration,
    /// Behind a balancer: how long it takes to notice.
    pub notice: Duration,
}

impl Default for SteerLimits {
    fn default() -> Self {
        Self {
            ways: None,
            per_second: 100,
            stop: Duration::from_secs(30),
            notice: Duration::from_secs(3),
        }
    }
}

/// How many clients were sent away, by how.
#[derive(Debug, Default)]
pub struct SentAway {
    /// By a redirect.
    pub redirect: AtomicU64,
    /// By a status on a WebSocket.
    pub status: AtomicU64,
    /// By a closed connection.
    pub close: AtomicU64,
    /// Came back and are served.
    pub returned: AtomicU64,
}

impl SentAway {
    /// By name, for metrics.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        [
            ("redirect", &self.redirect),
            ("status", &self.status),
            ("close", &self.close),
            ("returned", &self.returned),
        ]
        .map(|(name, n)| (name, n.load(Ordering::Relaxed)))
    }
}

/// What is known of the clients to be sent away.
#[derive(Default)]
pub(super) struct Steered {
    readers: Mutex<BTreeMap<u64, Arc<HeldReader>>>,
    /// When a client was sent away.
    sent: Mutex<BTreeMap<Key, Instant>>,
    /// Where a client goes when it comes back, and since when.
    marked: Mutex<BTreeMap<Key, (Instant, Vec<String>)>>,
    /// Clients that will come back to be told where to go, and since when.
    expected: Mutex<BTreeMap<Key, Instant>>,
    counted: SentAway,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Steered {
    pub(super) fn held(&self, id: u64, reader: &Arc<HeldReader>) {
        lock(&self.readers).insert(id, reader.clone());
    }

    pub(super) fn gone(&self, id: u64) {
        lock(&self.readers).remove(&id);
    }

    fn expect(&self, key: Key) {
        lock(&self.expected).insert(key, Instant::now());
    }

    fn was_sent(&self, key: &Key) -> bool {
        lock(&self.sent).get(key).is_some_and(|at| at.elapsed() < AGAIN)
    }

    fn note_sent(&self, key: Key) {
        lock(&self.sent).insert(key, Instant::now());
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Its poll ends, and it is redirected when it comes back.
    Redirect,
    /// A status on its socket.
    Status,
    /// Its connection is closed.
    Close,
}

impl Frontend {
    /// How clients were sent away.
    pub fn sent_away(&self) -> &SentAway {
        &self.steered.counted
    }

    /// Whether this node sends its clients away: balancers leave it out.
    pub fn leaves(&self) -> bool {
        self.limits.steer.ways.is_some() && self.server.steer.leaves()
    }

    /// Clients that a drain sends away in a second; 0: all at once.
    pub fn drain_rate(&self) -> u32 {
        self.limits.steer.per_second
    }

    pub(super) fn steered(&self) -> &Steered {
        &self.steered
    }

    /// Base URLs of the nodes that take clients.
    fn targets(&self, s: &Steering) -> Vec<String> {
        let ways = self.limits.steer.ways.as_ref();
        let all = ways.map(|w| w.to(s.nodes.as_ref())).unwrap_or_default();
        all.into_iter().map(str::to_owned).collect()
    }

    /// Whether there is anywhere to go.
    fn can_leave(&self, s: &Steering) -> bool {
        match &self.limits.steer.ways {
            None => false,
            Some(w) if w.direct() => !self.targets(s).is_empty(),
            Some(_) => s.nodes.as_ref().is_none_or(|n| !n.is_empty()),
        }
    }

    pub(super) fn way_out(&self, transport: Transport) -> Leave {
        let direct = self.limits.steer.ways.as_ref().is_some_and(Ways::direct);
        match (direct, transport) {
            (false, _) => Leave::Close,
            (true, Transport::Http) => Leave::Redirect,
            (true, Transport::Ws) => Leave::Status,
        }
    }

    /// A client that has left by what its reader did.
    pub(super) fn has_left(&self, key: &Key, how: Leave) {
        let counter = match how {
            // Counted when it comes back.
            Leave::Redirect => return,
            Leave::Status => &self.steered.counted.status,
            Leave::Close => &self.steered.counted.close,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.steered.note_sent(key.clone());
    }

    /// A poll has ended well: its client comes back soon.
    pub(super) fn comes_back(&self, key: Key) {
        let leaves = self.server.steer.leaves() && !self.steered.was_sent(&key);
        if leaves && self.way_out(Transport::Http) == Leave::Redirect {
            self.steered.expect(key);
        }
    }

    /// What a client is told that checks in here and should not be held.
    pub(super) fn elsewhere(&self, key: &Key, transport: Transport) -> Option<Answer> {
        let ways = self.limits.steer.ways.as_ref()?;
        lock(&self.steered.expected).remove(key);
        let one_of = |all: &[String]| {
            let n = self.server.env.entropy.below(all.len() as u64) as usize;
            all.get(n).cloned()
        };
        let mark = lock(&self.steered.marked).remove(key);
        if let Some((since, to)) = mark
            && since.elapsed() < MARKED
            && transport == Transport::Http
        {
            let url = one_of(&to)?;
            self.steered.counted.redirect.fetch_add(1, Ordering::Relaxed);
            return Some(Answer::Redirect(url));
        }
        let s = self.server.steer.get();
        if !s.leaves() || !ways.direct() {
            return None;
        }
        if self.steered.was_sent(key) {
            self.steered.counted.returned.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let url = one_of(&self.targets(&s))?;
        self.steered.note_sent(key.clone());
        let (answer, counter) = match transport {
            Transport::Http => (Answer::Redirect(url), &self.steered.counted.redirect),
            Transport::Ws => (Answer::Status(500, LEAVING.into()), &self.steered.counted.status),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Some(answer)
    }

    /// Clients still to be sent away: held here, or about to come back.
    pub fn to_leave(&self) -> usize {
        let s = self.server.steer.get();
        if !s.leaves() || !self.can_leave(&s) {
            return 0;
        }
        let mut expected = lock(&self.steered.expected);
        expected.retain(|_, since| since.elapsed() < MARKED);
        let readers = lock(&self.steered.readers);
        readers.values().filter(|r| !self.steered.was_sent(&r.key())).count() + expected.len()
    }

    /// Tells so many readers to let their clients go.
    fn send_away(&self, most: usize) {
        let readers: Vec<Arc<HeldReader>> = lock(&self.steered.readers)
            .values()
            .filter(|r| !r.told() && !self.steered.was_sent(&r.key()))
            .take(most)
            .cloned()
            .collect();
        readers.iter().for_each(|r| r.leave());
    }

    /// Sends clients away as it is asked, until `stop`.
    pub async fn steer_clients(self: Arc<Self>, stop: CancellationToken) {
        let mut watch = self.server.steer.watch();
        let mut shares = self.server.steer.shares();
        let mut since: Option<Instant> = None;
        // Tenths of clients that may go.
        let mut budget = 0;
        loop {
            let now = watch.borrow_and_update().clone();
            if now.leaves() != since.is_some() {
                since = now.leaves().then(Instant::now);
                lock(&self.steered.sent).clear();
                lock(&self.steered.expected).clear();
                budget = 0;
                if since.is_some() {
                    let (clients, rate) = (self.to_leave(), self.limits.steer.per_second);
                    tracing::info!(clients, rate, "clients are sent to other nodes");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = watch.changed() => if changed.is_err() { return },
                changed = shares.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let share = shares.borrow_and_update().clone();
                    self.share(&share);
                }
                () = sleep(STEP), if since.is_some() => {}
            }
            if let Some(begun) = since {
                self.step(&now, begun.elapsed(), &mut budget);
            }
        }
    }

    /// One step of a drain that began so long ago.
    fn step(&self, s: &Steering, begun: Duration, budget: &mut usize) {
        let l = &self.limits.steer;
        let direct = l.ways.as_ref().is_some_and(Ways::direct);
        if !self.can_leave(s) || (!direct && begun < l.notice) {
            return;
        }
        if l.per_second == 0 {
            return self.send_away(usize::MAX);
        }
        let mut rate = l.per_second as usize;
        if s.stopping {
            // A quarter of the time is for those who were told last.
            let left = (l.stop * 3 / 4).saturating_sub(begun).as_secs_f64().max(0.1);
            rate = rate.max((self.to_leave() as f64 / left).ceil() as usize);
        }
        *budget += rate;
        self.send_away(*budget / 10);
        *budget %= 10;
    }

    /// Marks clients over HTTPS for nodes that have fewer. A client that was redirected
    /// not long ago would wait more than a minute at the next redirect, and stays.
    fn share(&self, share: &Share) {
        let Some(ways) = self.limits.steer.ways.as_ref().filter(|w| w.direct()) else { return };
        let names = share.to.iter().cloned().collect();
        let to: Vec<String> = ways.to(Some(&names)).into_iter().map(str::to_owned).collect();
        if to.is_empty() || self.server.steer.leaves() {
            return;
        }
        let mut some: Vec<Arc<HeldReader>> = lock(&self.steered.readers)
            .values()
            .filter(|r| !r.told() && r.can_be_redirected())
            .cloned()
            .collect();
        let mut marked = lock(&self.steered.marked);
        marked.retain(|_, (since, _)| since.elapsed() < MARKED);
        for _ in 0..share.clients {
            if some.is_empty() {
                return;
            }
            let n = self.server.env.entropy.below(some.len() as u64) as usize;
            let reader = some.swap_remove(n);
            marked.insert(reader.key(), (Instant::now(), to.clone()));
            reader.leave();
        }
    }

    /// Before this process ends: sends its clients away, for as long as that may take.
    pub async fn send_all_away(&self) {
        let l = &self.limits.steer;
        let s = self.server.steer.get();
        if l.stop.is_zero() || !self.can_leave(&s) {
            return;
        }
        let (begun, before) = (Instant::now(), lock(&self.steered.readers).len());
        self.server.steer.stop();
        let direct = l.ways.as_ref().is_some_and(Ways::direct);
        let least = if direct { Duration::ZERO } else { l.notice.min(l.stop) };
        while begun.elapsed() < least || (self.to_leave() > 0 && begun.elapsed() < l.stop) {
            sleep(STEP).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        tracing::info!(clients = before, left = self.to_leave(), seconds, "clients were sent away");
    }
}

/// Said to clients that are to go elsewhere.
pub(super) const LEAVING: &str = "This node takes no clients now";
