//! Creating and changing hunts.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{HuntDone, HuntFlow, SetHunt};
use velociraptor_proto::proto::artifact_collector_context::State as FlowState;
use velociraptor_proto::proto::hunt::State;
use velociraptor_proto::proto::{ArtifactCollectorContext, Hunt, HuntMutation};

use super::table::{Chosen, flow_of_hunt};
use crate::services::acl::Policy;
use crate::services::compiler;
use crate::services::ids::{new_flow_id, new_hunt_id};
use crate::services::repository::source_name;
use crate::services::server::{Org, Server, ServiceError};
use crate::services::state::FlowKey;

/// The event that tells of a new hunt.
pub const CREATION: &str = "System.Hunt.Creation";

/// How long somebody who adds a client to a hunt waits for its turn.
const TURN: Duration = Duration::from_secs(60);

/// Between who changes a hunt and who recruits for it.
pub(super) fn gate(hunt: &str) -> FlowKey {
    (String::new(), hunt.to_owned())
}

fn not_found(id: &str) -> ServiceError {
    ServiceError::NotFound(format!("hunt {id}"))
}

impl Server {
    /// Creates a hunt: checks what the caller may collect, compiles the request
    /// once for all clients, and returns when it is durable. `hunt.state` says
    /// whether it starts; an id that is given is used.
    pub async fn create_hunt(
        &self,
        org: &Org,
        principal: &str,
        policy: &Policy,
        mut hunt: Hunt,
    ) -> Result<Hunt, ServiceError> {
        let now = self.env.clock.micros();
        let mut request = hunt.start_request.take().unwrap_or_default();
        request.compiled_collector_args.clear();
        let specs = compiler::specs(&request);
        if specs.is_empty() {
            return Err(ServiceError::Invalid("No artifacts to collect.".into()));
        }
        hunt.artifacts.clear();
        hunt.artifact_sources.clear();
        for spec in specs {
            let name = spec.artifact;
            let artifact = org
                .repository
                .resolve(&name, request.allow_custom_overrides)
                .ok_or_else(|| ServiceError::NotFound(format!("artifact {name}")))?;
            compiler::check_launch(policy, &artifact, false)
                .map_err(|e| ServiceError::Denied(e.to_string()))?;
            let sources = artifact.sources.iter().map(|s| source_name(&name, &s.name));
            hunt.artifact_sources.extend(sources);
            hunt.artifacts.push(name);
        }
        if hunt.hunt_id.is_empty() {
            hunt.hunt_id = new_hunt_id(&self.env);
        }
        let id = hunt.hunt_id.clone();
        let body = id.strip_prefix("H.").unwrap_or_default();
        if body.is_empty() || !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(ServiceError::Invalid(format!(
                "hunt id {id}: H. and letters or digits are expected"
            )));
        }
        hunt.create_time = now;
        if hunt.expires == 0 {
            hunt.expires = now + self.options.hunt_expiry.as_micros() as u64;
        }
        if hunt.expires <= now {
            return Err(ServiceError::Invalid("Hunt expiry is in the past!".into()));
        }
        self.compile_into(org, &mut request).await?;
        request.flow_id = flow_of_hunt(&id);
        request.creator = principal.to_owned();
        hunt.creator = principal.to_owned();
        hunt.start_request = Some(request);
        hunt.stats = None;
        hunt.version = self.env.clock.nanos() as i64;
        hunt.start_time = 0;
        match hunt.state() {
            State::Running => hunt.start_time = now,
            State::Unset | State::Paused => hunt.set_state(State::Paused),
            other => {
                let text = format!("a hunt starts running or paused, not {}", other.as_str_name());
                return Err(ServiceError::Invalid(text));
            }
        }
        let _closed = org.gates.close(gate(&id)).await;
        if org.state().hunts.get(&id).is_some() {
            return Err(ServiceError::Invalid(format!("hunt {id} exists already")));
        }
        let kind = Kind::SetHunt(SetHunt { hunt: Some(hunt) });
        self.decide(org, "", principal, kind).await?;
        let shown = org.state().hunts.get(&id).map(|h| h.shown(false));
        let shown = shown.ok_or_else(|| not_found(&id))?;
        if let Ok(row) = velociraptor_proto::json::to_sparse_row(&shown) {
            let row = json!({ "Timestamp": now / 1_000_000, "Hunt": row });
            let rows = Bytes::from(format!("{row}\n"));
            if let Err(e) = self.push_events(org, "server", CREATION, rows).await {
                tracing::error!(hunt = id, error = %e, "event of a new hunt not stored");
            }
        }
        Ok(shown)
    }

    /// Changes a hunt: state, description, expiry, tags. Returns when that is
    /// durable; no client is recruited after a hunt was stopped.
    pub async fn modify_hunt(
        &self,
        org: &Org,
        principal: &str,
        m: &HuntMutation,
    ) -> Result<(), ServiceError> {
        if let Some(a) = &m.assignment {
            return self.add_to_hunt(org, principal, &m.hunt_id, &a.client_id, &a.flow_id).await;
        }
        let _closed = org.gates.close(gate(&m.hunt_id)).await;
        let now = self.env.clock.micros();
        let hunt = org.state().hunts.get(&m.hunt_id).map(|h| h.hunt.clone());
        let mut hunt = hunt.ok_or_else(|| not_found(&m.hunt_id))?;
        // It is kept with the hunt.
        hunt.start_request = None;
        let before = hunt.clone();
        if m.expires > 0 {
            hunt.expires = m.expires;
        }
        if !m.description.is_empty() {
            hunt.hunt_description.clone_from(&m.description);
        }
        if !m.tags.is_empty() {
            // One that says that there are none is no tag.
            hunt.tags = m.tags.iter().filter(|t| *t != "-").cloned().collect();
            hunt.tags.sort();
            hunt.tags.dedup();
        }
        match m.state() {
            State::Unset => {}
            State::Running => {
                if hunt.expires <= now {
                    let text = format!("hunt {} has expired: set a later expiry", m.hunt_id);
                    return Err(ServiceError::Invalid(text));
                }
                if before.state() != State::Running {
                    hunt.start_time = now;
                }
                hunt.set_state(State::Running);
            }
            other => hunt.set_state(other),
        }
        if m.start_time > 0 {
            hunt.start_time = m.start_time;
        }
        if hunt == before {
            return Ok(());
        }
        hunt.version = (before.version + 1).max(self.env.clock.nanos() as i64);
        let kind = Kind::SetHunt(SetHunt { hunt: Some(hunt) });
        Ok(self.decide(org, "", principal, kind).await?)
    }

    /// Makes a flow that is there already its client's flow of a hunt.
    pub async fn add_to_hunt(
        &self,
        org: &Org,
        principal: &str,
        hunt_id: &str,
        client: &str,
        flow: &str,
    ) -> Result<(), ServiceError> {
        let context = self.flow(org, client, flow).await?;
        let context = context.ok_or_else(|| ServiceError::NotFound(format!("flow {flow}")))?;
        {
            let _closed = org.gates.close(gate(hunt_id)).await;
            if org.state().hunts.get(hunt_id).is_none() {
                return Err(not_found(hunt_id));
            }
            let join = HuntFlow { hunt_id: hunt_id.to_owned(), flow_id: flow.to_owned() };
            self.decide(org, client, principal, Kind::HuntFlow(join)).await?;
        }
        if matches!(context.state(), FlowState::Finished | FlowState::Error) {
            self.end_of_hunt_flow(org, client, flow, &context).await?;
        }
        Ok(())
    }

    /// Recruits a client whatever the hunt's conditions and state, once it is its
    /// turn. A client that has the hunt already is left alone.
    pub async fn add_client_to_hunt(
        &self,
        org: &Org,
        hunt_id: &str,
        client: &str,
    ) -> Result<(), ServiceError> {
        if org.state().clients.get(client).is_none() {
            return Err(ServiceError::NotFound(format!("client {client}")));
        }
        let end = tokio::time::Instant::now() + TURN;
        let chosen = Chosen { hunt: hunt_id.to_owned(), client: client.to_owned() };
        loop {
            {
                let mut state = org.state();
                let hunt = state.hunts.get(hunt_id).ok_or_else(|| not_found(hunt_id))?;
                if hunt.members().contains_key(client) {
                    return Ok(());
                }
                if !hunt.has(client) {
                    state.hunts.want(chosen.clone());
                }
            }
            if tokio::time::Instant::now() >= end {
                let text = format!("client {client} was not recruited within {TURN:?}");
                return Err(ServiceError::Timeout(text));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a hunt's collection on a client once more, under an id of its own,
    /// which becomes the client's flow of the hunt.
    pub async fn relaunch_hunt(
        &self,
        org: &Org,
        principal: &str,
        hunt_id: &str,
        client: &str,
    ) -> Result<String, ServiceError> {
        let _closed = org.gates.close(gate(hunt_id)).await;
        let request = org.state().hunts.get(hunt_id).and_then(|h| h.request_for(client));
        let mut request = request.ok_or_else(|| not_found(hunt_id))?;
        request.flow_id = new_flow_id(&self.env);
        let mut schedule = self.plan_flow(org, principal, request)?;
        schedule.hunt_id = hunt_id.to_owned();
        self.decide(org, client, principal, Kind::Schedule(schedule.clone())).await?;
        Ok(self.launched(org, client, &schedule))
    }

    /// More came for a flow whose end was told: its hunts count it too.
    pub(in crate::services) async fn follow_hunt_end(
        &self,
        org: &Org,
        (client, flow): &FlowKey,
    ) -> Result<(), ServiceError> {
        let concerned = {
            let state = org.state();
            let live = state.flows.get(&(client.clone(), flow.clone()));
            live.is_some_and(|f| f.announced) && !state.hunts.of_flow(client, flow).is_empty()
        };
        if !concerned {
            return Ok(());
        }
        match self.flow(org, client, flow).await? {
            Some(c) if matches!(c.state(), FlowState::Finished | FlowState::Error) => {
                self.end_of_hunt_flow(org, client, flow, &c).await
            }
            _ => Ok(()),
        }
    }

    /// The flow of a client is over: its hunts know. Called before its end is
    /// announced, so that it is not forgotten.
    pub(in crate::services) async fn end_of_hunt_flow(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        context: &ArtifactCollectorContext,
    ) -> Result<(), ServiceError> {
        let hunts = org.state().hunts.of_flow(client, flow);
        for hunt_id in hunts {
            let failed = context.state() == FlowState::Error;
            let told = {
                let state = org.state();
                let member = state.hunts.get(&hunt_id).and_then(|h| h.members().get(client));
                member.and_then(|m| m.end.as_ref()).is_some_and(|e| {
                    e.failed == failed
                        && e.rows >= context.total_collected_rows
                        && e.bytes >= context.total_uploaded_bytes
                })
            };
            if told {
                continue;
            }
            let done = HuntDone {
                hunt_id,
                flow_id: flow.to_owned(),
                started: context.start_time,
                ended: context.active_time,
                failed,
                error: context.status.clone(),
                rows: context.total_collected_rows,
                bytes: context.total_uploaded_bytes,
                duration: context.execution_duration,
            };
            self.decide(org, client, "", Kind::HuntDone(done)).await?;
        }
        Ok(())
    }
}
