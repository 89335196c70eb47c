//! The command line: one file per command.
//!
//! A command is a module with `pub struct …Args` (clap) and
//! `pub async fn run(args, ctx) -> anyhow::Result<()>`, listed in [`Command`] and
//! in `dispatch`. Commands print results on standard output and everything else
//! on standard error. Exit status: 0 done, 1 failed, 2 wrong usage, 3
//! another process has this one's place on the datastore.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::env::{Env, real};

pub mod artifacts;
pub mod client;
pub mod cluster;
pub mod config;
pub mod datastore;
pub mod demo;
mod demo_node;
pub mod frontend;
mod frontend_drain;
pub mod golden;
pub mod gui;
mod output;
pub mod pool_client;
pub mod query;
pub mod user;
pub mod version;

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status of a command that was called wrongly.
const USAGE: u8 = 2;
/// Exit status of a server whose place another process has.
const DISPLACED: u8 = 3;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = crate::PRODUCT,
    version = crate::ABOUT,
    about = "Endpoint visibility for fleets: a Velociraptor server that runs on many frontends",
    long_about = "Endpoint visibility for fleets: a Velociraptor server that runs on many \
                  frontends.\n\nAn independent implementation. It speaks the protocols and reads \
                  the files of the stock program; deployed agents need no change.",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = false
)]
pub struct Cli {
    /// Flags every command understands.
    #[command(flatten)]
    pub global: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags every command understands; they may stand before or after its name.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The configuration file of the server or agent (YAML).
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "VELOCIRAPTOR_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<String>,

    /// The configuration file of an API client, made by `config api_client`.
    ///
    /// Commands that can work through the API then do so instead of opening the
    /// datastore.
    #[arg(
        short,
        long = "api_config",
        global = true,
        value_name = "FILE",
        env = "VELOCIRAPTOR_API_CONFIG",
        hide_env_values = true
    )]
    pub api_config: Option<String>,

    /// Settings of this implementation alone (YAML).
    ///
    /// Default: velociraptor-fleet.yaml beside the configuration file, if there is
    /// one. The stock program refuses unknown keys, so they never go into its file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "VELOCIRAPTOR_SETTINGS",
        hide_env_values = true
    )]
    pub settings: Option<String>,

    /// Work in this organisation instead of the root one.
    #[arg(long, global = true, value_name = "ORG_ID")]
    pub org: Option<String>,

    /// A directory of artifact definitions (YAML) to load; may be repeated.
    #[arg(short = 'D', long, global = true, value_name = "DIR")]
    pub definitions: Vec<String>,

    /// Log more, to standard error.
    #[arg(short, long, global = true)]
    pub verbose: bool,

    /// Accepted for compatibility and ignored: there is no banner.
    #[arg(long, global = true, hide = true)]
    pub nobanner: bool,

    /// Accepted for compatibility and ignored: logs are never coloured.
    #[arg(long, global = true, hide = true)]
    pub nocolor: bool,
}

/// All commands.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub enum Command {
    /// Run the endpoint agent.
    Client(client::ClientArgs),
    /// Run everything in one process, from an empty directory.
    Gui(gui::GuiArgs),
    /// Serve clients, the API and the GUI.
    Frontend(frontend::FrontendArgs),
    /// Make, check, show and split configuration files.
    Config(config::ConfigArgs),
    /// Run VQL, on this host or through a server's API.
    Query(query::QueryArgs),
    /// Look at the nodes of a deployment.
    Cluster(cluster::ClusterArgs),
    /// What the datastore holds that a stock server does not see; the way back to stock.
    Datastore(datastore::DatastoreArgs),
    /// Look at artifact definitions, check, import and collect them.
    Artifacts(artifacts::ArtifactsArgs),
    /// Run many virtual clients, as load and as proof.
    #[command(name = "pool_client")]
    PoolClient(pool_client::PoolArgs),
    /// Run a whole cluster on this machine, to look at and to break.
    Demo(Box<demo::DemoArgs>),
    /// What `demo --stalls` runs in place of `frontend`.
    #[command(name = "demo_node", hide = true)]
    DemoNode(demo_node::DemoNodeArgs),
    /// Run recorded queries and compare what they give.
    Golden(golden::GoldenArgs),
    /// Make users and say what they may do.
    User(user::UserArgs),
    /// Say what this program is.
    Version(version::VersionArgs),
}

