//! Event rows on their way to stores outside: what is still owed to each of them.
//!
//! What is owed is what lies in journals behind a cursor, which says for each
//! process how far its journal was delivered. It is written after each delivery, so
//! a crash repeats at most what was delivered last, under the ids it had before.
//! Journals with rows that are owed are kept. How rows are delivered is not known
//! here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::events::{EventKey, EventPart};
use super::ids::OrgId;
use super::server::{Server, ServiceError, fleet_dir};
use crate::store::StoreError;
use crate::store::journal::{Position, ProcessId};

mod batch;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Line};

/// Bytes that a message costs in memory beside its rows, for the bound.
const OVERHEAD: u64 = 256;
/// Largest cursor read.
const MAX_CURSOR: usize = 16 << 20;

/// One store that rows are owed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sink {
    /// Its name: of its cursor and in metrics.
    pub name: String,
    /// Event artifacts, with all their sources unless `/Source` is named.
    pub artifacts: Vec<String>,
    /// Rows delivered together; a message is not split.
    pub batch_rows: u64,
    /// Their bytes.
    pub batch_bytes: u64,
    /// Bytes in journals that may be owed; beyond, the oldest are given up.
    pub backlog_bytes: u64,
}

impl Sink {
    fn wants(&self, artifact: &str) -> bool {
        let bare = artifact.split_once('/').map_or(artifact, |(a, _)| a);
        self.artifacts.iter().any(|a| a == artifact || a == bare)
    }
}

/// How far each journal was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Cursor {
    /// Rows received before are not owed, microseconds.
    since: u64,
    done: BTreeMap<String, Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    file: u64,
    offset: u64,
}

/// A message that is owed.
#[derive(Clone, Debug)]
struct Owed {
    org: OrgId,
    key: EventKey,
    part: EventPart,
}

impl Owed {
    fn cost(&self) -> u64 {
        self.part.extent.len + OVERHEAD
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// By process, and there by place.
    waiting: BTreeMap<ProcessId, BTreeMap<Position, Owed>>,
    messages: u64,
    bytes: u64,
    cursor: Cursor,
}

impl Queue {
    fn remove(&mut self, process: &ProcessId, at: Position) {
        let Some(all) = self.waiting.get_mut(process) else { return };
        if let Some(gone) = all.remove(&at) {
            self.messages -= 1;
            self.bytes -= gone.cost();
        }
        if all.is_empty() {
            self.waiting.remove(process);
        }
        let place = Place { file: at.file, offset: at.offset };
        self.cursor.done.insert(process.to_string(), place);
    }

    /// The oldest message by the time it was received.
    fn oldest(&self) -> Option<(ProcessId, Position)> {
        let heads = self.waiting.iter().filter_map(|(p, all)| {
            all.first_key_value().map(|(at, o)| (o.part.received, p.clone(), *at))
        });
        heads.min().map(|(_, p, at)| (p, at))
    }
}

/// What one store is owed.
#[derive(Debug)]
pub struct Backlog {
    /// The store.
    pub sink: Sink,
    queue: Mutex<Queue>,
    filled: Notify,
    /// Rows delivered.
    pub rows: AtomicU64,
    /// Deliveries.
    pub batches: AtomicU64,
    /// Deliveries that failed and were, or are to be, tried again.
    pub failures: AtomicU64,
    /// Rows the store will not take, whatever is tried.
    pub refused: AtomicU64,
    /// Messages given up because too much was owed, or because they cannot be read.
    pub dropped: AtomicU64,
}

impl Backlog {
    fn new(sink: Sink) -> Self {
        Self {
            sink,
            queue: Mutex::default(),
            filled: Notify::new(),
            rows: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Queue) -> T) -> T {
        f(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Messages owed, and their bytes.
    pub fn owed(&self) -> (u64, u64) {
        self.with(|q| (q.messages, q.bytes))
    }

    /// Microseconds since the oldest message that is owed was received.
    pub fn lag(&self, now: u64) -> u64 {
        self.with(|q| {
            let oldest = q.oldest().and_then(|(p, at)| q.waiting.get(&p)?.get(&at));
            oldest.map_or(0, |o| now.saturating_sub(o.part.received))
        })
    }

    /// Resolves when something may be owed.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    fn put(&self, org: &OrgId, key: &EventKey, part: &EventPart) {
        let segment = &part.extent.segment;
        let Some(file) = segment.file() else { return };
        let at = Position { file, offset: part.extent.offset };
        let process = segment.process();
        let dropped = self.with(|q| {
            let done = q.cursor.done.get(&process.to_string());
            let delivered = done.is_some_and(|d| at <= Position { file: d.file, offset: d.offset });
            if delivered || part.received < q.cursor.since {
                return 0;
            }
            let owed = Owed { org: org.clone(), key: key.clone(), part: part.clone() };
            let cost = owed.cost();
            let before = q.waiting.entry(process.clone()).or_default().insert(at, owed);
            if before.is_none() {
                q.messages += 1;
                q.bytes += cost;
            }
            let mut dropped = 0;
            while q.bytes > self.sink.backlog_bytes && q.messages > 1 {
                let Some((p, at)) = q.oldest() else { break };
                q.remove(&p, at);
                dropped += 1;
            }
            dropped
        });
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
            tracing::error!(
                sink = self.sink.name,
                dropped,
                "more event rows are owed than backlog_bytes allows: the oldest are given up"
            );
        }
        self.filled.notify_one();
    }
}

/// All stores that rows are owed to.
#[derive(Debug, Default)]
pub struct Backlogs {
    all: Vec<Arc<Backlog>>,
    /// Records being committed, by number, and where they cannot be before.
    in_flight: Mutex<(u64, BTreeMap<u64, Position>)>,
}

/// Something is being committed: what lies behind it in this process's journal may
/// not be all there is yet.
#[derive(Debug)]
pub struct InFlight<'a> {
    of: &'a Backlogs,
    number: u64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.of.flight(|(_, all)| all.remove(&self.number));
        self.of.all.iter().for_each(|b| b.filled.notify_one());
    }
}

