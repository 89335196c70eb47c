//! What a stock tree already says: clients and tasks, read once at start.

use std::sync::Arc;

use velociraptor_proto::proto::ClientInfo;
use velociraptor_proto::proto::artifact_collector_context::State;

use super::ids::{OrgId, Session};
use super::server::{Org, Server, ServiceError};
use crate::store::paths::{self, Client};

/// Loads the client records and unsent tasks of every organisation.
pub async fn load_clients(server: &Server) -> Result<(), ServiceError> {
    for org in server.orgs() {
        let records = crate::store::snapshot::load(&server.tree, &org.id).await?.clients;
        let known = records.len();
        {
            let mut state = org.state();
            for (id, info) in records {
                state.clients.entry(&id).info = info;
            }
        }
        let found = load_keys_and_tasks(server, &org).await?;
        take_up_flows(server, &org).await?;
        tracing::info!(org = %org.id, snapshot = known, enrolled_since = found, "clients loaded");
    }
    Ok(())
}

/// Clients that enrolled after the snapshot was written, and everyone's tasks.
async fn load_keys_and_tasks(server: &Server, org: &Arc<Org>) -> Result<usize, ServiceError> {
    let mut found = 0;
    for child in server.tree.children(&paths::clients_dir(&org.id)).await? {
        if !child.is_dir || !child.name.starts_with("C.") {
            continue;
        }
        let path = Client { org: &org.id, id: &child.name };
        let known = org.state().clients.get(&child.name).is_some();
        if !known {
            let Some(key) = server.tree.get(&path.key()).await? else { continue };
            let mut state = org.state();
            let info = &mut state.clients.entry(&child.name).info;
            *info = ClientInfo {
                client_id: child.name.clone(),
                first_seen_at: key.enroll_time,
                ..Default::default()
            };
            found += 1;
        }
        load_tasks(server, org, &child.name).await?;
    }
    Ok(found)
}

async fn load_tasks(server: &Server, org: &Org, client: &str) -> Result<(), ServiceError> {
    let path = Client { org: &org.id, id: client };
    for task in server.tree.children(&path.tasks()).await? {
        let Ok(id) = task.name.parse::<u64>() else { continue };
        match server.tree.get(&path.task(id)).await {
            Ok(Some(mut message)) => {
                message.task_id = id;
                // Agents of today ignore the duplicate that stock adds for old ones.
                if message.flow_request.is_none() && message.vql_client_action.is_some() {
                    continue;
                }
                let flow = Session::parse(&message.session_id).flow;
                if message.flow_request.is_some() && is_over(server, org, client, &flow).await? {
                    // Left by a server that ended between the end of the flow and this.
                    server.tree.delete(&path.task(id)).await?;
                    continue;
                }
                let mut state = org.state();
                state.clients.with_files.insert(client.to_owned());
                state.clients.entry(client).queue.push_filed(message);
            }
            Ok(None) => {}
            Err(e) => {
                tracing::warn!(org = %org.id, client, task = id, error = %e, "task cannot be read; left in place")
            }
        }
    }
    Ok(())
}

/// Whether the stock files of a flow say that it has ended.
async fn is_over(
    server: &Server,
    org: &Org,
    client: &str,
    flow: &str,
) -> Result<bool, ServiceError> {
    let context = server.flow(org, client, flow).await?;
    Ok(context.is_some_and(|c| matches!(c.state(), State::Finished | State::Error)))
}

/// What clients were working on when their records were written: they are asked
/// about it like about anything of which nothing is heard.
async fn take_up_flows(server: &Server, org: &Arc<Org>) -> Result<(), ServiceError> {
    let noted: Vec<(String, String, u64)> = {
        let mut state = org.state();
        let mut out = Vec::new();
        for c in state.clients.iter_mut() {
            let flows = std::mem::take(&mut c.info.in_flight_flows);
            if c.can_ask() {
                let id = c.info.client_id.clone();
                out.extend(flows.into_iter().map(|(f, at)| (id.clone(), f, at.max(0) as u64)));
            }
        }
        out.sort();
        out
    };
    for (client, session, at) in noted {
        if !is_over(server, org, &client, &Session::parse(&session).flow).await? {
            let mut state = org.state();
            state.clients.entry(&client).queue.working_on(&session, at.saturating_mul(1_000_000));
        }
    }
    Ok(())
}

/// The public key of a client, PEM, if it is enrolled.
pub async fn client_key(
    server: &Server,
    org: &OrgId,
    client: &str,
) -> Result<Option<velociraptor_proto::proto::PublicKey>, ServiceError> {
    Ok(server.tree.get(&Client { org, id: client }.key()).await?)
}
