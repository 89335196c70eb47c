//! `artifacts`: look at definitions, check, import and collect them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::{
    ApiFlowRequest, ArtifactCollectorArgs, ArtifactParameters, ArtifactSpec, GetArtifactRequest,
    GetArtifactsRequest, VqlCollectorArgs, VqlEnv, VqlRequest,
};
use vql::Limits;

use super::output::{Format, Printer};
use super::query::{local_scope, remote_rows, variables};
use super::{Context, Usage, print};
use crate::api::client::connect;
use crate::config::{Role, load};
use crate::plugins::common::spill;
use crate::services::compiler::{CompileOptions, compile};
use crate::services::ids::OrgId;
use crate::services::repository::{self, Repository};
use crate::store::{StoreRoot, Tree};

mod import;
mod verify;

/// How often a collection on a client is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Arguments of `artifacts`.
#[derive(Args, Debug)]
pub struct ArtifactsArgs {
    #[command(subcommand)]
    command: ArtifactsCommand,
}

#[derive(Subcommand, Debug)]
enum ArtifactsCommand {
    /// Print the names of definitions.
    List(ListArgs),
    /// Print one definition as it was written.
    Show(ShowArgs),
    /// Run an artifact on this host, or on a client through the API.
    Collect(CollectArgs),
    /// Check definitions, and say which of them this program can run itself.
    Verify(verify::VerifyArgs),
    /// Take definitions of a directory or an archive into a server.
    Import(import::ImportArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Only names that match this regular expression.
    filter: Option<String>,
    /// Also print types and the first line of descriptions.
    #[arg(long)]
    details: bool,
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// The artifact.
    artifact: String,
}

#[derive(Args, Debug)]
#[command(
    after_long_help = "With --client_id and --api_config the artifact is collected from that \
    client: the command waits until the collection has ended and prints its rows. Otherwise it \
    runs on this host.\n\nExit status: 0 when it ran, 1 when it failed."
)]
struct CollectArgs {
    /// The artifacts.
    #[arg(required = true)]
    artifacts: Vec<String>,
    /// A parameter; may be repeated.
    #[arg(long = "args", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Give up after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// The client to collect from.
    #[arg(long = "client_id", value_name = "CLIENT_ID")]
    client_id: Option<String>,
}

/// Runs the command.
pub async fn run(args: ArtifactsArgs, ctx: &Context) -> anyhow::Result<()> {
    match args.command {
        ArtifactsCommand::List(a) => list(a, ctx).await,
        ArtifactsCommand::Show(a) => show(a, ctx).await,
        ArtifactsCommand::Collect(a) => match &a.client_id {
            Some(client) => collect_remotely(&a, client, ctx).await,
            None => collect_here(a, ctx).await,
        },
        ArtifactsCommand::Verify(a) => verify::run(a, ctx).await,
        ArtifactsCommand::Import(a) => import::run(a, ctx).await,
    }
}

/// Definitions of the binary, of `--definitions`, and with `--config` those of
/// the server's folders and datastore.
pub(super) async fn repository(ctx: &Context) -> anyhow::Result<Arc<Repository>> {
    let all = Repository::built_in()?;
    let mut folders = ctx.global.definitions.clone();
    let loaded = match &ctx.global.config {
        Some(path) => Some(load(&ctx.env, path, None, Role::Tool).await?),
        None => None,
    };
    if let Some(loaded) = &loaded {
        folders.extend(loaded.config.defaults.artifact_definitions_directories.clone());
    }
    for folder in &folders {
        let path = crate::config::load::absolute(folder)?;
        for s in repository::load::folder(&ctx.env, &all, &path).await? {
            eprintln!("{}: {}", s.path, s.reason);
        }
    }
    if let Some(loaded) = loaded {
        let store = &loaded.config.datastore;
        if !store.location().is_empty() {
            let root = StoreRoot::new(store.location(), store.filestore_directory());
            let tree = Tree::new(&ctx.env, root);
            repository::custom::load(&tree, &OrgId::root(), &all).await?;
        }
    }
    Ok(Arc::new(all))
}

