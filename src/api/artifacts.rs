//! Artifact definitions and the event tables made of them.

use regex::{Regex, RegexBuilder};
use serde_json::json;
use tonic::Status;
use velociraptor_proto::proto::set_artifact_request::Operation;
use velociraptor_proto::proto::{
    Artifact, ArtifactCollectorArgs, ArtifactDescriptors, ClientEventTable, GetArtifactRequest,
    GetArtifactResponse, GetArtifactsRequest, GetClientMonitoringStateRequest, SetArtifactRequest,
    SetArtifactResponse,
};

use super::status::status;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::artifacts::writer_permission;
use crate::services::audit::audit;
use crate::services::repository::parse;

/// Definitions of one answer when the request does not say.
const LIMIT: u64 = 1000;

/// What somebody who writes a new definition starts from.
const TEMPLATE: &str = "name: Custom.Artifact.Name\n\
    description: |\n  What this collects, and what for.\n\n\
    # client, client_event, server, server_event or notebook\n\
    type: client\n\n\
    parameters:\n  - name: First\n    default: a default value\n\n\
    sources:\n  - precondition:\n      SELECT OS FROM info() WHERE OS = 'linux'\n\n    \
    query: |\n      SELECT * FROM info()\n";

impl Api {
    pub(super) fn artifacts(
        &self,
        caller: &Caller,
        r: GetArtifactsRequest,
    ) -> Result<ArtifactDescriptors, Status> {
        caller.require(Permission::ReadResults)?;
        let repository = &caller.org.repository;
        if !r.names.is_empty() {
            let items = r.names.iter().filter_map(|n| repository.get(n));
            let items = items.map(|a| (*a).clone()).collect();
            return Ok(ArtifactDescriptors { items, ..Default::default() });
        }
        let kind = r.r#type.to_ascii_lowercase();
        let terms = r.search_term.split_whitespace().map(term).collect::<Result<Vec<_>, _>>()?;
        let limit = if r.number_of_results == 0 { LIMIT } else { r.number_of_results };
        let items = repository
            .all()
            .into_iter()
            .filter(|a| kind.is_empty() || a.r#type == kind)
            .filter(|a| terms.iter().all(|t| t.is_match(&a.name) || t.is_match(&a.description)))
            .take(limit as usize)
            .map(|a| select(&a, &r))
            .collect();
        Ok(ArtifactDescriptors { items, ..Default::default() })
    }

    pub(super) fn artifact_file(
        &self,
        caller: &Caller,
        r: &GetArtifactRequest,
    ) -> Result<GetArtifactResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let artifact = match caller.org.repository.get(&r.name) {
            Some(a) => a.raw.clone(),
            None if r.name.is_empty() => TEMPLATE.to_owned(),
            None => return Err(Status::not_found("Not Found")),
        };
        Ok(GetArtifactResponse { artifact })
    }

    /// What is wrong with a definition is in the answer, not in the status.
    pub(super) async fn change_artifact(
        &self,
        caller: &Caller,
        r: SetArtifactRequest,
    ) -> Result<SetArtifactResponse, Status> {
        let refused = |message: String| SetArtifactResponse {
            error: true,
            errors: vec![message.clone()],
            error_message: message,
            ..Default::default()
        };
        let artifact = match parse(&r.artifact) {
            Ok(a) => a,
            Err(e) => return Ok(refused(e.to_string())),
        };
        caller.require(writer_permission(&artifact))?;
        let (server, org) = (&self.server, &caller.org);
        let done = match r.op() {
            Operation::Check => {
                org.repository.check(&r.artifact).map(drop).map_err(|e| e.to_string())
            }
            Operation::Set | Operation::CheckAndSet => {
                let set = server.set_artifact(org, &caller.name, &r.artifact).await;
                set.map(drop).map_err(|e| e.to_string())
            }
            Operation::Delete => {
                let deleted = server.delete_artifact(org, &caller.name, &artifact.name).await;
                deleted.map_err(|e| e.to_string())
            }
        };
        Ok(done.err().map(refused).unwrap_or_default())
    }

    pub(super) fn monitoring(
        &self,
        caller: &Caller,
        _r: &GetClientMonitoringStateRequest,
    ) -> Result<ClientEventTable, Status> {
        caller.require(Permission::ReadResults)?;
        Ok(caller.org.monitoring.table())
    }

    pub(super) async fn change_monitoring(
        &self,
        caller: &Caller,
        table: ClientEventTable,
    ) -> Result<(), Status> {
        caller.require(Permission::CollectClient)?;
        let details = json!({
            "artifacts": table.artifacts.as_ref().map(|a| &a.artifacts),
            "labels": table.label_events.iter().map(|l| &l.label).collect::<Vec<_>>(),
        });
        let done = self.server.set_monitoring(&caller.org, table).await;
        done.map_err(|e| status(&e))?;
        audit(&self.server, &caller.org, &caller.name, "SetClientMonitoringState", details).await;
        Ok(())
    }
}

impl Api {
    pub(super) fn server_monitoring(
        &self,
        caller: &Caller,
    ) -> Result<ArtifactCollectorArgs, Status> {
        caller.require(Permission::ReadResults)?;
        Ok(caller.org.monitoring.server_table())
    }

    pub(super) async fn change_server_monitoring(
        &self,
        caller: &Caller,
        table: ArtifactCollectorArgs,
    ) -> Result<ArtifactCollectorArgs, Status> {
        caller.require(Permission::CollectServer)?;
        let details = json!({ "artifacts": table.artifacts });
        let done = self.server.set_server_monitoring(&caller.org, table).await;
        done.map_err(|e| status(&e))?;
        audit(&self.server, &caller.org, &caller.name, "SetServerMonitoringState", details).await;
        Ok(caller.org.monitoring.server_table())
    }
}

fn term(text: &str) -> Result<Regex, Status> {
    let built = RegexBuilder::new(text).case_insensitive(true).build();
    built.map_err(|e| Status::invalid_argument(format!("search term: {e}")))
}

/// The fields asked for; all of them when nothing is said.
fn select(a: &Artifact, r: &GetArtifactsRequest) -> Artifact {
    let Some(f) = &r.fields else { return a.clone() };
    let mut out = Artifact {
        name: a.name.clone(),
        built_in: a.built_in,
        is_inherited: a.is_inherited,
        is_alias: a.is_alias,
        metadata: a.metadata.clone(),
        ..Default::default()
    };
    if f.description {
        out.description = a.description.clone();
    }
    if f.r#type {
        out.r#type = a.r#type.clone();
    }
    if f.sources {
        out.sources = a.sources.clone();
    }
    out
}
