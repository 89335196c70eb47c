//! `frontend`: serve clients, the API and the GUI from a configuration file.

use clap::{Args, Subcommand};

use super::{Context, frontend_drain};
use crate::config::load::check_user;
use crate::config::{Config, Flags, load_node};
use crate::node::{Displaced, Extras, Node};
use crate::plugins;
use crate::store::mounts::{self, Weight};

/// Default of `--clients_nice`. A thread at 5 has a third of the weight of one at 0 with Linux'
/// scheduler (`sched_prio_to_weight`): a page waits for hardly more than the slice under way, and
/// clients still get their part beside a person who asks without end, and beside other programs.
pub(super) const CLIENTS_NICE: u8 = 5;

/// Arguments of `frontend`.
#[derive(Args, Debug, Default)]
#[command(after_long_help = "Runs in the foreground until SIGTERM or SIGINT: then no new \
    connections are taken, requests under way are finished, and what is complete is put into \
    stock files. Where there are other nodes, clients are sent to them first (`drain` in the \
    settings). Everything a client was acknowledged is on stable storage at any moment, so a \
    harder end loses nothing.\n\n\
    One process at a time is master of a datastore. A second one waits a few seconds to see \
    whether the first still lives, says which one it is, and ends with status 3; so does a master \
    whose role was taken by another with --takeover.\n\n\
    A configuration that asks for a restriction this program does not implement stops the start; \
    the message names the key and its line.")]
#[command(args_conflicts_with_subcommands = true)]
pub struct FrontendArgs {
    #[command(subcommand)]
    command: Option<FrontendCommand>,

    /// Run as a minion: serve clients alone, led by the master.
    #[arg(long)]
    minion: bool,

    /// Which node this is: `<host name>-<port>` of an entry of ExtraFrontends. Default:
    /// node.name of the settings, or the master.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Take the master role even from a master that lives; that one then ends. For when it
    /// cannot be stopped where it runs.
    #[arg(long)]
    takeover: bool,

    /// How much nicer (see nice(1)) the threads that serve clients are than those that serve
    /// people: when there is not enough CPU for both, people come first. 0 makes them equal.
    #[arg(long = "clients_nice", value_name = "N", default_value_t = CLIENTS_NICE,
        value_parser = clap::value_parser!(u8).range(0..=19))]
    pub(super) clients_nice: u8,

    /// Serve people and clients with the same threads, each waiting for the other, also while
    /// much is read or computed for one of them. For the measurement that shows what keeping them
    /// apart is worth.
    #[arg(long = "danger_no_isolation", hide = true)]
    pub(super) danger_no_isolation: bool,
}

impl FrontendArgs {
    /// Those that say which node it is.
    pub(super) fn of(minion: bool, node: Option<String>) -> FrontendArgs {
        FrontendArgs { minion, node, ..FrontendArgs::default() }
    }
}

#[derive(Debug, Subcommand)]
enum FrontendCommand {
    /// Take a node out of service, or back: through the master's API.
    Drain(frontend_drain::DrainArgs),
}

/// Serves until told to stop.
pub async fn run(args: FrontendArgs, ctx: &Context) -> anyhow::Result<()> {
    if let Some(FrontendCommand::Drain(args)) = args.command {
        return frontend_drain::run(args, ctx).await;
    }
    let path = ctx.config_path()?;
    let flags = Flags { minion: args.minion, node: args.node };
    let settings = ctx.global.settings.as_deref();
    let (loaded, plan) = load_node(&ctx.env, path, settings, &flags).await?;
    for f in &loaded.findings {
        tracing::warn!("{f}");
    }
    check_user(&ctx.env, &loaded.config).await?;
    check_mounts(ctx, &loaded.config).await?;
    let extras = Extras {
        registry: plugins::server::registry(),
        definitions: ctx.global.definitions.clone(),
        takeover: args.takeover,
    };
    let node = Node::start_as(ctx.env.clone(), &loaded, &plan, extras).await?;
    if let Err(why) = until_stopped(&node).await? {
        node.abandon().await;
        return Err(why.into());
    }
    let displaced = tokio::select! {
        biased;
        why = node.displaced() => Some(why),
        () = node.drain() => None,
    };
    if let Some(why) = displaced {
        node.abandon().await;
        return Err(why.into());
    }
    node.stop().await;
    Ok(())
}

/// Returns when the process is asked to end, or must: another one has its place,
/// or its master does not want it.
pub async fn until_stopped(node: &Node) -> anyhow::Result<Result<(), Displaced>> {
    let mut fatal = node.fatal();
    let refused = async {
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        biased;
        signal = wait_for_signal() => {
            signal?;
            tracing::info!("stopping");
            return Ok(Ok(()));
        }
        why = node.displaced() => why,
        reason = refused => Displaced(format!("the master refuses this node: {reason}")),
    };
    tracing::error!(reason = %why, "this process ends");
    Ok(Err(why))
}

/// Refuses to keep data where the file system may lose it.
pub(super) async fn check_mounts(ctx: &Context, config: &Config) -> anyhow::Result<()> {
    let store = &config.datastore;
    let mut dirs = vec![store.location(), store.filestore_directory()];
    dirs.dedup();
    for dir in dirs {
        let Some(mount) = mounts::of(&*ctx.env.fs, dir).await else { continue };
        for (weight, what) in mount.judge() {
            match weight {
                Weight::Refused => anyhow::bail!("Datastore: {dir}, on {}: {what}", mount.point),
                Weight::Warning => tracing::warn!(dir, mount = mount.point, "{what}"),
                Weight::Note => tracing::debug!(dir, mount = mount.point, "{what}"),
            }
        }
    }
    Ok(())
}

/// Returns when the process is asked to end.
pub async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
