//! Deleting clients, flows, and hunts with their flows, so that nothing late brings
//! them back.
//!
//! The decision comes first; from then on what arrives is dropped. Then the files
//! go. Of a client the key goes last: as long as it is there the client cannot enrol
//! again, so that everything there is belongs to the life that is over. The record
//! of the decision is needed until all files are gone; whoever reads it back goes on.
//! Files are looked for once more at the start of every master, since a deposed one
//! may have written meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{DeleteClient, DeleteFlow, DeleteHuntFlows};
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::hunt::State as HuntState;
use velociraptor_proto::proto::{ArtifactCollectorContext, HuntMutation};

use super::fleet::hub::Order;
use super::hunts::{Member, hunt_of_flow};
use super::load::client_key;
use super::removal::Removed;
use super::server::{Org, Server, ServiceError};
use crate::store::StoreError;
use crate::store::journal::Segment;
use crate::store::paths::{Client, SERVER_CLIENT};

/// Distance of looks at the clock while an enrolment of this second is waited out.
const TICK: std::time::Duration = std::time::Duration::from_millis(50);

/// The event that tells of a deleted client.
const CLIENT_DELETE: &str = "Server.Internal.ClientDelete";

/// A hunt that is being deleted. Dropped before it is finished, the rest is done in
/// the background.
#[derive(Debug)]
pub struct HuntDeletion {
    org: Arc<Org>,
    hunt: String,
    pins: BTreeSet<Arc<Segment>>,
    done: bool,
}

impl Drop for HuntDeletion {
    fn drop(&mut self) {
        if !self.done {
            let pins = std::mem::take(&mut self.pins);
            self.org.state().clients.deleted.reopen_hunt(&self.hunt, pins);
        }
    }
}

fn failed(removed: &Result<Vec<Removed>, ServiceError>) -> bool {
    removed.as_ref().map_or(true, |r| r.iter().any(|r| !r.error.is_empty()))
}

impl Server {
    /// Deletes a client with everything it ever sent. If its agent still runs, it
    /// will enrol again, as a new client.
    pub async fn delete_client(
        &self,
        org: &Org,
        client: &str,
        principal: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        check_client(client)?;
        // Nothing is settled meanwhile, and nobody else removes the same.
        let alone = self.housekeeping.lock().await;
        let key = client_key(self, &org.id, client).await?;
        let known = org.state().clients.get(client).map(|c| c.info.first_seen_at);
        if key.is_none() && known.is_none() {
            return Err(ServiceError::NotFound(format!("client {client}")));
        }
        let mut lives: BTreeSet<u64> = known.into_iter().filter(|life| *life > 0).collect();
        lives.extend(key.map(|k| k.enroll_time));
        // A key that is made after this one must not look like it.
        let now = self.env.clock.unix();
        while self.env.clock.unix() <= now && lives.contains(&self.env.clock.unix()) {
            tokio::time::sleep(TICK).await;
        }
        self.take_back(org, client, None).await;
        self.end_in_hunts(org, client).await?;
        let kind = Kind::DeleteClient(DeleteClient { life: lives.into_iter().collect() });
        self.decide(org, client, principal, kind).await?;
        self.order(Order::Forget((org.id.clone(), client.to_owned())));
        for reader in self.sessions.readers(&org.id, client) {
            reader.supersede();
        }
        let removed = self.bury(org, client, "").await;
        drop(alone);
        tracing::info!(org = %org.id, client, principal, "client deleted");
        self.tell_deleted(org, client, principal).await;
        removed
    }

    /// Nothing more will come for the hunts that wait for a client.
    async fn end_in_hunts(&self, org: &Org, client: &str) -> Result<(), ServiceError> {
        let open: BTreeSet<String> = {
            let state = org.state();
            let members = state.hunts.iter().filter_map(|(_, h)| h.members().get(client));
            members.filter(|m| m.end.is_none()).map(|m| m.flow.clone()).collect()
        };
        for flow in open {
            let mut context = self.flow(org, client, &flow).await?.unwrap_or_default();
            context.set_state(State::Error);
            context.status = "The client was deleted".into();
            self.end_of_hunt_flow(org, client, &flow, &context).await?;
        }
        Ok(())
    }

