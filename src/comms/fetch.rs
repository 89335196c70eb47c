//! One HTTP exchange with a server outside. Redirects, TLS by the system's
//! roots; no proxies, no cookies. Who asks, and for what, is not known here.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::tls;
use crate::env::{Conn, Env};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long the head of an answer may take.
const HEAD: Duration = Duration::from_secs(300);
/// Redirects followed.
const REDIRECTS: usize = 10;

/// The certificates of this system, read once.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| rustls_native_certs::load_native_certs().certs);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(String);

fn failed(e: impl std::fmt::Display) -> FetchError {
    FetchError(e.to_string())
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, POST ...
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers by name; `Host` and the length come by themselves.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// Take any certificate.
    pub skip_verify: bool,
    /// Further certificates to trust, PEM.
    pub root_ca: String,
    /// The Unix socket of the server, instead of the URL's host and port.
    pub socket: Option<String>,
}

/// Whom to believe when a connection is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Take any certificate.
    pub skip_verify: bool,
    /// Further certificates to trust, PEM.
    pub root_ca: String,
    /// Protocols offered on it, if any.
    pub alpn: Vec<Vec<u8>>,
}

/// Sends and follows redirects; gives the answer and where it came from.
pub async fn send(
    env: &Env,
    request: Request,
) -> Result<(http::Response<Incoming>, Url), FetchError> {
    let mut request = request;
    for _ in 0..=REDIRECTS {
        let response = once(env, &request).await?;
        let to = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok());
        let Some(to) = to.filter(|_| response.status().is_redirection()) else {
            return Ok((response, request.url));
        };
        let next = request.url.join(to).map_err(failed)?;
        // Credentials are for the host they were given for.
        if next.origin() != request.url.origin() {
            let secret = [http::header::AUTHORIZATION, http::header::COOKIE];
            request.headers.retain(|(n, _)| !secret.contains(n));
            request.socket = None;
        }
        request.url = next;
        let keeps = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
        if !keeps.contains(&response.status()) && request.method != Method::HEAD {
            request.method = Method::GET;
            request.body = Bytes::new();
        }
    }
    Err(failed(format!("stopped after {REDIRECTS} redirects")))
}

async fn once(env: &Env, request: &Request) -> Result<http::Response<Incoming>, FetchError> {
    let url = &request.url;
    let secure = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(failed(format!("{other}: is not http or https"))),
    };
    let host = url.host_str().ok_or_else(|| failed("the URL has no host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let connect = async {
        let to = request.socket.as_deref().unwrap_or(bare);
        let io = env.net.connect(to, port).await.map_err(failed)?;
        let trust = Trust {
            skip_verify: request.skip_verify,
            root_ca: request.root_ca.clone(),
            alpn: vec![b"http/1.1".to_vec()],
        };
        if secure { encrypt(env, io, bare, &trust).await } else { Ok(io) }
    };
    let io = timeout(CONNECT, connect).await.map_err(|_| failed("connecting took too long"))??;
    let shook = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = shook.map_err(failed)?;
    env.spawn(async move {
        let _ = connection.await;
    });
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut message = http::Request::builder().method(&request.method).uri(path);
    if !request.headers.iter().any(|(n, _)| *n == http::header::HOST) {
        message = message.header(http::header::HOST, authority);
    }
    for (name, value) in &request.headers {
        message = message.header(name, value);
    }
    let message = message.body(Full::new(request.body.clone())).map_err(failed)?;
    let answer = timeout(HEAD, sender.send_request(message)).await;
    answer.map_err(|_| failed("no answer came in time"))?.map_err(failed)
}

/// Encrypts a connection to `host`.
pub async fn encrypt(env: &Env, io: Conn, host: &str, trust: &Trust) -> Result<Conn, FetchError> {
    let mut roots = tls::roots([trust.root_ca.as_str()]).map_err(failed)?;
    roots.add_parsable_certificates(SYSTEM.iter().cloned());
    let builder = ClientConfig::builder_with_details(env.crypto.clone(), tls::wall_clock(env))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let mut config = match trust.skip_verify {
        false => builder.with_root_certificates(roots).with_no_client_auth(),
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(env.crypto.clone())))
            .with_no_client_auth(),
    };
    config.alpn_protocols.clone_from(&trust.alpn);
    let name = ServerName::try_from(host.to_owned()).map_err(failed)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, io).await;
    Ok(Box::pin(stream.map_err(failed)?))
}

/// Takes any certificate: the query asked for it.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
