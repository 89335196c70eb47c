//! `config show`: print the configuration in force.

use clap::Args;

use super::{Changes, Context, load_tool, report};
use crate::cli::print;

/// Arguments of `config show`.
#[derive(Args, Debug)]
#[command(after_long_help = "The output holds private keys. Every key of the file is kept, also \
    those without effect here; comments are not.")]
pub struct ShowArgs {
    /// Print JSON instead of YAML.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    changes: Changes,
}

/// Prints the file with the changes asked for.
pub async fn run(args: ShowArgs, ctx: &Context) -> anyhow::Result<()> {
    let loaded = load_tool(ctx).await?;
    report(&loaded);
    let doc = args.changes.apply(&ctx.env, loaded.document).await?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&doc.value)?))
    } else {
        print(&doc.to_yaml())
    }
}
