//! What a client that is held is given: its tasks with the right to send them,
//! questions about flows in doubt, its event table, and a first interrogation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{FailFlow, Grant};
use velociraptor_proto::proto::{Cancel, VeloMessage};

use super::flows::job::Hash;
use super::ids::Session;
use super::server::{Org, Server, ServiceError};
use super::state::MONITORING;
use super::tasks::{Way, What};
use crate::env::Mutant;
use crate::store::journal::ProcessId;

/// A client without an interrogation is asked again after this long.
const INTERROGATE_AGAIN: Duration = Duration::from_secs(600);

/// What a check-in says of its client.
#[derive(Clone, Debug)]
pub struct CheckIn {
    /// When, microseconds since the epoch.
    pub time: u64,
    /// Peer address as known to the frontend.
    pub remote: String,
    /// The event table version the client says it has.
    pub table_claim: Option<u64>,
}

impl Server {
    /// Notes what a check-in says.
    pub fn note_check_in(&self, org: &Org, client: &str, c: &CheckIn) {
        let mut state = org.state();
        if state.clients.deleted.is_gone(client) {
            return;
        }
        let client = state.clients.entry(client);
        client.info.ping = client.info.ping.max(c.time);
        client.info.ip_address.clone_from(&c.remote);
        if c.table_claim.is_some() {
            client.table_claim = c.table_claim;
        }
    }

    /// On a client's arrival: asks a new client what it is, and ends flows in
    /// doubt that an old agent cannot be asked about.
    pub async fn meet(&self, org: &Arc<Org>, source: &str) {
        self.take_back(org, source, None).await;
        let (new, lost) = {
            let mut state = org.state();
            if state.clients.deleted.is_gone(source) {
                return;
            }
            state.hunts.look_at(source);
            let client = state.clients.entry(source);
            let new = client.info.last_interrogate_flow_id.is_empty() && !client.interrogating;
            client.interrogating |= new;
            let lost = if client.can_ask() { vec![] } else { client.queue.unanswerable() };
            (new, lost)
        };
        if new {
            match self.interrogate(org, source).await {
                Ok(flow) => {
                    tracing::info!(client = source, flow, "interrogation scheduled");
                    self.interrogate_again_later(org, source);
                }
                Err(e) => {
                    tracing::error!(client = source, error = %e, "interrogation not scheduled");
                    org.state().clients.entry(source).interrogating = false;
                }
            }
        }
        let reason = "This server restarted while the task was being sent, and the agent is too \
                      old to say whether it got it";
        self.end_all(org, source, lost, reason).await;
    }

    /// Ends flows of an earlier process of this client, of which `cipher` is there now,
    /// where the agent is too old to be asked about them. Called now and then for a
    /// client that is held.
    pub async fn end_orphans(&self, org: &Org, source: &str, cipher: Hash) {
        let now = self.env.clock.micros();
        let orphans = {
            let state = org.state();
            let old = state.clients.get(source).filter(|c| !c.can_ask());
            old.map(|c| c.queue.orphans(cipher, now)).unwrap_or_default()
        };
        let reason = "The client restarted before it was finished, and the agent is too old to \
                      say what became of it";
        self.end_all(org, source, orphans, reason).await;
    }

    async fn end_all(&self, org: &Org, source: &str, sessions: Vec<String>, reason: &str) {
        for flow_id in sessions {
            // It may be in stock files alone.
            if let Err(e) = self.reopen(org, source, &Session::parse(&flow_id).flow).await {
                tracing::warn!(client = source, flow = flow_id, error = %e,
                    "a flow that is over is not read; tried again");
                continue;
            }
            let kind = Kind::FailFlow(FailFlow { flow_id, reason: reason.to_owned() });
            if let Err(e) = self.decide(org, source, "", kind).await {
                tracing::error!(client = source, error = %e, "end of a flow not stored");
            }
        }
    }

    fn interrogate_again_later(&self, org: &Arc<Org>, source: &str) {
        let (org, source) = (org.clone(), source.to_owned());
        self.env.spawn(async move {
            tokio::time::sleep(INTERROGATE_AGAIN).await;
            org.state().clients.entry(&source).interrogating = false;
        });
    }

