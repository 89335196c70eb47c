//! What is remembered of things that are in stock files: the hashes of their
//! messages, so that a repeat that another process brings late is recognised.
//!
//! A tombstone keeps the journals it was made from, so that recovery makes it
//! again. Pure: time is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::flows::job::Hash;
use super::state::FlowKey;
use crate::store::journal::Segment;

/// What was settled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Buried {
    /// A flow.
    Flow(FlowKey),
    /// The event rows or logs of one artifact of a client, of any day.
    Events {
        /// Stored client id, or `server`.
        client: String,
        /// `Artifact` or `Artifact/Source`.
        artifact: String,
        /// Whether these are query logs.
        logs: bool,
    },
}

impl Buried {
    fn client(&self) -> &str {
        match self {
            Self::Flow((client, _)) | Self::Events { client, .. } => client,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Tombstone {
    /// Sorted.
    hashes: Vec<Hash>,
    /// When the last part was settled, microseconds.
    settled: u64,
    pins: BTreeSet<Arc<Segment>>,
}

/// All tombstones of an organisation.
#[derive(Clone, Debug, Default)]
pub struct Tombstones {
    map: BTreeMap<Buried, Tombstone>,
    by_time: BTreeSet<(u64, Buried)>,
    hashes: usize,
    forgetful: bool,
}

impl Tombstones {
    /// Breaks a promise on purpose: nothing is remembered.
    pub fn without_memory() -> Self {
        Self { forgetful: true, ..Self::default() }
    }

    /// Remembers what was settled at `at`, microseconds.
    pub fn bury(
        &mut self,
        what: Buried,
        hashes: impl IntoIterator<Item = Hash>,
        pins: impl IntoIterator<Item = Arc<Segment>>,
        at: u64,
    ) {
        let mut t = self.take(&what).unwrap_or_default();
        t.hashes.extend(hashes);
        t.hashes.sort_unstable();
        t.hashes.dedup();
        if t.hashes.is_empty() || self.forgetful {
            return;
        }
        t.hashes.shrink_to_fit();
        t.pins.extend(pins);
        t.settled = t.settled.max(at);
        self.hashes += t.hashes.len();
        self.by_time.insert((t.settled, what.clone()));
        self.map.insert(what, t);
    }

    fn take(&mut self, what: &Buried) -> Option<Tombstone> {
        let t = self.map.remove(what)?;
        self.hashes -= t.hashes.len();
        self.by_time.remove(&(t.settled, what.clone()));
        Some(t)
    }

    /// Whether a message of `what` was settled.
    pub fn has(&self, what: &Buried, hash: &Hash) -> bool {
        self.map.get(what).is_some_and(|t| t.hashes.binary_search(hash).is_ok())
    }

    /// Forgets what was settled before `time`, microseconds.
    pub fn expire(&mut self, time: u64) {
        while self.oldest().is_some_and(|t| t < time) {
            self.drop_oldest();
        }
    }

    /// When the oldest was settled, microseconds.
    pub fn oldest(&self) -> Option<u64> {
        self.by_time.first().map(|t| t.0)
    }

    /// Forgets the oldest, and says whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        let Some((_, what)) = self.by_time.first().cloned() else { return false };
        self.take(&what).is_some()
    }

    /// Forgets a flow.
    pub fn remove_flow(&mut self, key: &FlowKey) {
        self.take(&Buried::Flow(key.clone()));
    }

    /// Forgets flows.
    pub fn remove_flows(&mut self, which: impl Fn(&FlowKey) -> bool) {
        let of = |k: &&Buried| matches!(k, Buried::Flow(key) if which(key));
        let theirs: Vec<Buried> = self.map.keys().filter(of).cloned().collect();
        for what in theirs {
            self.take(&what);
        }
    }

    /// Forgets everything of a client.
    pub fn remove_client(&mut self, client: &str) {
        let theirs: Vec<Buried> =
            self.map.keys().filter(|k| k.client() == client).cloned().collect();
        for what in theirs {
            self.take(&what);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Hashes in all of them, 16 bytes each.
    pub fn hashes(&self) -> usize {
        self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u8) -> Buried {
        Buried::Flow(("C.1".into(), format!("F.{n}")))
    }

    #[test]
    fn what_is_buried_twice_is_remembered_from_the_later_time() {
        let mut t = Tombstones::default();
        let pin = |n: u8| Arc::new(Segment::of_path(format!("/{n}")));
        let (a, b) = (pin(1), pin(2));
        t.bury(flow(1), [[1; 16], [2; 16]], [a.clone()], 10);
        t.bury(flow(2), [[9; 16]], [b.clone()], 20);
        t.bury(flow(1), [[2; 16], [3; 16]], [b.clone()], 30);
        assert_eq!((t.len(), t.hashes()), (2, 4));
        assert!(t.has(&flow(1), &[1; 16]) && t.has(&flow(1), &[3; 16]));
        assert!(!t.has(&flow(2), &[1; 16]));
        t.expire(20);
        assert_eq!(t.oldest(), Some(20));
        t.expire(21);
        assert!(t.len() == 1 && t.has(&flow(1), &[2; 16]));
        assert_eq!((Arc::strong_count(&a), Arc::strong_count(&b)), (2, 2));
        t.expire(31);
        assert!(t.is_empty() && t.hashes() == 0 && t.oldest().is_none());
        assert_eq!((Arc::strong_count(&a), Arc::strong_count(&b)), (1, 1));
    }

    #[test]
    fn clients_are_forgotten_and_the_oldest_goes_first() {
        let mut t = Tombstones::default();
        t.bury(flow(1), [[1; 16]], [], 10);
        t.bury(flow(2), [[2; 16]], [], 5);
        let events =
            |c: &str| Buried::Events { client: c.into(), artifact: "A".into(), logs: false };
        t.bury(events("C.2"), [[3; 16]], [], 1);
        t.bury(events("C.3"), [], [], 1);
        assert_eq!(t.len(), 3, "nothing to remember is not kept");
        assert!(t.drop_oldest() && !t.has(&events("C.2"), &[3; 16]));
        assert!(t.drop_oldest() && !t.has(&flow(2), &[2; 16]));
        t.remove_client("C.1");
        assert!(t.is_empty() && !t.drop_oldest() && t.hashes() == 0);
    }
}
