//! `config`: make, check, show and split configuration files.

use clap::{Args, Subcommand};

use super::Context;

/// Arguments of `config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
enum ConfigCommand {}

/// Runs the chosen subcommand.
pub async fn run(args: ConfigArgs, _ctx: &Context) -> anyhow::Result<()> {
    match args.command {}
}