    /// Two processes speak for one client. The newest is served.
    pub async fn note_conflict(&self, org: &Org, client: &str, remote: &str, agent: &str) {
        tracing::warn!(client, remote, "two processes use this client id");
        let row = serde_json::json!({
            "ClientId": client, "RemoteAddr": remote, "UserAgent": agent,
        });
        let rows = Bytes::from(format!("{row}\n"));
        let stored = self.push_events(org, "server", "Server.Internal.ClientConflict", rows);
        if let Err(e) = stored.await {
            tracing::warn!(error = %e, "conflict event not stored");
        }
    }

    /// What may go to the client process `cipher` now, on `way`; everything that
    /// needs a durable grant has it.
    pub async fn next_tasks(
        &self,
        org: &Org,
        source: &str,
        cipher: Hash,
        way: Way<'_>,
    ) -> Vec<VeloMessage> {
        self.take_back(org, source, None).await;
        let now = self.env.clock.micros();
        let (mut batch, claim, end) = {
            let mut state = org.state();
            if state.clients.deleted.is_gone(source) {
                return vec![];
            }
            let client = state.clients.entry(source);
            let can_ask = client.can_ask();
            let cap = match self.env.sabotage.is(Mutant::NoFlowCap) {
                true => usize::MAX,
                false => self.options.flows_in_flight,
            };
            let batch = client.queue.take(cipher, way, now, cap, can_ask);
            (batch, client.table_claim, std::mem::take(&mut client.to_end))
        };
        if !batch.ungranted.is_empty() && !self.env.sabotage.is(Mutant::SendBeforeGrant) {
            let mut grant = Grant {
                task_id: batch.ungranted.clone(),
                cipher_hash: cipher.to_vec(),
                ..Default::default()
            };
            if let Way::Node(p) = way {
                grant.node.clone_from(&p.node);
                grant.epoch.clone_from(&p.epoch);
            }
            if let Err(e) = self.decide(org, source, "", Kind::Grant(grant)).await {
                tracing::warn!(client = source, error = %e, "grant not stored; tasks stay queued");
                org.state().clients.entry(source).queue.not_granted(&batch.ungranted, way);
                // Nothing else would wake its reader before it looks by itself.
                self.offers.not_granted((org.id.clone(), source.to_owned()));
                // Questions and what has its right go out all the same.
                batch.messages.retain(|m| !batch.ungranted.contains(&m.task_id));
            } else {
                self.wakes.durable(batch.ungranted.iter().copied(), self.env.clock.micros());
            }
        }
        let mut out = batch.messages;
        self.counters.tasks_sent.fetch_add(out.len() as u64, Ordering::Relaxed);
        if let Some(claim) = claim {
            match self.event_table(org, source, claim).await {
                Ok(Some(table)) => {
                    // Until the client says otherwise.
                    let version = table.update_event_table.as_ref().map(|t| t.version);
                    out.push(table);
                    org.state().clients.entry(source).table_claim = version;
                }
                Ok(None) => {}
                Err(e) => tracing::warn!(client = source, error = %e, "event table not made"),
            }
        }
        if end {
            out.push(VeloMessage {
                session_id: MONITORING.into(),
                kill_kill_kill: Some(Cancel::default()),
                urgent: true,
                ..Default::default()
            });
        }
        out
    }

    /// Tells a client's agent to end, now or when it is heard next. Whoever runs it as a
    /// service has it started again.
    pub fn end_agent(&self, org: &Org, client: &str) -> Result<(), ServiceError> {
        {
            let mut state = org.state();
            let known = state.clients.get_mut(client);
            known.ok_or_else(|| ServiceError::NotFound(format!("client {client}")))?.to_end = true;
        }
        self.sessions.wake(&org.id, client);
        Ok(())
    }

    /// What was taken for another frontend process was not handed to it.
    pub fn not_delegated(&self, org: &Org, source: &str, to: &ProcessId, ids: &[u64]) {
        let mut state = org.state();
        let queue = &mut state.clients.entry(source).queue;
        ids.iter().for_each(|id| queue.reported(to, *id, What::Back, 0));
    }
}
