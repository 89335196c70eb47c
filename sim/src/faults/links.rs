//! The state of every link between processes, from all causes together.

use std::collections::{BTreeMap, BTreeSet};

/// What turmoil is told of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Whole,
    Cut,
    /// Only what the first sends is lost.
    CutThere,
    /// Only what the second sends is lost.
    CutBack,
    Held,
}

/// Causes, counted; a pair is ordered by name.
#[derive(Debug, Default)]
struct Causes {
    cut: u32,
    there: u32,
    back: u32,
    held: u32,
}

/// All links. A link nobody named is whole.
#[derive(Debug, Default)]
pub(super) struct Links {
    causes: BTreeMap<(String, String), Causes>,
    /// Processes on machines without power.
    pub(super) off: BTreeSet<String>,
    told: BTreeMap<(String, String), State>,
}

/// Which cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Cut,
    OneWay,
    Hold,
}

impl Links {
    /// A cause begins or ends between two processes.
    pub(super) fn cause(&mut self, from: &str, to: &str, what: Cause, begins: bool) {
        let turned = from > to;
        let pair = if turned { (to, from) } else { (from, to) };
        let c = self.causes.entry((pair.0.to_owned(), pair.1.to_owned())).or_default();
        let count = match (what, turned) {
            (Cause::Cut, _) => &mut c.cut,
            (Cause::Hold, _) => &mut c.held,
            (Cause::OneWay, false) => &mut c.there,
            (Cause::OneWay, true) => &mut c.back,
        };
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
    }

    fn wanted(&self, pair: &(String, String)) -> State {
        if self.off.contains(&pair.0) || self.off.contains(&pair.1) {
            return State::Cut;
        }
        let Some(c) = self.causes.get(pair) else { return State::Whole };
        match (c.cut > 0, c.there > 0, c.back > 0, c.held > 0) {
            (true, ..) | (_, true, true, _) => State::Cut,
            (_, true, _, _) => State::CutThere,
            (_, _, true, _) => State::CutBack,
            (_, _, _, true) => State::Held,
            _ => State::Whole,
        }
    }

    /// Pairs of `names` whose state has changed: before and after.
    pub(super) fn changes(&mut self, names: &[String]) -> Vec<(String, String, State, State)> {
        let mut out = Vec::new();
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                let pair = if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
                let (was, is) =
                    (self.told.get(&pair).copied().unwrap_or_default(), self.wanted(&pair));
                if was != is {
                    out.push((pair.0.clone(), pair.1.clone(), was, is));
                    self.told.insert(pair, is);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_add_up_and_each_must_end() {
        let names = ["a".to_owned(), "b".to_owned()];
        let mut l = Links::default();
        let state = |l: &mut Links| l.changes(&names).pop().map(|c| c.3);
        l.cause("b", "a", Cause::OneWay, true);
        assert_eq!(state(&mut l), Some(State::CutBack));
        l.cause("a", "b", Cause::Cut, true);
        l.cause("a", "b", Cause::Cut, true);
        assert_eq!(state(&mut l), Some(State::Cut));
        l.cause("b", "a", Cause::Cut, false);
        assert_eq!(state(&mut l), None);
        l.cause("a", "b", Cause::Cut, false);
        assert_eq!(state(&mut l), Some(State::CutBack));
        l.off.insert("a".into());
        assert_eq!(state(&mut l), Some(State::Cut));
        l.cause("b", "a", Cause::OneWay, false);
        l.off.clear();
        assert_eq!(state(&mut l), Some(State::Whole));
        l.cause("a", "b", Cause::Hold, true);
        assert_eq!(state(&mut l), Some(State::Held));
    }
}