impl Command {
    /// What is logged unless something else is asked for.
    fn log_level(&self) -> &'static str {
        match self {
            // Hundreds of agents that tell what they do.
            Command::PoolClient(_) | Command::Demo(_) => "warn",
            _ => "info",
        }
    }

    /// People and clients are to share threads: see the flag.
    fn undivided(&self) -> bool {
        matches!(self, Command::Frontend(f) if f.danger_no_isolation)
    }

    /// How far the threads that serve clients stand behind those that serve people.
    fn clients_nice(&self) -> i32 {
        match self {
            Command::Frontend(f) => f.clients_nice.into(),
            _ => frontend::CLIENTS_NICE.into(),
        }
    }

    /// Whether it serves people, and so gets a runtime of its own for that side.
    fn serves(&self) -> bool {
        match self {
            Command::Gui(_) | Command::Frontend(_) | Command::DemoNode(_) => true,
            Command::Client(_)
            | Command::Cluster(_)
            | Command::Config(_)
            | Command::Datastore(_)
            | Command::Demo(_)
            | Command::Query(_)
            | Command::Artifacts(_)
            | Command::PoolClient(_)
            | Command::Golden(_)
            | Command::User(_)
            | Command::Version(_) => false,
        }
    }
}

/// What a command gets besides its own arguments.
#[derive(Debug)]
pub struct Context {
    /// The outside world.
    pub env: Env,
    /// The global flags.
    pub global: Globals,
}

impl Context {
    /// The configuration file named on the command line or in the environment.
    pub fn config_path(&self) -> Result<&str, Usage> {
        self.global.config.as_deref().ok_or_else(|| {
            Usage("this command needs a configuration file: give --config FILE".into())
        })
    }
}

/// The command was called in a way that cannot work: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

async fn dispatch(command: Command, ctx: &Context) -> anyhow::Result<()> {
    match command {
        Command::Client(args) => client::run(args, ctx).await,
        Command::Gui(args) => gui::run(args, ctx).await,
        Command::Frontend(args) => frontend::run(args, ctx).await,
        Command::Config(args) => config::run(args, ctx).await,
        Command::Datastore(args) => datastore::run(args, ctx).await,
        Command::Cluster(args) => cluster::run(args, ctx).await,
        Command::Demo(args) => demo::run(*args, ctx).await,
        Command::DemoNode(args) => demo_node::run(args, ctx).await,
        Command::Query(args) => query::run(args, ctx).await,
        Command::Artifacts(args) => artifacts::run(args, ctx).await,
        Command::PoolClient(args) => pool_client::run(args, ctx).await,
        Command::Golden(args) => golden::run(args, ctx).await,
        Command::User(args) => user::run(args, ctx).await,
        Command::Version(args) => version::run(args, ctx).await,
    }
}

/// Parses the process' arguments, runs the command and says how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    start_logging(cli.global.verbose, cli.command.log_level());
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}: {e:#}", crate::PRODUCT);
            if e.is::<Usage>() {
                USAGE.into()
            } else if e.is::<crate::node::Displaced>() {
                DISPLACED.into()
            } else {
                FAILED.into()
            }
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if matches!(cli.command, Command::Client(_)) {
        // An agent is a guest on its host: few threads, little memory.
        runtime.worker_threads(1).max_blocking_threads(4);
    }
    let divided = cli.command.serves() && !cli.command.undivided();
    if divided {
        runtime.on_thread_start(real::standing_behind(cli.command.clients_nice()));
    }
    let runtime = runtime.enable_all().build()?;
    let people = if divided {
        let threads = real::cores().clamp(2, 8);
        Some(
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name("gui")
                .enable_all()
                .build()?,
        )
    } else {
        None
    };
    let frontend = runtime.handle().clone();
    let sides = |r: &tokio::runtime::Runtime| real::Runtimes { frontend, gui: r.handle().clone() };
    let env = match cli.command.undivided() {
        true => real::undivided(),
        false => real::env_with(people.as_ref().map(sides)),
    };
    let ctx = Context { env, global: cli.global };
    let result = runtime.block_on(dispatch(cli.command, &ctx));
    // Tasks still running belong to a command that has returned.
    for r in [people, Some(runtime)].into_iter().flatten() {
        r.shutdown_background();
    }
    result
}

/// Logs go to standard error; `RUST_LOG` overrides what is shown.
fn start_logging(verbose: bool, default: &str) {
    use tracing_subscriber::{EnvFilter, fmt};
    let default = if verbose { "velociraptor=debug,vql=debug,info" } else { default };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// Writes `data` to standard output; a reader that went away is not an error.
pub(crate) fn print(data: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(data.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