    async fn tell_deleted(&self, org: &Org, client: &str, principal: &str) {
        let row = json!({ "ClientId": client, "OrgId": org.id.id(), "Principal": principal });
        let rows = bytes::Bytes::from(format!("{row}\n"));
        let mut told = self.push_events(org, "server", CLIENT_DELETE, rows.clone()).await;
        if !org.id.is_root() && told.is_ok() {
            told = self.push_events(&self.root(), "server", CLIENT_DELETE, rows).await;
        }
        if let Err(e) = told {
            tracing::error!(client, error = %e, "event of a deleted client not stored");
        }
    }

    /// Deletes a flow. One that runs is cancelled first.
    pub async fn delete_flow(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        principal: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        check_flow(client, flow)?;
        self.end_before_deletion(org, client, flow, principal).await?;
        let _alone = self.housekeeping.lock().await;
        let kind = Kind::DeleteFlow(DeleteFlow { flow_id: flow.to_owned() });
        self.decide(org, client, principal, kind).await?;
        tracing::info!(org = %org.id, client, flow, principal, "flow deleted");
        self.bury(org, client, flow).await
    }

    /// Cancels a flow that runs; its hunt counts it as ended.
    async fn end_before_deletion(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        principal: &str,
    ) -> Result<(), ServiceError> {
        let over =
            |c: &ArtifactCollectorContext| matches!(c.state(), State::Finished | State::Error);
        let context = self.flow(org, client, flow).await?;
        let context = context.ok_or_else(|| ServiceError::NotFound(format!("flow {flow}")))?;
        if !over(&context) {
            self.cancel(org, client, flow, principal).await?;
        }
        match self.flow(org, client, flow).await? {
            Some(c) if over(&c) => self.end_of_hunt_flow(org, client, flow, &c).await,
            _ => Ok(()),
        }
    }

    /// What deleting a client would remove.
    pub async fn files_of_client(
        &self,
        org: &Org,
        client: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        check_client(client)?;
        let mut files = self.clear_client(org, client, false).await?;
        files.extend(self.clear_key(org, client, false).await?);
        Ok(files)
    }

    /// What deleting a flow would remove.
    pub async fn files_of_flow(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        check_flow(client, flow)?;
        self.clear_flow(org, client, flow, false).await
    }

