//! The seed runner: `cargo run -p sim --release -- --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sim::runner::{Args, main as run};

fn main() -> ExitCode {
    run(Args::parse())
}
