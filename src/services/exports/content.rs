//! What is in the archive of a collection, and in that of a hunt: the layout of
//! stock archives, so that stock servers and scripts take them.

use std::sync::Arc;

use velociraptor_proto::json::to_indented;
use velociraptor_proto::proto::{ApiFlowRequestDetails, ClientInfo, Hunt};

use super::container::Container;
use super::rows::{self, Source};
use super::{Format, uploads};
use crate::services::flows::Rows;
use crate::services::server::{Org, Server, ServiceError};
use crate::store::zip::write::member_name;

/// How everything of it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub format: Format,
    pub expand_sparse: bool,
}

type Place<'a> = (&'a Arc<Server>, &'a Arc<Org>);

async fn object<M: prost::Message + prost::Name>(
    container: &mut Container,
    prefix: &[String],
    name: &str,
    message: &M,
) -> Result<(), ServiceError> {
    let text = to_indented(message).map_err(|e| ServiceError::Invalid(e.to_string()))?;
    let all: Vec<&str> = prefix.iter().map(String::as_str).chain([name]).collect();
    container.member(&format!("{}.json", member_name(&all)), text.as_bytes()).await
}

/// A client id without the organisation that is part of it in the datastore.
fn bare(client: &str) -> &str {
    client.split_once('-').map_or(client, |(id, _)| id)
}

/// A client's record; one that says only who it is when nothing is known.
fn client_info(org: &Org, client: &str) -> ClientInfo {
    let known = org.state().clients.get(client).map(|c| c.record());
    let mut info = match known {
        Some(info) => info,
        None if client == "server" => {
            ClientInfo { hostname: "server".into(), fqdn: "server".into(), ..ClientInfo::default() }
        }
        None => ClientInfo::default(),
    };
    info.client_id = bare(client).to_owned();
    info
}

/// Writes one collection below `prefix`.
pub(super) async fn flow(
    place: Place<'_>,
    container: &mut Container,
    prefix: &[String],
    (client, flow): (&str, &str),
    style: Style,
) -> Result<(), ServiceError> {
    let (server, org) = place;
    object(container, prefix, "client_info", &client_info(org, client)).await?;
    let context = server.flow(org, client, flow).await?;
    let mut names = Vec::new();
    if let Some(mut context) = context {
        if let Some(request) = &mut context.request {
            request.compiled_collector_args.iter_mut().for_each(crate::services::compiler::redact);
        }
        names = context.artifacts_with_results.clone();
        object(container, prefix, "collection_context", &context).await?;
    }
    let mut items = server.flow_requests(org, client, flow).await?;
    for action in items.iter_mut().filter_map(|m| m.flow_request.as_mut()) {
        action.vql_client_actions.iter_mut().for_each(crate::services::compiler::redact);
    }
    let requests = ApiFlowRequestDetails { items, ..ApiFlowRequestDetails::default() };
    object(container, prefix, "requests", &requests).await?;
    let source = [Source { client: client.into(), flow: flow.into(), added: vec![] }];
    let named = |more: &[&'static str]| -> Vec<String> {
        prefix.iter().cloned().chain(more.iter().map(|m| (*m).to_owned())).collect()
    };
    let log = named(&["log"]);
    let log: Vec<&str> = log.iter().map(String::as_str).collect();
    rows::write(place, container, &log, (&source, &Rows::Logs), style.format).await?;
    for name in names {
        let mut at = named(&["results"]);
        at.push(name.clone());
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        let which = Rows::Results(name.clone());
        rows::write(place, container, &at, (&source, &which), style.format).await?;
    }
    let how = (style.format, style.expand_sparse);
    uploads::write(place, container, prefix, (client, flow), how).await
}

/// Writes a hunt: what all clients brought, by artifact; then, unless only that is
/// wanted, each collection by itself.
pub(super) async fn hunt(
    place: Place<'_>,
    container: &mut Container,
    hunt: &Hunt,
    combined_only: bool,
    style: Style,
) -> Result<(), ServiceError> {
    let (server, org) = place;
    let mut shown = hunt.clone();
    if let Some(request) = &mut shown.start_request {
        request.compiled_collector_args.iter_mut().for_each(crate::services::compiler::redact);
    }
    object(container, &[], "hunt_info", &shown).await?;
    let members = server.hunt_members(org, &hunt.hunt_id)?;
    let of = |client: &str| {
        let state = org.state();
        let info = state.clients.get(client).map(|c| &c.info);
        info.map(|i| (i.hostname.clone(), i.fqdn.clone())).unwrap_or_default()
    };
    let sources: Vec<Source> = (members.iter())
        .map(|(client, m)| Source {
            client: client.clone(),
            flow: m.flow.clone(),
            added: vec![
                ("FlowId", m.flow.clone()),
                ("ClientId", client.clone()),
                ("Fqdn", of(client).1),
            ],
        })
        .collect();
    for artifact in &hunt.artifact_sources {
        let name = format!("All {artifact}");
        let which = Rows::Results(artifact.clone());
        let at = ["results", &name];
        rows::write(place, container, &at, (&sources, &which), style.format).await?;
    }
    if combined_only {
        return Ok(());
    }
    for (client, m) in &members {
        let prefix = [format!("{}-{client}", of(client).0)];
        flow(place, container, &prefix, (client, &m.flow), style).await?;
    }
    Ok(())
}
