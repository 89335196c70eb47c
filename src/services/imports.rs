//! Archives of collections taken in: what a server exported, or a collector made on a
//! host without one, becomes a flow of a client.
//!
//! The flow gets an id of its own. Its context is written last, so nobody sees half of
//! it. What is in an archive is told by its members' names, as exports make them.

use std::io::{Read, Seek};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};
use velociraptor_proto::json::from_json;
use velociraptor_proto::proto::{ApiFlowRequestDetails, ArtifactCollectorContext, ClientInfo};

use super::ids::new_flow_id;
use super::server::{Org, Server, ServiceError};
use crate::store::FilePath;
use crate::store::paths::Client;
use crate::store::uploads::{UploadKind, UploadRow};
use crate::store::zip::Archive;
use crate::store::zip::write::member_name;

/// Largest member that is taken, bytes; it is held in memory.
const LIMIT: u64 = 512 << 20;

/// Where it goes to.
#[derive(Clone, Debug, Default)]
pub struct Into {
    /// The client; empty: a new one.
    pub client: String,
    /// The name of a client that is made, instead of what the archive says.
    pub hostname: String,
}

/// An archive that is read a member at a time.
struct Source<R> {
    server: Arc<Server>,
    archive: Arc<Mutex<Archive<R>>>,
}

impl<R: Read + Seek + Send + 'static> Source<R> {
    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        let (archive, name) = (self.archive.clone(), name.to_owned());
        let read = move || {
            let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
            let member = archive.members().iter().find(|m| m.name == name).cloned();
            member.map(|m| archive.read(&m, LIMIT)).transpose()
        };
        let read = self.server.env.offload(read).await;
        let read = read.ok_or_else(|| ServiceError::Invalid("the server is stopping".into()))?;
        read.map_err(|e| ServiceError::Invalid(e.to_string()))
    }

    async fn object<M>(&self, name: &str) -> Result<Option<M>, ServiceError>
    where
        M: prost::Message + prost::Name + Default,
    {
        let Some(text) = self.read(name).await? else { return Ok(None) };
        let read = from_json(&text).map(Some);
        read.map_err(|e| ServiceError::Invalid(format!("{name} of the archive: {e}")))
    }
}

impl Server {
    /// Makes a flow of an archive.
    pub async fn import_flow<R: Read + Seek + Send + 'static>(
        self: &Arc<Self>,
        org: &Org,
        principal: &str,
        archive: Archive<R>,
        into: Into,
    ) -> Result<ArtifactCollectorContext, ServiceError> {
        if !self.is_master() {
            return Err(ServiceError::NotMaster("only the master takes archives in".into()));
        }
        if archive.members().iter().any(|m| m.encrypted || m.name == "data.zip") {
            return Err(ServiceError::Invalid("the archive is locked: unlock it first".into()));
        }
        let source = Source { server: self.clone(), archive: Arc::new(Mutex::new(archive)) };
        let context = source.object::<ArtifactCollectorContext>("collection_context.json").await?;
        let mut context = context.ok_or_else(|| {
            ServiceError::Invalid(
                "the archive holds no collection (collection_context.json)".into(),
            )
        })?;
        let info = source.object::<ClientInfo>("client_info.json").await?.unwrap_or_default();
        let client = self.owner_of_import(org, principal, info, into).await?;
        let flow = new_flow_id(&self.env);
        let place = Client { org: &org.id, id: &client };
        let place = place.flow(&flow);
        for name in &context.artifacts_with_results {
            let member = format!("{}.json", member_name(&["results", name]));
            self.import_rows(&source, &member, &place.results_of(name)).await?;
        }
        self.import_rows(&source, "log.json", &place.logs()).await?;
        self.import_uploads(&source, org, (&client, &flow), &place.uploads()).await?;
        if let Some(requests) = source.object::<ApiFlowRequestDetails>("requests.json").await? {
            self.tree.set(&place.task(), &requests).await?;
        }
        context.client_id.clone_from(&client);
        context.session_id.clone_from(&flow);
        if let Some(request) = &mut context.request {
            request.client_id.clone_from(&client);
            request.flow_id.clone_from(&flow);
        }
        self.tree.set(&place.context(), &context).await?;
        Ok(context)
    }

    /// The client that an archive is given to; it is made if it is not there.
    async fn owner_of_import(
        &self,
        org: &Org,
        principal: &str,
        info: ClientInfo,
        into: Into,
    ) -> Result<String, ServiceError> {
        if org.state().clients.get(&into.client).is_some() {
            return Ok(into.client);
        }
        let named =
            |said: String| if into.hostname.is_empty() { said } else { into.hostname.clone() };
        let info = ClientInfo {
            client_id: into.client.clone(),
            hostname: named(info.hostname),
            fqdn: named(info.fqdn),
            system: info.system,
            release: info.release,
            architecture: info.architecture,
            mac_addresses: info.mac_addresses,
            labels: info.labels,
            first_seen_at: self.env.clock.unix(),
            ping: self.env.clock.micros(),
            ..ClientInfo::default()
        };
        Ok(self.create_client(org, principal, info).await?.client_id)
    }

    async fn import_rows<R: Read + Seek + Send + 'static>(
        &self,
        source: &Source<R>,
        member: &str,
        to: &FilePath,
    ) -> Result<(), ServiceError> {
        match source.read(member).await? {
            Some(rows) => self.add_rows(to, 0, &Bytes::from(rows)).await,
            None => Ok(()),
        }
    }

    /// Files, and then the table that names them.
    async fn import_uploads<R: Read + Seek + Send + 'static>(
        &self,
        source: &Source<R>,
        org: &Org,
        (client, flow): (&str, &str),
        table: &FilePath,
    ) -> Result<(), ServiceError> {
        let Some(rows) = source.read("uploads.json").await? else { return Ok(()) };
        let mut kept = String::new();
        for line in rows.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let bad = |e: &dyn std::fmt::Display| {
                ServiceError::Invalid(format!("uploads.json of the archive: {e}"))
            };
            let mut row: Value = serde_json::from_slice(line).map_err(|e| bad(&e))?;
            let inside: Vec<String> = (row["_Components"].as_array().into_iter().flatten())
                .filter_map(|c| c.as_str().map(str::to_owned))
                .collect();
            let away = |c: &String| matches!(c.as_str(), "" | "." | "..");
            if inside.first().is_none_or(|first| first != "uploads") || inside.iter().any(away) {
                return Err(bad(&"a file is not below `uploads`"));
            }
            let head = ["clients", client, "collections", flow].map(str::to_owned);
            let place: Vec<String> = head.into_iter().chain(inside.iter().cloned()).collect();
            row["_Components"] = json!(place);
            let text = row.to_string();
            let known = UploadRow::decode(text.as_bytes()).map_err(|e| bad(&e))?;
            let at = known.file(&org.id).ok_or_else(|| bad(&"a file has no place"))?;
            let mut name = member_name(&inside);
            let mut to = at.clone();
            if known.kind == UploadKind::Map {
                name.push_str(".idx");
                to = at.sparse_index();
            }
            if let Some(data) = source.read(&name).await? {
                self.tree.set_file(&to, &data).await?;
            }
            kept.push_str(&text);
            kept.push('\n');
        }
        self.add_rows(table, 0, &Bytes::from(kept)).await
    }
}
