//! `gui`: everything in one process, from an empty directory.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use velociraptor_proto::proto::ApiClientAcl;

use super::Context;
use super::frontend::until_stopped;
use crate::config::generate::{self, Choices};
use crate::config::{Document, Loaded, Role, api_client, document, load, split};
use crate::env::fs::replace;
use crate::node::{Extras, Node};
use crate::plugins;
use crate::services::ids::OrgId;

/// Name of the first administrator.
const ADMIN: &str = "admin";
/// Bytes kept for decisions when the disk is full, unless the settings say otherwise.
const RESERVE: u64 = 8 << 20;
/// Name of the API user whose file is written.
const API_USER: &str = "api";

/// Arguments of `gui`.
#[derive(Args, Debug)]
#[command(after_long_help = "In an empty directory this makes a whole deployment: \
    server.config.yaml, client.config.yaml and api.config.yaml, an administrator with a random \
    password that is printed once, and an agent for this machine. Run again on the same \
    directory, it goes on where it was.\n\n\
    A stock agent joins with client.config.yaml as it is; the line to use is printed.")]
pub struct GuiArgs {
    /// Directory of everything: configuration and datastore. Default: a new temporary directory.
    #[arg(long, value_name = "DIR")]
    datastore: Option<String>,

    /// Do not open a browser.
    #[arg(long)]
    nobrowser: bool,

    /// Do not run an agent in this process.
    #[arg(long)]
    noclient: bool,

    /// Take the datastore even from a server that works on it and lives; that one then ends.
    #[arg(long)]
    takeover: bool,

    /// Host name or address under which agents reach this machine.
    #[arg(long, default_value = "localhost", value_name = "HOST")]
    hostname: String,

    /// Port for agents; 0 takes any. Used when the configuration is made.
    #[arg(long = "frontend_port", default_value_t = 8000, value_name = "PORT")]
    frontend_port: u16,

    /// Port of the API. Used when the configuration is made.
    #[arg(long = "api_port", default_value_t = 8001, value_name = "PORT")]
    api_port: u16,

    /// Port of the GUI. Used when the configuration is made.
    #[arg(long = "gui_port", default_value_t = 8889, value_name = "PORT")]
    gui_port: u16,

    /// Port of the metrics. Used when the configuration is made.
    #[arg(long = "monitoring_port", default_value_t = 8003, value_name = "PORT")]
    monitoring_port: u16,
}

