//! Load: clients that always have event rows to send, as many as the server takes.
//!
//! The rows are made once and copied, and sent as they are, so that a client costs
//! this machine less than the server: sealing, and the transport. Each message has
//! content of its own, as those of agents have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::{VeloMessage, VqlRequest, VqlResponse};

use crate::agent::outbox::Outbox;
use crate::env::Env;

/// Which events the rows are said to be: a table that servers have from the start.
const ARTIFACT: &str = "Generic.Client.Stats";
/// The pseudo flow of events.
const MONITORING: &str = "F.Monitoring";
/// Messages in a POST: an agent gathers lists of a quarter of it.
const PARTS: usize = 4;

/// What every client of a flood sends.
#[derive(Debug)]
pub struct Flood {
    rows: String,
    count: u64,
    next: AtomicU64,
}

impl Flood {
    /// POSTs of about `bytes` bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        let mut rows = String::new();
        let mut count = 0;
        while rows.len() < bytes / PARTS {
            // As wide as a row of process statistics.
            rows += &format!(
                "{{\"Timestamp\":{},\"CPU\":{}.25,\"MemoryUse\":{},\"Name\":\"worker-{count}\"}}\n",
                1_700_000_000 + count,
                count % 100,
                4096 * (count + 1),
            );
            count += 1;
        }
        Arc::new(Self { rows, count, next: AtomicU64::new(0) })
    }

    /// Keeps `out` full until `stop`.
    pub(super) async fn fill(self: Arc<Self>, env: Env, out: Arc<Outbox>, stop: CancellationToken) {
        let query = VqlRequest { name: ARTIFACT.into(), ..VqlRequest::default() };
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let response = VqlResponse {
                query: Some(query.clone()),
                query_id: n + 1,
                query_start_row: n * self.count,
                total_rows: self.count,
                timestamp: env.clock.micros(),
                jsonl_response: self.rows.clone(),
                ..VqlResponse::default()
            };
            let message = VeloMessage {
                session_id: MONITORING.into(),
                vql_response: Some(response),
                ..VeloMessage::default()
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = out.post(message) => {}
            }
        }
    }
}
