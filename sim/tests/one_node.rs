//! One frontend and one agent, TLS on: the same seed gives the same trace, and
//! a crash in the middle of a collection loses and doubles nothing.
//!
//! A test binary of its own: one simulation per process at a time.
#![allow(missing_docs)]

use sim::world::{Plan, run};

fn first_difference(a: &[String], b: &[String]) -> Option<String> {
    let n = a.len().max(b.len());
    (0..n).find(|i| a.get(*i) != b.get(*i)).map(|i| {
        format!("line {i} of {} and {}:\n{:?}\n{:?}", a.len(), b.len(), a.get(i), b.get(i))
    })
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plan = Plan { seed: 7, crash: false };
    let (a, b) = (run(plan), run(plan));
    assert_eq!(a.error, None);
    assert_eq!(a.rows, [5000, 5000]);
    assert!(a.faults.is_empty(), "{:?}", a.faults);
    let count = |what: &str| a.trace.iter().filter(|l| l.contains(what)).count();
    assert!(count("message=Send") > 50, "packets are recorded: {}", a.trace.len());
    assert!(count("client enrolled") == 1, "and events");
    assert_eq!(first_difference(&a.trace, &b.trace), None);
    let other = run(Plan { seed: 8, crash: false });
    assert!(first_difference(&a.trace, &other.trace).is_some(), "the seed matters");
}

#[test]
fn a_crash_in_the_middle_loses_and_doubles_nothing() {
    for seed in 1..=3 {
        let plan = Plan { seed, crash: true };
        let a = run(plan);
        assert_eq!(a.error, None, "seed {seed}");
        assert_eq!(a.rows, [5000, 5000], "seed {seed}");
        assert!(a.faults.is_empty(), "seed {seed}: {:?}", a.faults);
        let b = run(plan);
        assert_eq!(first_difference(&a.trace, &b.trace), None, "seed {seed}");
    }
}
