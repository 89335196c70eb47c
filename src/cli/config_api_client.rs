//! `config api_client`: the file with which a program calls the API.

use anyhow::Context as _;
use clap::Args;

use super::{CaKey, Context, load_tool, report, write_private};
use crate::cli::Usage;
use crate::config::{Config, api_client, document};
use crate::env::Env;
use crate::services::acl::Role;
use crate::services::ids::OrgId;
use crate::services::users::Users;
use crate::store::{StoreRoot, Tree, paths};

/// Arguments of `config api_client`.
#[derive(Args, Debug)]
#[command(after_long_help = "Makes a key and a certificate signed by the deployment's CA, and \
    writes them to OUTPUT, which only its owner may read. The certificate's name becomes a user; \
    with --role that user is given the roles in the organisation of --org (the root one by \
    default) by writing to the datastore, so the command must run where the datastore is, as the \
    user who owns it. Without --role nothing is granted: see `user grant`.\n\n\
    A certificate cannot be withdrawn; take the user's rights away instead.")]
pub struct ApiClientArgs {
    /// Name of the user the certificate speaks for: letters, digits and @ . - _ # +
    #[arg(long)]
    name: String,

    /// Roles to give: administrator, reader, api, analyst, investigator,
    /// artifact_writer or org_admin; may be repeated or separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    role: Vec<String>,

    #[command(flatten)]
    ca: CaKey,

    /// The file to write.
    #[arg(value_name = "OUTPUT")]
    output: String,
}

/// Grants the roles, then writes the file.
pub async fn run(args: ApiClientArgs, ctx: &Context) -> anyhow::Result<()> {
    let roles = args
        .role
        .iter()
        .map(|r| Role::parse(r).ok_or_else(|| Usage(format!("--role: no role is called {r:?}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let mut loaded = load_tool(ctx).await?;
    report(&loaded);
    args.ca.add(ctx, &mut loaded).await?;
    let file = api_client::issue(
        &loaded.config,
        &loaded.settings,
        &*ctx.env.entropy,
        ctx.env.clock.now(),
        &args.name,
    )?;
    if !roles.is_empty() {
        let org = OrgId::new(ctx.global.org.as_deref().unwrap_or_default());
        create_api_user(&ctx.env, &loaded.config, &org, &args.name, &roles)
            .await
            .context("the user could not be written to the datastore")?;
    }
    write_private(&ctx.env, &args.output, &document::to_yaml(&file)).await?;
    if roles.is_empty() {
        eprintln!("no --role given: {} has no rights until some are granted", args.name);
    }
    Ok(())
}

/// Makes the user if there is none, and gives exactly these roles in `org`; other
/// rights the user has there are kept.
async fn create_api_user(
    env: &Env,
    config: &Config,
    org: &OrgId,
    name: &str,
    roles: &[Role],
) -> anyhow::Result<()> {
    let store = &config.datastore;
    anyhow::ensure!(!store.location().is_empty(), "Datastore.location is not set");
    let tree = Tree::new(env, StoreRoot::new(store.location(), store.filestore_directory()));
    if !org.is_root() && tree.get(&paths::org_record(org.id())).await?.is_none() {
        anyhow::bail!("there is no organisation {org}");
    }
    let reserved =
        [config.client.pinned_server_name(), config.api.pinned_gw_name()].map(str::to_owned);
    let users = Users::new(tree, reserved, Default::default());
    let user = match users.get(name).await? {
        Some(user) => user,
        None => users.create(name).await?,
    };
    let mut acl = users.acl(org, &user.name).await?.unwrap_or_default();
    acl.roles = roles.iter().map(|r| r.name().to_owned()).collect();
    users.set_acl(org, &user.name, &acl).await?;
    Ok(())
}
