//! Hands out seeds to child processes and gathers what they tell.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::process::Command;
use tokio::time::Instant;

use super::Args;
use super::report::Told;
use crate::check::short;
use crate::mutants::{self, CATCHES, Catch, SEEDS};
use crate::scenarios::{self, ALL};

/// The kept seeds.
const REGRESSIONS: &str = include_str!("../../regressions.txt");
/// A run that takes longer than this, in real time, is stuck.
const STUCK: Duration = Duration::from_secs(600);

/// One run to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Scenario.
    pub scenario: String,
    /// Seed.
    pub seed: u64,
    /// Fault.
    pub mutant: Option<String>,
    /// Whether it is run twice and compared.
    pub twice: bool,
}

/// The kept seeds, parsed: `scenario seed`, with `#` before a remark.
pub fn regressions() -> anyhow::Result<Vec<Work>> {
    let mut out = Vec::new();
    for (n, line) in REGRESSIONS.lines().enumerate() {
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let place = || format!("regressions.txt, line {}: {line:?}", n + 1);
        let (scenario, seed) = text.split_once(' ').with_context(place)?;
        let seed = seed.trim().parse().with_context(place)?;
        out.push(Work { scenario: scenario.to_owned(), seed, mutant: None, twice: false });
    }
    Ok(out)
}

/// See the module.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.latency {
        return latency();
    }
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    rt.block_on(work(args))
}

/// Runs in this process, outside of any runtime: each run has its own.
#[allow(clippy::print_stdout)]
fn latency() -> anyhow::Result<ExitCode> {
    for (name, text) in crate::latency::report(|line| println!("{line}")) {
        let path = format!("docs/{name}");
        write(&path, &text).with_context(|| path.clone())?;
        println!("{path}");
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)]
async fn work(args: &Args) -> anyhow::Result<ExitCode> {
    if args.list {
        for s in ALL {
            println!("{:16} {}", s.name, s.about);
        }
        for c in CATCHES {
            println!("{:24} must be caught by {}", c.mutant.name(), c.invariant);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &args.scenario {
        scenarios::find(name)
            .with_context(|| format!("no scenario is called {name}; see --list"))?;
    }
    match args.mutant.as_deref() {
        Some("all") => hunt(args, CATCHES.iter().collect()).await,
        Some(name) => {
            let c = mutants::find(name)
                .with_context(|| format!("no fault is called {name}; see --list"))?;
            hunt(args, vec![c]).await
        }
        None => sweep(args).await,
    }
}

#[allow(clippy::disallowed_methods)] // the runner's own file
fn write(path: &str, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)
}

fn jobs(args: &Args) -> usize {
    args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, |n| n.get()))
}

async fn one(w: Work, trace: Option<String>) -> (Work, anyhow::Result<Told>) {
    let told = child(&w, trace).await;
    (w, told)
}

