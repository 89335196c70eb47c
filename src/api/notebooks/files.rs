//! Files beside notebooks: what is attached, and exports.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tonic::Status;
use velociraptor_proto::proto::{
    NotebookExportRequest, NotebookFileUploadRequest, NotebookMetadata,
};

use super::super::status::status;
use super::super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::exports::{Format, Request, What};
use crate::store::FilePath;

/// An attachment that was stored.
pub(in super::super) struct Attached {
    /// Where it is.
    pub at: FilePath,
    /// What it is called there.
    pub name: String,
    /// Its type, as its first bytes say.
    pub mime: &'static str,
}

impl Api {
    /// Adds what is attached to a notebook, and its exports.
    pub(in super::super) async fn with_files(
        &self,
        caller: &Caller,
        n: &mut NotebookMetadata,
    ) -> Result<(), Status> {
        let id = n.notebook_id.clone();
        let files = self.at(caller, &id).files(n).await;
        n.available_uploads = Some(files.map_err(|e| status(&e))?);
        let exports = self.server.notebook_exports(&caller.org, &id).await;
        n.available_downloads = Some(exports.map_err(|e| status(&e))?);
        Ok(())
    }

    /// Attaches a file.
    pub(in super::super) async fn attach(
        &self,
        caller: &Caller,
        r: &NotebookFileUploadRequest,
    ) -> Result<Attached, Status> {
        caller.require(Permission::NotebookEditor)?;
        let data = STANDARD.decode(r.data.trim());
        let data = data.map_err(|e| Status::invalid_argument(format!("data: not base64: {e}")))?;
        let name = (r.filename.as_str(), !r.disable_attachment_id);
        let at = self.at(caller, &r.notebook_id);
        let at = self.server.notebooks.attach(at, &caller.name, name, &data).await;
        let at = at.map_err(|e| status(&e))?;
        let name = at.0.components.last().cloned().unwrap_or_default();
        Ok(Attached { at, name, mime: mime(&data) })
    }

    /// Removes an attachment, or a file that a cell left.
    pub(in super::super) async fn detach(
        &self,
        caller: &Caller,
        r: &NotebookFileUploadRequest,
    ) -> Result<(), Status> {
        caller.require(Permission::PrepareResults)?;
        let given: Vec<String> = r.components.iter().filter(|c| !c.is_empty()).cloned().collect();
        let at = self.at(caller, &r.notebook_id);
        let done = self.server.notebooks.detach(at, &caller.name, &given).await;
        done.map_err(|e| status(&e))
    }

    /// Begins an export; it is among the downloads of the notebook.
    pub(in super::super) async fn export_notebook(
        &self,
        caller: &Caller,
        r: NotebookExportRequest,
    ) -> Result<(), Status> {
        caller.require(Permission::PrepareResults)?;
        let at = self.at(caller, &r.notebook_id);
        at.open(&caller.name).await.map_err(|e| status(&e))?;
        let details = json!({ "notebook_id": r.notebook_id, "type": r.r#type });
        audit(&self.server, &caller.org, &caller.name, "ExportNotebook", details).await;
        let request = Request {
            what: What::Notebook { html: r.r#type != "zip", id: r.notebook_id, name: None },
            format: Format::Json,
            password: String::new(),
            expand_sparse: false,
        };
        let begun = self.server.export(&caller.org, request).await;
        begun.map(drop).map_err(|e| status(&e))
    }
}

/// The type of a picture by its first bytes; others are not told apart.
fn mime(data: &[u8]) -> &'static str {
    match data {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => "application/octet-stream",
    }
}
