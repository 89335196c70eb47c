//! Files that pages upload: parameters of artifacts and packs.

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::routing::post;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use url::form_urlencoded::Serializer;

use super::{Rest, failed, json as answer, multipart};
use crate::api::Caller;
use crate::api::status::store;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::store::{FilePath, paths};

/// Longest name of a file, bytes.
const MAX_NAME: usize = 250;

pub(super) fn routes(rest: &Rest) -> Router {
    let form = rest.clone();
    Router::new().route(
        "/v1/UploadFormFile",
        post(move |r: Request| async move {
            let done = form.form_file(r).await;
            done.map_or_else(|e| failed(&e), |v| answer(v.to_string()))
        }),
    )
}

impl Rest {
    /// A place among those whose files are held in memory.
    pub(super) async fn file_place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = self.files.clone().acquire_owned().await;
        place.map_err(|_| Status::unavailable("the server is stopping"))
    }

    /// Where pages fetch a file of the datastore.
    pub(super) fn file_address(&self, caller: &Caller, at: &FilePath) -> String {
        let mut query = Serializer::new(String::new());
        for part in at.0.named_components() {
            query.append_pair("fs_components", &part);
        }
        let org = &caller.org.id;
        query.append_pair("org_id", if org.is_root() { "root" } else { org.id() });
        format!("{}/api/v1/DownloadVFSFile?{}", self.base_path, query.finish())
    }

    /// Stores a file for a parameter of an artifact: whoever knows its address may fetch
    /// it, as clients must, so nobody can guess it.
    async fn form_file(&self, request: Request) -> Result<Value, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::CollectClient)?;
        let _place = self.file_place().await?;
        let (name, data) = self.form(request).await?;
        let server = &self.api.server;
        let mut hash = [0; 32];
        server.env.entropy.fill(&mut hash);
        let hash = hex::encode(hash);
        let at = paths::form_upload(&hash, &name);
        server.tree.set_file(&at, &data).await.map_err(store)?;
        let details = json!({ "name": name, "bytes": data.len(), "place": hash });
        audit(server, &caller.org, &caller.name, "UploadFormFile", details).await;
        let mut url = url::Url::parse(&self.options.public_base);
        if let Ok(url) = &mut url
            && let Ok(mut path) = url.path_segments_mut()
        {
            path.pop_if_empty().extend(&at.0.components);
        }
        let url = url.map(String::from).unwrap_or_default();
        Ok(json!({ "filename": name, "url": url, "VfsPath": at.0.components }))
    }

    /// The file of a form, and its name.
    async fn form(&self, request: Request) -> Result<(String, Bytes), Status> {
        let invalid = |e: String| Status::invalid_argument(e);
        let boundary = multipart::boundary(request.headers());
        let boundary = boundary.ok_or_else(|| invalid("send a form with a file".into()))?;
        let limit = self.options.max_upload.saturating_add(self.options.max_body);
        let body = to_bytes(request.into_body(), limit).await;
        let body = body.map_err(|_| {
            let most = self.options.max_upload;
            Status::resource_exhausted(format!(
                "a file has at most {most} bytes (gui.upload_bytes)"
            ))
        })?;
        let parts = multipart::parts(&body, &boundary).map_err(invalid)?;
        let asked = parts.iter().find(|p| p.name == "_params_");
        let asked = asked.ok_or_else(|| invalid("the form has no _params_".into()))?;
        let read = serde_json::from_slice::<Value>(&asked.data);
        read.map_err(|e| invalid(format!("_params_: {e}")))?;
        let file = parts.iter().find(|p| p.name == "file");
        let file = file.and_then(|f| Some((f.file.as_deref()?, &f.data)));
        let (name, data) = file.ok_or_else(|| invalid("the form has no file".into()))?;
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        if matches!(name, "" | "." | "..") || name.len() > MAX_NAME {
            return Err(invalid(format!("a file needs a name of 1 to {MAX_NAME} bytes")));
        }
        Ok((name.to_owned(), data.clone()))
    }
}
