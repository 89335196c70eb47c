//! Which path is which endpoint, and the handler of client connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;

use super::accept::{Accepted, ConnHandler};
use super::body::Budget;
use super::http;
use super::limits::{HttpLimits, Metrics};
use super::pace::Pacer;
use super::service::ClientService;
use crate::comms::Channel;

/// How the client endpoints are presented.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// Prefix of every path, without a trailing slash (`Frontend.base_path`).
    pub base_path: String,
    /// Header that names the peer (`Frontend.proxy_header`).
    pub proxy_header: Option<String>,
    /// Limits.
    pub limits: HttpLimits,
    /// Counters; normally those of the listener.
    pub metrics: Arc<Metrics>,
}

pub(super) struct Shared {
    pub service: Arc<dyn ClientService>,
    pub endpoint: Endpoint,
    pub budget: Budget,
    pub pacer: Pacer,
}

/// Bytes beyond the upload rate that pass at once after a quiet time.
const BURST: u64 = 1 << 20;

/// Serves the client protocol on accepted connections.
#[derive(Clone)]
pub struct ClientEndpoint(Arc<Shared>);

impl ClientEndpoint {
    /// `service` decides, `endpoint` says where and how much.
    pub fn new(service: Arc<dyn ClientService>, endpoint: Endpoint) -> Self {
        let budget = Budget::new(&endpoint.limits);
        let pacer = Pacer::new(endpoint.limits.bytes_per_second, BURST);
        let this = Self(Arc::new(Shared { service, endpoint, budget, pacer }));
        this.set_rate(this.0.endpoint.limits.bytes_per_second);
        this
    }

    /// Takes so many bytes of bodies a second from now on; 0 is unlimited.
    pub fn set_rate(&self, bytes: u64) {
        self.0.pacer.set_rate(bytes);
        self.0.endpoint.metrics.rate.limit.store(bytes, Ordering::Relaxed);
    }
}

impl ConnHandler for ClientEndpoint {
    fn handle(&self, conn: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(http::connection(self.0.clone(), conn))
    }
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    ServerPem,
    Post(Channel),
    Health,
    /// Decoded components.
    Public(Vec<String>),
}

/// `None` is 404.
pub(super) fn route(base: &str, path: &str) -> Option<Route> {
    let path = path.strip_prefix(base)?.strip_prefix('/')?;
    Some(match path {
        "server.pem" => Route::ServerPem,
        "control" | "send_messages" => Route::Post(Channel::Control),
        "reader" | "receive_messages" => Route::Post(Channel::Reader),
        "healthz" => Route::Health,
        _ => {
            let parts = path.strip_prefix("public/")?.split('/').map(decode);
            Route::Public(parts.collect::<Option<Vec<_>>>()?)
        }
    })
}

/// One path component; `None` if it could mean another place.
fn decode(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(b) = bytes.next() {
        out.push(if b == b'%' {
            let hex = |d: u8| char::from(d).to_digit(16);
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            (high * 16 + low) as u8
        } else {
            b
        });
    }
    let s = String::from_utf8(out).ok()?;
    let unsafe_name = matches!(s.as_str(), "" | "." | "..") || s.contains(['/', '\\', '\0']);
    (!unsafe_name).then_some(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let post = |c| Some(Route::Post(c));
        assert_eq!(route("", "/control"), post(Channel::Control));
        assert_eq!(route("", "/send_messages"), post(Channel::Control));
        assert_eq!(route("/b", "/b/receive_messages"), post(Channel::Reader));
        assert_eq!(route("/b", "/b/server.pem"), Some(Route::ServerPem));
        assert_eq!(route("/b", "/server.pem"), None);
        assert_eq!(route("/b", "/bcontrol"), None);
        assert_eq!(route("", "/control/"), None);
        let public = |s: &[&str]| Some(Route::Public(s.iter().map(|s| s.to_string()).collect()));
        assert_eq!(route("", "/public/a/b%20c"), public(&["a", "b c"]));
        for bad in ["", "a//b", "../x", "a/%2e%2e/b", "a%2fb", "%00", "%f", "%zz", "a%5cb"] {
            assert_eq!(route("", &format!("/public/{bad}")), None, "{bad}");
        }
    }
}
