//! What a run comes to, as JSON and as lines to read.

use std::time::Duration;

use super::audit::Audit;
use super::book::Book;
use super::tasks::Tasks;

/// Times of something, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Longest.
    pub max_ms: f64,
}

impl Latency {
    /// Of these times.
    pub fn of(mut times: Vec<Duration>) -> Latency {
        times.sort_unstable();
        let ms = |d: &Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        // Nearest rank.
        let at = |q: f64| {
            let rank = (q * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).map_or(0.0, ms)
        };
        Latency {
            count: times.len(),
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: times.last().map_or(0.0, ms),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} times: p50 {:.1}, p95 {:.1}, p99 {:.1}, max {:.1} ms",
            self.count, self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms
        )
    }
}

/// A run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Virtual clients.
    pub clients: usize,
    /// Those that the server answered.
    pub connected: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Processes of clients that were ended and started again.
    pub restarts: u64,
    /// Tasks accepted by the server.
    pub tasks: usize,
    /// Calls for tasks that failed.
    pub calls_failed: u64,
    /// Tasks received by clients, whoever asked for them.
    pub tasks_received: u64,
    /// Collections whose end was acknowledged.
    pub collections_complete: u64,
    /// Rows of collections acknowledged.
    pub rows: u64,
    /// Rows of events acknowledged.
    pub event_rows: u64,
    /// Bytes of them, as JSON.
    pub event_bytes: u64,
    /// Bytes of files acknowledged.
    pub uploaded_bytes: u64,
    /// From the call for a task to the server's answer that it is durable.
    pub call: Latency,
    /// From the call to the client having the task.
    pub receipt: Latency,
    /// From the server's answer to the client having the task; 0 if it was faster.
    pub delivery: Latency,
    /// What the server has, if that was asked.
    pub audit: Option<Audit>,
}

impl Report {
    /// Of what the books say.
    pub fn of(clients: usize, time: Duration, book: &Book, tasks: &Tasks) -> Report {
        let get = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        let s = book.sums();
        let all = tasks.all();
        let received = |(key, t): (&(String, String), &super::tasks::Scheduled)| {
            Some((*t, book.flow(&key.0, &key.1)?.received?))
        };
        let received: Vec<_> = all.iter().filter_map(received).collect();
        Report {
            clients,
            connected: get(&s.connected),
            seconds: (time.as_secs_f64() * 10.0).round() / 10.0,
            restarts: get(&s.restarts),
            tasks: all.len(),
            calls_failed: tasks.failed().0,
            tasks_received: get(&s.tasks),
            collections_complete: get(&s.complete),
            rows: get(&s.rows),
            event_rows: get(&s.events),
            event_bytes: get(&s.event_bytes),
            uploaded_bytes: get(&s.bytes),
            call: Latency::of(all.values().map(|t| t.answered - t.called).collect()),
            receipt: Latency::of(received.iter().map(|(t, at)| *at - t.called).collect()),
            delivery: Latency::of(
                received.iter().map(|(t, at)| at.saturating_duration_since(t.answered)).collect(),
            ),
            audit: None,
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "clients   {} of {} connected", self.connected, self.clients)?;
        writeln!(
            f,
            "tasks     {} accepted, {} calls failed; {} received, {} complete",
            self.tasks, self.calls_failed, self.tasks_received, self.collections_complete
        )?;
        writeln!(
            f,
            "sent      {} rows, {} event rows, {} bytes of files, all acknowledged",
            self.rows, self.event_rows, self.uploaded_bytes
        )?;
        if self.call.count > 0 {
            writeln!(f, "call      {}", self.call)?;
            writeln!(f, "receipt   {}", self.receipt)?;
            writeln!(f, "delivery  {}", self.delivery)?;
        }
        if let Some(a) = &self.audit {
            writeln!(
                f,
                "audit     {} flows, {} finished: acknowledged {} rows, found {}, lost {}, doubled {}",
                a.flows, a.finished, a.acknowledged_rows, a.found_rows, a.lost_rows, a.doubled_rows
            )?;
            a.differences.iter().try_for_each(|d| writeln!(f, "          {d}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ranks() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let l = Latency::of(times);
        let all = (l.count, l.p50_ms, l.p95_ms, l.p99_ms, l.max_ms);
        assert_eq!(all, (200, 100.0, 190.0, 198.0, 200.0));
        assert_eq!(Latency::of(vec![]), Latency::default());
    }
}
