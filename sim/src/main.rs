//! The seed runner: `cargo run -p sim --release -- --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sim::runner::{Args, main as run};

/// A run makes and drops millions of small things on one thread, where this one is
/// a seventh faster than that of the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run(Args::parse())
}
