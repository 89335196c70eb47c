//! `user`: people and API clients of a server, straight in its datastore.
//!
//! A running server sees a change within two seconds.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use velociraptor_proto::json::to_sparse_row;
use velociraptor_proto::proto::ApiClientAcl;

use super::{Context, print};
use crate::config::{Role, load};
use crate::services::acl::{self, Permission, Policy};
use crate::services::ids::OrgId;
use crate::services::users::{Users, parse_roles};
use crate::store::{StoreRoot, Tree, paths};

/// Arguments of `user`.
#[derive(Args, Debug)]
#[command(after_long_help = "Works on the datastore the configuration names, whether the server \
    runs or not; give --org for rights in another organisation than the root one.")]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Subcommand, Debug)]
enum UserCommand {
    /// Make a user, or give one a new password.
    Add(AddArgs),
    /// Print a user and what they may do; without a name, all of them.
    Show(NameArgs),
    /// Replace what a user may do in an organisation.
    Grant(GrantArgs),
    /// Lock a user out, whatever their rights.
    Lock(LockArgs),
}

#[derive(Args, Debug)]
struct AddArgs {
    /// The name.
    name: String,
    /// The password. Without one, and without --no_password, it is read from standard input.
    password: Option<String>,
    /// No password: the user comes with a certificate or another way of signing in.
    #[arg(long = "no_password")]
    no_password: bool,
    /// Roles in the organisation, separated by commas.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
}

#[derive(Args, Debug)]
struct NameArgs {
    /// The name.
    name: Option<String>,
}

#[derive(Args, Debug)]
struct GrantArgs {
    /// The name.
    name: String,
    /// Permissions as JSON, e.g. {"any_query": true}.
    policy: Option<String>,
    /// Roles, separated by commas.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
    /// Keep what the user holds already.
    #[arg(long)]
    merge: bool,
}

#[derive(Args, Debug)]
struct LockArgs {
    /// The name.
    name: String,
    /// Let them in again.
    #[arg(long)]
    unlock: bool,
}

/// The datastore's users, seen from the command line.
struct Desk<'a> {
    ctx: &'a Context,
    tree: Tree,
    users: Users,
    org: OrgId,
}

/// Runs the command.
pub async fn run(args: UserArgs, ctx: &Context) -> anyhow::Result<()> {
    let loaded = load(&ctx.env, ctx.config_path()?, None, Role::Tool).await?;
    let c = &loaded.config;
    let store = &c.datastore;
    anyhow::ensure!(!store.location().is_empty(), "Datastore.location is not set");
    let tree = Tree::new(&ctx.env, StoreRoot::new(store.location(), store.filestore_directory()));
    let reserved = [c.client.pinned_server_name(), c.api.pinned_gw_name()].map(str::to_owned);
    let users = Users::new(tree.clone(), reserved, Default::default());
    let org = OrgId::new(ctx.global.org.as_deref().unwrap_or_default());
    let desk = Desk { ctx, tree, users, org };
    desk.check_org().await?;
    match args.command {
        UserCommand::Add(a) => desk.add(a).await,
        UserCommand::Show(a) => desk.show(a).await,
        UserCommand::Grant(a) => desk.grant(a).await,
        UserCommand::Lock(a) => {
            desk.users.set_locked(&a.name, !a.unlock).await?;
            let done = if a.unlock { "unlocked" } else { "locked" };
            eprintln!("user {} is {done}", a.name);
            Ok(())
        }
    }
}

impl Desk<'_> {
    async fn check_org(&self) -> anyhow::Result<()> {
        if self.org.is_root() {
            return Ok(());
        }
        let known = self.tree.get(&paths::org_record(self.org.id())).await?;
        known.map(drop).with_context(|| format!("there is no organisation {}", self.org))
    }

    async fn add(&self, a: AddArgs) -> anyhow::Result<()> {
        let roles = parse_roles(&a.role)?;
        let password = match (&a.password, a.no_password) {
            (Some(p), false) => Some(p.clone()),
            (None, false) => Some(read_password()?),
            (None, true) => None,
            (Some(_), true) => bail!("a password and --no_password exclude each other"),
        };
        let user = match self.users.get(&a.name).await? {
            Some(user) => user,
            None => self.users.create(&a.name).await?,
        };
        if let Some(password) = password {
            self.users.set_password(&self.ctx.env, &user.name, &password).await?;
        }
        if !roles.is_empty() {
            let acl = ApiClientAcl {
                roles: roles.iter().map(|r| r.name().to_owned()).collect(),
                ..Default::default()
            };
            self.users.set_acl(&self.org, &user.name, &acl).await?;
        } else if self.users.acl(&self.org, &user.name).await?.is_none() {
            eprintln!("note: {} has no role yet; see `user grant`", user.name);
        }
        Ok(())
    }

    async fn show(&self, a: NameArgs) -> anyhow::Result<()> {
        let users = match &a.name {
            Some(name) => vec![self.users.require(name).await?],
            None => self.users.list().await?,
        };
        for user in users {
            let acl = self.users.acl(&self.org, &user.name).await?;
            let acl = acl.unwrap_or_default();
            let policy = Policy::of(&acl, self.org.is_root());
            let effective: Vec<_> = policy.permissions().map(Permission::name).collect();
            let shown = json!({
                "name": user.name,
                "locked": user.locked,
                "has_password": !user.password_hash.is_empty(),
                "org": self.org.to_string(),
                "roles": acl.roles,
                "policy": to_sparse_row(&acl)?,
                "effective_permissions": effective,
            });
            print(&format!("{}\n", serde_json::to_string_pretty(&shown)?))?;
        }
        Ok(())
    }

    async fn grant(&self, a: GrantArgs) -> anyhow::Result<()> {
        let user = self.users.require(&a.name).await?;
        let mut new = match &a.policy {
            Some(text) => policy(text)?,
            None => ApiClientAcl::default(),
        };
        new.roles.extend(parse_roles(&a.role)?.iter().map(|r| r.name().to_owned()));
        if a.merge {
            let old = self.users.acl(&self.org, &user.name).await?.unwrap_or_default();
            for p in Policy::of(&ApiClientAcl { roles: vec![], ..old.clone() }, true).permissions()
            {
                acl::set(&mut new, p, true);
            }
            new.roles.extend(old.roles);
            new.publish_queues.extend(old.publish_queues);
        }
        new.roles.sort();
        new.roles.dedup();
        self.users.set_acl(&self.org, &user.name, &new).await?;
        Ok(())
    }
}

/// Permissions as JSON: known names only, so that a slip does not go unseen.
fn policy(text: &str) -> anyhow::Result<ApiClientAcl> {
    let given: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).context("the policy is not a JSON object")?;
    let known = to_row_names()?;
    for key in given.keys() {
        anyhow::ensure!(known.contains(key) && key != "super_user", "no permission `{key}`");
    }
    Ok(velociraptor_proto::json::from_json(text.as_bytes())?)
}

fn to_row_names() -> anyhow::Result<Vec<String>> {
    let row = velociraptor_proto::json::to_row(&ApiClientAcl::default())?;
    Ok(row.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default())
}

fn read_password() -> anyhow::Result<String> {
    eprint!("Password: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let password = line.trim_end_matches(['\n', '\r']).to_owned();
    anyhow::ensure!(!password.is_empty(), "no password was given");
    Ok(password)
}
