//! What no correct program does to a file, as the file system sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::tree::Ino;

/// Tells whether a path is a final one.
pub(crate) type Finished = Box<dyn Fn(&str) -> bool + Send>;
/// A process of a host.
pub(crate) type Process = (Arc<str>, u64);

#[derive(Default)]
pub(crate) struct Oracle {
    writers: BTreeMap<Ino, Vec<Process>>,
    /// Paths that no file may be written under.
    pub(crate) finished: Option<Finished>,
    pub(crate) faults: BTreeSet<String>,
}

impl Oracle {
    /// A process opened a file for writing.
    pub(crate) fn opened(&mut self, ino: Ino, who: Process, path: &str) {
        let now = self.writers.entry(ino).or_default();
        if let Some((host, n)) = now.iter().find(|w| **w != who) {
            let what = format!("{path}: open for writing by {host}/{n} and {}/{}", who.0, who.1);
            self.faults.insert(what);
        }
        now.push(who);
    }

    pub(crate) fn closed(&mut self, ino: Ino, who: &Process) {
        if let Some(now) = self.writers.get_mut(&ino) {
            if let Some(at) = now.iter().position(|w| w == who) {
                now.remove(at);
            }
            if now.is_empty() {
                self.writers.remove(&ino);
            }
        }
    }

    /// A process writes to a file of these names.
    pub(crate) fn writes(&mut self, paths: &[String], who: &Process) {
        let Some(finished) = &self.finished else { return };
        if let Some(p) = paths.iter().find(|p| finished(p)) {
            self.faults.insert(format!("{p}: written by {}/{} under its final name", who.0, who.1));
        }
    }

    pub(crate) fn watches_names(&self) -> bool {
        self.finished.is_some()
    }

    pub(crate) fn host_gone(&mut self, host: &str) {
        for w in self.writers.values_mut() {
            w.retain(|(h, _)| **h != *host);
        }
        self.writers.retain(|_, w| !w.is_empty());
    }
}
