//! How much is committed together. It knows how long commits took, and nothing of what is in them.

use std::time::Duration;

/// What a group may hold at least, however fast the store is.
///
/// Larger groups make nothing faster where a commit takes a few milliseconds, and they make others
/// wait: with up to 16 MiB the slowest hundredth of pages took 4 to 6 ms longer under a flood than
/// with 1 MiB, and no more was taken in (`docs/LOAD.md`, local disk).
const LEAST: usize = 1 << 20;
/// A commit that takes longer is waited for by larger groups. 1 MiB in 4 ms are 256 MiB a second,
/// more than a frontend takes in.
const PROMPT: Duration = Duration::from_millis(4);
/// So many commits are looked back at. The fastest of them counts: what the store needs, and not
/// what a busy processor adds now and then.
const LOOKED_AT: usize = 16;

/// The size of groups that suits a store: as small as it is fast.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    took: [Duration; LOOKED_AT],
    next: usize,
}

impl Pace {
    /// No group holds more than `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, took: [Duration::ZERO; LOOKED_AT], next: 0 }
    }

    /// A group was committed in so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.took[self.next] = time;
        self.next = (self.next + 1) % LOOKED_AT;
    }

    /// Bytes at which the next group is full.
    pub(super) fn bytes(&self) -> usize {
        let fastest = self.took.iter().min().copied().unwrap_or_default();
        let times = (fastest.as_secs_f64() / PROMPT.as_secs_f64()).max(1.0);
        // A float beyond the range of integers becomes the largest.
        ((LEAST as f64 * times) as usize).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(most: usize, times: impl IntoIterator<Item = u64>) -> usize {
        let mut pace = Pace::new(most);
        for ms in times {
            pace.took(Duration::from_millis(ms));
        }
        pace.bytes()
    }

    #[test]
    fn groups_grow_only_where_each_commit_is_slow() {
        assert_eq!(after(16 << 20, []), 1 << 20);
        assert_eq!(after(16 << 20, [3; 20]), 1 << 20);
        // One fast one says that the store is not slow.
        assert_eq!(after(16 << 20, (0..40).map(|i| if i % 10 == 0 { 2 } else { 90 })), 1 << 20);
        assert_eq!(after(16 << 20, [20; 16]), 5 << 20);
        assert_eq!(after(16 << 20, [60; 16]), 15 << 20);
        assert_eq!(after(16 << 20, [u64::MAX; 16]), 16 << 20);
        // It was slow, and is not any more.
        assert_eq!(after(16 << 20, [[60; 16], [1; 16]].concat()), 1 << 20);
    }

    #[test]
    fn no_group_is_larger_than_allowed() {
        assert_eq!(after(64 << 10, []), 64 << 10);
        assert_eq!(after(4 << 20, [60; 16]), 4 << 20);
    }
}
