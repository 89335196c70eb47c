//! Runs many seeds on all cores, each in a process of its own, and tells of the
//! failures so that anybody can see them again.

mod args;
mod child;
mod parent;
mod report;

use std::process::ExitCode;

pub use args::Args;
pub use parent::{Work, regressions};

/// What a run of the program is.
#[allow(clippy::print_stderr)]
pub fn main(args: Args) -> ExitCode {
    match args.child {
        Some(seed) => child::run(seed, &args),
        None => match parent::run(&args) {
            Ok(code) => code,
            Err(e) => {
                eprintln!("sim: {e:#}");
                ExitCode::from(2)
            }
        },
    }
}
