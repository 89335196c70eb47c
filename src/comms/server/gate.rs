//! What one limit counts: its use, queue, waits and refusals. Knows nothing of
//! what is limited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the classes in which waits are counted, microseconds.
pub const WAITS: [u64; 8] =
    [1_000, 5_000, 20_000, 100_000, 500_000, 1_000_000, 5_000_000, 20_000_000];

/// One limit's use, queue, waits and refusals since the start of the process.
#[derive(Debug, Default)]
pub struct Gate {
    /// What is set; 0 is unlimited.
    pub limit: AtomicU64,
    /// In use now.
    pub used: AtomicU64,
    /// Waiting now.
    pub waiting: AtomicU64,
    /// How many went through.
    pub passed: AtomicU64,
    /// What they waited altogether, microseconds.
    pub waited: AtomicU64,
    /// How many waited up to each of [`WAITS`] and no less.
    pub classes: [AtomicU64; WAITS.len()],
    /// How many were turned away.
    pub refused: AtomicU64,
}

impl Gate {
    /// Of a limit that is set to this.
    pub fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), ..Self::default() }
    }

    /// Waits for `time` as one of those in the queue.
    pub async fn wait(&self, time: Duration) {
        let queued = Count::of(&self.waiting);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        drop(queued);
        self.pass(time);
    }

    /// Counts one that went through after this wait.
    pub fn pass(&self, waited: Duration) {
        let micros = waited.as_micros() as u64;
        self.passed.fetch_add(1, Ordering::Relaxed);
        self.waited.fetch_add(micros, Ordering::Relaxed);
        if let Some(i) = WAITS.iter().position(|bound| micros <= *bound) {
            self.classes[i].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one that was turned away.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one as long as it lives.
#[derive(Debug)]
pub struct Count<'a>(&'a AtomicU64);

impl<'a> Count<'a> {
    /// One more of `counter`.
    pub fn of(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_are_counted_by_length() {
        let gate = Gate::default();
        gate.wait(Duration::ZERO).await;
        gate.wait(Duration::from_millis(1)).await;
        gate.wait(Duration::from_millis(700)).await;
        gate.pass(Duration::from_secs(100));
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        assert_eq!(gate.classes.each_ref().map(get), [2, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!((get(&gate.passed), get(&gate.waiting)), (4, 0));
        assert_eq!(get(&gate.waited), 100_701_000);
    }
}
