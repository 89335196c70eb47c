//! Numbering and resending: what a process owes its master. Pure; knows no stream.

use std::collections::VecDeque;

use prost::Message;
use velociraptor_proto::fleet::{Report, SessionChange};

use super::FromMinion;

/// Entries of one frame at most.
const MAX_ENTRIES: usize = 1000;
/// Bytes after which a frame takes no more entries.
const MAX_BYTES: usize = 1 << 20;

/// Entries that make one frame.
#[derive(Clone, Debug, PartialEq)]
struct Part<T> {
    entries: Vec<T>,
    bytes: usize,
}

impl<T: Message> Part<T> {
    fn of(entry: T) -> Self {
        Self { bytes: entry.encoded_len(), entries: vec![entry] }
    }

    /// Adds the entry if there is room for it.
    fn add(&mut self, entry: T) -> Result<(), T> {
        if self.entries.len() >= MAX_ENTRIES || self.bytes >= MAX_BYTES {
            return Err(entry);
        }
        self.bytes += entry.encoded_len();
        self.entries.push(entry);
        Ok(())
    }
}

/// A list cut into what frames hold.
pub(super) fn chunks<T: Message>(entries: Vec<T>) -> Vec<Vec<T>> {
    let mut parts: Vec<Part<T>> = vec![];
    for entry in entries {
        let rest = match parts.last_mut() {
            Some(part) => part.add(entry),
            None => Err(entry),
        };
        if let Err(entry) = rest {
            parts.push(Part::of(entry));
        }
    }
    parts.into_iter().map(|p| p.entries).collect()
}

/// The content of a numbered frame.
#[derive(Clone, Debug, PartialEq)]
enum Batch {
    Sessions(Part<SessionChange>),
    Reports(Part<Report>),
}

impl From<Batch> for FromMinion {
    fn from(b: Batch) -> Self {
        match b {
            Batch::Sessions(s) => FromMinion::Sessions(s.entries),
            Batch::Reports(r) => FromMinion::Reports(r.entries),
        }
    }
}

/// A frame to send now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbered {
    pub seq: u64,
    pub frame: FromMinion,
    /// It was sent before, over an earlier stream.
    pub again: bool,
}

/// The master acknowledged a frame that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {seq} was acknowledged, and {last} is the last one")]
pub(super) struct BadAck {
    seq: u64,
    last: u64,
}

/// Everything that has to arrive and is not acknowledged. A frame gets its number when it
/// is first sent and keeps it; until then what follows may join it.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The highest number given so far.
    last: u64,
    /// Numbered, sent at least once; numbers without gaps, up to `last`.
    sent: VecDeque<(u64, Batch)>,
    /// How many of `sent` have gone over the present stream.
    passed: usize,
    waiting: VecDeque<Batch>,
    /// Session changes in `sent` and `waiting`.
    changes: usize,
    /// Changes were dropped since the last list of sessions: nothing is sent until
    /// there is a new one.
    stale: bool,
    window: usize,
    backlog: usize,
}

impl Outgoing {
    /// At most `window` frames are under way, and `backlog` session changes kept.
    pub fn new(window: usize, backlog: usize) -> Self {
        Self {
            last: 0,
            sent: VecDeque::new(),
            passed: 0,
            waiting: VecDeque::new(),
            changes: 0,
            stale: false,
            window: window.max(1),
            backlog,
        }
    }

    /// Adds reports; they are kept whatever happens.
    pub fn reports(&mut self, reports: Vec<Report>) {
        for r in reports {
            let rest = match self.waiting.back_mut() {
                Some(Batch::Reports(part)) => part.add(r),
                _ => Err(r),
            };
            if let Err(r) = rest {
                self.waiting.push_back(Batch::Reports(Part::of(r)));
            }
        }
    }

    /// Reports that are not acknowledged, sent or not.
    pub fn owed_reports(&self) -> Vec<Report> {
        let all = self.sent.iter().map(|(_, b)| b).chain(&self.waiting);
        let reports = all.filter_map(|b| match b {
            Batch::Reports(r) => Some(&r.entries),
            Batch::Sessions(_) => None,
        });
        reports.flatten().cloned().collect()
    }

    /// Adds changes of sessions. Over the backlog all changes are dropped, also those
    /// in frames that keep their numbers: a new stream must begin with a new list.
    /// The changes kept must be the last ones before a list or follow it, or the list
    /// would be undone. Returns how many were dropped.
    pub fn sessions(&mut self, changes: Vec<SessionChange>) -> usize {
        self.changes += changes.len();
        for c in changes {
            let rest = match self.waiting.back_mut() {
                Some(Batch::Sessions(part)) => part.add(c),
                _ => Err(c),
            };
            if let Err(c) = rest {
                self.waiting.push_back(Batch::Sessions(Part::of(c)));
            }
        }
        if self.changes <= self.backlog {
            return 0;
        }
        self.waiting.retain(|b| matches!(b, Batch::Reports(_)));
        for (_, b) in &mut self.sent {
            if let Batch::Sessions(s) = b {
                s.entries.clear();
            }
        }
        self.stale = true;
        std::mem::take(&mut self.changes)
    }

    /// A stream begins: what is not acknowledged goes again. To be called before the
    /// list of sessions for it is made.
    pub fn connected(&mut self) {
        self.passed = 0;
        self.stale = false;
    }

    /// Whether the present stream has to end, since changes are missing from it.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// The next frame for the present stream, if there is one and it may go now.
    pub fn next(&mut self) -> Option<Numbered> {
        if self.stale {
            return None;
        }
        let again = self.passed < self.sent.len();
        if !again {
            if self.sent.len() >= self.window {
                return None;
            }
            let batch = self.waiting.pop_front()?;
            self.last += 1;
            self.sent.push_back((self.last, batch));
        }
        let (seq, batch) = self.sent.get(self.passed)?.clone();
        self.passed += 1;
        Some(Numbered { seq, frame: batch.into(), again })
    }

    /// The master has acted on everything up to `seq`.
    pub fn acknowledged(&mut self, seq: u64) -> Result<(), BadAck> {
        if seq > self.last {
            return Err(BadAck { seq, last: self.last });
        }
        while let Some((n, batch)) = self.sent.front()
            && *n <= seq
        {
            if let Batch::Sessions(s) = batch {
                self.changes -= s.entries.len();
            }
            self.sent.pop_front();
            self.passed = self.passed.saturating_sub(1);
        }
        Ok(())
    }

    /// Frames not acknowledged: sent, and waiting.
    pub fn owed(&self) -> (usize, usize) {
        (self.sent.len(), self.waiting.len())
    }
}
