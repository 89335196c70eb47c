//! How long tasks take from being durable to being on the client's socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Upper bounds of the histogram's buckets, microseconds.
pub const BUCKETS: [u64; 12] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000,
    60_000_000,
];

/// Tasks not delivered yet whose time is remembered, and samples kept for
/// quantiles.
const KEPT: usize = 10_000;

#[derive(Debug, Default)]
struct State {
    durable: BTreeMap<u64, u64>,
    recent: VecDeque<u64>,
    buckets: [u64; BUCKETS.len() + 1],
    sum: u64,
}

/// Times of tasks.
#[derive(Debug, Default)]
pub struct Wakes(Mutex<State>);

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Samples at or below each bound of [`BUCKETS`], and all.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Sum of all samples, microseconds.
    pub sum: u64,
    /// Median of the last 10,000, microseconds.
    pub p50: u64,
    /// Their 99th percentile.
    pub p99: u64,
}

impl Wakes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These tasks became durable at `now`, microseconds, for a client that is held.
    pub fn durable(&self, ids: impl IntoIterator<Item = u64>, now: u64) {
        let mut s = self.lock();
        s.durable.extend(ids.into_iter().map(|id| (id, now)));
        while s.durable.len() > KEPT {
            s.durable.pop_first();
        }
    }

    /// When the last of these became durable; forgets them.
    pub fn take(&self, ids: impl IntoIterator<Item = u64>) -> Option<u64> {
        let mut s = self.lock();
        ids.into_iter().filter_map(|id| s.durable.remove(&id)).max()
    }

    /// A reply whose last task became durable at `durable` is on the socket at `now`.
    pub fn delivered(&self, durable: u64, now: u64) {
        let took = now.saturating_sub(durable);
        let mut s = self.lock();
        let bucket = BUCKETS.iter().position(|b| took <= *b).unwrap_or(BUCKETS.len());
        s.buckets[bucket] += 1;
        s.sum += took;
        if s.recent.len() == KEPT {
            s.recent.pop_front();
        }
        s.recent.push_back(took);
    }

    /// What was measured so far.
    pub fn measured(&self) -> Measured {
        let s = self.lock();
        let mut sorted: Vec<u64> = s.recent.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let i = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(i).copied().unwrap_or(0)
        };
        let mut buckets = s.buckets;
        for i in 1..buckets.len() {
            buckets[i] += buckets[i - 1];
        }
        Measured { buckets, sum: s.sum, p50: at(50), p99: at(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_buckets() {
        let w = Wakes::default();
        assert_eq!(w.measured(), Measured::default());
        w.durable([1, 2], 10);
        w.durable([3], 20);
        assert_eq!(w.take([1, 3]), Some(20));
        assert_eq!(w.take([1]), None);
        (1..=100).for_each(|n| w.delivered(0, n * 1000));
        let m = w.measured();
        assert_eq!((m.p50, m.p99), (50_000, 99_000));
        assert_eq!((m.buckets[0], m.buckets[3], m.buckets[BUCKETS.len()]), (1, 10, 100));
    }
}