impl Backlogs {
    /// Owes nothing yet.
    pub fn new(sinks: &[Sink]) -> Self {
        let all = sinks.iter().cloned().map(|s| Arc::new(Backlog::new(s))).collect();
        Self { all, in_flight: Mutex::default() }
    }

    /// Each of them.
    pub fn all(&self) -> &[Arc<Backlog>] {
        &self.all
    }

    fn flight<T>(&self, f: impl FnOnce(&mut (u64, BTreeMap<u64, Position>)) -> T) -> T {
        f(&mut self.in_flight.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Events are about to be committed behind `end`; hold the answer until they are
    /// applied.
    pub fn begin(&self, end: Position) -> Option<InFlight<'_>> {
        if self.all.is_empty() {
            return None;
        }
        let number = self.flight(|(next, all)| {
            *next += 1;
            all.insert(*next, end);
            *next
        });
        Some(InFlight { of: self, number })
    }

    /// Up to where this process's journal is applied without gaps.
    fn settled_to(&self) -> Option<Position> {
        self.flight(|(_, all)| all.values().min().copied())
    }

    /// Rows of a message were applied.
    pub fn put(&self, org: &OrgId, key: &EventKey, part: &EventPart) {
        if key.logs {
            return;
        }
        for b in self.all.iter().filter(|b| b.sink.wants(&key.artifact)) {
            b.put(org, key, part);
        }
    }
}

fn cursor_path(server: &Server, sink: &str) -> String {
    format!("{}/forward/{sink}.json", fleet_dir(&server.tree.root))
}

impl Server {
    /// Reads the cursors, before anything is applied. A store that has none is owed
    /// what is received from now on.
    pub(super) async fn load_cursors(&self) -> Result<(), ServiceError> {
        for b in self.backlogs.all() {
            let path = cursor_path(self, &b.sink.name);
            let data = crate::store::objects::read_whole(&*self.env.fs, &path, MAX_CURSOR).await;
            match data.map_err(StoreError::from)? {
                Some(data) => {
                    let cursor = serde_json::from_slice(&data);
                    let cursor = cursor.map_err(|e| StoreError::corrupt(&path, e))?;
                    b.with(|q| q.cursor = cursor);
                }
                None => {
                    b.with(|q| q.cursor.since = self.env.clock.micros());
                    self.save_cursor(b).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes how far a store has everything; what it was given before is not owed
    /// after a restart.
    async fn save_cursor(&self, b: &Backlog) -> Result<(), ServiceError> {
        let mut cursor = b.with(|q| q.cursor.clone());
        if !self.processes.others().is_empty() {
            // Of processes whose journals are gone nothing can be owed.
            let known = |name: &String| {
                let (node, epoch) = name.split_once('/').unwrap_or((name, ""));
                let id = ProcessId::new(node, epoch);
                id == self.process() || self.processes.get(&id).is_some()
            };
            cursor.done.retain(|name, _| known(name));
        }
        let data = serde_json::to_vec(&cursor).map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let tmp = self.tree.temp(crate::store::StoreKind::Files);
        let path = cursor_path(self, &b.sink.name);
        let done = crate::env::fs::replace(&*self.env.fs, &tmp, &path, &data).await;
        Ok(done.map_err(StoreError::from)?)
    }
}
