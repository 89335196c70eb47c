//! What the nodes say of themselves, twice a second: their metrics, and the
//! master's view of all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::pool::Api;

/// Distance of looks.
const EVERY: Duration = Duration::from_millis(500);
/// A node that does not answer in this time is shown as silent.
const LIMIT: Duration = Duration::from_millis(900);
/// Longest page of metrics.
const PAGE: u64 = 4 << 20;

/// One node's figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Clients held for tasks.
    pub clients: u64,
    /// Tasks handed to clients.
    pub tasks: u64,
    /// Rows stored.
    pub rows: u64,
    /// Bytes of uploads stored.
    pub uploads: u64,
    /// POSTs refused.
    pub refused: u64,
    /// How full the store is: 0 to 3.
    pub level: u64,
}

/// What the master says of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The master hears it.
    pub connected: bool,
    /// Bytes of its journal not applied yet.
    pub lag: u64,
    /// Whole journal files of it.
    pub lag_files: u64,
    /// Since its last beat, ms.
    pub beat: u64,
}

/// One look at everything.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// By node, the master first; `None`: no answer.
    pub nodes: Vec<Option<Figures>>,
    /// By the name of the node; empty while the master is away.
    pub seen: BTreeMap<String, Seen>,
}

impl Sample {
    /// Clients held by all nodes that answer.
    pub fn held(&self) -> u64 {
        self.nodes.iter().flatten().map(|f| f.clients).sum()
    }
}

/// The values of metrics without labels.
fn figures(page: &str) -> Figures {
    let value = |name: &str| -> u64 {
        let find = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
        page.lines().find_map(find).unwrap_or(0)
    };
    Figures {
        clients: value("velociraptor_clients_held"),
        tasks: value("velociraptor_tasks_sent_total"),
        rows: value("velociraptor_rows_total"),
        uploads: value("uploaded_bytes"),
        refused: value("velociraptor_refused_total"),
        level: value("velociraptor_store_level"),
    }
}

/// A node's metrics page.
async fn page(env: &Env, port: u16) -> std::io::Result<String> {
    let mut conn = env.net.connect("127.0.0.1", port).await?;
    conn.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        .await?;
    let mut text = Vec::new();
    conn.take(PAGE).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What a node says of itself; `None` when it does not answer in time.
pub async fn ask(env: &Env, port: u16) -> Option<Figures> {
    let page = timeout(LIMIT, page(env, port)).await.ok()?.ok()?;
    page.starts_with("HTTP/1.1 200").then(|| figures(&page))
}

fn seen(row: &Map<String, Value>) -> Option<(String, Seen)> {
    let number = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
    let seen = Seen {
        connected: row.get("Connected")? == true,
        lag: number("LagBytes"),
        lag_files: number("LagFiles"),
        beat: number("BeatAgeMs"),
    };
    Some((row.get("Node")?.as_str()?.to_owned(), seen))
}

/// Looks until `stop`.
pub async fn sample(
    env: Env,
    ports: Vec<u16>,
    api: Api,
    out: watch::Sender<Sample>,
    stop: CancellationToken,
) {
    loop {
        let nodes = futures::future::join_all(ports.iter().map(|p| ask(&env, *p)));
        let rows = timeout(LIMIT, api.query("SELECT * FROM cluster_nodes()", &[]));
        let (nodes, rows) = futures::future::join(nodes, rows).await;
        let rows = rows.ok().and_then(Result::ok).unwrap_or_default();
        out.send_replace(Sample { nodes, seen: rows.iter().filter_map(seen).collect() });
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_a_page() {
        let page = "# HELP uploaded_bytes x\nuploaded_bytes 7\nvelociraptor_clients_held 3\n\
                    velociraptor_clients_held_more 9\n";
        let f = figures(page);
        assert_eq!((f.clients, f.uploads, f.rows), (3, 7, 0));
    }
}
