//! Compares what clients were acknowledged with what the server has.

use std::sync::Arc;

use futures::StreamExt;
use serde_json::Value;

use super::api::Api;
use super::book::{Book, Flow};
use super::tasks::Tasks;

/// Flows looked at at once.
const AT_ONCE: usize = 16;
/// Differences named in the report.
const NAMED: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Audit {
    /// Flows looked at: all that were scheduled or received.
    pub flows: u64,
    /// Flows the server has finished.
    pub finished: u64,
    /// Scheduled flows whose task never came to their client.
    pub never_received: u64,
    /// Rows clients were acknowledged.
    pub acknowledged_rows: u64,
    /// Rows the server shows.
    pub found_rows: u64,
    /// Acknowledged and not shown.
    pub lost_rows: u64,
    /// Shown more often than sent.
    pub doubled_rows: u64,
    /// Bytes of files acknowledged.
    pub acknowledged_bytes: u64,
    /// Bytes of files the server counts.
    pub found_bytes: u64,
    /// The first differences, in words.
    pub differences: Vec<String>,
}

impl Audit {
    /// Whether nothing is missing and nothing is there twice.
    pub fn is_exact(&self) -> bool {
        self.lost_rows == 0 && self.doubled_rows == 0 && self.differences.is_empty()
    }

    fn differs(&mut self, text: String) {
        if self.differences.len() < NAMED {
            self.differences.push(text);
        }
    }
}

struct Stored {
    state: String,
    rows: u64,
    bytes: u64,
}

/// Asks the server for every flow. To be called when the clients are done.
pub async fn audit(api: &Api, book: &Arc<Book>, tasks: &Tasks) -> anyhow::Result<Audit> {
    let mut all: Vec<(String, String, Flow)> = book.flows();
    for (client, flow) in tasks.all().into_keys() {
        if book.flow(&client, &flow).is_none() {
            all.push((client, flow, Flow::default()));
        }
    }
    let looked = futures::stream::iter(all).map(|(client, id, flow)| async move {
        let stored = stored(api, &client, &id).await;
        (client, id, flow, stored)
    });
    let mut looked = looked.buffer_unordered(AT_ONCE);
    let mut sum = Audit::default();
    while let Some((client, id, flow, stored)) = looked.next().await {
        let who = format!("{client} {id}");
        sum.flows += 1;
        sum.acknowledged_rows += flow.rows;
        sum.acknowledged_bytes += flow.bytes;
        if flow.received.is_none() && flow.rows == 0 {
            sum.never_received += 1;
            sum.differs(format!("{who}: its task never came"));
        }
        let Some(s) = stored? else {
            if flow.rows > 0 {
                sum.lost_rows += flow.rows;
                sum.differs(format!("{who}: the server does not know it"));
            }
            continue;
        };
        sum.finished += u64::from(s.state == "FINISHED");
        sum.found_rows += s.rows;
        sum.found_bytes += s.bytes;
        sum.lost_rows += flow.rows.saturating_sub(s.rows);
        sum.doubled_rows += s.rows.saturating_sub(flow.rows);
        if s.rows != flow.rows || s.bytes != flow.bytes {
            sum.differs(format!(
                "{who}, {}: {} rows and {} bytes acknowledged, {} and {} found",
                s.state, flow.rows, flow.bytes, s.rows, s.bytes
            ));
        }
    }
    sum.differences.sort();
    Ok(sum)
}

async fn stored(api: &Api, client: &str, flow: &str) -> anyhow::Result<Option<Stored>> {
    const FLOW: &str = "SELECT state, total_uploaded_bytes, artifacts_with_results FROM flows(\
                        client_id=Client, flow_id=Flow)";
    const ROWS: &str = "SELECT count() AS N FROM source(client_id=Client, flow_id=Flow, \
                        artifact=Name) GROUP BY 1";
    let mine = [("Client", client), ("Flow", flow)];
    let Some(row) = api.query(FLOW, &mine).await?.into_iter().next() else { return Ok(None) };
    let number = |v: Option<&Value>| match v {
        Some(Value::String(s)) => s.parse().unwrap_or(0),
        Some(v) => v.as_u64().unwrap_or(0),
        None => 0,
    };
    let names = row.get("artifacts_with_results").and_then(Value::as_array);
    let mut rows = 0;
    for name in names.into_iter().flatten().filter_map(Value::as_str) {
        let found = api.query(ROWS, &[mine[0], mine[1], ("Name", name)]).await?;
        rows += number(found.first().and_then(|r| r.get("N")));
    }
    let state = row.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Some(Stored { state, rows, bytes: number(row.get("total_uploaded_bytes")) }))
}
