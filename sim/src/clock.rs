//! A machine's clocks: wall time that is wrong and jumps, boot time that stands
//! still while the machine is stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use velociraptor::env::Clock;

use crate::net::EPOCH;

/// The clocks of one machine. Clones are the same.
#[derive(Clone, Default)]
pub struct MachineClock(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ahead: i64,
    drift: i64,
    stopped_at: Option<Duration>,
    stood: Duration,
    last: Duration,
}

impl State {
    /// Virtual time; between two steps of a simulation the last one known.
    fn elapsed(&mut self) -> Duration {
        self.last = turmoil::sim_elapsed().unwrap_or(self.last);
        self.last
    }
}

impl MachineClock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the wall clock jump by so many milliseconds, back if negative.
    pub fn jump(&self, milliseconds: i64) {
        self.lock().ahead += milliseconds * 1_000_000;
    }

    /// Lets the wall clock run fast (parts per million, slow if negative).
    pub fn drift(&self, ppm: i64) {
        self.lock().drift = ppm;
    }

    /// Stops the boot time at `now`, virtual time, or lets it go on.
    pub fn stop(&self, now: Duration, stopped: bool) {
        let mut s = self.lock();
        match (s.stopped_at, stopped) {
            (None, true) => s.stopped_at = Some(now),
            (Some(since), false) => {
                s.stood += now.saturating_sub(since);
                s.stopped_at = None;
            }
            _ => {}
        }
    }
}

impl Clock for MachineClock {
    fn now(&self) -> SystemTime {
        let mut s = self.lock();
        let elapsed = s.elapsed();
        let drifted = elapsed.as_nanos() as i128 * i128::from(s.drift) / 1_000_000;
        let off = drifted + i128::from(s.ahead);
        let right = UNIX_EPOCH + EPOCH + elapsed;
        let by = Duration::from_nanos(u64::try_from(off.unsigned_abs()).unwrap_or(u64::MAX));
        let wrong = if off < 0 { right.checked_sub(by) } else { right.checked_add(by) };
        wrong.unwrap_or(right)
    }

    fn boot(&self) -> Duration {
        let mut s = self.lock();
        let now = s.elapsed();
        s.stopped_at.map_or(now, |at| at.min(now)).saturating_sub(s.stood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_jumps_and_drifts_and_boot_time_stands_still() {
        let c = MachineClock::default();
        let at = |c: &MachineClock, s: u64| c.lock().last = Duration::from_secs(s);
        at(&c, 100);
        assert_eq!(c.now(), UNIX_EPOCH + EPOCH + Duration::from_secs(100));
        c.jump(-5_000);
        assert_eq!(c.now(), UNIX_EPOCH + EPOCH + Duration::from_secs(95));
        c.drift(10_000);
        assert_eq!(c.now(), UNIX_EPOCH + EPOCH + Duration::from_secs(96));
        assert_eq!(c.boot(), Duration::from_secs(100));
        c.stop(Duration::from_secs(100), true);
        at(&c, 160);
        assert_eq!(c.boot(), Duration::from_secs(100));
        c.stop(Duration::from_secs(160), false);
        at(&c, 170);
        assert_eq!(c.boot(), Duration::from_secs(110));
    }
}
