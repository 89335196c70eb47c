//! Rows of one result set that are not in their stock file yet.
//!
//! A part's identity is its hash; its place only orders it. Two different parts
//! at one place keep the first where it is, put the other aside and count it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::job::{Hash, Job};
use crate::store::journal::{Extent, Segment};

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is new and stored.
    New,
    /// It was there already.
    Duplicate,
    /// Its place is taken by other content; kept aside.
    Conflict,
}

/// A run of rows inside one journaled job.
#[derive(Clone, Debug)]
pub struct Part {
    /// Identity.
    pub hash: Hash,
    /// Rows it holds.
    pub rows: u64,
    /// The raw job.
    pub extent: Extent,
}

/// How parts are ordered within the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By the row number the agent gave, within each run.
    ByRow,
    /// As they came: logs, whose ids repeat, and upload transactions.
    ByArrival,
}

/// The rows received so far.
#[derive(Clone, Debug)]
pub struct LiveSet {
    order: Order,
    /// Rows already in the stock file when this process first saw the flow.
    pub base: u64,
    parts: BTreeMap<(u32, u64), Part>,
    aside: Vec<Part>,
    seen: BTreeSet<Hash>,
}

impl LiveSet {
    /// An empty set on top of `base` stored rows.
    pub fn new(order: Order, base: u64) -> Self {
        Self { order, base, parts: BTreeMap::new(), aside: Vec::new(), seen: BTreeSet::new() }
    }

    /// Adds a part of `run` that says it starts at row `start` of that run.
    pub fn add(&mut self, run: u32, start: Option<u64>, job: &Job) -> Placed {
        let part = Part { hash: job.hash, rows: job.rows, extent: job.extent.clone() };
        if !self.seen.insert(part.hash) {
            return Placed::Duplicate;
        }
        let at = match (self.order, start) {
            (Order::ByRow, Some(start)) => start,
            (Order::ByRow, None) => self.end_of(run),
            (Order::ByArrival, _) => self.last_key(run).map_or(0, |k| k + 1),
        };
        if self.order == Order::ByRow && self.overlaps(run, at, part.rows) {
            self.aside.push(part);
            return Placed::Conflict;
        }
        self.parts.insert((run, at), part);
        Placed::New
    }

    fn last_key(&self, run: u32) -> Option<u64> {
        self.parts.range((run, 0)..=(run, u64::MAX)).next_back().map(|(k, _)| k.1)
    }

    fn end_of(&self, run: u32) -> u64 {
        let last = self.parts.range((run, 0)..=(run, u64::MAX)).next_back();
        last.map_or(if run == 0 { self.base } else { 0 }, |(k, p)| k.1 + p.rows)
    }

    fn overlaps(&self, run: u32, start: u64, rows: u64) -> bool {
        // Rows that a stock server stored before us belong to the first run.
        if run == 0 && self.base > 0 && start < self.base {
            return true;
        }
        let before = self.parts.range((run, 0)..=(run, start)).next_back();
        if before.is_some_and(|(k, p)| k.1 + p.rows.max(1) > start) {
            return true;
        }
        let end = start.saturating_add(rows);
        self.parts.range((run, start)..(run, end)).next().is_some()
    }

    /// Whether a part was taken before.
    pub fn has(&self, hash: &Hash) -> bool {
        self.seen.contains(hash)
    }

    /// The parts taken.
    pub fn hashes(&self) -> impl Iterator<Item = Hash> {
        self.seen.iter().copied()
    }

