//! Every parser that bytes from outside reach, as functions from bytes to nothing.
//!
//! A target must not panic, whatever it is given; where there is more to say
//! (what was parsed can be written and read again) it asserts that too. The
//! driver in `main.rs` mutates seeds from a fixed seed number, with a stable
//! compiler and without instrumentation.

mod mutate;
mod seeds;
mod targets;

pub use mutate::{Mutator, Rng};
pub use targets::{TARGETS, Target, find};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_seeds_and_damaged_ones() {
        for t in TARGETS {
            let seeds = (t.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", t.name);
            for s in &seeds {
                (t.run)(s);
            }
            let mut m = Mutator::new(1, seeds);
            for _ in 0..100 {
                (t.run)(&m.input());
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = |seed| {
            let mut m = Mutator::new(seed, vec![b"one seed".to_vec(), b"another".to_vec()]);
            (0..50).map(|_| m.input()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
    }
}
