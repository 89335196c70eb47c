//! What a master has received of the numbered frames of each process. Pure.

use std::collections::BTreeMap;

use super::Process;

/// Processes of one node that are remembered. A process that comes back after so
/// many later ones of its node have been here is taken for a new one.
const PER_NODE: usize = 8;

/// What to do with a numbered frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one.
    Next,
    /// It was here.
    Repeat,
    /// The next one for us: those in between, this many, were acknowledged by another master.
    Skip(u64),
    /// One is missing in the middle of a stream, which no correct minion does.
    Gap,
}

/// One stream's view of its process's numbers.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The last frame that was acted on; `None` if this master has had none.
    last: Option<u64>,
    /// No numbered frame has come over this stream yet.
    first: bool,
}

impl Incoming {
    pub fn judge(&mut self, seq: u64) -> Verdict {
        let first = std::mem::replace(&mut self.first, false);
        match self.last {
            Some(last) if seq <= last => Verdict::Repeat,
            Some(last) if seq == last + 1 => Verdict::Next,
            Some(last) if first => Verdict::Skip(seq - last - 1),
            Some(_) => Verdict::Gap,
            None => Verdict::Next,
        }
    }

    /// The last one acted on.
    pub fn last(&self) -> Option<u64> {
        self.last
    }
}

/// All processes, while this master lives.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: BTreeMap<Process, (u64, u64)>,
    clock: u64,
}

impl Seen {
    /// A stream of `process` begins.
    pub fn stream(&self, process: &Process) -> Incoming {
        Incoming { last: self.last(process), first: true }
    }

    /// The last frame of `process` that was acted on.
    pub fn last(&self, process: &Process) -> Option<u64> {
        self.last.get(process).map(|(seq, _)| *seq)
    }

    /// Frame `seq` has been acted on.
    pub fn done(&mut self, process: &Process, stream: &mut Incoming, seq: u64) {
        stream.last = Some(seq);
        self.clock += 1;
        if let Some(entry) = self.last.get_mut(process) {
            *entry = (seq, self.clock);
            return;
        }
        self.last.insert(process.clone(), (seq, self.clock));
        let of_node = |p: &&Process| p.node == process.node;
        if self.last.keys().filter(of_node).count() > PER_NODE {
            let mine = self.last.iter().filter(|(p, _)| p.node == process.node);
            let oldest = mine.min_by_key(|(_, (_, at))| *at).map(|(p, _)| p.clone());
            if let Some(p) = oldest {
                self.last.remove(&p);
            }
        }
    }
}