    /// Begins to delete a hunt and all its flows: nobody is recruited any more, what
    /// runs is cancelled, and what arrives from now on is dropped. Returns its
    /// clients, each of which is given to [`Server::delete_hunt_flow`] before
    /// [`Server::finish_hunt`].
    pub async fn begin_hunt_deletion(
        &self,
        org: &Arc<Org>,
        hunt: &str,
        principal: &str,
    ) -> Result<(HuntDeletion, Vec<(String, Member)>), ServiceError> {
        let mut m = HuntMutation { hunt_id: hunt.to_owned(), ..Default::default() };
        m.set_state(HuntState::Stopped);
        self.modify_hunt(org, principal, &m).await?;
        let members = self.hunt_members(org, hunt)?;
        for (client, member) in members.iter().filter(|(_, m)| m.end.is_none()) {
            match self.cancel(org, client, &member.flow, principal).await {
                // Its client, or the flow itself, was deleted before.
                Ok(()) | Err(ServiceError::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let _alone = self.housekeeping.lock().await;
        let kind = Kind::DeleteHuntFlows(DeleteHuntFlows { hunt_id: hunt.to_owned() });
        self.decide(org, "", principal, kind).await?;
        let pins = org.state().clients.deleted.take_open_hunt(hunt);
        let deletion = HuntDeletion { org: org.clone(), hunt: hunt.to_owned(), pins, done: false };
        Ok((deletion, members))
    }

    /// Removes the files of one client's flow of a hunt.
    pub async fn delete_hunt_flow(
        &self,
        d: &HuntDeletion,
        client: &str,
        flow: &str,
        principal: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        if hunt_of_flow(flow).as_deref() == Some(d.hunt.as_str()) {
            let _alone = self.housekeeping.lock().await;
            return self.clear_flow(&d.org, client, flow, true).await;
        }
        // It was added to the hunt, or is a second run.
        match self.delete_flow(&d.org, client, flow, principal).await {
            Err(ServiceError::NotFound(_)) => Ok(vec![]),
            other => other,
        }
    }

    /// The flows are gone: so is the hunt.
    pub async fn finish_hunt(
        &self,
        mut d: HuntDeletion,
        principal: &str,
    ) -> Result<(), ServiceError> {
        let mut m = HuntMutation { hunt_id: d.hunt.clone(), ..Default::default() };
        m.set_state(HuntState::Deleted);
        match self.modify_hunt(&d.org, principal, &m).await {
            Ok(()) | Err(ServiceError::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
        d.done = true;
        Ok(())
    }

    /// Goes on with what was decided and not carried out, and removes what has come
    /// back of what was deleted lately.
    pub(crate) async fn bury_again(&self) {
        for org in self.orgs() {
            let suspects = org.state().clients.deleted.suspects();
            for (client, flow) in suspects {
                if !self.standing.may_decide() {
                    return;
                }
                let _alone = self.housekeeping.lock().await;
                match self.bury(&org, &client, &flow).await {
                    Ok(removed) if removed.is_empty() => {}
                    Ok(removed) => tracing::info!(
                        client,
                        flow,
                        files = removed.len(),
                        "what was left of something deleted is removed"
                    ),
                    Err(e) => tracing::warn!(client, flow, error = %e,
                        "files of something deleted not removed yet"),
                }
            }
            let hunts = org.state().clients.deleted.open_hunts();
            for hunt in hunts {
                if !self.standing.may_decide() {
                    return;
                }
                if let Err(e) = self.bury_hunt(&org, &hunt).await {
                    tracing::warn!(hunt, error = %e, "flows of a deleted hunt not removed yet");
                }
            }
        }
    }

    async fn bury_hunt(&self, org: &Arc<Org>, hunt: &str) -> Result<(), ServiceError> {
        let pins = org.state().clients.deleted.take_open_hunt(hunt);
        let d = HuntDeletion { org: org.clone(), hunt: hunt.to_owned(), pins, done: false };
        let members = self.hunt_members(org, hunt).unwrap_or_default();
        for (client, member) in members {
            let removed = self.delete_hunt_flow(&d, &client, &member.flow, "").await;
            if failed(&removed) {
                return removed.and(Ok(()));
            }
        }
        self.finish_hunt(d, "").await
    }

    /// Removes what is deleted of a client (`flow` empty), or a deleted flow. The
    /// caller holds [`Server::housekeeping`].
    async fn bury(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        let key = (client.to_owned(), flow.to_owned());
        let pins = org.state().clients.deleted.take_suspect(&key);
        let removed = match flow {
            "" => self.remove_of_client(org, client).await,
            flow => self.clear_flow(org, client, flow, true).await,
        };
        if failed(&removed) {
            org.state().clients.deleted.suspect(key, pins);
        }
        removed
    }

    /// Everything of a client that is gone, or what is older than its present life.
    async fn remove_of_client(
        &self,
        org: &Org,
        client: &str,
    ) -> Result<Vec<Removed>, ServiceError> {
        if org.state().clients.deleted.is_gone(client) {
            let mut removed = self.clear_client(org, client, true).await?;
            if let Some(key) = client_key(self, &org.id, client).await?
                && org.state().clients.deleted.is_over(client, key.enroll_time)
                && removed.iter().all(|r| r.error.is_empty())
            {
                removed.extend(self.clear_key(org, client, true).await?);
            }
            return Ok(removed);
        }
        let path = Client { org: &org.id, id: client };
        let err = |e: StoreError| ServiceError::from(e);
        let mut all: BTreeSet<String> =
            (crate::store::walk::flow_ids(&self.tree, &path).await.map_err(err)?)
                .into_iter()
                .collect();
        let results = crate::store::walk::results_by_flow(&self.tree, &path).await.map_err(err)?;
        all.extend(results.into_keys());
        all.retain(|flow| org.state().clients.deleted.has_flow(client, flow));
        let mut removed = Vec::new();
        for flow in all {
            removed.extend(self.clear_flow(org, client, &flow, true).await?);
        }
        Ok(removed)
    }
}

/// Ids come from people: they must name what they say and no other place.
fn plain(id: &str, prefix: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    id.len() > 2 && id.starts_with(prefix) && id.bytes().all(ok) && !id.contains("..")
}

pub(super) fn check_client(id: &str) -> Result<(), ServiceError> {
    match plain(id, "C.") {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!("{id:?} is not the id of a client (C.…)"))),
    }
}

/// The server's own collections can be deleted too.
fn check_flow(client: &str, id: &str) -> Result<(), ServiceError> {
    if client != SERVER_CLIENT {
        check_client(client)?;
    }
    let session = matches!(id, super::state::MONITORING | super::state::STATUS);
    match plain(id, "F.") && !session {
        true => Ok(()),
        false => Err(ServiceError::Invalid(format!("{id:?} is not the id of a flow (F.…)"))),
    }
}
