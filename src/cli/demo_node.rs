//! `demo_node`: `frontend`, whose store can be stalled. What `demo --stalls` runs.

use clap::Args;

use super::{Context, frontend};
use crate::config::{Role, load};
use crate::demo::stallable;

/// Arguments of `demo_node`.
#[derive(Args, Debug)]
pub struct DemoNodeArgs {
    /// Calls to the store wait while there is a file of this name.
    #[arg(long, value_name = "FILE")]
    gate: String,

    /// As of `frontend`.
    #[arg(long)]
    minion: bool,

    /// As of `frontend`.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Serves until told to stop.
pub async fn run(args: DemoNodeArgs, ctx: &Context) -> anyhow::Result<()> {
    let settings = ctx.global.settings.as_deref();
    let loaded = load(&ctx.env, ctx.config_path()?, settings, Role::Tool).await?;
    let gate = crate::config::load::absolute(&args.gate)?;
    let env = stallable(&ctx.env, loaded.config.datastore.location(), &gate);
    let ctx = Context { env, global: ctx.global.clone() };
    frontend::run(frontend::FrontendArgs::of(args.minion, args.node), &ctx).await
}
