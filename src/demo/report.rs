//! What a run came to.

use std::fmt;

use super::load::HuntCounts;
use super::recovery::Event;
use crate::pool;

/// The whole of it, for a file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Nothing lost, nothing doubled, hunts exact, no node that ended by itself.
    pub good: bool,
    /// What is not good, in words.
    pub complaints: Vec<String>,
    /// Frontends, the master included.
    pub nodes: usize,
    /// Clients, tasks, latencies and the audit.
    pub load: pool::Report,
    /// Hunts as the server and the clients count them.
    pub hunts: Vec<HuntCounts>,
    /// What was done to the cluster.
    pub events: Vec<Event>,
    /// Collections that were not over when the audit began.
    pub open: u64,
    /// What was run, as lines for a shell.
    pub commands: Vec<String>,
}

impl Outcome {
    /// Judges.
    pub fn judge(&mut self) {
        let mut c = std::mem::take(&mut self.complaints);
        match &self.load.audit {
            None => c.push("there was no audit".into()),
            Some(a) if !a.is_exact() => c.push(format!(
                "the audit found {} rows lost and {} doubled, {} tasks that never came, {} differences",
                a.lost_rows,
                a.doubled_rows,
                a.never_received,
                a.differences.len()
            )),
            Some(_) => {}
        }
        for h in self.hunts.iter().filter(|h| !h.is_exact(self.load.connected)) {
            c.push(format!(
                "{}: {} clients scheduled, {} finished, {} errors, {} received, of {}",
                h.hunt, h.scheduled, h.finished, h.errors, h.received, self.load.connected
            ));
        }
        if self.load.connected < self.load.clients as u64 {
            c.push(format!("{} of {} clients were heard", self.load.connected, self.load.clients));
        }
        if self.open > 0 {
            c.push(format!("{} collections did not end", self.open));
        }
        self.good = c.is_empty();
        self.complaints = c;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What happened:")?;
        self.events.iter().try_for_each(|e| writeln!(f, "{e}"))?;
        writeln!(f, "\nWhat was run, to be repeated by hand:")?;
        self.commands.iter().try_for_each(|c| writeln!(f, "  {c}"))?;
        writeln!(f, "\nWhat came of it:")?;
        write!(f, "{}", self.load)?;
        for h in &self.hunts {
            writeln!(
                f,
                "hunt      {}: {} clients scheduled, {} finished, {} errors; {} received it",
                h.hunt, h.scheduled, h.finished, h.errors, h.received
            )?;
        }
        if let Some(a) = &self.load.audit {
            writeln!(
                f,
                "\nacknowledged {} rows and {} bytes; lost {} rows, doubled {} rows; {} bytes found",
                a.acknowledged_rows,
                a.acknowledged_bytes,
                a.lost_rows,
                a.doubled_rows,
                a.found_bytes
            )?;
        }
        match self.good {
            true => writeln!(f, "good: everything acknowledged is there, once"),
            false => self.complaints.iter().try_for_each(|c| writeln!(f, "NOT GOOD: {c}")),
        }
    }
}