    /// The files that hold the parts.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.parts.values().chain(&self.aside).map(|p| &p.extent.segment)
    }

    /// Rows stored, whether or not a gap precedes them.
    pub fn rows(&self) -> u64 {
        self.base + self.parts.values().map(|p| p.rows).sum::<u64>()
    }

    /// Whether rows are missing before some that are there.
    pub fn has_gap(&self) -> bool {
        if self.order == Order::ByArrival {
            return false;
        }
        let mut expect = (0, self.base);
        for ((run, start), p) in &self.parts {
            if *run != expect.0 {
                expect = (*run, 0);
            }
            if *start != expect.1 {
                return true;
            }
            expect.1 = start + p.rows;
        }
        false
    }

    /// Whether all of it is of the first run.
    pub fn is_first_run(&self) -> bool {
        self.parts.keys().all(|(run, _)| *run == 0)
    }

    /// The parts in row order, with the row each starts at in the whole set.
    pub fn parts(&self) -> impl Iterator<Item = (u64, &Part)> {
        self.parts.values().scan(self.base, |at, p| {
            let start = *at;
            *at += p.rows;
            Some((start, p))
        })
    }

    /// Parts whose place was taken.
    pub fn aside(&self) -> &[Part] {
        &self.aside
    }

    /// Whether nothing is held here beyond the stock file.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.aside.is_empty()
    }

    /// How parts are ordered.
    pub fn order(&self) -> Order {
        self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(id: u8, rows: u64) -> Job {
        let segment = Arc::new(Segment::of_path("x"));
        Job {
            hash: [id; 16],
            message: Default::default(),
            rows,
            bytes: 0,
            extent: Extent { segment, offset: 0, len: 0 },
            spill: None,
            log_error: None,
        }
    }

    #[test]
    fn duplicates_conflicts_and_gaps() {
        let mut s = LiveSet::new(Order::ByRow, 0);
        assert_eq!(s.add(0, Some(0), &job(1, 10)), Placed::New);
        assert_eq!(s.add(0, Some(20), &job(2, 10)), Placed::New);
        assert!(s.has_gap());
        assert_eq!(s.add(0, Some(0), &job(1, 10)), Placed::Duplicate);
        assert_eq!(s.add(0, Some(5), &job(3, 2)), Placed::Conflict);
        assert_eq!(s.add(0, Some(15), &job(4, 10)), Placed::Conflict);
        assert_eq!(s.add(0, Some(10), &job(5, 10)), Placed::New);
        assert!(!s.has_gap());
        assert_eq!((s.rows(), s.aside().len()), (30, 2));
        // Set aside counts as seen.
        assert_eq!(s.add(0, Some(15), &job(4, 10)), Placed::Duplicate);
        // A child run starts at 0 again and is appended.
        assert_eq!(s.add(2, Some(0), &job(6, 3)), Placed::New);
        assert_eq!(s.parts().map(|(at, _)| at).collect::<Vec<_>>(), [0, 10, 20, 30]);
    }

    #[test]
    fn rows_stored_before_are_not_taken_twice() {
        let mut s = LiveSet::new(Order::ByRow, 10);
        assert_eq!(s.add(0, Some(4), &job(1, 3)), Placed::Conflict);
        assert_eq!(s.add(0, Some(10), &job(2, 3)), Placed::New);
        assert_eq!(s.rows(), 13);
        // An agent without row numbers goes on behind them too.
        let mut s = LiveSet::new(Order::ByRow, 10);
        assert_eq!(s.add(0, None, &job(1, 3)), Placed::New);
        assert!(!s.has_gap() && s.is_first_run());
    }

    #[test]
    fn logs_keep_what_shares_an_id() {
        let mut s = LiveSet::new(Order::ByArrival, 0);
        assert_eq!(s.add(0, Some(0), &job(1, 1)), Placed::New);
        assert_eq!(s.add(0, Some(0), &job(2, 1)), Placed::New);
        assert_eq!(s.add(0, Some(0), &job(2, 1)), Placed::Duplicate);
        assert_eq!(s.rows(), 2);
    }

    proptest! {
        /// Whatever order and repetition parts come in, the set is the same.
        #[test]
        fn arrival_does_not_matter(sizes in proptest::collection::vec(1u64..5, 1..12),
                                   order in proptest::collection::vec(any::<prop::sample::Index>(), 1..40)) {
            let mut starts = Vec::new();
            let mut at = 0;
            for n in &sizes { starts.push(at); at += n; }
            let mut s = LiveSet::new(Order::ByRow, 0);
            let mut sent = vec![false; sizes.len()];
            let all = order.iter().map(|i| i.index(sizes.len())).chain(0..sizes.len());
            for i in all {
                let got = s.add(0, Some(starts[i]), &job(i as u8, sizes[i]));
                prop_assert_eq!(got, if sent[i] { Placed::Duplicate } else { Placed::New });
                sent[i] = true;
            }
            prop_assert!(!s.has_gap());
            prop_assert_eq!(s.rows(), at);
            prop_assert_eq!(s.parts().map(|p| p.0).collect::<Vec<_>>(), starts);
        }
    }
}
