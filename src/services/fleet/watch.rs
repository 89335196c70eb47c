//! Whether whoever holds a chain still lives, judged by watching its names.
//!
//! Pure: what is seen and when is told.

use std::time::Duration;

use super::chain::Link;

/// When a holder counts as alive or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How often a holder shows that it lives.
    pub beat: Duration,
    /// A holder that has not for this long is taken for gone.
    pub stale: Duration,
    /// Signs of life after which the watcher gives up. One alone may be the last
    /// rename of a process that has ended, carried out late.
    pub moves: u32,
}

impl Rules {
    /// How often a watcher looks.
    pub fn poll(&self) -> Duration {
        self.beat / 2
    }
}

/// What the watcher makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on looking.
    Wait,
    /// It has not moved for long enough.
    Gone,
    /// It moves.
    Alive,
}

/// What was seen so far.
#[derive(Clone, Debug)]
pub struct Watch {
    rules: Rules,
    last: Option<Link>,
    looked: Duration,
    still: Duration,
    moved: u32,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, last: None, looked: Duration::ZERO, still: Duration::ZERO, moved: 0 }
    }

    /// Takes in a look that began at `began` and ended at `ended` (any clock that
    /// does not go backwards) and found `link`.
    ///
    /// Time counts only as far as there was looking: when the store, or this
    /// machine, stood still, the holder could not move either.
    pub fn see(&mut self, link: &Link, began: Duration, ended: Duration) -> Verdict {
        let gap = began.saturating_sub(self.looked).min(self.rules.poll() * 2);
        self.looked = ended;
        match &self.last {
            Some(l) if l == link => self.still += gap,
            // A listing that is older than one before.
            Some(l) if l > link => return Verdict::Wait,
            Some(l) if l.term == link.term && l.holder == link.holder => {
                self.moved += 1;
                self.still = Duration::ZERO;
            }
            _ => {
                self.moved = 0;
                self.still = Duration::ZERO;
            }
        }
        self.last = Some(link.clone());
        if self.moved >= self.rules.moves {
            Verdict::Alive
        } else if self.still >= self.rules.stale {
            Verdict::Gone
        } else {
            Verdict::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::journal::ProcessId;

    const S: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules { beat: S, stale: 8 * S, moves: 2 }
    }

    fn link(term: u64, beat: u64) -> Link {
        Link { term, beat, holder: Some(ProcessId::new("n", term.to_string())) }
    }

    /// Looks every half second, each taking no time, at what `at` says is there.
    fn watch(at: impl Fn(u32) -> Link) -> (Verdict, u32) {
        let mut w = Watch::new(rules());
        for i in 0..1000 {
            let now = rules().poll() * i;
            match w.see(&at(i), now, now) {
                Verdict::Wait => {}
                v => return (v, i / 2),
            }
        }
        (Verdict::Wait, 500)
    }

    #[test]
    fn a_beat_that_moves_is_alive_and_one_that_does_not_is_gone() {
        assert_eq!(watch(|i| link(1, u64::from(i / 2))), (Verdict::Alive, 2));
        assert_eq!(watch(|_| link(1, 7)), (Verdict::Gone, 8));
        // The last rename of a dead process lands late: the time begins anew.
        assert_eq!(watch(|i| link(1, u64::from(i > 10))), (Verdict::Gone, 13));
        // Slow beats are signs of life all the same.
        assert_eq!(watch(|i| link(1, u64::from(i / 14))).0, Verdict::Alive);
        // Another one takes over meanwhile and lives, or does not.
        assert_eq!(watch(|i| link(1 + u64::from(i > 12), 0)), (Verdict::Gone, 14));
    }

    #[test]
    fn an_older_listing_says_nothing() {
        let v = watch(|i| if i % 3 == 1 { link(1, 3) } else { link(1, 4) });
        assert_eq!(v.0, Verdict::Gone);
    }

    #[test]
    fn time_without_looking_does_not_count() {
        let mut w = Watch::new(rules());
        let at = |s: u32| S * s;
        assert_eq!(w.see(&link(1, 0), at(0), at(0)), Verdict::Wait);
        // This look was held up for a minute, and so perhaps was the holder.
        assert_eq!(w.see(&link(1, 0), at(1), at(60)), Verdict::Wait);
        assert_eq!(w.see(&link(1, 0), at(90), at(90)), Verdict::Wait);
        assert_eq!(w.see(&link(1, 1), at(91), at(91)), Verdict::Wait);
        assert_eq!(w.see(&link(1, 2), at(92), at(92)), Verdict::Alive);
    }
}
