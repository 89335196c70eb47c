//! Event artifacts of the server itself: their queries run in the agent inside of
//! the master's process, for as long as they are in the organisation's table.
//!
//! They run as the server does, unless the artifact says as whom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::Instant;
use velociraptor_proto::proto::{VeloMessage, VqlEventTable};

use super::server_flows::Callers;
use crate::agent::events::MONITORING;
use crate::agent::local::Local;
use crate::plugins::server::Session;
use crate::services::acl::Policy;
use crate::services::{Org, Server, ServiceError};

/// How often it is looked whether a definition makes other queries of the table.
const LOOK: Duration = Duration::from_secs(5);

/// The event table of one organisation's agent.
#[derive(Default)]
pub(super) struct Table {
    /// Changes of the table that were seen.
    changes: Option<u64>,
    /// What runs, encoded.
    running: Vec<u8>,
    version: u64,
    looked: Option<Instant>,
}

impl Table {
    /// Starts, or starts anew, what is to run if that is not what runs.
    pub async fn follow(
        &mut self,
        server: &Arc<Server>,
        org: &Arc<Org>,
        local: &Local,
        callers: &Callers,
    ) -> anyhow::Result<()> {
        let changes = org.monitoring.server_changes();
        let fresh = self.looked.is_some_and(|at| at.elapsed() < LOOK);
        if fresh && self.changes == Some(changes) {
            return Ok(());
        }
        (self.looked, self.changes) = (Some(Instant::now()), Some(changes));
        let mut table = server.server_events(org)?;
        let encoded = table.encode_to_vec();
        if encoded == self.running {
            return Ok(());
        }
        remember_callers(server, org, &table, callers).await?;
        self.version = server.env.clock.nanos().max(self.version + 1);
        table.version = self.version;
        let queries = table.event.len();
        tracing::info!(org = %org.id, queries, "event artifacts of the server start");
        let message = VeloMessage {
            session_id: MONITORING.into(),
            update_event_table: Some(table),
            ..VeloMessage::default()
        };
        local.handle(message).await;
        self.running = encoded;
        Ok(())
    }
}

/// Notes with whose rights the queries run.
async fn remember_callers(
    server: &Arc<Server>,
    org: &Arc<Org>,
    table: &VqlEventTable,
    callers: &Callers,
) -> Result<(), ServiceError> {
    let wanted: BTreeSet<&str> =
        table.event.iter().map(|e| e.effective_principal.as_str()).collect();
    for effective in wanted {
        // The first reserved name is the server's own.
        let own =
            server.options.reserved_users.first().map_or("VelociraptorServer", String::as_str);
        let (principal, policy) = match effective {
            "" => (own.to_owned(), Policy::super_user()),
            name => {
                let policy = server.users.policy(&org.id, name).await;
                (name.to_owned(), policy.map_err(|e| ServiceError::Invalid(e.to_string()))?)
            }
        };
        let session = Session { server: server.clone(), org: org.clone(), principal, policy };
        callers.insert(MONITORING, effective, session);
    }
    Ok(())
}
