//! Spreads bytes over time: upload rates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Grants bytes at a rate, some of them at once after a quiet time. Whoever
/// reserved waits; later ones queue behind it in order of asking.
#[derive(Debug)]
pub struct Pacer {
    /// Bytes a second; 0 is unlimited.
    rate: AtomicU64,
    /// Bytes granted without a wait after a quiet time.
    burst: u64,
    /// When everything reserved so far will have been granted.
    due: Mutex<Option<Instant>>,
}

impl Pacer {
    /// `rate` bytes a second (0 is unlimited), `burst` bytes at once.
    pub fn new(rate: u64, burst: u64) -> Self {
        Self { rate: AtomicU64::new(rate), burst, due: Mutex::new(None) }
    }

    /// Grants `rate` bytes a second from now on; what was reserved stays so.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Bytes a second; 0 is unlimited.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Reserves `n` bytes and says how long to wait for them. `None`, and nothing
    /// reserved, if what was reserved before takes longer than `most`. Whoever asks
    /// for more than `most` allows waits that long and goes; later ones wait for the
    /// rest, so that the long-run rate holds and nobody is refused for ever.
    pub fn reserve(&self, n: u64, most: Duration) -> Option<Duration> {
        let rate = self.rate();
        if rate == 0 {
            return Some(Duration::ZERO);
        }
        let time = |bytes: u64| Duration::from_secs_f64(bytes as f64 / rate as f64);
        let now = Instant::now();
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let free = now.checked_sub(time(self.burst)).unwrap_or(now);
        let begin = due.map_or(free, |d| d.max(free));
        if begin.saturating_duration_since(now) > most {
            return None;
        }
        let end = begin + time(n);
        *due = Some(end);
        Some(end.saturating_duration_since(now).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_run_rate_and_burst() {
        tokio::time::advance(Duration::from_secs(1000)).await;
        let p = Pacer::new(1000, 5000);
        let most = Duration::from_secs(20);
        assert_eq!(p.reserve(5000, most), Some(Duration::ZERO));
        assert_eq!(p.reserve(3000, most), Some(Duration::from_secs(3)));
        assert_eq!(p.reserve(17_000, most), Some(Duration::from_secs(20)));
        assert_eq!(p.reserve(1, most), Some(most));
        assert_eq!(p.reserve(1, most), None, "refused, not reserved");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(p.reserve(1000, most), Some(Duration::from_millis(11_001)));
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(p.reserve(6000, most), Some(Duration::from_secs(1)));
        // More than anybody waits for: it goes, and what follows waits for it.
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(p.reserve(65_000, most), Some(most));
        assert_eq!(p.reserve(1, most), None);
        tokio::time::advance(Duration::from_secs(41)).await;
        assert_eq!(p.reserve(1000, most), Some(most));
        assert_eq!(Pacer::new(0, 0).reserve(u64::MAX, most), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_changes_holds_for_what_comes() {
        tokio::time::advance(Duration::from_secs(1000)).await;
        let p = Pacer::new(1000, 0);
        let most = Duration::from_secs(20);
        assert_eq!(p.reserve(2000, most), Some(Duration::from_secs(2)));
        p.set_rate(500);
        assert_eq!(p.reserve(1000, most), Some(Duration::from_secs(4)));
        p.set_rate(2000);
        assert_eq!(p.reserve(2000, most), Some(Duration::from_secs(5)));
        assert_eq!(p.rate(), 2000);
    }
}
