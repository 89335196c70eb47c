//! `query`: VQL, on this host or through a server's API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures::StreamExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::{VqlCollectorArgs, VqlEnv, VqlRequest};
use vql::{Level, Limits, Scope, ScopeBuilder};

use super::output::{Format, Printer};
use super::{Context, Usage};
use crate::api::client::connect;
use crate::config::{Role, load};
use crate::plugins;
use crate::plugins::common::spill;
use crate::services::repository::Repository;

/// Rows of one packet from a server.
const PACKET: u64 = 1000;

/// Arguments of `query`.
#[derive(Args, Debug)]
#[command(after_long_help = "With --api_config the query runs on the server, with the rights of \
    that API client; otherwise on this host, without any server. Log lines go to standard error.\n\n\
    Exit status: 0 when the query ran, even without rows; 1 when it does not parse, the time is \
    up, or the server can not be reached or refuses it; 2 when the command line is wrong.")]
pub struct QueryArgs {
    /// The queries; each may hold several statements. They run in order and share variables.
    #[arg(required = true, value_name = "VQL")]
    pub queries: Vec<String>,

    /// How rows are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Give up after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// Bytes of rows that one sort, grouping or materialised set holds in memory; the rest goes to
    /// temporary files. For queries on this host.
    #[arg(long, value_name = "BYTES", default_value_t = spill::MEMORY)]
    pub memory: usize,

    /// A variable of the query; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
}

/// Runs the queries.
pub async fn run(args: QueryArgs, ctx: &Context) -> anyhow::Result<()> {
    let env = variables(&args.env)?;
    let request = VqlCollectorArgs {
        query: args.queries.iter().map(|q| named(q)).collect(),
        env,
        max_row: PACKET,
        max_wait: 1,
        timeout: args.timeout.unwrap_or(0),
        org_id: ctx.global.org.clone().unwrap_or_default(),
        ..Default::default()
    };
    for query in &args.queries {
        vql::parse(query).map_err(|e| anyhow::anyhow!("the query does not parse: {e}"))?;
    }
    match &ctx.global.api_config {
        Some(path) => remote(ctx, path, request, args.format).await,
        None if ctx.global.org.is_some() => {
            Err(Usage("--org needs --api_config: organisations are a server's".into()).into())
        }
        None => local(ctx, &request, args.memory, args.format).await,
    }
}

fn named(vql: &str) -> VqlRequest {
    VqlRequest { vql: vql.to_owned(), name: "query".into() }
}

/// Reads `NAME=VALUE` pairs.
pub(super) fn variables(given: &[String]) -> anyhow::Result<Vec<VqlEnv>> {
    let one = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok(VqlEnv { key: key.to_owned(), value: value.to_owned(), comment: String::new() })
        }
        _ => Err(Usage(format!("`{text}` is not NAME=VALUE")).into()),
    };
    given.iter().map(one).collect()
}

/// Runs on a server and prints what comes.
pub(super) async fn remote(
    ctx: &Context,
    api_config: &str,
    request: VqlCollectorArgs,
    format: Format,
) -> anyhow::Result<()> {
    let mut printer = Printer::new(format);
    let failed = remote_rows(ctx, api_config, request, |row| printer.row(&row)).await?;
    printer.finish()?;
    match failed {
        None => Ok(()),
        Some(line) => bail!("{line}"),
    }
}

/// Runs on a server and hands each row over. Returns the log line that says
/// that the query did not run or not to its end.
pub(super) async fn remote_rows(
    ctx: &Context,
    api_config: &str,
    request: VqlCollectorArgs,
    mut each: impl FnMut(serde_json::Map<String, Value>) -> anyhow::Result<()>,
) -> anyhow::Result<Option<String>> {
    let loaded = load(&ctx.env, api_config, None, Role::ApiClient).await?;
    let mut api = connect(&ctx.env, &loaded.config.api_config).await?;
    let refused = |s: tonic::Status| anyhow::anyhow!("{:?}: {}", s.code(), s.message());
    let mut stream = api.query(request).await.map_err(refused)?.into_inner();
    let mut failed = None;
    while let Some(message) = stream.next().await {
        let message = message.map_err(refused)?;
        if !message.log.is_empty() {
            let line = message.log.trim_end();
            if line.starts_with("VQL Error: ") || line.contains("Query timed out after") {
                failed = Some(line.trim_start_matches("ERROR:").to_owned());
            }
            log_line(ctx, line);
            continue;
        }
        let rows: Vec<serde_json::Map<String, Value>> =
            serde_json::from_str(&message.response).context("rows from the server")?;
        rows.into_iter().try_for_each(&mut each)?;
    }
    Ok(failed)
}

/// What is routine is only shown on request.
fn log_line(ctx: &Context, line: &str) {
    let routine = !["ERROR:", "WARN:", "ALERT:", "INFO:"].iter().any(|l| line.starts_with(l))
        && (line.contains(": Sending response part ") || line == "Starting query execution.");
    if !routine || ctx.global.verbose {
        eprintln!("{line}");
    }
}

/// A root scope on this host: files, processes, artifacts, no server.
pub(super) fn local_scope(
    ctx: &Context,
    repository: Arc<Repository>,
    env: &[VqlEnv],
    memory: usize,
    failed: Arc<AtomicBool>,
) -> Scope {
    let log = move |level: Level, text: &str| {
        failed.fetch_or(level >= Level::Error, Ordering::Relaxed);
        match level {
            Level::Default => eprintln!("{text}"),
            level => eprintln!("{}: {text}", level.name()),
        }
    };
    let clock = ctx.env.clock.clone();
    let now = move || vql::Time::try_from(clock.now()).unwrap_or(vql::Time::UNIX_EPOCH);
    let scope = ScopeBuilder::new(plugins::local_registry())
        .log(log)
        .clock(now)
        .cancel(CancellationToken::new())
        .extension(Arc::new(ctx.env.clone()))
        .extension(spill::spill(&ctx.env, memory, Arc::default()))
        .extension(repository)
        .build();
    // There is no collection these queries belong to.
    scope.set("_SessionId", "");
    for variable in env {
        scope.set(variable.key.clone(), variable.value.clone());
    }
    scope
}

async fn local(
    ctx: &Context,
    request: &VqlCollectorArgs,
    memory: usize,
    format: Format,
) -> anyhow::Result<()> {
    let repository = super::artifacts::repository(ctx).await?;
    let scope = local_scope(ctx, repository, &request.env, memory, Arc::default());
    let limit = (request.timeout > 0).then(|| Duration::from_secs(request.timeout));
    let mut printer = Printer::new(format);
    let work = async {
        for query in &request.query {
            let statements = vql::parse(&query.vql)?;
            let mut rows = vql::eval_shown(statements, &scope, Limits::default());
            while let Some(row) = rows.next().await {
                if let Value::Object(row) = serde_json::from_str(&row.to_json())? {
                    printer.row(&row)?;
                }
            }
        }
        anyhow::Ok(())
    };
    let done = match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => Err(anyhow::anyhow!("the query took longer than {} s", limit.as_secs())),
        },
    };
    scope.close();
    printer.finish()?;
    done
}