/// Makes what is missing, then serves until told to stop.
pub async fn run(args: GuiArgs, ctx: &Context) -> anyhow::Result<()> {
    let dir = directory(&args, ctx).await?;
    let server_path = format!("{dir}/server.config.yaml");
    let made = match ctx.env.fs.stat(&server_path).await {
        Ok(_) => None,
        Err(_) => Some(make(&args, ctx, &dir, &server_path).await?),
    };
    let mut loaded =
        load(&ctx.env, &server_path, ctx.global.settings.as_deref(), Role::Server).await?;
    // One small deployment on a disk that it shares with its user.
    loaded.settings.journal.reserve_bytes.get_or_insert(RESERVE);
    for f in &loaded.findings {
        tracing::warn!("{f}");
    }
    let extras = Extras {
        registry: plugins::server::registry(),
        definitions: ctx.global.definitions.clone(),
        takeover: args.takeover,
    };
    let node = Node::start(ctx.env.clone(), &loaded, extras).await?;
    if made.is_some() {
        let acl = ApiClientAcl { roles: vec!["administrator".into()], ..Default::default() };
        node.server.users.create(API_USER).await?;
        node.server.users.set_acl(&OrgId::root(), API_USER, &acl).await?;
        let api = api_client::issue(
            &loaded.config,
            &loaded.settings,
            &*ctx.env.entropy,
            ctx.env.clock.now(),
            API_USER,
        )?;
        private(ctx, &format!("{dir}/api.config.yaml"), &document::to_yaml(&api)).await?;
    }
    let agent = if args.noclient { None } else { Some(start_agent(ctx, &dir).await?) };
    announce(&dir, &loaded, made.as_deref(), node.gui);
    if !args.nobrowser {
        eprintln!("note: open the page below; browsers are not started yet");
    }
    let ended = until_stopped(&node).await?;
    if let Some(stop) = agent {
        stop.cancel();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    if let Err(why) = ended {
        node.abandon().await;
        return Err(why.into());
    }
    node.stop().await;
    Ok(())
}

async fn directory(args: &GuiArgs, ctx: &Context) -> anyhow::Result<String> {
    let dir = match &args.datastore {
        Some(d) => d.clone(),
        None => {
            let mut b = [0; 6];
            ctx.env.entropy.fill(&mut b);
            format!("{}/{}-{}", std::env::temp_dir().display(), crate::PRODUCT, hex::encode(b))
        }
    };
    let dir = crate::config::load::absolute(&dir)?;
    ctx.env.fs.create_dir(&dir).await.with_context(|| dir.clone())?;
    Ok(dir)
}

/// Writes the configuration files; returns the administrator's password.
async fn make(args: &GuiArgs, ctx: &Context, dir: &str, path: &str) -> anyhow::Result<String> {
    let password = password(ctx);
    let choices = Choices {
        hostname: args.hostname.clone(),
        frontend_port: args.frontend_port,
        gui_port: args.gui_port,
        datastore: dir.to_owned(),
        users: vec![(ADMIN.to_owned(), password.clone())],
        ..Choices::default()
    };
    let mut value = generate::server(&*ctx.env.entropy, ctx.env.clock.now(), &choices)?;
    let local = json!({
        // Somebody who tries it sees events as they come, not after two minutes.
        "defaults": { "event_max_wait": 1, "event_max_wait_jitter": 1 },
        "API": { "bind_port": args.api_port },
        "Monitoring": { "bind_port": args.monitoring_port },
        "Client": {
            "writeback_linux": format!("{dir}/client.writeback.yaml"),
            "local_buffer": { "filename_linux": format!("{dir}/client.buffer") },
            "max_poll": 60,
        },
    });
    crate::config::patch::merge(&mut value, &local);
    let doc = Document::from_value(value, "the new configuration")?;
    let client = split::client(&doc, None)?;
    private(ctx, &format!("{dir}/client.config.yaml"), &document::to_yaml(&client)).await?;
    // Last: its presence says that the rest is there.
    private(ctx, path, &document::to_yaml(&doc.value)).await?;
    Ok(password)
}

fn password(ctx: &Context) -> String {
    let mut b = [0; 12];
    ctx.env.entropy.fill(&mut b);
    data_encoding::BASE32_NOPAD.encode(&b).to_lowercase()
}

async fn private(ctx: &Context, path: &str, text: &str) -> anyhow::Result<()> {
    let tmp = format!("{path}.{:016x}.tmp", ctx.env.entropy.next_u64());
    Ok(replace(&*ctx.env.fs, &tmp, path, text.as_bytes()).await?)
}

fn announce(dir: &str, loaded: &Loaded, password: Option<&str>, gui: Option<std::net::SocketAddr>) {
    let urls = loaded.config.client.server_urls.join(" ");
    let scheme = if loaded.config.gui.use_plain_http { "http" } else { "https" };
    let gui = gui.map(|a| format!("{scheme}://{a}/")).unwrap_or_default();
    eprintln!("\n{} is running. Agents connect to {urls}", crate::PRODUCT);
    eprintln!("  web pages     {gui}");
    if let Some(p) = password {
        eprintln!("  administrator {ADMIN}, password {p} (shown only now)");
    }
    eprintln!(
        "  query         {} --api_config {dir}/api.config.yaml query \"SELECT * FROM clients()\"",
        crate::PRODUCT
    );
    eprintln!(
        "  a stock agent joins with\n                velociraptor --config {dir}/client.config.yaml client -v\n"
    );
}

/// Runs an agent for this machine inside this process.
async fn start_agent(
    ctx: &Context,
    dir: &str,
) -> anyhow::Result<tokio_util::sync::CancellationToken> {
    let path = format!("{dir}/client.config.yaml");
    super::client::start(&ctx.env, &path).await
}
