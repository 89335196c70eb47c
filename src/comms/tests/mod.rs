//! Both halves against each other and against independent peers. Most run on an
//! in-memory network under paused time; `loopback` uses real sockets.

mod agent;
mod edge;
mod http;
mod loopback;
pub(crate) mod net;
mod service;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::server::{
    AcceptLimits, ClientEndpoint, ConnHandler, Endpoint, HttpLimits, Metrics, Serve, Stop, serve,
};
use super::tls::{self, Alpn, ClientAuth, Identity, ServerOptions};
use crate::env::{Env, Side};
pub(super) use service::{Script, Told};

/// A CA with the certificates it signed.
pub(super) struct Pki {
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let mut p = rcgen::CertificateParams::default();
        p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let ca = rcgen::CertifiedIssuer::self_signed(p, rcgen::KeyPair::generate().unwrap());
        Self { ca: ca.unwrap() }
    }

    pub(super) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    pub(super) fn issue(&self, name: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut p = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        p.distinguished_name.push(rcgen::DnType::CommonName, name);
        p.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = p.signed_by(&key, &self.ca).unwrap();
        Identity::from_pem(&cert.pem(), &key.serialize_pem()).unwrap()
    }

    pub(super) fn server_tls(&self, env: &Env, tls12: bool, auth: bool) -> Arc<ServerConfig> {
        let client_auth = match auth {
            true => ClientAuth::Required(Arc::new(tls::roots([self.ca_pem().as_str()]).unwrap())),
            false => ClientAuth::None,
        };
        let o = ServerOptions { allow_tls12: tls12, client_auth, alpn: Alpn::Http1 };
        tls::server_config(env, &self.issue("VelociraptorServer"), &o).unwrap()
    }
}

/// A server under test. Stops when dropped.
pub(super) struct Running {
    pub port: u16,
    pub script: Arc<Script>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    pub done: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Default)]
pub(super) struct Setup {
    pub tls: Option<Arc<ServerConfig>>,
    pub proxy_protocol: bool,
    pub accept: AcceptLimits,
    pub limits: HttpLimits,
    pub base_path: String,
    pub proxy_header: Option<String>,
}

pub(super) async fn start(env: &Env, setup: Setup) -> Running {
    let script = Arc::new(Script::default());
    let metrics = Arc::new(Metrics::default());
    let endpoint = Endpoint {
        base_path: setup.base_path,
        proxy_header: setup.proxy_header,
        limits: setup.limits,
        metrics: metrics.clone(),
    };
    let handler: Arc<dyn ConnHandler> = Arc::new(ClientEndpoint::new(script.clone(), endpoint));
    let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let s = Serve {
        tls: setup.tls,
        proxy_protocol: setup.proxy_protocol,
        limits: setup.accept,
        metrics: metrics.clone(),
        side: Side::Frontend,
        stop: Stop { token: stop.clone(), grace: Duration::from_secs(5) },
    };
    let done = tokio::spawn(serve(env.clone(), listener, s, handler));
    Running { port, script, metrics, stop, done }
}
