//! The command line.

use std::ops::Range;

use clap::Parser;

/// Runs whole simulated clusters of the production code from seeds, checks every
/// promise after each, and reports what was broken.
///
/// A run is a function of the scenario and the seed: the same seed gives the
/// same run, packet by packet. Each runs in a process of its own, on all cores.
///
/// The exit status is 0 if no promise was broken (and every fault of --mutant
/// was caught), 1 if one was, 2 if the program could not do its work.
///
/// Examples:
///
///   sim --seeds 1..500                 every scenario with seeds 1 to 499
///   sim --scenario crashes --minutes 30
///   sim --scenario crashes --seeds 41..42 --trace run.txt
///   sim --mutant all                   shows that each checker sees its faults
///   sim --regressions                  the seeds that found something once
#[derive(Clone, Debug, Parser)]
#[command(name = "sim", verbatim_doc_comment)]
pub struct Args {
    /// Seeds to run, from the first up to, not including, the last
    ///
    /// Without it: 1..51, or with --minutes as many as there is time for.
    #[arg(long, value_name = "A..B", value_parser = range)]
    pub seeds: Option<Range<u64>>,

    /// Only this scenario; may be given several times
    ///
    /// --list names them. Without it all are run.
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,

    /// Go on until so many minutes are over
    #[arg(long, value_name = "M")]
    pub minutes: Option<u64>,

    /// Put this fault into the frontends, and expect that it is caught
    ///
    /// `all` tries each in turn. A fault counts as caught when the checker of
    /// its own invariant complains within 50 seeds; the table of faults,
    /// invariants and seeds needed is printed at the end.
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,

    /// Run the seeds of sim/regressions.txt
    #[arg(long)]
    pub regressions: bool,

    /// Runs at once; as many as there are cores by default
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,

    /// Write every packet and event of the last run to this file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<String>,

    /// Stop after so many failures
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub failures: usize,

    /// Name the scenarios and the faults
    #[arg(long)]
    pub list: bool,

    /// Run each seed twice, and expect the same trace
    ///
    /// Without it every tenth seed is.
    #[arg(long)]
    pub twice: bool,

    /// Expect that these seeds met enough of what is dangerous
    ///
    /// Always so for 20 seeds and more of all scenarios: see REQUIRED in
    /// sim/src/check/coverage.rs.
    #[arg(long)]
    pub covered: bool,

    /// Write how long tasks take in clusters of many shapes to docs/latency.md
    #[arg(long)]
    pub latency: bool,

    /// Run this one seed here and print the outcome as JSON
    #[arg(long, hide = true)]
    pub child: Option<u64>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (a, b) = text.split_once("..").ok_or("expected A..B, such as 1..100")?;
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t:?}: {e}"));
    let (a, b) = (number(a)?, number(b)?);
    if a >= b { Err("there is no seed in this range".into()) } else { Ok(a..b) }
}
