//! A token bucket that makes its only user wait.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Limiter {
    period: Duration,
    burst: u32,
    /// When the bucket would be full.
    full_at: Instant,
}

impl Limiter {
    /// One token every `period`, at most `burst` saved up; full at the start.
    pub fn new(period: Duration, burst: u32) -> Limiter {
        Limiter { period, burst: burst.max(1), full_at: Instant::now() }
    }

    /// Takes a token, waiting for it if there is none.
    pub async fn take(&mut self) {
        let now = Instant::now();
        let base = self.full_at.max(now);
        self.full_at = base + self.period;
        let free = self.period * self.burst;
        let wait = (self.full_at - now).saturating_sub(free);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_then_one_a_period() {
        let mut l = Limiter::new(Duration::from_millis(50), 3);
        let start = Instant::now();
        for _ in 0..3 {
            l.take().await;
        }
        assert!(start.elapsed() < Duration::from_millis(40));
        l.take().await;
        l.take().await;
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(90), "{took:?}");
    }
}
