//! `config reissue_certs`: new certificates for the server's keys.

use clap::Args;

use super::{CaKey, Context, load_tool, report};
use crate::cli::print;
use crate::config::rotate;

/// Arguments of `config reissue_certs`.
#[derive(Args, Debug)]
#[command(after_long_help = "The keys stay, so agents notice nothing. Put the printed \
    configuration in place on every frontend and restart them. Do not redirect the output onto the \
    file that is being read.\n\nNeeds the CA's private key.")]
pub struct ReissueCertsArgs {
    /// Days the new certificates are valid. Default: what the file says, or 365.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..36_500))]
    validity: Option<u32>,

    #[command(flatten)]
    ca: CaKey,
}

/// Prints the configuration with new certificates.
pub async fn run(args: ReissueCertsArgs, ctx: &Context) -> anyhow::Result<()> {
    let mut loaded = load_tool(ctx).await?;
    report(&loaded);
    args.ca.add(ctx, &mut loaded).await?;
    let days = args.validity.unwrap_or(loaded.config.certificate_validity_days());
    rotate::reissue_certs(
        &mut loaded.document,
        &loaded.config,
        &*ctx.env.entropy,
        ctx.env.clock.now(),
        days,
    )?;
    print(&loaded.document.to_yaml())
}
