//! How long clients are without a reader after something was done to a node.

use std::time::Duration;

use tokio::time::Instant;

/// One thing that was done, and what followed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Event {
    /// Seconds after the beginning.
    pub at: f64,
    /// What.
    pub what: String,
    /// Clients held just before, by all nodes.
    pub held_before: u64,
    /// The fewest that were held after it, until the next event or until 99 % were.
    pub held_least: u64,
    /// Seconds until 95 % of all clients were held, seen twice a second.
    pub held_95_seconds: Option<f64>,
    /// Seconds until 99 % were. One in some sixty clients over https is between two
    /// polls at any moment, so this may take some looks.
    pub held_99_seconds: Option<f64>,
    #[serde(skip)]
    begun: Instant,
    #[serde(skip)]
    disturbs: bool,
}

/// All events of a run.
#[derive(Debug)]
pub struct Events {
    begun: Instant,
    all: Vec<Event>,
}

fn seconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 10.0).round() / 10.0
}

impl Events {
    /// None yet; times count from now.
    pub fn begin() -> Events {
        Events { begun: Instant::now(), all: Vec::new() }
    }

    /// Times count from now.
    pub fn restart(&mut self) {
        self.begun = Instant::now();
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Something was done. `disturbs`: clients may lose their readers by it.
    pub fn add(&mut self, what: String, disturbs: bool, held: u64) {
        self.all.push(Event {
            at: seconds(self.begun.elapsed()),
            what,
            held_before: held,
            held_least: held,
            held_95_seconds: None,
            held_99_seconds: None,
            begun: Instant::now(),
            disturbs,
        });
    }

    /// So many of all clients are held now.
    pub fn held(&mut self, held: u64, clients: u64) {
        let Some(e) = self.all.iter_mut().rev().find(|e| e.disturbs) else { return };
        // What was sampled before it happened, or while it did.
        if e.begun.elapsed() < Duration::from_millis(1500) || e.held_99_seconds.is_some() {
            return;
        }
        let now = Some(seconds(e.begun.elapsed()));
        e.held_least = e.held_least.min(held);
        if held * 100 >= clients * 95 && e.held_95_seconds.is_none() {
            e.held_95_seconds = now;
        }
        if held * 100 >= clients * 99 {
            e.held_99_seconds = now;
        }
    }

    /// All so far.
    pub fn all(&self) -> &[Event] {
        &self.all
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:7.1} s  {}", self.at, self.what)?;
        if let (true, Some(t)) = (self.disturbs, self.held_95_seconds) {
            write!(f, ": 95 % of clients held after {t:.1} s")?;
            if let Some(t) = self.held_99_seconds {
                write!(f, ", 99 % after {t:.1} s")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_follows_is_measured() {
        let mut e = Events::begin();
        e.add("kill minion-1".into(), true, 100);
        e.add("hunt".into(), false, 100);
        e.held(100, 100);
        assert_eq!(e.all()[0].held_95_seconds, None, "seen before it was felt");
        for (wait, held) in [(2, 60), (1, 96), (1, 100), (1, 50)] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            e.held(held, 100);
        }
        let first = &e.all()[0];
        assert_eq!((first.held_95_seconds, first.held_99_seconds), (Some(3.0), Some(4.0)));
        assert_eq!(first.held_least, 60);
        assert_eq!(e.all()[1].held_95_seconds, None);
    }
}
