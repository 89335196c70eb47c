//! TLS configuration for every socket of the fleet, from one provider and one
//! clock. Knows certificates, not who they belong to.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::env::{Clock, Env};

/// Why a TLS configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM text has no usable block of this kind.
    #[error("{what}: {why}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The library refused the material.
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// The client certificate verifier refused its roots.
    #[error("client certificate roots: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate chain with its private key.
#[derive(Clone)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// Reads PEM text: `CERTIFICATE` blocks, and a PKCS#1, SEC1 or PKCS#8 key.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self, TlsError> {
        let chain = certificates_from_pem(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|e| TlsError::Pem { what: "private key", why: e.to_string() })?;
        Ok(Self { chain, key: Arc::new(key) })
    }
}

/// Every `CERTIFICATE` block of a PEM text; none is an error.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let err = |why: String| TlsError::Pem { what: "certificate", why };
    let certs = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| err(e.to_string()))?;
    if certs.is_empty() {
        return Err(err("no CERTIFICATE block".into()));
    }
    Ok(certs)
}

/// Trust anchors from PEM texts; blank texts are skipped.
pub fn roots<'a>(pems: impl IntoIterator<Item = &'a str>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for pem in pems.into_iter().filter(|p| !p.trim().is_empty()) {
        for cert in certificates_from_pem(pem)? {
            store.add(cert)?;
        }
    }
    Ok(store)
}

/// What a server asks of its peers' certificates.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// Never asked.
    #[default]
    None,
    /// Asked; if shown it must verify.
    Optional(Arc<RootCertStore>),
    /// Without a valid one the handshake fails.
    Required(Arc<RootCertStore>),
}

/// HTTP versions offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1 only: the client protocol (also what WebSocket needs).
    Http1,
    /// HTTP/2 only: gRPC.
    Http2,
    /// Both: browsers.
    Both,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Alpn::Http1 => vec![h1],
            Alpn::Http2 => vec![h2],
            Alpn::Both => vec![h2, h1],
        }
    }
}

/// Choices for [`server_config`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Also accept TLS 1.2 (`Client.Crypto.allow_weak_tls_server`).
    pub allow_tls12: bool,
    /// Client certificates.
    pub client_auth: ClientAuth,
    /// HTTP versions.
    pub alpn: Alpn,
}

/// A server's TLS configuration. There is no session resumption: stock agents
/// never resume, and tickets would cost memory and bytes.
pub fn server_config(
    env: &Env,
    id: &Identity,
    o: &ServerOptions,
) -> Result<Arc<ServerConfig>, TlsError> {
    let b = ServerConfig::builder_with_details(env.crypto.clone(), wall_clock(env))
        .with_protocol_versions(versions(o.allow_tls12))?;
    let verifier = |roots: &Arc<RootCertStore>| {
        WebPkiClientVerifier::builder_with_provider(roots.clone(), env.crypto.clone())
    };
    let b = match &o.client_auth {
        ClientAuth::None => b.with_no_client_auth(),
        ClientAuth::Optional(roots) => {
            b.with_client_cert_verifier(verifier(roots).allow_unauthenticated().build()?)
        }
        ClientAuth::Required(roots) => b.with_client_cert_verifier(verifier(roots).build()?),
    };
    let mut c = b.with_single_cert(id.chain.clone(), id.key.clone_key())?;
    c.alpn_protocols = o.alpn.protocols();
    c.session_storage = Arc::new(NoServerSessionStorage {});
    c.send_tls13_tickets = 0;
    Ok(Arc::new(c))
}

/// A client's TLS configuration with ordinary verification: for node-to-node
/// and API connections. (Agents verify by rules of their own.)
pub fn client_config(
    env: &Env,
    roots: RootCertStore,
    identity: Option<&Identity>,
    alpn: Alpn,
) -> Result<Arc<ClientConfig>, TlsError> {
    let b = ClientConfig::builder_with_details(env.crypto.clone(), wall_clock(env))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut c = match identity {
        None => b.with_no_client_auth(),
        Some(id) => b.with_client_auth_cert(id.chain.clone(), id.key.clone_key())?,
    };
    c.alpn_protocols = alpn.protocols();
    Ok(Arc::new(c))
}

static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

fn versions(tls12: bool) -> &'static [&'static SupportedProtocolVersion] {
    if tls12 { &BOTH } else { &BOTH[..1] }
}

/// Makes rustls judge validity periods by `env.clock`.
pub fn wall_clock(env: &Env) -> Arc<dyn TimeProvider> {
    Arc::new(WallClock(env.clock.clone()))
}

struct WallClock(Arc<dyn Clock>);

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let d = self.0.now().duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(d))
    }
}
