//! What follows from something that was stored.

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{FailFlow, LabelChange};

use super::events::{EventBatch, client_members, decorate};
use super::flows::rows_of_job;
use super::ids::Session;
use super::server::{Counters, Org, Server, ServiceError};
use super::state::{Effect, FlowKey};

/// Why a flow ended that its client does not know.
pub(super) const LOST: &str = "Flow not known: the client restarted before it was finished";

impl Server {
    async fn tell_progress(&self, org: &Org, key: &FlowKey) {
        if let Err(e) = self.after_progress(org, key).await {
            tracing::error!(client = key.0, flow = key.1, error = %e, "end of a flow not announced; tried again");
        }
    }

    /// Acts on one effect of a job received at `received`, microseconds, whose
    /// bytes are `raw`. Failures are logged: the data itself is durable.
    pub async fn act(&self, org: &Org, received: u64, effect: Effect, raw: &Bytes) {
        self.count_effect(&effect);
        match effect {
            Effect::ClientInfo(client) => {
                let labels = self.apply_client_info(org, &client, raw);
                if labels.is_empty() {
                    return;
                }
                let change = LabelChange {
                    add: labels,
                    labels_timestamp: self.env.clock.nanos(),
                    ..Default::default()
                };
                if let Err(e) = self.decide(org, &client, "", Kind::Label(change)).await {
                    tracing::warn!(client, error = %e, "labels an agent asked for not stored");
                }
            }
            Effect::Events(key) if !key.logs => match rows_of_job(raw) {
                Ok(rows) => self.bus.publish(EventBatch {
                    org: org.id.clone(),
                    client: key.client.clone(),
                    rows: decorate(&rows, &client_members(&key.client, received, &key.artifact)),
                    artifact: key.artifact,
                }),
                Err(e) => tracing::warn!(client = key.client, error = %e, "event rows not shown"),
            },
            Effect::Progress(key) => {
                self.hold_to_limits(org, &key).await;
                self.tell_progress(org, &key).await;
            }
            Effect::Redelivered((client, flow)) => {
                tracing::info!(client, flow, "the client did not start it: sent again");
                self.sessions.wake(&org.id, &client);
            }
            Effect::FlowLost((client, session)) => {
                self.end_lost(org, (client, session), LOST).await;
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

    /// Ends a session, named with its client, that the client does not know, or that
    /// nobody works on any more.
    /// Its task may be forgotten already, and the client never say so again in other
    /// bytes: where this cannot be stored now, housekeeping tries again. Returns whether
    /// it is stored.
    pub(crate) async fn end_lost(
        &self,
        org: &Org,
        (client, session): (String, String),
        reason: &str,
    ) -> bool {
        let fail = FailFlow { flow_id: session.clone(), reason: reason.to_owned() };
        let key: FlowKey = (client, Session::parse(&session).flow);
        let (client, flow) = (key.0.as_str(), key.1.as_str());
        let ended = async {
            // It may be in stock files alone.
            self.reopen(org, client, flow).await?;
            self.decide(org, client, "", Kind::FailFlow(fail)).await.map_err(ServiceError::from)
        };
        if let Err(e) = ended.await {
            tracing::error!(client, flow, error = %e, "end of a lost flow not stored; tried again");
            org.state().lost.insert((key.0, session), reason.to_owned());
            return false;
        }
        self.tell_progress(org, &key).await;
        true
    }

    /// Ends lost flows whose end could not be stored when they were found to be lost.
    pub(crate) async fn end_lost_again(&self) {
        for org in self.orgs() {
            loop {
                let next = org.state().lost.pop_first();
                let Some((key, reason)) = next else { break };
                if !self.end_lost(&org, key, &reason).await {
                    return;
                }
            }
        }
    }

    fn count_effect(&self, effect: &Effect) {
        let c = &self.counters;
        match effect {
            Effect::Duplicate => Counters::inc(&c.duplicates),
            Effect::Dropped => Counters::inc(&c.dropped),
            Effect::Conflict(_) => Counters::inc(&c.conflicts),
            Effect::Ignored => Counters::inc(&c.ignored),
            _ => {}
        }
    }
}
