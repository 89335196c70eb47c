//! `config`: make, check, show and split configuration files.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Context, Usage};
use crate::config::{Document, Level, Loaded, Role, load, nodes, patch};
use crate::env::Env;
use crate::env::fs::replace;

#[path = "config_api_client.rs"]
mod api_client;
#[path = "config_check.rs"]
mod check;
#[path = "config_client.rs"]
mod client;
#[path = "config_frontend.rs"]
mod frontend;
#[path = "config_generate.rs"]
mod generate;
#[path = "config_questions.rs"]
mod questions;
#[path = "config_reissue_certs.rs"]
mod reissue_certs;
#[path = "config_revoke_node.rs"]
mod revoke_node;
#[path = "config_rotate_keys.rs"]
mod rotate_keys;
#[path = "config_show.rs"]
mod show;

/// Arguments of `config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
enum ConfigCommand {
    /// Print a new server configuration with fresh keys.
    Generate(generate::GenerateArgs),
    /// Print the configuration in force.
    Show(show::ShowArgs),
    /// Print the part of the configuration that agents need.
    Client(client::ClientArgs),
    /// Write the file with which a program calls the API, and make its user.
    #[command(name = "api_client")]
    ApiClient(api_client::ApiClientArgs),
    /// Say what is wrong with a configuration, with line numbers.
    Check(check::CheckArgs),
    /// Add minions to a deployment, and write the files of every node.
    Frontend(frontend::FrontendArgs),
    /// Withdraw a node's certificate.
    #[command(name = "revoke_node")]
    RevokeNode(revoke_node::RevokeNodeArgs),
    /// Print the configuration with new keys and certificates for the server.
    #[command(name = "rotate_keys")]
    RotateKeys(rotate_keys::RotateKeysArgs),
    /// Print the configuration with new certificates for the server's keys.
    #[command(name = "reissue_certs")]
    ReissueCerts(reissue_certs::ReissueCertsArgs),
}

/// Runs the chosen subcommand.
pub async fn run(args: ConfigArgs, ctx: &Context) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Generate(a) => generate::run(a, ctx).await,
        ConfigCommand::Show(a) => show::run(a, ctx).await,
        ConfigCommand::Client(a) => client::run(a, ctx).await,
        ConfigCommand::ApiClient(a) => api_client::run(a, ctx).await,
        ConfigCommand::Check(a) => check::run(a, ctx).await,
        ConfigCommand::Frontend(a) => frontend::run(a, ctx).await,
        ConfigCommand::RevokeNode(a) => revoke_node::run(a, ctx).await,
        ConfigCommand::RotateKeys(a) => rotate_keys::run(a, ctx).await,
        ConfigCommand::ReissueCerts(a) => reissue_certs::run(a, ctx).await,
    }
}

/// Changes on the way from a file to what is printed, in the order listed.
#[derive(Args, Debug, Default)]
struct Changes {
    /// Merge this JSON into the configuration (RFC 7396: objects merge, null
    /// removes, anything else replaces); may be repeated.
    #[arg(long, value_name = "JSON")]
    merge: Vec<String>,

    /// Merge the JSON in this file into the configuration.
    #[arg(long = "merge_file", value_name = "FILE")]
    merge_file: Option<String>,

    /// Apply this JSON patch (RFC 6902: a list of operations); may be repeated.
    #[arg(long, value_name = "JSON")]
    patch: Vec<String>,

    /// Apply the JSON patch in this file.
    #[arg(long = "patch_file", value_name = "FILE")]
    patch_file: Option<String>,
}

fn json(text: &str, what: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).map_err(|e| Usage(format!("{what}: not JSON: {e}")).into())
}

impl Changes {
    /// Applies all changes and checks the shape of the outcome.
    async fn apply(&self, env: &Env, doc: Document) -> anyhow::Result<Document> {
        let mut value = doc.value.clone();
        if let Some(path) = &self.merge_file {
            patch::merge(&mut value, &json(&read(env, path).await?, path)?);
        }
        for m in &self.merge {
            patch::merge(&mut value, &json(m, "--merge")?);
        }
        if let Some(path) = &self.patch_file {
            patch::apply(&mut value, &json(&read(env, path).await?, path)?)
                .context(path.clone())?;
        }
        for p in &self.patch {
            patch::apply(&mut value, &json(p, "--patch")?).context("--patch")?;
        }
        if value == doc.value {
            return Ok(doc);
        }
        let doc = Document::from_value(value, "the changed configuration")?;
        if !doc.problems().is_empty() {
            // Lines of a text nobody sees help nobody.
            let all: Vec<String> =
                doc.problems().iter().map(|f| format!("{}: {}", f.path, f.message)).collect();
            anyhow::bail!("the changed configuration would be wrong:\n{}", all.join("\n"));
        }
        Ok(doc)
    }
}

async fn read(env: &Env, path: &str) -> anyhow::Result<String> {
    let bytes = crate::env::fs::read_limited(&*env.fs, &load::absolute(path)?, 32 << 20).await?;
    String::from_utf8(bytes).with_context(|| format!("{path}: not UTF-8"))
}

/// Loads the file named on the command line for rewriting.
async fn load_tool(ctx: &Context) -> anyhow::Result<Loaded> {
    Ok(load::load(&ctx.env, ctx.config_path()?, ctx.global.settings.as_deref(), Role::Tool).await?)
}

/// Where the CA's key is when the configuration does not hold it.
#[derive(Args, Debug, Default)]
struct CaKey {
    /// The CA's private key (PEM). Default: CA.private_key of the configuration, else
    /// ca.key beside it if there is one.
    #[arg(long = "ca_key", value_name = "FILE")]
    ca_key: Option<String>,
}

/// Where a CA's key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyPlace {
    Configuration,
    File,
    Nowhere,
}

impl CaKey {
    /// Puts the key into the typed view, where it is looked for; the document, which is
    /// printed or written, stays without.
    async fn add(&self, ctx: &Context, loaded: &mut Loaded) -> anyhow::Result<KeyPlace> {
        let path = match &self.ca_key {
            Some(path) => path.clone(),
            None if !loaded.config.ca.private_key.is_empty() => {
                return Ok(KeyPlace::Configuration);
            }
            None => beside(ctx.config_path()?, nodes::CA_KEY_FILE),
        };
        match read(&ctx.env, &path).await {
            Ok(key) => loaded.config.ca.private_key = key,
            Err(e) if self.ca_key.is_some() => return Err(e),
            Err(_) => return Ok(KeyPlace::Nowhere),
        }
        Ok(KeyPlace::File)
    }
}

/// A file in the directory of another.
fn beside(path: &str, name: &str) -> String {
    match path.rfind('/') {
        Some(i) => format!("{}/{name}", &path[..i]),
        None => name.to_owned(),
    }
}

/// Replaces a file that holds secrets: only its owner may read it.
async fn write_private(env: &Env, path: &str, data: &str) -> anyhow::Result<()> {
    let path = load::absolute(path)?;
    let tmp = format!("{path}.{:016x}.tmp", env.entropy.next_u64());
    replace(&*env.fs, &tmp, &path, data.as_bytes()).await.with_context(|| path.clone())
}

/// Notes and warnings go to standard error.
fn report(loaded: &Loaded) {
    for f in loaded.findings.iter().filter(|f| f.level >= Level::Warning) {
        eprintln!("{f}");
    }
}
