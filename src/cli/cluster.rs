//! `cluster`: the nodes of a deployment, through its master's API.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use velociraptor_proto::proto::{VqlCollectorArgs, VqlRequest};

use super::output::{Format, Printer};
use super::query::{remote, remote_rows};
use super::{Context, Usage};

/// Arguments of `cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
enum Command {
    /// Show every node: role, connection, lag, load, health and certificate.
    Status(StatusArgs),
}

#[derive(Args, Debug)]
#[command(after_long_help = "Needs --api_config of a user who may read results. `lag` is what a \
    minion has committed and the master has not applied yet; `beat` the age of its last sign of \
    life. A node that is not connected still serves clients if it is alive: what it takes is in \
    its journal on the datastore, which the master reads.\n\n\
    Exit status: 0 when every node is connected and its store healthy; 1 when one is not, or the \
    master cannot be asked.")]
struct StatusArgs {
    /// All columns, one object a line, instead of the table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: ClusterArgs, ctx: &Context) -> anyhow::Result<()> {
    let Command::Status(args) = args.command;
    let Some(api) = &ctx.global.api_config else {
        return Err(Usage("cluster status asks the master: give --api_config FILE".into()).into());
    };
    let query = VqlRequest { vql: "SELECT * FROM cluster_nodes()".into(), name: "status".into() };
    let request = VqlCollectorArgs { query: vec![query], max_wait: 1, ..Default::default() };
    if args.json {
        return remote(ctx, api, request, Format::Jsonl).await;
    }
    let mut rows = Vec::new();
    let failed = remote_rows(ctx, api, request, |row| {
        rows.push(row);
        Ok(())
    })
    .await?;
    if let Some(line) = failed {
        anyhow::bail!("{line}");
    }
    let now = ctx.env.clock.unix();
    let mut printer = Printer::new(Format::Table);
    rows.iter().try_for_each(|r| printer.row(&shown(r, now)))?;
    printer.finish()?;
    let bad: Vec<&str> =
        rows.iter().filter(|r| !healthy(r)).filter_map(|r| r["Node"].as_str()).collect();
    anyhow::ensure!(bad.is_empty(), "not as it should be: {}", bad.join(", "));
    Ok(())
}

fn healthy(row: &Map<String, Value>) -> bool {
    row["Connected"] == true && row["StoreError"] == ""
}

fn number(row: &Map<String, Value>, key: &str) -> u64 {
    row.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// A row of the table.
fn shown(row: &Map<String, Value>, now: u64) -> Map<String, Value> {
    let n = |key| number(row, key);
    let state = match (row["Connected"] == true, row["StoreError"].as_str().unwrap_or("")) {
        (false, _) => format!("away {}", span(n("SinceSeconds"))),
        (true, "") if row.get("Drained").is_some_and(|d| d == true) => "drained".into(),
        (true, "") if row.get("Leaving").is_some_and(|d| d == true) => "ending".into(),
        (true, "") => format!("up {}", span(n("SinceSeconds"))),
        (true, e) => format!("store: {e}"),
    };
    let lag = match n("LagFiles") {
        0 => bytes(n("LagBytes")),
        files => format!("{} + {files} files", bytes(n("LagBytes"))),
    };
    let expires = match n("CertificateExpires") {
        0 => String::new(),
        at if at <= now => "expired".into(),
        at => format!("in {}", span(at - now)),
    };
    let mut out = Map::new();
    let mut put = |k: &str, v: Value| drop(out.insert(k.to_owned(), v));
    put("node", row["Node"].clone());
    put("role", row["Role"].clone());
    put("state", state.into());
    put("beat", format!("{} ms", n("BeatAgeMs")).into());
    put("clients", n("Clients").into());
    put("lag", lag.into());
    put("rows", n("Rows").into());
    put("uploads", bytes(n("UploadBytes")).into());
    put("refused", n("Refused").into());
    put("store ops", n("StoreOperations").into());
    put("failed", n("StoreFailures").into());
    put("certificate", expires.into());
    put("epoch", row["Epoch"].clone());
    out
}

/// Seconds, for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes, for people.
fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} kB", n / 1000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_for_people() {
        let row = serde_json::json!({"Node": "m-1", "Role": "minion", "Epoch": "1-a",
            "Connected": false, "SinceSeconds": 300, "StoreError": "", "LagBytes": 20_000,
            "LagFiles": 1, "CertificateExpires": 10});
        let row = row.as_object().unwrap().clone();
        let r = shown(&row, 20);
        assert_eq!(r["state"], "away 5 min");
        assert_eq!(r["lag"], "20 kB + 1 files");
        assert_eq!(r["certificate"], "expired");
        assert!(!healthy(&row));
    }
}
