//! Runs the targets on damaged seeds for a time, or on one kept input.
//!
//! An input that panics, or takes longer than [`SLOW`], is written to a file and
//! ends the run with status 1. What is run depends on the seed number and the
//! count alone; the time only says when to stop.
// A tool outside the server: it may look at the clock and write files.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use velociraptor_fuzz::{Mutator, TARGETS, Target, find};

/// Longest an input may take.
const SLOW: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "Feeds damaged input to every parser that bytes from outside reach")]
struct Args {
    /// Targets; all of them when none is named.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Stop a target after so many inputs; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    inputs: u64,
    /// Number that the damage follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this file through the one target named, and nothing else.
    #[arg(long)]
    replay: Option<String>,
    /// Lists the targets.
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.list {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        return Ok(());
    }
    let named: Result<Vec<&Target>, _> = args
        .targets
        .iter()
        .map(|n| find(n).with_context(|| format!("no target {n}; see --list")))
        .collect();
    let targets: Vec<&Target> = match named? {
        none if none.is_empty() => TARGETS.iter().collect(),
        some => some,
    };
    if let Some(file) = &args.replay {
        let [target] = targets[..] else { bail!("--replay takes exactly one target") };
        (target.run)(&std::fs::read(file).with_context(|| file.clone())?);
        println!("{}: {file} passes", target.name);
        return Ok(());
    }
    let mut failed = 0;
    for t in &targets {
        failed += u32::from(!run(t, &args)?);
    }
    println!("fuzz: {} passed, {failed} failed", targets.len() - failed as usize);
    if failed > 0 {
        bail!("{failed} targets failed");
    }
    Ok(())
}

/// Runs one target; false if an input failed.
fn run(target: &Target, args: &Args) -> anyhow::Result<bool> {
    let seeds = (target.seeds)();
    let (begin, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut mutator = Mutator::new(args.seed, seeds.clone());
    let mut count = 0u64;
    let mut slowest = Duration::ZERO;
    let inputs = seeds.into_iter().map(Some).chain(std::iter::repeat(None));
    for input in inputs {
        if begin.elapsed() >= limit || (args.inputs > 0 && count >= args.inputs) {
            break;
        }
        let input = input.unwrap_or_else(|| mutator.input());
        let at = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let took = at.elapsed();
        slowest = slowest.max(took);
        count += 1;
        let why = match result {
            Err(_) => "panicked".to_owned(),
            Ok(()) if took > SLOW => format!("took {took:?}"),
            Ok(()) => continue,
        };
        std::fs::create_dir_all("fuzz/artifacts")?;
        let file = format!("fuzz/artifacts/{}-{}-{count}", target.name, args.seed);
        std::fs::write(&file, &input)?;
        let head = hex::encode(&input[..input.len().min(200)]);
        println!(
            "{}: input {count} {why}\n  {} bytes, kept in {file}: {head}\n  again: \
             cargo run -p velociraptor-fuzz -- --replay {file} {}",
            target.name,
            input.len(),
            target.name
        );
        return Ok(false);
    }
    println!("{}: {count} inputs, slowest {slowest:?}", target.name);
    Ok(true)
}
