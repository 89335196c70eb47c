//! The API over HTTP with JSON: `/v1` is that of stock servers, for their scripts;
//! `/fleet` is what our own screens need beside it. Both are thin, like the gRPC
//! API, and use its methods.
//!
//! Who calls was found out before (a [`SignedIn`] in the request's extensions).
//! Rights are checked behind each call.

use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use futures::future::BoxFuture;
use prost::{Message, Name};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use velociraptor_proto::gateway;

use super::{Api, Caller};
use crate::services::users::SignedIn;

mod absent;
mod download;
mod events;
mod fleet;
mod hunts;
mod live;
mod notebooks;
mod personal;
mod stock;
mod table;
mod tools;
mod traits;
mod uploads;
mod users;
mod vfs;

pub use uploads::Uploads;

/// Names of calls that are looked up at once.
const MAX_CALLS: usize = 50;
/// Files that are taken at once; they are held in memory meanwhile.
const FILES_AT_ONCE: usize = 2;

/// Limits of the HTTP API.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// Largest body, bytes.
    pub max_body: usize,
    /// Largest file that is uploaded, bytes.
    pub max_upload: usize,
    /// Where clients reach the frontend, without a slash at the end: files for them are
    /// below `/public`.
    pub public_base: String,
    /// Event streams open at once.
    pub live_streams: usize,
    /// People sign in elsewhere: pages offer no passwords.
    pub password_less: bool,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self {
            max_body: 4 << 20,
            max_upload: 16 << 20,
            public_base: String::new(),
            live_streams: 500,
            password_less: false,
        }
    }
}

/// The HTTP API of one server.
#[derive(Clone)]
pub struct Rest {
    api: Api,
    options: Arc<RestOptions>,
    streams: Arc<Semaphore>,
    files: Arc<Semaphore>,
    uploads: Arc<Uploads>,
    stop: CancellationToken,
    base_path: Arc<str>,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Rest {
    /// Over `api`, for pages below `base_path`; streams end with `stop`.
    pub fn new(api: Api, options: RestOptions, base_path: &str, stop: CancellationToken) -> Self {
        Self {
            api,
            streams: Arc::new(Semaphore::new(options.live_streams)),
            files: Arc::new(Semaphore::new(FILES_AT_ONCE)),
            uploads: Arc::new(Uploads::new(options.max_upload)),
            options: Arc::new(options),
            stop,
            base_path: base_path.into(),
        }
    }

    /// What people upload.
    pub fn uploads(&self) -> Arc<Uploads> {
        self.uploads.clone()
    }

    /// As a router, without the leading `/api`.
    pub fn router(&self) -> Router {
        let all = Router::new()
            .merge(stock::routes(self))
            .merge(hunts::routes(self))
            .merge(fleet::routes(self))
            .merge(events::routes(self))
            .merge(notebooks::routes(self))
            .merge(personal::routes(self))
            .merge(tools::routes(self))
            .merge(users::routes(self))
            .merge(vfs::routes(self))
            .route("/v1/{*call}", any(absent::call));
        let probed = all.clone();
        all.route(
            "/fleet/calls",
            get(move |request: Request| {
                let probed = probed.clone();
                async move { json(calls(probed, &parameters(&request)).await) }
            }),
        )
    }

    /// The caller, in the organisation that the request names. Nothing of the request
    /// is kept while users are read: a body cannot be shared.
    fn caller(&self, request: &Request) -> BoxFuture<'static, Result<Caller, Status>> {
        let who = request.extensions().get::<SignedIn>().cloned();
        let header = request.headers().get("grpc-metadata-orgid").and_then(|v| v.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let named = header.map(str::to_owned).or_else(|| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find(|(k, _)| k == "org_id").map(|(_, v)| v.into_owned())
        });
        let api = self.api.clone();
        Box::pin(async move {
            let who = who.ok_or_else(|| Status::unauthenticated("sign in first"))?;
            if let Some(org) = named.filter(|o| !o.is_empty() && o != "root") {
                return api.user(&who.name, &org).await;
            }
            let root = api.user(&who.name, "").await?;
            if !root.policy.is_empty() {
                return Ok(root);
            }
            // Somebody of one organisation need not say which.
            for org in api.server.orgs() {
                let caller = api.user(&who.name, org.id.id()).await?;
                if !caller.policy.is_empty() {
                    return Ok(caller);
                }
            }
            Ok(root)
        })
    }

    /// Who calls, and the body of a call that is no message of a stock file.
    async fn asked<T: serde::de::DeserializeOwned>(
        &self,
        request: Request,
    ) -> Result<(Caller, T), Status> {
        let caller = self.caller(&request).await?;
        let body = to_bytes(request.into_body(), self.options.max_body).await;
        let body = body.map_err(|e| Status::invalid_argument(format!("body: {e}")))?;
        let asked = serde_json::from_slice(&body);
        Ok((caller, asked.map_err(|e| Status::invalid_argument(format!("body: {e}")))?))
    }

