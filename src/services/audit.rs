//! The audit log: who did, or tried to do, what.
//!
//! Rows are events of `Server.Audit.Logs`. An action is not undone because it
//! could not be recorded, but that is logged as an error.

use bytes::Bytes;
use serde_json::{Value, json};

use super::server::{Org, Server};

/// The event that holds the log.
pub const AUDIT: &str = "Server.Audit.Logs";

/// Records that `principal` did `operation`.
pub async fn audit(server: &Server, org: &Org, principal: &str, operation: &str, details: Value) {
    tracing::info!(target: "audit", org = %org.id, principal, operation, %details);
    let row = json!({ "operation": operation, "principal": principal, "details": details });
    let rows = Bytes::from(format!("{row}\n"));
    if let Err(e) = server.push_events(org, "server", AUDIT, rows).await {
        tracing::error!(principal, operation, %e, "audit record was not stored");
    }
}
