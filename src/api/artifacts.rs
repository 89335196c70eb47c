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
        let wanted = Wanted::read(&r.search_term)?;
        let limit = if r.number_of_results == 0 { LIMIT } else { r.number_of_results };
        let items = repository
            .all()
            .into_iter()
            .filter(|a| kind.is_empty() || a.r#type == kind)
            .filter(|a| wanted.matches(a))
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
                let set = set.map(drop).map_err(|e| e.to_string());
                match set.is_ok() && !r.tags.is_empty() {
                    true => {
                        let tagged = server.tag_artifacts(org, &[artifact.name], &r.tags).await;
                        tagged.map_err(|e| e.to_string())
                    }
                    false => set,
                }
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

/// What a search asks for: words in name or description, and the verbs of stock pages.
#[derive(Default)]
struct Wanted {
    words: Vec<Regex>,
    kinds: Vec<String>,
    preconditions: Vec<Regex>,
    tools: Vec<Regex>,
    tags: Vec<String>,
    built_in: Option<bool>,
    basic: bool,
}

impl Wanted {
    fn read(search: &str) -> Result<Self, Status> {
        let mut w = Self::default();
        for word in search.split_whitespace() {
            match word.split_once(':') {
                Some(("type", k)) => w.kinds.push(k.to_ascii_lowercase()),
                Some(("tag", t)) => w.tags.push(t.to_lowercase()),
                Some(("precondition", p)) => w.preconditions.push(term(p)?),
                Some(("tool", t)) => w.tools.push(term(t)?),
                Some(("builtin", b)) => w.built_in = Some(b == "yes"),
                Some(("metadata", m)) => w.basic |= m == "basic",
                // What is hidden or has no sources is shown anyway.
                Some(("empty" | "hidden", _)) => {}
                _ => w.words.push(term(word)?),
            }
        }
        Ok(w)
    }

    fn matches(&self, a: &Artifact) -> bool {
        let metadata = a.metadata.as_ref();
        let conditions = || {
            std::iter::once(a.precondition.as_str())
                .chain(a.sources.iter().map(|s| s.precondition.as_str()))
        };
        let tagged = |t: &String| {
            metadata.is_some_and(|m| m.tags.iter().any(|own| own.to_lowercase() == *t))
        };
        (self.kinds.is_empty() || self.kinds.contains(&a.r#type.to_ascii_lowercase()))
            && self.words.iter().all(|t| t.is_match(&a.name) || t.is_match(&a.description))
            && self.preconditions.iter().all(|t| conditions().any(|c| t.is_match(c)))
            && self.tools.iter().all(|t| a.tools.iter().any(|tool| t.is_match(&tool.name)))
            && self.tags.iter().all(tagged)
            && self.built_in.is_none_or(|b| b == a.built_in)
            && (!self.basic || metadata.is_some_and(|m| m.basic))
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