    /// Reads a message, calls, and answers with what came of it.
    async fn answer<M, F, A>(
        &self,
        request: Request,
        path: &[(String, String)],
        call: F,
    ) -> Response
    where
        M: Message + Name + Default,
        F: FnOnce(Self, Caller, M) -> A,
        A: Future<Output = Result<String, Status>>,
    {
        match self.take(request, path, call).await {
            Ok(text) => json(text),
            Err(e) => failed(&e),
        }
    }

    async fn take<M, F, A>(
        &self,
        request: Request,
        path: &[(String, String)],
        call: F,
    ) -> Result<String, Status>
    where
        M: Message + Name + Default,
        F: FnOnce(Self, Caller, M) -> A,
        A: Future<Output = Result<String, Status>>,
    {
        let caller = self.caller(&request).await?;
        let bad = |e: velociraptor_proto::json::JsonError| Status::invalid_argument(e.to_string());
        let message = if request.method() == Method::POST {
            let _place;
            let mut limit = self.options.max_body;
            let file = request.extensions().get::<HoldsFile>().is_some();
            if file {
                _place = self.file_place().await?;
                // As base64, with some room for what stands beside it.
                limit = limit.saturating_add(self.options.max_upload.saturating_mul(4) / 3);
            }
            let body = to_bytes(request.into_body(), limit).await;
            let body = body.map_err(|e| match file && uploads::too_long(&e) {
                true => self.uploads.refuse(),
                false => Status::invalid_argument(format!("body: {e}")),
            })?;
            let body = if body.trim_ascii().is_empty() { &b"{}"[..] } else { &body };
            velociraptor_proto::json::from_json(body).map_err(bad)?
        } else {
            let pairs = parameters(&request);
            let all = pairs.iter().chain(path).map(|(k, v)| (k.as_str(), v.as_str()));
            gateway::from_query(all).map_err(bad)?
        };
        call(self.clone(), caller, message).await
    }
}

/// A stock call by `GET`: its message is in the address.
fn on_get<M, F, A>(rest: &Rest, body: F) -> MethodRouter
where
    M: Message + Name + Default,
    F: Fn(Rest, Caller, M) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<String, Status>> + Send + 'static,
{
    let rest = rest.clone();
    get(move |request: Request| async move { rest.answer::<M, _, _>(request, &[], body).await })
}

/// Marks requests whose message holds a file.
#[derive(Clone, Copy)]
struct HoldsFile;

/// As [`on_post`], for a message that holds a file.
fn on_file<M, F, A>(rest: &Rest, body: F) -> MethodRouter
where
    M: Message + Name + Default,
    F: Fn(Rest, Caller, M) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<String, Status>> + Send + 'static,
{
    let rest = rest.clone();
    post(move |mut request: Request| async move {
        request.extensions_mut().insert(HoldsFile);
        rest.answer::<M, _, _>(request, &[], body).await
    })
}

/// A stock call by `POST`: its message is the body.
fn on_post<M, F, A>(rest: &Rest, body: F) -> MethodRouter
where
    M: Message + Name + Default,
    F: Fn(Rest, Caller, M) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<String, Status>> + Send + 'static,
{
    let rest = rest.clone();
    post(move |request: Request| async move { rest.answer::<M, _, _>(request, &[], body).await })
}

/// Which of the stock calls that are named (`name`) are served: pages show no button
/// for others.
async fn calls(all: Router, asked: &[(String, String)]) -> String {
    let mut found = serde_json::Map::new();
    let plain = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric());
    for (_, name) in asked.iter().filter(|(k, n)| k == "name" && plain(n)).take(MAX_CALLS) {
        // A method that nothing takes: what is there refuses it, what is not is not found.
        let probe = Request::builder().method("TRACE").uri(format!("/v1/{name}"));
        let Ok(probe) = probe.body(axum::body::Body::empty()) else { continue };
        let Ok(answer) = all.clone().oneshot(probe).await;
        found.insert(name.clone(), (answer.status() != StatusCode::NOT_FOUND).into());
    }
    serde_json::Value::from(found).to_string()
}

/// The parameters of a request's address.
fn parameters(request: &Request) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .collect()
}

/// A message as an answer's text.
fn text<M: Message + Name>(m: &M) -> Result<String, Status> {
    gateway::to_answer(m).map_err(|e| Status::internal(e.to_string()))
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// An error, as stock gateways show it: its text, and a status by its kind.
fn failed(e: &Status) -> Response {
    let status = match e.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Internal | Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], e.message().to_owned())
        .into_response()
}

/// A file name for a download, safe inside of a header.
fn attachment(name: &str) -> HeaderMap {
    let plain: String = (name.chars())
        .map(|c| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' })
        .take(150)
        .collect();
    let mut headers = HeaderMap::new();
    let text = format!("attachment; filename=\"{}\"", plain.trim_start_matches('.'));
    if let Ok(v) = text.parse() {
        headers.insert(header::CONTENT_DISPOSITION, v);
    }
    headers
}

#[cfg(test)]
mod editor_tests;
#[cfg(test)]
mod notebook_tests;
#[cfg(test)]
mod tests;
