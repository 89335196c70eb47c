//! `frontend`: serve clients, the API and the GUI from a configuration file.

use clap::Args;

use super::Context;
use crate::config::load::check_user;
use crate::config::{Role, load};
use crate::node::{Extras, Node};
use crate::plugins;

/// Arguments of `frontend`.
#[derive(Args, Debug)]
#[command(after_long_help = "Runs in the foreground until SIGTERM or SIGINT: then no new \
    connections are taken, requests under way are finished, and what is complete is put into \
    stock files. Everything a client was acknowledged is on stable storage at any moment, so a \
    harder end loses nothing.\n\n\
    A configuration that asks for a restriction this program does not implement stops the start; \
    the message names the key and its line.")]
pub struct FrontendArgs {
    /// Accepted for compatibility and ignored: this program has no separate master role yet.
    #[arg(long, hide = true)]
    pub master: bool,
}

/// Serves until told to stop.
pub async fn run(_: FrontendArgs, ctx: &Context) -> anyhow::Result<()> {
    let path = ctx.config_path()?;
    let loaded = load(&ctx.env, path, ctx.global.settings.as_deref(), Role::Server).await?;
    for f in &loaded.findings {
        tracing::warn!("{f}");
    }
    check_user(&ctx.env, &loaded.config).await?;
    let extras = Extras {
        registry: plugins::server::registry(),
        definitions: ctx.global.definitions.clone(),
    };
    let node = Node::start(ctx.env.clone(), &loaded, extras).await?;
    wait_for_signal().await?;
    tracing::info!("stopping");
    node.stop().await;
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