async fn child(w: &Work, trace: Option<String>) -> anyhow::Result<Told> {
    let me = std::env::current_exe()?;
    let mut c = Command::new(me);
    c.arg("--child").arg(w.seed.to_string()).arg("--scenario").arg(&w.scenario);
    if let Some(m) = &w.mutant {
        c.arg("--mutant").arg(m);
    }
    if let Some(t) = trace {
        c.arg("--trace").arg(t);
    }
    if w.twice {
        c.arg("--twice");
    }
    c.kill_on_drop(true);
    let done = tokio::time::timeout(STUCK, c.output()).await.context("the run is stuck")??;
    let text = String::from_utf8_lossy(&done.stdout);
    anyhow::ensure!(
        done.status.success(),
        "the run ended with {}: {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(serde_json::from_str(text.trim())?)
}

/// Runs seeds and expects that nothing breaks.
#[allow(clippy::print_stdout)]
async fn sweep(args: &Args) -> anyhow::Result<ExitCode> {
    let names: Vec<String> = match args.scenario.is_empty() {
        true => ALL.iter().map(|s| s.name.to_owned()).collect(),
        false => args.scenario.clone(),
    };
    let (endless, twice) = (args.minutes.is_some(), args.twice);
    let seeds = args.seeds.clone().unwrap_or(if endless { 1..u64::MAX } else { 1..51 });
    let mut todo: Box<dyn Iterator<Item = Work>> = match args.regressions {
        true => Box::new(regressions()?.into_iter()),
        false => Box::new(seeds.flat_map(move |seed| {
            names.clone().into_iter().map(move |scenario| Work {
                scenario,
                seed,
                mutant: None,
                twice: twice || seed % 10 == 0,
            })
        })),
    };
    let begun = Instant::now();
    let until = args.minutes.map(|m| begun + Duration::from_secs(60 * m));
    let mut running = FuturesUnordered::new();
    let (mut runs, mut failures, mut told_at) = (0u64, 0usize, begun);
    let mut coverage: BTreeMap<String, u64> = BTreeMap::new();
    let mut virtual_seconds = 0.0;
    loop {
        let more = failures < args.failures && until.is_none_or(|u| Instant::now() < u);
        while more && running.len() < jobs(args) {
            let Some(w) = todo.next() else { break };
            running.push(one(w, args.trace.clone()));
        }
        let Some((w, told)) = running.next().await else { break };
        runs += 1;
        match told {
            Err(e) => {
                failures += 1;
                println!("FAILED {}, seed {}: {e:#}", w.scenario, w.seed);
            }
            Ok(t) => {
                for (k, n) in &t.coverage {
                    *coverage.entry(k.clone()).or_default() += n;
                }
                virtual_seconds += t.seconds;
                if !t.violations.is_empty() {
                    failures += 1;
                    println!("{}", t.story(&w.scenario, w.seed, None));
                }
            }
        }
        if told_at.elapsed() > Duration::from_secs(15) {
            told_at = Instant::now();
            let rate = runs as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{runs} runs, {rate:.2} a second, {failures} failed; last was {} {}",
                w.scenario, w.seed
            );
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{runs} runs in {took:.0} s ({:.2} a second, {:.0} virtual seconds a second), {failures} failed",
        runs as f64 / took,
        virtual_seconds / took
    );
    for (k, n) in &coverage {
        println!("  {k:28} {n:8}   {:.1} a run", *n as f64 / runs.max(1) as f64);
    }
    // Seeds that met nothing dangerous prove nothing.
    let whole = args.scenario.is_empty() && !args.regressions;
    let (of_each, enough) = (runs / ALL.len() as u64, 20);
    let seeds = if args.covered { args.seeds.as_ref().map(|s| s.end - s.start) } else { None };
    let seeds = seeds.or((whole && of_each >= enough).then_some(of_each));
    for (what, n, least) in seeds.into_iter().flat_map(|s| short(&coverage, s)) {
        failures += 1;
        println!("MET TOO SELDOM: {what}: {n} times, and should be at least {least}");
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Puts faults in and expects that each is caught.
#[allow(clippy::print_stdout)]
async fn hunt(args: &Args, catches: Vec<&'static Catch>) -> anyhow::Result<ExitCode> {
    let seeds = args.seeds.clone().unwrap_or(1..1 + SEEDS);
    let mut survived = 0;
    println!("| fault | caught by | seeds | scenario | what was seen |");
    println!("|---|---|---|---|---|");
    for c in catches {
        let name = c.mutant.name();
        match caught(args, c, seeds.clone()).await? {
            Ok((w, story)) => {
                let short: String = story.chars().take(110).collect();
                let n = w.seed - seeds.start + 1;
                println!("| {name} | {} | {n} | {} | {short} |", c.invariant, w.scenario);
            }
            Err(others) => {
                survived += 1;
                println!("| {name} | {} | **survived** | | seen: {others:?} |", c.invariant);
            }
        }
    }
    if survived > 0 {
        println!("\n{survived} faults survived");
    }
    Ok(if survived == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The first seed with which the fault is seen by its own checker, and is not
/// seen without the fault; else what others saw.
async fn caught(
    args: &Args,
    c: &Catch,
    seeds: std::ops::Range<u64>,
) -> anyhow::Result<Result<(Work, String), BTreeMap<String, u64>>> {
    let twice = c.invariant == "SAME_SEED";
    let fits = |s: &&&str| args.scenario.is_empty() || args.scenario.iter().any(|a| a == **s);
    let scenarios: Vec<&str> = c.scenarios.iter().filter(fits).copied().collect();
    let mut todo: VecDeque<Work> = seeds
        .flat_map(|seed| scenarios.iter().map(move |s| (seed, (*s).to_owned())))
        .map(|(seed, scenario)| {
            let mutant = Some(c.mutant.name().to_owned());
            Work { scenario, seed, mutant, twice }
        })
        .collect();
    let mut running = FuturesUnordered::new();
    let mut found: Option<(Work, String)> = None;
    let mut others: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        while found.is_none() && running.len() < jobs(args) {
            let Some(w) = todo.pop_front() else { break };
            running.push(one(w, args.trace.clone()));
        }
        let Some((w, told)) = running.next().await else { break };
        let told = told?;
        for (invariant, _) in &told.violations {
            *others.entry(invariant.clone()).or_default() += 1;
        }
        let earlier = found.as_ref().is_none_or(|(o, _)| w.seed < o.seed);
        if told.broke(c.invariant) && earlier {
            let without = Work { mutant: None, ..w.clone() };
            if child(&without, None).await?.broke(c.invariant) {
                continue; // that seed fails by itself
            }
            let story = told.violations.iter().find(|v| v.0 == c.invariant);
            found = Some((w, story.map(|v| v.1.clone()).unwrap_or_default()));
        }
    }
    Ok(found.ok_or(others))
}
