//! `config rotate_keys`: new keys and certificates for the server.

use clap::Args;

use super::{CaKey, Context, load_tool, report, write_private};
use crate::cli::print;
use crate::config::rotate;

/// Arguments of `config rotate_keys`.
#[derive(Args, Debug)]
#[command(after_long_help = "The new configuration is printed; put it in place on every frontend \
    and restart them. The frontend's old key is kept in the settings file (--settings, by default \
    velociraptor-fleet.yaml beside the configuration), which every frontend needs too: with it, \
    agents that have not fetched the new certificate yet are still understood. Do not redirect the \
    output onto the file that is being read.\n\nNeeds the CA's private key.")]
pub struct RotateKeysArgs {
    /// Days the new certificates are valid. Default: what the file says, or 365.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..36_500))]
    validity: Option<u32>,

    #[command(flatten)]
    ca: CaKey,
}

/// Writes the settings, then prints the configuration.
pub async fn run(args: RotateKeysArgs, ctx: &Context) -> anyhow::Result<()> {
    let mut loaded = load_tool(ctx).await?;
    report(&loaded);
    args.ca.add(ctx, &mut loaded).await?;
    let days = args.validity.unwrap_or(loaded.config.certificate_validity_days());
    rotate::rotate_keys(
        &mut loaded.document,
        &loaded.config,
        &mut loaded.settings,
        &*ctx.env.entropy,
        ctx.env.clock.now(),
        days,
    )?;
    write_private(&ctx.env, &loaded.settings_path, &loaded.settings.to_yaml()).await?;
    eprintln!("the old key is kept in {}", loaded.settings_path);
    print(&loaded.document.to_yaml())
}
