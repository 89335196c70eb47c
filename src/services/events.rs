//! Event rows that are not in a day file yet, and who is listening.
//!
//! Rows of client events are stored as sent; `ClientId`, `_ts` and `_Source`
//! are added when they are read, so that identity stays the message's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast;

use super::flows::job::Hash;
use super::ids::OrgId;
use crate::store::journal::{Extent, Segment};

/// Names one set of events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventKey {
    /// Stored client id; `server` for server events.
    pub client: String,
    /// `Artifact` or `Artifact/Source`.
    pub artifact: String,
    /// UTC day the rows were received, `YYYY-MM-DD`.
    pub day: String,
    /// Whether these are the artifact's query logs.
    pub logs: bool,
}

/// How the rows lie in their journal record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A job: a response or a log message.
    Job,
    /// The record's payload is JSON lines.
    Lines,
}

/// Rows of one message.
#[derive(Clone, Debug)]
pub struct EventPart {
    /// Identity of the message.
    pub hash: Hash,
    /// When they were received, microseconds.
    pub received: u64,
    /// How many.
    pub rows: u64,
    /// Where they are.
    pub extent: Extent,
    /// In what form.
    pub form: Form,
}

/// Rows of one day in the order received.
#[derive(Clone, Debug, Default)]
pub struct LiveEvents {
    /// The parts.
    pub parts: Vec<EventPart>,
    seen: BTreeSet<Hash>,
}

impl LiveEvents {
    /// Adds a part unless this very message is known. Returns whether it was new.
    pub fn add(&mut self, part: EventPart) -> bool {
        let new = self.seen.insert(part.hash);
        if new {
            self.parts.push(part);
        }
        new
    }

    /// Whether this very message is known.
    pub fn has(&self, hash: &Hash) -> bool {
        self.seen.contains(hash)
    }

    /// Rows held.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|p| p.rows).sum()
    }
}

/// A file that some messages of a set are being put into.
#[derive(Clone, Debug)]
pub struct Filing {
    /// Its name without extension.
    pub name: String,
    /// The messages.
    pub hashes: Arc<BTreeSet<Hash>>,
    /// The journal that says so.
    pub pin: Arc<Segment>,
}

/// All unsettled events of an organisation.
#[derive(Clone, Debug, Default)]
pub struct EventTable {
    /// By client, artifact and day.
    pub sets: BTreeMap<EventKey, LiveEvents>,
    /// Files that were begun and are not known to be finished.
    pub filing: BTreeMap<EventKey, Filing>,
}

impl EventTable {
    /// Forgets everything of a client.
    pub fn remove_client(&mut self, client: &str) {
        self.sets.retain(|k, _| k.client != client);
        self.filing.retain(|k, _| k.client != client);
    }

    /// Days of the same rows or logs as `key`.
    fn days<'a>(
        &'a self,
        key: &'a EventKey,
    ) -> impl Iterator<Item = (&'a EventKey, &'a LiveEvents)> {
        let from = EventKey { day: String::new(), logs: false, ..key.clone() };
        let all = self.sets.range(from..);
        all.take_while(|(k, _)| k.client == key.client && k.artifact == key.artifact)
            .filter(|(k, _)| k.logs == key.logs)
    }

    /// The parts that these messages brought. A message that two frontends took
    /// around midnight may lie under another day than when its file was begun.
    pub fn of(&self, key: &EventKey, hashes: &BTreeSet<Hash>) -> Vec<EventPart> {
        let parts = self.days(key).flat_map(|(_, set)| &set.parts);
        parts.filter(|p| hashes.contains(&p.hash)).cloned().collect()
    }

    /// Takes out the parts of these messages; without any named, all of the day.
    pub fn take(&mut self, key: &EventKey, hashes: Option<&BTreeSet<Hash>>) -> Vec<EventPart> {
        let Some(hashes) = hashes else {
            return self.sets.remove(key).map(|s| s.parts).unwrap_or_default();
        };
        let mut out = Vec::new();
        let days: Vec<EventKey> = self.days(key).map(|(k, _)| k.clone()).collect();
        for day in days {
            let Some(set) = self.sets.get_mut(&day) else { continue };
            let seen = &mut set.seen;
            set.parts.retain(|p| {
                let stays = !hashes.contains(&p.hash);
                if !stays {
                    seen.remove(&p.hash);
                    out.push(p.clone());
                }
                stays
            });
            if set.parts.is_empty() {
                self.sets.remove(&day);
            }
        }
        out
    }

    /// The day under which a message of this artifact is held, whichever that is.
    pub fn day_of(&self, client: &str, artifact: &str, logs: bool, hash: &Hash) -> Option<&str> {
        let from = EventKey {
            client: client.to_owned(),
            artifact: artifact.to_owned(),
            day: String::new(),
            logs: false,
        };
        let days = self.sets.range(from..);
        days.take_while(|(k, _)| k.client == client && k.artifact == artifact)
            .find(|(k, set)| k.logs == logs && set.has(hash))
            .map(|(k, _)| k.day.as_str())
    }
}

