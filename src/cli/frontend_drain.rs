//! `frontend drain`: take a node out of service, and back, through the master.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};
use velociraptor_proto::proto::{VqlCollectorArgs, VqlEnv, VqlRequest};

use super::query::remote_rows;
use super::{Context, Usage, print};

/// Distance of looks while waiting.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `frontend drain`.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Asks the master (--api_config of an administrator). The node goes on \
    running: it takes what clients send, /healthz says 404 so that balancers leave it out, and its \
    clients are sent to other nodes, `drain.clients_per_second` of them. Those over HTTPS are \
    redirected, those over WebSockets told to take their next URL (a stock agent waits 60 to 90 s \
    before it does), and behind a balancer connections are closed. It stays so, also over restarts, \
    until --undo.\n\n\
    A node that is told to end (SIGTERM) does the same by itself; this command is for looking before \
    the process is stopped.\n\n\
    Exit status: 0; 1 if the master refuses or cannot be asked, or clients are left after --wait.\n\n\
    Example:\n\n    \
    velociraptor -a api.yaml frontend drain --node b.example.org-8000 --wait 300"
)]
pub struct DrainArgs {
    /// The node, as `cluster status` calls it.
    #[arg(long, value_name = "NAME")]
    node: String,

    /// Take it back into service.
    #[arg(long)]
    undo: bool,

    /// Wait until it holds no clients, at most so many seconds.
    #[arg(long, value_name = "SECONDS", conflicts_with = "undo")]
    wait: Option<u64>,
}

async fn rows(
    ctx: &Context,
    vql: &str,
    env: Vec<VqlEnv>,
) -> anyhow::Result<Vec<Map<String, Value>>> {
    let Some(api) = &ctx.global.api_config else {
        let why = "frontend drain asks the master: give --api_config FILE";
        return Err(Usage(why.into()).into());
    };
    let query = VqlRequest { vql: vql.to_owned(), name: "drain".into() };
    let request = VqlCollectorArgs { query: vec![query], env, max_wait: 1, ..Default::default() };
    let mut rows = Vec::new();
    let failed = remote_rows(ctx, api, request, |row| {
        rows.push(row);
        Ok(())
    });
    match failed.await? {
        Some(line) => anyhow::bail!("{}", line.trim()),
        None => Ok(rows),
    }
}

/// Runs the command.
pub async fn run(args: DrainArgs, ctx: &Context) -> anyhow::Result<()> {
    let vql = match args.undo {
        false => "SELECT frontend_drain(node=Node) AS News FROM scope()",
        true => "SELECT frontend_drain(node=Node, undo=TRUE) AS News FROM scope()",
    };
    let node = VqlEnv { key: "Node".into(), value: args.node.clone(), comment: String::new() };
    let answer = rows(ctx, vql, vec![node]).await?;
    let news = answer.first().and_then(|r| r.get("News"));
    let text = match (news, args.undo) {
        (Some(Value::Bool(true)), false) => "is drained",
        (Some(Value::Bool(true)), true) => "is back in service",
        (Some(Value::Bool(false)), false) => "was drained already",
        (Some(Value::Bool(false)), true) => "was in service already",
        _ => anyhow::bail!("the master gave no answer"),
    };
    print(&format!("{} {text}\n", args.node))?;
    let Some(seconds) = args.wait else { return Ok(()) };
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let left = held(ctx, &args.node).await?;
        if left == Some(0) {
            return print(&format!("{} holds no clients\n", args.node));
        }
        if Instant::now() >= end {
            let left =
                left.map_or_else(|| "is not connected".into(), |n| format!("holds {n} clients"));
            anyhow::bail!("{} {left} after {seconds} s", args.node);
        }
        sleep(LOOK).await;
    }
}

/// Clients that a node holds; `None` if the master does not hear it.
async fn held(ctx: &Context, node: &str) -> anyhow::Result<Option<u64>> {
    let all = rows(ctx, "SELECT Node, Connected, Clients FROM cluster_nodes()", vec![]).await?;
    let row = all.iter().find(|r| r.get("Node").is_some_and(|n| n == node));
    let up = row.filter(|r| r.get("Connected").is_some_and(|c| c == true));
    Ok(up.and_then(|r| r.get("Clients")?.as_u64()))
}
