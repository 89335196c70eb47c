//! The gRPC API for scripts, tools and the web interface's gateway.
//!
//! Thin: it finds out who calls, checks their rights, and calls services. It
//! runs on the GUI side, so that clients cannot slow people down.

use std::sync::Arc;

use axum::Router;
use futures::future::BoxFuture;
use velociraptor_proto::proto::api_server::ApiServer;
use vql::Registry;

use crate::cluster::Fleet;
use crate::comms::server::{
    AcceptLimits, Accepted, ConnHandler, Metrics, Serve, Stop, WebHandler, serve,
};
use crate::comms::tls::{
    Alpn, ClientAuth, Identity, ServerOptions, TlsError, roots, server_config,
};
use crate::crypto::certs::Certificate;
use crate::crypto::node::CN_PREFIX;
use crate::env::{Env, Listener, Side};
use crate::services::Server;
use crate::services::notebooks::Limits as NotebookLimits;
use crate::services::tables::{self, Views};

mod artifacts;
pub mod client;
mod clients;
mod events;
mod exports;
mod files;
mod find;
mod flows;
mod hunts;
mod identity;
mod notebooks;
mod packs;
mod query;
mod reformat;
mod reports;
pub mod rest;
mod service;
pub mod status;
mod table;
mod vfs;

pub use identity::Caller;
pub use query::run as run_query;

/// Largest message accepted, in bytes: gRPC's usual 4 MiB.
const MAX_RECEIVE: usize = 4 << 20;

pub use crate::services::server::DENIED_PREFIXES;

/// What the API needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Certificate name of frontends: the super user.
    pub pinned_server_name: String,
    /// Certificate name that may act for others.
    pub gateway_name: String,
    /// First path components that are not served.
    pub denied_prefixes: Vec<String>,
    /// Of looking at whole result sets.
    pub tables: tables::Limits,
    /// Of notebooks.
    pub notebooks: NotebookLimits,
}

impl Default for ApiOptions {
    fn default() -> Self {
        ApiOptions {
            pinned_server_name: "VelociraptorServer".into(),
            gateway_name: "GRPC_GW".into(),
            denied_prefixes: DENIED_PREFIXES.map(str::to_owned).into(),
            tables: tables::Limits::default(),
            notebooks: NotebookLimits::default(),
        }
    }
}

/// The API of one server.
#[derive(Clone)]
pub struct Api {
    pub(super) server: Arc<Server>,
    pub(super) registry: Arc<Registry>,
    pub(super) options: Arc<ApiOptions>,
    pub(super) views: Arc<Views>,
    desk: Arc<notebooks::Desk>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Api {
    /// The API of `server`; queries see the callables of `registry`.
    pub fn new(server: Arc<Server>, registry: Arc<Registry>, options: ApiOptions) -> Api {
        let views = Arc::new(Views::new(options.tables));
        let desk = Arc::new(notebooks::Desk::new(options.notebooks));
        let api = Api { server, registry, options: Arc::new(options), views, desk };
        api.server.notebooks.set_desk(Arc::new(notebooks::Asked::of(&api)));
        api
    }

    /// Cells of notebooks that are being worked out, and how many may be.
    pub fn notebook_cells(&self) -> (usize, usize) {
        self.desk.load()
    }

    /// As a router for the accept loop; a master's also takes the streams of its
    /// minions.
    pub fn router(&self, fleet: Option<Fleet>) -> Router {
        let service = ApiServer::new(self.clone()).max_decoding_message_size(MAX_RECEIVE);
        let mut routes = tonic::service::Routes::new(service);
        if let Some(fleet) = fleet {
            routes = routes.add_service(fleet.service());
        }
        routes.into_axum_router()
    }

    /// Serves on `listener` until stopped; `tls` is that of [`tls`].
    pub async fn serve(
        &self,
        listener: Box<dyn Listener>,
        tls: Arc<rustls::ServerConfig>,
        limits: AcceptLimits,
        metrics: Arc<Metrics>,
        stop: Stop,
        fleet: Option<Fleet>,
    ) {
        let what =
            Serve { tls: Some(tls), proxy_protocol: false, limits, metrics, side: Side::Gui, stop };
        let handler = Arc::new(Callers(WebHandler::new(self.router(fleet))));
        serve(self.server.env.clone(), listener, what, handler).await;
    }
}

/// People and scripts are served on the GUI side. Nodes are not: their beats must
/// not wait for queries.
struct Callers(WebHandler);

impl ConnHandler for Callers {
    fn handle(&self, conn: Accepted) -> BoxFuture<'static, ()> {
        self.0.handle(conn)
    }

    fn side(&self, conn: &Accepted) -> Option<Side> {
        let certificate = Certificate::from_der(conn.certificate.as_ref()?).ok()?;
        certificate.name()?.starts_with(CN_PREFIX).then_some(Side::Frontend)
    }
}

/// The API's TLS: client certificates of `ca_pem`, the deployment's own CA, are
/// required.
pub fn tls(
    env: &Env,
    identity: &Identity,
    ca_pem: &str,
    allow_tls12: bool,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let client_auth = ClientAuth::Required(Arc::new(roots([ca_pem])?));
    server_config(env, identity, &ServerOptions { allow_tls12, client_auth, alpn: Alpn::Http2 })
}

#[cfg(test)]
mod tests;