/// Parts in the order in which they are stored: by time, and within the journal of
/// a process in its order, so that everybody makes the same of the same parts.
pub fn in_order(mut parts: Vec<EventPart>) -> Vec<EventPart> {
    let place = |p: &EventPart| {
        let s = &p.extent.segment;
        (s.process().clone(), s.file(), p.extent.offset)
    };
    parts.sort_by_cached_key(place);
    let (mut of, mut latest) = (None, 0);
    let mut timed: Vec<(u64, EventPart)> = Vec::with_capacity(parts.len());
    for p in parts {
        let process = p.extent.segment.process().clone();
        if of.as_ref() != Some(&process) {
            (of, latest) = (Some(process), 0);
        }
        // A clock that was set back does not turn the order of a journal.
        latest = latest.max(p.received);
        timed.push((latest, p));
    }
    timed.sort_by_key(|(at, _)| *at);
    timed.into_iter().map(|(_, p)| p).collect()
}

/// Rows as subscribers get them: complete rows, one JSON object a line.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// Organisation.
    pub org: OrgId,
    /// Stored client id, or `server`.
    pub client: String,
    /// Artifact, with source if it has one.
    pub artifact: String,
    /// The rows.
    pub rows: Bytes,
}

/// Hands rows to whoever watches. A watcher that falls behind is told how many
/// batches it missed.
#[derive(Debug)]
pub struct Bus {
    tx: broadcast::Sender<EventBatch>,
}

/// Batches a watcher may fall behind before it misses some.
const BUS_DEPTH: usize = 4096;

impl Default for Bus {
    fn default() -> Self {
        Self { tx: broadcast::channel(BUS_DEPTH).0 }
    }
}

impl Bus {
    /// Publishes rows; nobody listening is fine.
    pub fn publish(&self, batch: EventBatch) {
        let _ = self.tx.send(batch);
    }

    /// Everything published from now on; the watcher filters.
    pub fn subscribe(&self) -> broadcast::Receiver<EventBatch> {
        self.tx.subscribe()
    }
}

/// The UTC day of a time in microseconds, `YYYY-MM-DD`.
pub fn day_of(micros: u64) -> String {
    let t = jiff::Timestamp::from_microsecond(micros as i64).unwrap_or_default();
    t.strftime("%Y-%m-%d").to_string()
}

/// Adds members to each row of JSON lines, textually before its closing brace,
/// so that the agent's own spelling is kept.
pub fn decorate(rows: &[u8], members: &str) -> Bytes {
    let mut out = Vec::with_capacity(rows.len() + 64);
    for line in super::flows::job::lines(rows) {
        let line = line.trim_ascii();
        match line.strip_suffix(b"}") {
            Some(head) => {
                let head = head.trim_ascii_end();
                out.extend_from_slice(head);
                if !head.ends_with(b"{") {
                    out.push(b',');
                }
                out.extend_from_slice(members.as_bytes());
                out.extend_from_slice(b"}\n");
            }
            // Not an object: kept as it came.
            None => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
        }
    }
    out.into()
}

/// The members stock adds to client event rows.
pub fn client_members(client: &str, received: u64, artifact: &str) -> String {
    let quote = |s: &str| serde_json::Value::from(s).to_string();
    if client == "server" {
        return format!("\"_ts\":{},\"_Source\":{}", received / 1_000_000, quote(artifact));
    }
    format!(
        "\"ClientId\":{},\"_ts\":{},\"_Source\":{}",
        quote(client),
        received / 1_000_000,
        quote(artifact)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_added_to_objects_only() {
        let m = client_members("C.1", 5_000_000, "A/B");
        let out = decorate(b"{\"x\":1}\n{}\n[1]\n\n{\"y\":\"}\"} \n", &m);
        let text = std::str::from_utf8(&out).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"x":1,"ClientId":"C.1","_ts":5,"_Source":"A/B"}"#
        );
        assert_eq!(text.lines().nth(1).unwrap(), format!("{{{m}}}"));
        assert_eq!(text.lines().nth(2).unwrap(), "[1]");
        for l in text.lines() {
            serde_json::from_str::<serde_json::Value>(l).unwrap();
        }
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn days_are_utc() {
        assert_eq!(day_of(0), "1970-01-01");
        assert_eq!(day_of(1_767_225_599_999_999), "2025-12-31");
        assert_eq!(day_of(1_767_225_600_000_000), "2026-01-01");
    }
}
