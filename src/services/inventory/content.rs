//! Contents of tools: written once, under a name nobody can guess, or fetched from where they are.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt;
use tokio::time::timeout;
use url::Url;
use velociraptor_proto::proto::Tool;

use crate::comms::fetch::{Request, send};
use crate::env::{Env, File, Open, fs};
use crate::services::server::{Org, Server, ServiceError};
use crate::store::{StoreError, StoreKind, paths};

/// Longest answer about a project's releases, in bytes.
const MAX_RELEASES: usize = 8 << 20;

/// A content on its way into the datastore. Dropped unfinished it leaves a scratch file, which
/// the next start clears.
pub struct Content {
    file: Box<dyn File>,
    scratch: String,
    digest: Context,
    bytes: u64,
    limit: u64,
}

/// A content that is complete, and not in its place yet.
pub struct Complete {
    scratch: String,
    /// Hex SHA-256.
    pub hash: String,
    /// How long it is.
    pub bytes: u64,
}

fn store(e: std::io::Error) -> ServiceError {
    StoreError::from(e).into()
}

impl Content {
    /// An empty one.
    pub async fn new(server: &Server) -> Result<Content, ServiceError> {
        let scratch = server.tree.temp(StoreKind::Files);
        let file = server.env.fs.open(&scratch, Open::CreateNew).await.map_err(store)?;
        let limit = server.options.tools.max_bytes;
        Ok(Content { file, scratch, digest: Context::new(&SHA256), bytes: 0, limit })
    }

    /// Adds to its end.
    pub async fn write(&mut self, data: Bytes) -> Result<(), ServiceError> {
        let len = data.len() as u64;
        if self.bytes.saturating_add(len) > self.limit {
            let most = self.limit;
            return Err(ServiceError::Invalid(format!(
                "a tool has at most {most} bytes (tools.max_bytes)"
            )));
        }
        self.digest.update(&data);
        self.file.write_at(self.bytes, data).await.map_err(store)?;
        self.bytes += len;
        Ok(())
    }

    /// Makes it durable.
    pub async fn finish(self) -> Result<Complete, ServiceError> {
        self.file.sync().await.map_err(store)?;
        self.file.close().await.map_err(store)?;
        let hash = hex::encode(self.digest.finish());
        Ok(Complete { scratch: self.scratch, hash, bytes: self.bytes })
    }

    /// Lets go of it.
    pub async fn abandon(self, env: &Env) {
        let _ = self.file.close().await;
        let _ = env.fs.remove(&self.scratch).await;
    }
}

impl Complete {
    /// Lets go of it.
    pub async fn abandon(self, env: &Env) {
        let _ = env.fs.remove(&self.scratch).await;
    }

    /// Puts it where clients fetch it, and says so in `tool`. The name holds the hash: a new
    /// content never takes the place of one that clients were told of.
    pub async fn keep(
        self,
        server: &Server,
        org: &Org,
        tool: &mut Tool,
    ) -> Result<(), ServiceError> {
        let version = match tool.version.is_empty() {
            true => String::new(),
            false => format!(":{}", tool.version),
        };
        let name = format!("{}{version}:{}", tool.name, self.hash);
        let stored = paths::public_name(&server.options.obfuscation_nonce, &name, &org.id);
        let to = server.tree.root.file(&paths::public_file(&stored)).map_err(StoreError::from)?;
        let env = &server.env;
        if let Err(e) = env.fs.rename(&self.scratch, &to).await {
            let _ = env.fs.remove(&self.scratch).await;
            return Err(store(e));
        }
        env.fs.sync_dir(fs::parent(&to)).await.map_err(store)?;
        tool.filestore_path = stored;
        tool.hash = self.hash;
        Ok(())
    }
}

fn refused(tool: &Tool, why: impl std::fmt::Display) -> ServiceError {
    ServiceError::Invalid(format!("tool {}: {why}", tool.name))
}

/// Fetches a tool from where it says it is.
pub(super) async fn fetch(server: &Server, tool: &Tool) -> Result<Complete, ServiceError> {
    let limit = server.options.tools.fetch_timeout;
    let work = timeout(limit, download(server, tool)).await;
    work.map_err(|_| {
        refused(tool, format!("fetching {} took longer than {} s", tool.url, limit.as_secs()))
    })?
}

async fn download(server: &Server, tool: &Tool) -> Result<Complete, ServiceError> {
    let said = |why: String| refused(tool, format!("{}: {why}", tool.url));
    let request = get(&tool.url).map_err(said)?;
    let (response, at) = send(&server.env, request).await.map_err(|e| said(e.to_string()))?;
    if !response.status().is_success() {
        return Err(said(format!("{at} answers {}", response.status())));
    }
    let mut body = response.into_body();
    let mut content = Content::new(server).await?;
    while let Some(frame) = body.frame().await {
        let done = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => content.write(data).await,
                Err(_) => Ok(()),
            },
            Err(e) => Err(said(e.to_string())),
        };
        if let Err(e) = done {
            content.abandon(&server.env).await;
            return Err(e);
        }
    }
    content.finish().await
}

fn get(url: &str) -> Result<Request, String> {
    let url = Url::parse(url).map_err(|e| e.to_string())?;
    let agent: (HeaderName, HeaderValue) =
        (header::USER_AGENT, HeaderValue::from_static(crate::PRODUCT));
    Ok(Request {
        method: Method::GET,
        url,
        headers: vec![agent],
        body: Bytes::new(),
        skip_verify: false,
        root_ca: String::new(),
        socket: None,
    })
}

/// The address and name of the file of a project's latest release that a tool is.
pub(super) async fn release(
    server: &Server,
    tool: &Tool,
) -> Result<(String, String), ServiceError> {
    let base = server.options.tools.github_api.trim_end_matches('/');
    let at = format!("{base}/repos/{}/releases/latest", tool.github_project);
    let said = |why: String| refused(tool, format!("{at}: {why}"));
    let pattern = regex::Regex::new(&format!("(?i){}", tool.github_asset_regex))
        .map_err(|e| refused(tool, format!("github_asset_regex: {e}")))?;
    let ask = async {
        let (response, _) = send(&server.env, get(&at)?).await.map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            return Err(format!("answers {}", response.status()));
        }
        let body = http_body_util::Limited::new(response.into_body(), MAX_RELEASES);
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        serde_json::from_slice::<serde_json::Value>(&body).map_err(|e| e.to_string())
    };
    let answer = timeout(Duration::from_secs(60), ask).await;
    let answer = answer.map_err(|_| said("no answer came in time".into()))?.map_err(said)?;
    let assets = answer.get("assets").and_then(serde_json::Value::as_array);
    for asset in assets.into_iter().flatten() {
        let text = |key: &str| asset.get(key).and_then(serde_json::Value::as_str);
        if let (Some(name), Some(url)) = (text("name"), text("browser_download_url"))
            && pattern.is_match(name)
        {
            return Ok((url.to_owned(), name.to_owned()));
        }
    }
    Err(said(format!("the latest release has no file like `{}`", tool.github_asset_regex)))
}
