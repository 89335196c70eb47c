//! `config revoke_node`: withdraw a node's certificate.

use clap::Args;

use super::{Context, load_tool, report, write_private};
use crate::config::nodes;

/// Arguments of `config revoke_node`.
#[derive(Args, Debug)]
#[command(after_long_help = "Run it on the master's configuration: the name goes into \
    cluster.revoked_nodes of the settings beside it (--settings), and the master refuses every \
    certificate of that name within seconds, without a restart: a stream that is open ends.\n\n\
    A node holds more than its certificate: the key agents encrypt to, and the datastore. If it \
    was taken over, run `config rotate_keys` too, and take away its access to the datastore. Its \
    entry in ExtraFrontends and its URL in Client.server_urls stay until you remove them.\n\n\
    `config frontend --reissue NODE` makes a new certificate; the old ones stay revoked by their \
    serial numbers.")]
pub struct RevokeNodeArgs {
    /// The node's name, `<host name>-<port>`.
    #[arg(long, value_name = "NAME")]
    node: String,
}

/// Writes the settings.
pub async fn run(args: RevokeNodeArgs, ctx: &Context) -> anyhow::Result<()> {
    let mut loaded = load_tool(ctx).await?;
    report(&loaded);
    if nodes::revoke(&mut loaded.settings, &loaded.config, &args.node)? {
        write_private(&ctx.env, &loaded.settings_path, &loaded.settings.to_yaml()).await?;
        eprintln!("node {} is revoked in {}", args.node, loaded.settings_path);
    } else {
        eprintln!("node {} was revoked already in {}", args.node, loaded.settings_path);
    }
    Ok(())
}
