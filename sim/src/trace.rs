//! Captures `tracing` events, stamped with virtual time, as the run's record.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How much of a run is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Warnings and errors of the production code.
    Warnings,
    /// Log events of the production code.
    App,
    /// And every packet: time, endpoints, kind and length.
    Shape,
}

/// What happened so far, with virtual times.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<(Duration, String)>>>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<(Duration, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes everything recorded.
    pub fn take(&self) -> Vec<(Duration, String)> {
        std::mem::take(&mut self.lock())
    }
}

/// Writes events of the production code and the network into a [`Record`].
pub struct Recorder {
    /// Where to.
    pub record: Record,
    /// How much.
    pub detail: Detail,
}

struct Line<'a>(&'a mut String, Detail);

impl Visit for Line<'_> {
    fn record_debug(&mut self, f: &Field, v: &dyn std::fmt::Debug) {
        if f.name() == "protocol" && self.1 == Detail::Shape {
            let s = format!("{v:?}");
            let head = s.split('[').next().unwrap_or_default();
            let n = s.matches("0x").count();
            let _ = write!(self.0, " {head}{n}");
        } else {
            let _ = write!(self.0, " {}={v:?}", f.name());
        }
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn enabled(&self, m: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        match m.target() {
            t if t.starts_with("velociraptor") => {
                let most = if self.detail == Detail::Warnings { Level::WARN } else { Level::INFO };
                *m.level() <= most
            }
            "turmoil" => self.detail > Detail::App && m.name().contains("event"),
            _ => false,
        }
    }

    fn on_event(&self, e: &Event<'_>, _: Context<'_, S>) {
        let mut text = String::new();
        e.record(&mut Line(&mut text, self.detail));
        // A crash and a bounce happen between steps, where no host's clock stands
        // still, and what follows them too: the last stamp holds.
        let between = text.contains("message=Crash ") || text.contains("message=Bounce ");
        let elapsed = if between { None } else { turmoil::sim_elapsed() };
        let last = self.record.lock().last().map(|(t, _)| *t);
        let t = elapsed.or(last).unwrap_or_default();
        let mut line = String::new();
        let _ = write!(line, "{:>9.3}ms{text}", t.as_secs_f64() * 1e3);
        if line.contains("message=step ") {
            return;
        }
        self.record.lock().push((t, line));
    }
}
