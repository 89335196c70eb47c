//! How far the journals of all processes have been applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Record, Seen};

use crate::store::journal::{Position, ProcessId, Stamp};

#[derive(Debug, Default)]
struct State {
    now: BTreeMap<ProcessId, Position>,
    /// As the decisions in the present file of our journal tell.
    told: BTreeMap<ProcessId, Position>,
    all_due: bool,
}

/// Positions of all processes but this one.
#[derive(Debug, Default)]
pub struct Positions(Mutex<State>);

impl Positions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the journal of `process` has been applied.
    pub fn of(&self, process: &ProcessId) -> Position {
        self.lock().now.get(process).copied().unwrap_or_default()
    }

    /// The journal of `process` has been applied up to `at`; positions never go
    /// back.
    pub fn advance(&self, process: &ProcessId, at: Position) {
        let mut s = self.lock();
        match s.now.get_mut(process) {
            Some(now) => *now = (*now).max(at),
            None => drop(s.now.insert(process.clone(), at)),
        }
    }

    /// The process is no more.
    pub fn forget(&self, process: &ProcessId) {
        self.lock().now.remove(process);
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<ProcessId, Position> {
        self.lock().now.clone()
    }

    /// Completes decisions of this process with what had been applied when they
    /// are written.
    pub fn stamp(self: &Arc<Self>) -> Stamp {
        let this = self.clone();
        Arc::new(move |record, first| this.complete(record, first))
    }

    fn complete(&self, record: &mut Record, first: bool) {
        let mut s = self.lock();
        s.all_due |= first;
        let Some(Kind::Decision(d)) = &mut record.kind else { return };
        let state = &mut *s;
        if std::mem::take(&mut state.all_due) {
            state.told.clear();
        }
        let moved = state.now.iter().filter(|(p, at)| state.told.get(*p) != Some(*at));
        d.seen = moved
            .map(|(p, at)| Seen {
                node: p.node.clone(),
                epoch: p.epoch.clone(),
                file: at.file,
                offset: at.offset,
            })
            .collect();
        state.told.clone_from(&state.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::journal::{Decision, Post};

    fn decision(p: &Positions, first: bool) -> Vec<String> {
        let mut r = Record { kind: Some(Kind::Decision(Decision::default())) };
        p.complete(&mut r, first);
        let Some(Kind::Decision(d)) = r.kind else { panic!() };
        d.seen.iter().map(|s| format!("{}@{}:{}", s.node, s.file, s.offset)).collect()
    }

    #[test]
    fn the_first_decision_of_a_file_tells_all_and_later_ones_what_moved() {
        let p = Positions::default();
        let (a, b) = (ProcessId::new("a", "1"), ProcessId::new("b", "1"));
        let at = |file, offset| Position { file, offset };
        p.advance(&a, at(0, 100));
        p.advance(&b, at(2, 50));
        // Records that are no decisions may come first.
        p.complete(&mut Record { kind: Some(Kind::Post(Post::default())) }, true);
        assert_eq!(decision(&p, false), ["a@0:100", "b@2:50"]);
        assert!(decision(&p, false).is_empty());
        p.advance(&b, at(2, 60));
        p.advance(&b, at(1, 999));
        assert_eq!(decision(&p, false), ["b@2:60"]);
        assert_eq!(decision(&p, true), ["a@0:100", "b@2:60"]);
        p.forget(&a);
        assert_eq!(decision(&p, true), ["b@2:60"]);
        assert_eq!((p.of(&a), p.of(&b)), (Position::START, at(2, 60)));
    }
}
