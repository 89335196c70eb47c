//! `config client`: the part of the configuration that agents need.

use anyhow::Context as _;
use clap::Args;

use super::{Context, load_tool, report};
use crate::cli::print;
use crate::config::{document, split};
use crate::store::path::StoreRoot;
use crate::store::{Tree, paths};

/// Arguments of `config client`.
#[derive(Args, Debug)]
#[command(after_long_help = "The output is the sections version, Client and autoexec, and no \
    secret of the server. With --org the agents belong to that organisation: its nonce is read \
    from the datastore, so the command must run where the datastore is.")]
pub struct ClientArgs {}

/// Prints the agent's file.
pub async fn run(_args: ClientArgs, ctx: &Context) -> anyhow::Result<()> {
    let loaded = load_tool(ctx).await?;
    report(&loaded);
    let org = ctx.global.org.as_deref().filter(|o| !o.is_empty() && *o != "root");
    let nonce = match org {
        None => None,
        Some(id) => {
            let store = &loaded.config.datastore;
            let root = StoreRoot::new(store.location(), store.filestore_directory());
            let record = Tree::new(&ctx.env, root)
                .get(&paths::org_record(id))
                .await
                .with_context(|| format!("organisation {id}"))?
                .filter(|r| !r.nonce.is_empty())
                .with_context(|| format!("there is no organisation {id}"))?;
            Some(record.nonce)
        }
    };
    print(&document::to_yaml(&split::client(&loaded.document, nonce.as_deref())?))
}
