//! The file browser: folders as they were last listed, listing again, fetching files.

use serde_json::{Map, Value, json};
use tonic::Status;
use velociraptor_proto::proto::{
    ArtifactCollectorResponse, GetTableRequest, GetTableResponse, Row, StartFlowResponse,
    VfsDownloadInfo, VfsListRequest, VfsListResponse, VfsRefreshDirectoryRequest,
    VfsStatDownloadRequest,
};

use super::status::status;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::flows::Rows;
use crate::services::tables::{Of, Set};
use crate::services::vfs::{FETCH, LIST, listing_set, request};

/// Folders of one answer at most: a tree of more helps nobody.
const MAX_FOLDERS: usize = 2000;
/// Rows of a folder looked at for folders at most.
const MAX_ROWS: u64 = 200_000;
/// Rows read at once.
const CHUNK: u64 = 4096;

/// Empty components come from pages that write lists as `name[]`.
fn real(components: &[String]) -> Vec<String> {
    components.iter().filter(|c| !c.is_empty()).cloned().collect()
}

/// The path as the client's accessor reads it.
fn client_path(accessor: &str, rest: &[String]) -> String {
    match accessor {
        "ntfs" => rest.join("\\"),
        _ => format!("/{}", rest.join("/")),
    }
}

impl Api {
    /// A folder as it was listed last, for whoever may read results.
    async fn folder(
        &self,
        caller: &Caller,
        client: &str,
        components: &[String],
    ) -> Result<VfsListResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let found = self.server.folder(&caller.org, client, &real(components)).await;
        found.map_err(|e| status(&e))
    }

    /// The rows of a folder's listing, if there is one.
    fn folder_set(&self, caller: &Caller, at: &VfsListResponse) -> Set {
        let of = Of::Section {
            client: at.client_id.clone(),
            flow: at.flow_id.clone(),
            which: Rows::Results(listing_set(at).to_owned()),
            from: at.start_idx,
            to: at.end_idx,
        };
        Set { server: self.server.clone(), org: caller.org.clone(), of }
    }

    /// The folders in a folder.
    pub(super) async fn list_folder(
        &self,
        caller: &Caller,
        r: &VfsListRequest,
    ) -> Result<VfsListResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let folder = real(&r.vfs_components);
        if folder.is_empty() {
            let roots = ["auto", "ntfs", "registry"];
            let rows = roots.map(|n| json!({ "Mode": "drwxrwxrwx", "Name": n }));
            let response = Value::from(rows.to_vec()).to_string();
            return Ok(VfsListResponse { response, ..Default::default() });
        }
        let found = self.server.folder(&caller.org, &r.client_id, &folder).await;
        let mut found = found.map_err(|e| status(&e))?;
        if found.total_rows == 0 {
            return Ok(found);
        }
        let set = self.folder_set(caller, &found);
        let mut folders = Vec::new();
        let mut at = 0;
        while at < found.total_rows.min(MAX_ROWS) && folders.len() < MAX_FOLDERS {
            let rows = set.rows(at, CHUNK).await.map_err(|e| status(&e))?;
            if rows.is_empty() {
                break;
            }
            at += rows.len() as u64;
            for row in rows {
                let Ok(row) = serde_json::from_slice::<Map<String, Value>>(&row) else { continue };
                if row.get("Mode").and_then(Value::as_str).is_some_and(|m| m.starts_with('d')) {
                    folders.push(row);
                }
            }
        }
        folders.truncate(MAX_FOLDERS);
        found.columns = folders.first().map(|f| f.keys().cloned().collect()).unwrap_or_default();
        found.response = serde_json::to_string(&folders).unwrap_or_default();
        Ok(found)
    }

    /// When and by which collection a folder was listed last.
    pub(super) async fn stat_folder(
        &self,
        caller: &Caller,
        r: &VfsListRequest,
    ) -> Result<VfsListResponse, Status> {
        self.folder(caller, &r.client_id, &r.vfs_components).await
    }

    /// Everything in a folder, with what was fetched.
    pub(super) async fn folder_files(
        &self,
        caller: &Caller,
        r: &GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        let found = self.folder(caller, &r.client_id, &r.vfs_components).await?;
        if found.flow_id.is_empty() {
            return Ok(GetTableResponse::default());
        }
        let mut table = self.view_of(&self.folder_set(caller, &found), r).await?;
        let Some(name) = table.columns.iter().position(|c| c == "Name") else { return Ok(table) };
        let fetched =
            self.server.fetched_from(&caller.org, &r.client_id, &real(&r.vfs_components)).await;
        let fetched = fetched.map_err(|e| status(&e))?;
        for row in &mut table.rows {
            let Ok(mut cells) = serde_json::from_str::<Vec<Value>>(&row.json) else { continue };
            let file = cells.get(name).and_then(Value::as_str).unwrap_or_default();
            let info = fetched.iter().rfind(|f| f.name == file);
            let info = info.and_then(|f| velociraptor_proto::json::to_sparse_row(f).ok());
            cells.insert(0, info.unwrap_or_else(|| "".into()));
            *row = Row { json: Value::from(cells).to_string() };
        }
        table.columns.insert(0, "Download".into());
        Ok(table)
    }

    /// Asks the endpoint for a folder, and `depth` levels below it.
    pub(super) async fn refresh_folder(
        &self,
        caller: &Caller,
        r: &VfsRefreshDirectoryRequest,
    ) -> Result<ArtifactCollectorResponse, Status> {
        let folder = real(&r.vfs_components);
        let (accessor, rest) = match folder.split_first() {
            Some((a, rest)) => (a.as_str(), rest),
            None => ("file", &[][..]),
        };
        let parameters = [
            ("Path", client_path(accessor, rest)),
            ("Components", json!(rest).to_string()),
            ("Accessor", accessor.to_owned()),
            ("Depth", r.depth.to_string()),
        ];
        self.start_flow(caller, request(&r.client_id, LIST, &parameters)).await
    }

    /// Asks the endpoint for a file.
    pub(super) async fn fetch_file(
        &self,
        caller: &Caller,
        r: &VfsStatDownloadRequest,
    ) -> Result<StartFlowResponse, Status> {
        let file = real(&r.components);
        if file.is_empty() {
            return Err(Status::invalid_argument("components: no file is named"));
        }
        let accessor = if r.accessor.is_empty() { "file" } else { &r.accessor };
        let parameters = [
            ("Path", client_path(accessor, &file)),
            ("Components", json!(file).to_string()),
            ("Accessor", accessor.to_owned()),
        ];
        let started = self.start_flow(caller, request(&r.client_id, FETCH, &parameters)).await?;
        let (org, flow) = (&caller.org, &started.flow_id);
        let noted = self.server.note_fetching(org, &r.client_id, accessor, &file, flow).await;
        if let Err(e) = noted {
            // The collection is on its way, whatever is shown of it.
            tracing::warn!(client = r.client_id, flow, error = %e, "fetching is not noted");
        }
        Ok(StartFlowResponse { flow_id: started.flow_id })
    }

    /// What was fetched from a folder, the latest of each name.
    pub(super) async fn fetched_files(
        &self,
        caller: &Caller,
        r: &VfsListRequest,
    ) -> Result<String, Status> {
        caller.require(Permission::ReadResults)?;
        let folder = real(&r.vfs_components);
        let found = self.server.fetched_from(&caller.org, &r.client_id, &folder).await;
        let mut latest = std::collections::BTreeMap::new();
        for f in found.map_err(|e| status(&e))? {
            let row = velociraptor_proto::json::to_sparse_row(&f);
            latest.insert(f.name, row.map_err(|e| Status::internal(e.to_string()))?);
        }
        let items: Vec<Value> = latest.into_values().collect();
        Ok(json!({ "items": items }).to_string())
    }

    /// What is known of a fetched file.
    pub(super) async fn stat_fetched(
        &self,
        caller: &Caller,
        r: &VfsStatDownloadRequest,
    ) -> Result<VfsDownloadInfo, Status> {
        caller.require(Permission::ReadResults)?;
        let file = real(&r.components);
        let (accessor, file) = match (r.accessor.as_str(), file.split_first()) {
            ("", Some((accessor, rest))) => (accessor.clone(), rest.to_vec()),
            (accessor, _) => (accessor.to_owned(), file),
        };
        let found = self.server.fetched(&caller.org, &r.client_id, &accessor, &file).await;
        found.map_err(|e| status(&e))?.ok_or_else(|| Status::not_found("Not Found"))
    }
}
