//! What follows from something that was stored.

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{FailFlow, LabelChange};

use super::Frontend;
use super::open::Who;
use crate::services::events::{EventBatch, client_members, decorate};
use crate::services::flows::rows_of_job;
use crate::services::state::Effect;

impl Frontend {
    /// Acts on one effect. Failures are logged: the data itself is durable.
    pub(super) async fn act(&self, who: &Who, received: u64, effect: Effect, raw: &Bytes) {
        self.note(&effect);
        let server = &self.server;
        match effect {
            Effect::ClientInfo(client) => {
                let labels = server.apply_client_info(&who.org, &client, raw);
                if labels.is_empty() {
                    return;
                }
                let change = LabelChange {
                    add: labels,
                    labels_timestamp: server.env.clock.nanos(),
                    ..Default::default()
                };
                if let Err(e) = server.decide(&who.org, &client, "", Kind::Label(change)).await {
                    tracing::warn!(client, error = %e, "labels an agent asked for not stored");
                }
            }
            Effect::Events(key) if !key.logs => match rows_of_job(raw) {
                Ok(rows) => server.bus.publish(EventBatch {
                    org: who.org.id.clone(),
                    client: key.client.clone(),
                    rows: decorate(&rows, &client_members(&key.client, received, &key.artifact)),
                    artifact: key.artifact,
                }),
                Err(e) => tracing::warn!(client = key.client, error = %e, "event rows not shown"),
            },
            Effect::Progress(key) => server.after_progress(&who.org, &key).await,
            Effect::Redelivered((client, flow)) => {
                tracing::info!(client, flow, "the client did not start it: sent again");
                server.sessions.wake(&who.org.id, &client);
            }
            Effect::FlowLost((client, flow)) => {
                let kind = Kind::FailFlow(FailFlow {
                    flow_id: flow.clone(),
                    reason: "Flow not known: the client restarted before it was finished".into(),
                });
                if let Err(e) = server.decide(&who.org, &client, "", kind).await {
                    tracing::error!(client, flow, error = %e, "end of a lost flow not stored");
                }
                server.after_progress(&who.org, &(client, flow)).await;
            }
            Effect::Conflict((client, flow)) => {
                tracing::warn!(
                    client,
                    flow,
                    "a message with other content for a place that is taken; kept aside"
                );
            }
            _ => {}
        }
    }
}
