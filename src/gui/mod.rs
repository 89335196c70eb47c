//! The web GUI: who is at the browser, and what the browser loads.
//!
//! Screens are scripts (`assets/`), drawn in the browser from the same calls that
//! other programs use (`api::rest`). This room knows users, sessions and requests;
//! of clients, flows and rows it knows nothing.

mod assets;
pub mod door;
mod enter;
mod guard;
mod jwt;
mod networks;
mod oidc;
mod pages;
mod session;

pub use networks::Networks;
pub use oidc::Provider;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::services::Server;
use assets::Assets;
use door::Door;
use session::Sessions;

/// What the GUI needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct GuiOptions {
    /// Prefix of all paths, without a slash at the end.
    pub base_path: String,
    /// Scheme, host and port under which people reach it, if configured.
    pub public_origin: Option<String>,
    /// Cookies are for TLS alone.
    pub secure: bool,
    /// The frontend's private key, of which that of sessions is derived.
    pub secret: String,
    /// How long a session lasts, seconds.
    pub session_seconds: u64,
    /// Failed log-ins.
    pub door: door::Limits,
    /// Largest body of a request, bytes.
    pub max_body: usize,
    /// How people show who they are.
    pub entry: Entry,
    /// From where they may come.
    pub networks: Networks,
}

/// How people show who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By a password of theirs here.
    Passwords,
    /// At an identity provider.
    Providers(Vec<Provider>),
    /// By a certificate of the deployment's CA; who is no user yet becomes one with
    /// these roles, if there are any.
    Certificates(Vec<String>),
}

impl Default for GuiOptions {
    fn default() -> Self {
        Self {
            base_path: String::new(),
            public_origin: None,
            secure: true,
            secret: String::new(),
            session_seconds: 12 * 3600,
            door: door::Limits::default(),
            max_body: 4 << 20,
            entry: Entry::Passwords,
            networks: Networks::default(),
        }
    }
}

impl GuiOptions {
    /// The lock-out that settings describe.
    pub fn lock(failures: u32, seconds: u64) -> door::Limits {
        door::Limits { failures, lock: Duration::from_secs(seconds) }
    }
}

/// The GUI of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gui(Arc<Inner>);

/// See [`Gui`].
#[derive(Debug)]
pub struct Inner {
    server: Arc<Server>,
    options: GuiOptions,
    sessions: Sessions,
    door: Door,
    oidc: oidc::Oidc,
    assets: Assets,
    /// Differs between deployments, which may share a host name.
    cookie_name: String,
}

impl std::ops::Deref for Gui {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Gui {
    /// The GUI of `server`.
    pub fn new(server: Arc<Server>, options: GuiOptions) -> Self {
        let sessions = Sessions::new(&options.secret, options.session_seconds);
        let cookie_name = format!("vr_{}", sessions.name());
        let door = Door::new(options.door);
        Self(Arc::new(Inner {
            server,
            options,
            sessions,
            door,
            oidc: oidc::Oidc::default(),
            assets: Assets::default(),
            cookie_name,
        }))
    }

    /// Log-ins that failed, and those that were not looked at.
    pub fn failed_log_ins(&self) -> (u64, u64) {
        let get = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        (get(&self.door.failed), get(&self.door.refused))
    }

    /// All pages, with `api` below `/api`.
    pub fn router(&self, api: Router) -> Router {
        let api = api.layer(from_fn_with_state(self.clone(), guard::api));
        let app = Router::new()
            .route("/", get(pages::start))
            .route("/app", get(pages::start))
            .route("/app/", get(pages::start))
            .route("/app/index.html", get(pages::start))
            .route("/app/s/{build}/{*name}", get(pages::asset))
            .route("/app/login", get(pages::log_in).post(pages::signing_in))
            .route("/app/logoff", post(pages::log_off))
            .route("/auth/{*way}", get(enter::way))
            .route("/app/{*screen}", get(pages::shell))
            .with_state(self.clone())
            .nest("/api", api);
        let app = match self.options.base_path.as_str() {
            "" => app,
            base => Router::new().nest(base, app),
        };
        app.layer(DefaultBodyLimit::max(self.options.max_body))
            .layer(from_fn_with_state(self.clone(), guard::headers))
    }
}

#[cfg(test)]
mod tests;
