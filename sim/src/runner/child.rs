//! One run in this process.

use std::process::ExitCode;

use super::Args;
use super::report::Told;
use crate::check::Violation;
use crate::scenarios::{Settings, find};

/// Runs it and prints what it led to.
#[allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
pub fn run(seed: u64, args: &Args) -> ExitCode {
    let Some(scenario) = args.scenario.first().and_then(|n| find(n)) else {
        eprintln!("sim: no such scenario: {:?}", args.scenario);
        return ExitCode::from(2);
    };
    let mutant = args.mutant.as_deref().and_then(|name| {
        let all = velociraptor::env::Mutant::ALL;
        all.iter().copied().find(|m| m.name() == name)
    });
    let settings = Settings { mutant, traced: args.trace.is_some() || args.twice };
    let mut outcome = (scenario.run)(seed, settings);
    if args.twice {
        let again = (scenario.run)(seed, settings);
        let n = outcome.trace.len().max(again.trace.len());
        let at = (0..n).find(|i| outcome.trace.get(*i) != again.trace.get(*i));
        if let Some(i) = at {
            let (a, b) = (outcome.trace.get(i), again.trace.get(i));
            let story = format!("line {i} of the trace is {a:?}, and the second time {b:?}");
            outcome.violations.push(Violation { invariant: "SAME_SEED", story });
        }
    }
    if let Some(path) = &args.trace
        && let Err(e) = std::fs::write(path, outcome.trace.join("\n"))
    {
        eprintln!("sim: {path}: {e}");
        return ExitCode::from(2);
    }
    match serde_json::to_string(&Told::of(&outcome)) {
        Ok(text) => println!("{text}"),
        Err(e) => {
            eprintln!("sim: {e}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
