//! Rows of one result set that are not in their stock file yet.
//!
//! A part's identity is its hash; its place only orders it. Two different parts
//! at one place keep the first where it is, put the other aside and count it.
//! Rows of one run are in the order of their numbers, each beginning at 0; runs lie
//! between each other as their parts came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::job::{Hash, Job};
use crate::services::ids::Run;
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
    /// How many came before it.
    came: u64,
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
    /// How many of those each run sent; empty: the first run sent all.
    base_of: BTreeMap<Run, u64>,
    parts: BTreeMap<(Run, u64), Part>,
    aside: Vec<Part>,
    seen: BTreeSet<Hash>,
}

impl LiveSet {
    /// An empty set on top of `base` stored rows.
    pub fn new(order: Order, base: u64) -> Self {
        Self::of_runs(order, base, BTreeMap::new())
    }

    /// An empty set on top of `base` stored rows, of which so many are of each run.
    pub fn of_runs(order: Order, base: u64, base_of: BTreeMap<Run, u64>) -> Self {
        let (parts, aside, seen) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { order, base, base_of, parts, aside, seen }
    }

    /// Stored rows of a run.
    fn base_of(&self, run: Run) -> u64 {
        match self.base_of.is_empty() {
            true => u64::from(run == 0) * self.base,
            false => self.base_of.get(&run).copied().unwrap_or(0),
        }
    }

    /// Rows of a run, stored or not.
    pub fn rows_of(&self, run: Run) -> u64 {
        let live = self.parts.range((run, 0)..=(run, u64::MAX));
        self.base_of(run) + live.map(|(_, p)| p.rows).sum::<u64>()
    }

    /// Adds a part of `run` that says it starts at row `start` of that run.
    pub fn add(&mut self, run: Run, start: Option<u64>, job: &Job) -> Placed {
        let came = self.parts.len() as u64;
        let part = Part { hash: job.hash, rows: job.rows, extent: job.extent.clone(), came };
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

    fn last_key(&self, run: Run) -> Option<u64> {
        self.parts.range((run, 0)..=(run, u64::MAX)).next_back().map(|(k, _)| k.1)
    }

    fn end_of(&self, run: Run) -> u64 {
        let last = self.parts.range((run, 0)..=(run, u64::MAX)).next_back();
        last.map_or_else(|| self.base_of(run), |(k, p)| k.1 + p.rows)
    }

    fn overlaps(&self, run: Run, start: u64, rows: u64) -> bool {
        if start < self.base_of(run) {
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
        let mut expect = (0, self.base_of(0));
        for ((run, start), p) in &self.parts {
            if *run != expect.0 {
                expect = (*run, self.base_of(*run));
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
        self.parts.keys().map(|(run, _)| run).chain(self.base_of.keys()).all(|run| *run == 0)
    }

    /// The parts in row order, with the row each starts at in the whole set. The k-th
    /// part of a run lies where the k-th of that run came, so what is there keeps its
    /// place unless a run's own parts came out of order.
    pub fn parts(&self) -> impl Iterator<Item = (u64, &Part)> {
        let first = self.parts.keys().next().map(|k| k.0);
        let last = self.parts.keys().next_back().map(|k| k.0);
        let parts: Box<dyn Iterator<Item = &Part> + Send + '_> = match first == last {
            true => Box::new(self.parts.values()),
            false => Box::new(self.between_each_other().into_iter()),
        };
        parts.scan(self.base, |at, p| {
            let start = *at;
            *at += p.rows;
            Some((start, p))
        })
    }

    fn between_each_other(&self) -> Vec<&Part> {
        let mut slots: Vec<(u64, Run)> = self.parts.iter().map(|(k, p)| (p.came, k.0)).collect();
        slots.sort_unstable();
        let mut runs = BTreeMap::new();
        let next = |(_, run): (u64, Run)| {
            let of_run = || self.parts.range((run, 0)..=(run, u64::MAX)).map(|(_, p)| p);
            runs.entry(run).or_insert_with(of_run).next()
        };
        slots.into_iter().filter_map(next).collect()
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
    fn runs_lie_between_each_other_as_they_came() {
        let mut s = LiveSet::new(Order::ByRow, 0);
        let (one, two) = (1_795_764_261_970, 1_795_764_261_971);
        s.add(0, Some(0), &job(1, 2));
        s.add(one, Some(0), &job(2, 1));
        s.add(0, Some(2), &job(3, 3));
        s.add(two, Some(0), &job(4, 1));
        s.add(0, Some(5), &job(5, 1));
        let order =
            |s: &LiveSet| -> Vec<(u64, u8)> { s.parts().map(|(at, p)| (at, p.hash[0])).collect() };
        assert_eq!(order(&s), [(0, 1), (2, 2), (3, 3), (6, 4), (7, 5)]);
        assert!(!s.has_gap() && !s.is_first_run());
        assert_eq!((s.rows_of(0), s.rows_of(one), s.rows_of(two)), (6, 1, 1));
        // Out of its order: within its run it is put right.
        s.add(one, Some(3), &job(6, 1));
        assert!(s.has_gap());
        s.add(one, Some(1), &job(7, 2));
        assert_eq!(order(&s)[5..], [(8, 7), (10, 6)]);
        assert!(!s.has_gap());
    }

    #[test]
    fn each_run_goes_on_behind_what_is_stored_of_it() {
        let mut s = LiveSet::of_runs(Order::ByRow, 15, BTreeMap::from([(0, 10), (9, 5)]));
        assert_eq!(s.add(0, Some(9), &job(1, 1)), Placed::Conflict);
        assert_eq!(s.add(9, Some(4), &job(2, 1)), Placed::Conflict);
        assert_eq!(s.add(9, Some(5), &job(3, 2)), Placed::New);
        assert_eq!(s.add(0, Some(10), &job(4, 1)), Placed::New);
        assert_eq!(s.add(11, Some(0), &job(5, 1)), Placed::New);
        assert!(!s.has_gap() && !s.is_first_run());
        assert_eq!((s.rows(), s.rows_of(0), s.rows_of(9), s.rows_of(11)), (19, 11, 7, 1));
        assert_eq!(s.parts().map(|(at, _)| at).collect::<Vec<_>>(), [15, 17, 18]);
    }

    #[test]
    fn logs_keep_what_shares_an_id() {
        let mut s = LiveSet::new(Order::ByArrival, 0);
        assert_eq!(s.add(0, Some(0), &job(1, 1)), Placed::New);
        assert_eq!(s.add(0, Some(0), &job(2, 1)), Placed::New);
        assert_eq!(s.add(0, Some(0), &job(2, 1)), Placed::Duplicate);
        assert_eq!(s.rows(), 2);
        // Of several runs too they are as they came.
        s.add(7, Some(0), &job(3, 1));
        s.add(0, Some(1), &job(4, 1));
        assert_eq!(s.parts().map(|(_, p)| p.hash[0]).collect::<Vec<_>>(), [1, 2, 3, 4]);
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
