//! An `axum` router on a connection of the accept loop: gRPC, GUI, metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use tower::ServiceExt;

use super::accept::{Accepted, ConnHandler};

/// Keep-alive of HTTP/2 connections: a peer that is gone is noticed within
/// twice this.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Time for a request head; also ends idle HTTP/1 keep-alive.
const HEAD: Duration = Duration::from_secs(300);

/// Who is at the other end; found in a request's extensions.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The peer, or what the PROXY header said of it.
    pub addr: SocketAddr,
    /// The TCP peer.
    pub tcp_addr: SocketAddr,
    /// See [`Accepted::id`].
    pub connection: u64,
    /// Leaf certificate of the verified TLS client.
    pub certificate: Option<Arc<CertificateDer<'static>>>,
}

/// Serves a router over HTTP/1.1 and HTTP/2.
#[derive(Clone)]
pub struct WebHandler {
    app: Router,
    http: auto::Builder<TokioExecutor>,
}

impl WebHandler {
    /// Serves `app`; every request has a [`PeerInfo`] extension.
    pub fn new(app: Router) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        // The automatic Date header reads the operating system's clock.
        http.http1()
            .auto_date_header(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 << 10);
        http.http2()
            .auto_date_header(false)
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_KEEP_ALIVE)
            .keep_alive_timeout(H2_KEEP_ALIVE);
        Self { app, http }
    }
}

impl ConnHandler for WebHandler {
    fn handle(&self, conn: Accepted) -> BoxFuture<'static, ()> {
        let info = PeerInfo {
            addr: conn.peer,
            tcp_addr: conn.tcp_peer,
            connection: conn.id,
            certificate: conn.certificate.map(Arc::new),
        };
        let service = self.app.clone().map_request(move |mut r: http::Request<_>| {
            r.extensions_mut().insert(info.clone());
            r
        });
        let http = self.http.clone();
        Box::pin(async move {
            let served = http.serve_connection_with_upgrades(
                TokioIo::new(conn.io),
                TowerToHyperService::new(service),
            );
            tokio::pin!(served);
            let mut draining = false;
            let result = loop {
                tokio::select! {
                    biased;
                    () = conn.drain.cancelled(), if !draining => {
                        draining = true;
                        served.as_mut().graceful_shutdown();
                    }
                    r = served.as_mut() => break r,
                }
            };
            if let Err(e) = result {
                tracing::debug!(peer = %conn.tcp_peer, error = %e, "connection");
            }
        })
    }
}