async fn list(args: ListArgs, ctx: &Context) -> anyhow::Result<()> {
    let filter = args.filter.as_deref().unwrap_or(".");
    let filter = regex::RegexBuilder::new(filter).case_insensitive(true).build()?;
    let all = match &ctx.global.api_config {
        None => repository(ctx).await?.all().iter().map(|a| (**a).clone()).collect(),
        Some(path) => {
            let loaded = load(&ctx.env, path, None, Role::ApiClient).await?;
            let mut api = connect(&ctx.env, &loaded.config.api_config).await?;
            let wish = GetArtifactsRequest { number_of_results: 100_000, ..Default::default() };
            api.get_artifacts(wish).await?.into_inner().items
        }
    };
    for a in all.iter().filter(|a| filter.is_match(&a.name)) {
        if args.details {
            let first = a.description.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
            print(&format!("{}\t{}\t{}\n", a.name, a.r#type, first.trim()))?;
        } else {
            print(&format!("{}\n", a.name))?;
        }
    }
    Ok(())
}

async fn show(args: ShowArgs, ctx: &Context) -> anyhow::Result<()> {
    let text = match &ctx.global.api_config {
        None => repository(ctx).await?.get(&args.artifact).map(|a| a.raw.clone()),
        Some(path) => {
            let loaded = load(&ctx.env, path, None, Role::ApiClient).await?;
            let mut api = connect(&ctx.env, &loaded.config.api_config).await?;
            let wish = GetArtifactRequest { name: args.artifact.clone() };
            Some(api.get_artifact_file(wish).await?.into_inner().artifact)
        }
    };
    print(&text.with_context(|| format!("artifact {} not found", args.artifact))?)
}

fn specs(args: &CollectArgs, env: &[VqlEnv]) -> Vec<ArtifactSpec> {
    let one = |name: &String| ArtifactSpec {
        artifact: name.clone(),
        parameters: Some(ArtifactParameters { env: env.to_vec() }),
        ..Default::default()
    };
    args.artifacts.iter().map(one).collect()
}

/// Runs each compiled request in a scope of its own, as a client would.
async fn collect_here(args: CollectArgs, ctx: &Context) -> anyhow::Result<()> {
    let all = repository(ctx).await?;
    let env = variables(&args.parameters)?;
    let request = ArtifactCollectorArgs { specs: specs(&args, &env), ..Default::default() };
    let compiled = compile(&all, &request, &CompileOptions::default())?;
    let mut printer = Printer::new(args.format);
    let work = async {
        for one in &compiled.requests {
            let scope = local_scope(ctx, all.clone(), &one.env, spill::MEMORY, Arc::default());
            let wanted = one.precondition.is_empty()
                || vql::eval(vql::parse(&one.precondition)?, &scope, Limits::default())
                    .next()
                    .await
                    .is_some();
            for query in one.query.iter().filter(|_| wanted) {
                let mut rows = vql::eval_shown(vql::parse(&query.vql)?, &scope, Limits::default());
                while let Some(row) = rows.next().await {
                    if let Value::Object(mut row) = serde_json::from_str(&row.to_json())? {
                        row.shift_remove("_Source");
                        row.insert("_Source".into(), query.name.clone().into());
                        printer.row(&row)?;
                    }
                }
            }
            if !wanted {
                eprintln!("the precondition does not hold on this host");
            }
            scope.close();
        }
        anyhow::Ok(())
    };
    let limit = Duration::from_secs(args.timeout);
    let done = tokio::time::timeout(limit, work).await;
    printer.finish()?;
    done.with_context(|| format!("the collection took longer than {} s", args.timeout))?
}

async fn collect_remotely(args: &CollectArgs, client: &str, ctx: &Context) -> anyhow::Result<()> {
    let path = ctx.global.api_config.as_deref().ok_or_else(|| {
        Usage("--client_id needs --api_config: only a server reaches clients".into())
    })?;
    let env = variables(&args.parameters)?;
    let loaded = load(&ctx.env, path, None, Role::ApiClient).await?;
    let mut api = connect(&ctx.env, &loaded.config.api_config).await?;
    let request = ArtifactCollectorArgs {
        client_id: client.to_owned(),
        artifacts: args.artifacts.clone(),
        specs: specs(args, &env),
        timeout: args.timeout,
        ..Default::default()
    };
    let flow_id = api.collect_artifact(request).await?.into_inner().flow_id;
    eprintln!("collection {flow_id}");
    let which = ApiFlowRequest {
        client_id: client.to_owned(),
        flow_id: flow_id.clone(),
        ..Default::default()
    };
    let waiting = async {
        loop {
            let details = api.get_flow_details(which.clone()).await?.into_inner();
            let context = details.context.unwrap_or_default();
            if matches!(context.state(), State::Finished | State::Error) {
                return anyhow::Ok(context);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(args.timeout), waiting).await;
    let context =
        ended.with_context(|| format!("{flow_id} has not ended within {} s", args.timeout))??;
    let mut printer = Printer::new(args.format);
    for name in &context.artifacts_with_results {
        let request = results_query(client, &flow_id, name);
        let each = |mut row: Map<String, Value>| {
            row.shift_remove("_Source");
            row.insert("_Source".into(), json!(name));
            printer.row(&row)
        };
        if let Some(failure) = remote_rows(ctx, path, request, each).await? {
            bail!("{failure}");
        }
    }
    printer.finish()?;
    if context.state() == State::Error {
        bail!("collection {flow_id} failed: {}", context.status);
    }
    Ok(())
}

fn results_query(client: &str, flow: &str, name: &str) -> VqlCollectorArgs {
    let vql = "SELECT * FROM source(client_id=ClientId, flow_id=FlowId, artifact=Name)";
    let env = BTreeMap::from([("ClientId", client), ("FlowId", flow), ("Name", name)]);
    let env = env.into_iter().map(|(k, v)| VqlEnv {
        key: k.to_owned(),
        value: v.to_owned(),
        comment: String::new(),
    });
    VqlCollectorArgs {
        query: vec![VqlRequest { vql: vql.into(), name: "results".into() }],
        env: env.collect(),
        max_row: 1000,
        max_wait: 1,
        ..Default::default()
    }
}
