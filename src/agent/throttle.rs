//! Holds a query to a share of the processor and to operations per second.
//! The share is of all cores and is measured over the whole process, since
//! queries share threads.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use vql::Reply;

/// How long one measurement lasts.
const WINDOW: Duration = Duration::from_millis(100);
/// Longest single pause.
const PAUSE: Duration = Duration::from_secs(2);

/// Processor time used by this process so far.
pub type CpuClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Limits of one query. Progress is counted here too, for the watchdog.
pub struct Throttle {
    /// Operations charged so far.
    ops: AtomicU64,
    cpu_share: Option<f64>,
    ops_per_second: Option<f64>,
    cpu: CpuClock,
    window: Mutex<Window>,
}

struct Window {
    start: Instant,
    cpu: Duration,
    ops: u64,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttle").field("cpu", &self.cpu_share).finish_non_exhaustive()
    }
}

impl Throttle {
    /// `cpu_percent` is of all `cores`, outside 0..100 it does not limit;
    /// `ops_per_second` limits scanned rows, 0 does not.
    pub fn new(cpu_percent: f64, ops_per_second: f64, cores: usize, cpu: CpuClock) -> Throttle {
        let limited = cpu_percent > 0.0 && cpu_percent < 100.0;
        let window = Window { start: Instant::now(), cpu: cpu(), ops: 0 };
        Throttle {
            ops: AtomicU64::new(0),
            cpu_share: limited.then_some(cpu_percent / 100.0 * cores as f64),
            ops_per_second: (ops_per_second > 0.0).then_some(ops_per_second),
            cpu,
            window: Mutex::new(window),
        }
    }

    /// Operations charged so far.
    pub fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// How long to pause now.
    fn pause(&self, ops: u64) -> Duration {
        let mut w = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        w.ops += ops;
        let elapsed = w.start.elapsed();
        let by_ops = self.ops_per_second.map_or(0.0, |limit| w.ops as f64 / limit);
        let due = elapsed >= WINDOW || by_ops > elapsed.as_secs_f64();
        if !due {
            return Duration::ZERO;
        }
        let now = (self.cpu)();
        let used = now.saturating_sub(w.cpu).as_secs_f64();
        let by_cpu = self.cpu_share.map_or(0.0, |share| used / share);
        let pause = by_ops.max(by_cpu) - elapsed.as_secs_f64();
        if pause > 0.0 || elapsed >= WINDOW {
            let pause = Duration::from_secs_f64(pause.max(0.0)).min(PAUSE);
            // What others use during the pause counts for the next window only.
            *w = Window { start: Instant::now() + pause, cpu: now, ops: 0 };
            return pause;
        }
        Duration::ZERO
    }
}

impl vql::Throttle for Throttle {
    fn charge(&self, ops: u64) -> Reply<()> {
        self.ops.fetch_add(ops, Ordering::Relaxed);
        if self.cpu_share.is_none() && self.ops_per_second.is_none() {
            return Reply::Ready(());
        }
        match self.pause(ops) {
            Duration::ZERO => Reply::Ready(()),
            pause => Reply::from_future(tokio::time::sleep(pause)),
        }
    }
}

/// The processor time of this process, as the system counts it (in steps of
/// 10 ms); stands still where there is no `/proc`.
#[allow(clippy::disallowed_methods)] // inspects the real host
pub fn process_cpu() -> CpuClock {
    const TICK: Duration = Duration::from_millis(10); // USER_HZ is 100 on Linux
    Arc::new(|| {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // utime and stime are fields 14 and 15, 12 and 13 after the name.
        let mut fields = stat.rsplit(") ").next().unwrap_or("").split(' ').skip(11);
        let mut ticks = || fields.next().and_then(|f| f.parse::<u32>().ok()).unwrap_or(0);
        TICK * ticks() + TICK * ticks()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vql::Throttle as _;

    #[test]
    fn the_process_clock_runs() {
        let clock = process_cpu();
        let start = clock();
        let begin = std::hint::black_box(Instant::now());
        while begin.elapsed() < Duration::from_millis(1500) && clock() == start {}
        assert!(clock() > start);
    }

    #[tokio::test]
    async fn operations_per_second() {
        let t = Throttle::new(0.0, 200.0, 2, Arc::new(|| Duration::ZERO));
        let start = Instant::now();
        for _ in 0..40 {
            t.charge(1).await;
        }
        let took = start.elapsed();
        assert!(took > Duration::from_millis(150), "{took:?}");
        assert_eq!(t.ops(), 40);
    }

    #[tokio::test]
    async fn processor_share() {
        // A clock that says: as busy as two cores can be.
        let begin = Instant::now();
        let busy: CpuClock = Arc::new(move || begin.elapsed() * 2);
        let t = Throttle::new(50.0, 0.0, 2, busy);
        let mut paused = Duration::ZERO;
        while begin.elapsed() < Duration::from_millis(600) {
            let before = Instant::now();
            t.charge(1).await;
            paused += before.elapsed();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(paused > Duration::from_millis(150), "{paused:?}");
        let free = Throttle::new(0.0, 0.0, 2, Arc::new(|| Duration::ZERO));
        assert!(matches!(free.charge(1), Reply::Ready(())));
    }
}
