//! The minion's way to its master: what must arrive is kept over streams, what need
//! not is dropped when there is none.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use velociraptor_proto::fleet::{Records, Report, SessionChange};

use super::outgoing::{BadAck, Numbered, Outgoing};
use super::queue::{Entrance, Exit, queue};
use super::{Counters, Limits, NotSent, Process};

/// Whether there is a master.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkStatus {
    /// There is no stream.
    Down {
        /// Since when; at first since the start.
        since: Instant,
        /// Why the last stream ended or could not be had; empty at first.
        why: String,
    },
    /// The master has welcomed this process, and is heard.
    Up {
        /// Since when.
        since: Instant,
        /// Which master.
        master: Process,
    },
}

/// Sends to whatever master there is. Cheap to clone; lives as long as the process.
#[derive(Clone)]
pub struct Uplink(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There may be something to send, or the stream has to end.
    work: Notify,
    status: watch::Sender<LinkStatus>,
    counters: Arc<Counters>,
    limits: Limits,
}

struct State {
    outgoing: Outgoing,
    records: Option<Entrance<Records>>,
    heard: Option<Instant>,
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Uplink {
    /// The uplink of one process, without a stream.
    pub fn new(limits: Limits) -> Self {
        let outgoing = Outgoing::new(limits.window_frames, limits.session_backlog);
        Self(Arc::new(Shared {
            state: Mutex::new(State { outgoing, records: None, heard: None }),
            work: Notify::new(),
            status: watch::Sender::new(LinkStatus::Down {
                since: Instant::now(),
                why: String::new(),
            }),
            counters: Arc::default(),
            limits,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of readers that came and went. Never waits. The order of calls is the order
    /// of arrival, so changes of one reader must not race. See [`super::MinionSide::hello`].
    pub fn sessions(&self, changes: Vec<SessionChange>) {
        let dropped = self.state().outgoing.sessions(changes);
        if dropped > 0 {
            Counters::add(&self.0.counters.dropped_changes, dropped as u64);
            tracing::warn!(dropped, "too many session changes for the master: sending a new list");
        }
        self.0.work.notify_one();
    }

    /// Tells what became of tasks. Never waits, never drops: what is kept is bounded by
    /// the number of tasks.
    pub fn reports(&self, reports: Vec<Report>) {
        self.state().outgoing.reports(reports);
        self.0.work.notify_one();
    }

    /// Sends journal bytes, if there is a stream with room. If not, nothing is kept: the
    /// position in the beats says that they exist.
    pub fn records(&self, records: Records) -> Result<(), NotSent> {
        let (bytes, limit) = (records.encoded_len(), self.0.limits.frame_bytes);
        if bytes > limit {
            return Err(NotSent::TooLarge { bytes, limit });
        }
        let state = self.state();
        let entrance = state.records.as_ref().ok_or(NotSent::Gone)?;
        let sent = entrance.try_push(records, bytes);
        if sent == Err(NotSent::Full) {
            Counters::add(&self.0.counters.withheld, 1);
        }
        sent
    }

    /// Whether a master has welcomed this process and is heard.
    pub fn connected(&self) -> bool {
        matches!(self.status(), LinkStatus::Up { .. })
    }

    /// Whether there is a master, and since when.
    pub fn status(&self) -> LinkStatus {
        self.0.status.borrow().clone()
    }

    /// The status, to be waited on.
    pub fn watch(&self) -> watch::Receiver<LinkStatus> {
        self.0.status.subscribe()
    }

    /// How long ago the master was heard last; `None` before the first time.
    pub fn silence(&self) -> Option<Duration> {
        self.state().heard.map(|t| t.elapsed())
    }

    /// Numbered frames sent and not acknowledged, and those not sent yet.
    pub fn owed(&self) -> (usize, usize) {
        self.state().outgoing.owed()
    }

    /// Reports that the master has not acknowledged: they will go again, or for the
    /// first time.
    pub fn owed_reports(&self) -> Vec<Report> {
        self.state().outgoing.owed_reports()
    }

    /// What was counted.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// The limits it was made with.
    pub(super) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// A stream begins; returns where its records come out. Before the list of
    /// sessions is made.
    pub(super) fn begin(&self) -> Exit<Records> {
        let limits = &self.0.limits;
        let (entrance, exit) = queue(limits.queue_frames, limits.queue_bytes);
        let mut state = self.state();
        state.outgoing.connected();
        state.records = Some(entrance);
        exit
    }

    /// The stream is over, or was never to be.
    pub(super) fn finish(&self, why: &str) {
        self.state().records = None;
        self.0.status.send_modify(|s| match s {
            LinkStatus::Down { why: old, .. } => *old = why.to_owned(),
            LinkStatus::Up { .. } => {
                *s = LinkStatus::Down { since: Instant::now(), why: why.to_owned() };
            }
        });
    }

    pub(super) fn welcomed(&self, master: Process) {
        self.0.status.send_replace(LinkStatus::Up { since: Instant::now(), master });
    }

    pub(super) fn heard(&self) {
        self.state().heard = Some(Instant::now());
    }

    pub(super) fn acknowledged(&self, seq: u64) -> Result<(), BadAck> {
        let done = self.state().outgoing.acknowledged(seq);
        self.0.work.notify_one();
        done
    }

    /// Waits for the next numbered frame that may go. `None`: the stream has to end,
    /// since session changes are missing from it.
    pub(super) async fn next(&self) -> Option<Numbered> {
        loop {
            {
                let mut state = self.state();
                if state.outgoing.is_stale() {
                    return None;
                }
                if let Some(frame) = state.outgoing.next() {
                    return Some(frame);
                }
            }
            self.0.work.notified().await;
        }
    }
}
