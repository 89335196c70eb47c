//! Files that pages upload: parameters of artifacts and packs.
//!
//! Forms are taken apart by `multer`, which axum's own extractor is made of: that one hides
//! the limits of single parts and the list of parts that are wanted.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::header;
use axum::routing::post;
use bytes::Bytes;
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use url::form_urlencoded::Serializer;

use super::{Rest, failed, json as answer};
use crate::api::Caller;
use crate::api::status::store;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::store::{FilePath, paths};

/// Longest name of a file, bytes.
const MAX_NAME: usize = 250;

/// Longest `_params_` of a form, bytes.
const MAX_PARAMS: usize = 64 << 10;
/// Room for what stands between the parts of a form, bytes.
const MAX_BETWEEN: usize = 64 << 10;

/// What people upload, since the start of the process.
#[derive(Debug)]
pub struct Uploads {
    /// Bytes that a file may have (`gui.upload_bytes`).
    pub limit: u64,
    /// Files taken.
    pub files: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Those refused since they were larger.
    pub refused: AtomicU64,
}

impl Uploads {
    pub(super) fn new(limit: usize) -> Self {
        let none = AtomicU64::default;
        Self { limit: limit as u64, files: none(), bytes: none(), refused: none() }
    }

    pub(super) fn take(&self, bytes: usize) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A file that is too large.
    pub(super) fn refuse(&self) -> Status {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let most = self.limit;
        Status::resource_exhausted(format!("a file has at most {most} bytes (gui.upload_bytes)"))
    }
}

/// Whether a body was not read because it is longer than allowed.
pub(super) fn too_long(e: &axum::Error) -> bool {
    std::error::Error::source(e).is_some_and(|e| e.is::<http_body_util::LengthLimitError>())
}

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
        let mut form = with_a_file(request, self.options.max_upload as u64)?;
        let wrong = |e: multer::Error| match e {
            multer::Error::FieldSizeExceeded { field_name: Some(name), .. } if name != "file" => {
                invalid(format!("{name} has at most {MAX_PARAMS} bytes"))
            }
            multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
                self.uploads.refuse()
            }
            e => invalid(format!("the form: {e}")),
        };
        let (mut asked, mut file) = (None, None);
        while let Some(part) = form.next_field().await.map_err(wrong)? {
            match part.name() {
                Some("file") => {
                    let name = file_name(part.file_name())?;
                    file = Some((name, part.bytes().await.map_err(wrong)?));
                }
                _ => asked = Some(part.bytes().await.map_err(wrong)?),
            }
        }
        let asked = asked.ok_or_else(|| invalid("the form has no _params_".into()))?;
        let read = serde_json::from_slice::<Value>(&asked);
        read.map_err(|e| invalid(format!("_params_: {e}")))?;
        let (name, data) = file.ok_or_else(|| invalid("the form has no file".into()))?;
        self.uploads.take(data.len());
        Ok((name, data))
    }
}

/// A form with a file of at most so many bytes, and what belongs to it.
pub(super) fn with_a_file(request: Request, most: u64) -> Result<Multipart<'static>, Status> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let boundary = kind.and_then(|k| multer::parse_boundary(k).ok());
    let boundary = boundary.ok_or_else(|| Status::invalid_argument("send a form with a file"))?;
    let params = MAX_PARAMS as u64;
    let limits = SizeLimit::new()
        .whole_stream(most.saturating_add(params + MAX_BETWEEN as u64))
        .for_field("file", most)
        .for_field("_params_", params);
    let limits = Constraints::new().size_limit(limits).allowed_fields(vec!["file", "_params_"]);
    Ok(Multipart::with_constraints(request.into_body().into_data_stream(), boundary, limits))
}

/// The last part of a file's name in a form.
pub(super) fn file_name(given: Option<&str>) -> Result<String, Status> {
    let name = given.map(written).unwrap_or_default();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    if matches!(name, "" | "." | "..") || name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!(
            "a file needs a name of 1 to {MAX_NAME} bytes"
        )));
    }
    Ok(name.to_owned())
}

/// A name as somebody gave it: browsers write three characters as codes.
fn written(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}
