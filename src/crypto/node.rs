//! Node certificates: how the frontends of one deployment prove themselves to
//! each other. Issued by the deployment's CA; says nothing about what a node may do.
//!
//! Such a certificate is for TLS clients only, so that no agent takes it for a
//! server. Its CN is `node:` and the node's name: the colon can be in no user's
//! name, so an API server, ours or the stock one, finds no rights for it. A URI
//! alternative name, which nothing else issued by the CA has, says the same again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::PrivateKey;
use super::certs::{Authority, CertError, Certificate, Usage, parse};
use crate::env::Entropy;

/// What the CN of a node's certificate begins with.
pub const CN_PREFIX: &str = "node:";
/// What the URI alternative name of a node's certificate begins with.
pub const URI_PREFIX: &str = "velociraptor-node:";
/// Longest name, bytes: it becomes a directory's name in the store.
pub const MAX_NAME: usize = 200;

/// Why a node is not believed, or cannot be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The peer showed no certificate.
    #[error("no certificate was shown")]
    Missing,
    /// Not one of this deployment's certificates, out of date, or for servers.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// A certificate of the CA that is not a node's: an API client's, for example.
    #[error("not a node's certificate: {0}")]
    NotANode(&'static str),
    /// Withdrawn by `cluster.revoked_nodes`.
    #[error("the certificate of node {name} (serial {serial}) has been revoked")]
    Revoked {
        /// Whose.
        name: NodeName,
        /// Its serial number, hex.
        serial: String,
    },
    /// The text cannot be a node's name.
    #[error("{name:?} cannot be a node's name: {why}")]
    Name {
        /// The text.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The name of a node: usually `<host name>-<port>`. It names a directory of the
/// store, so it has no slash, no space and no leading dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, NodeError> {
        let bad = |why| Err(NodeError::Name { name: text.to_owned(), why });
        if text.is_empty() {
            return bad("it is empty");
        }
        if text.len() > MAX_NAME {
            return bad("it is longer than 200 bytes");
        }
        if text.starts_with('.') {
            return bad("it begins with a dot");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/' || c == '\\') {
            return bad("it has a slash, a space or a control character in it");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject of its certificate.
    pub fn common_name(&self) -> String {
        format!("{CN_PREFIX}{}", self.0)
    }

    /// The URI of its certificate: what is not a letter, digit or one of `-._~:` is
    /// written as `%XX`.
    pub fn uri(&self) -> String {
        let mut out = URI_PREFIX.to_owned();
        for b in self.0.bytes() {
            if b.is_ascii_alphanumeric() || b"-._~:".contains(&b) {
                out.push(char::from(b));
            } else {
                out += &format!("%{b:02X}");
            }
        }
        out
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A node's own name, certificate and key.
#[derive(Clone)]
pub struct NodeIdentity {
    /// Whose.
    pub name: NodeName,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub private_key_pem: Zeroizing<String>,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// Serial number of the certificate, hex.
    pub serial: String,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({}, serial {})", self.name, self.serial)
    }
}

impl NodeIdentity {
    /// A new key (up to half a second of CPU) and its certificate, valid for `days`
    /// from `now`.
    pub fn issue(
        ca: &Authority,
        entropy: &dyn Entropy,
        now: SystemTime,
        days: u32,
        name: &NodeName,
    ) -> Result<Self, CertError> {
        let key = PrivateKey::generate()?;
        Self::issue_for(ca, entropy, now, days, name, &key)
    }

    /// The same for a key that is there.
    pub fn issue_for(
        ca: &Authority,
        entropy: &dyn Entropy,
        now: SystemTime,
        days: u32,
        name: &NodeName,
        key: &PrivateKey,
    ) -> Result<Self, CertError> {
        let cert =
            ca.issue_client(entropy, now, days, &name.common_name(), &name.uri(), key.public())?;
        Ok(Self::of(name.clone(), &cert, key))
    }

    /// From the two PEM texts of the settings, which must belong together and be
    /// valid at `now` under `ca`.
    pub fn from_pem(
        certificate: &str,
        private_key: &str,
        ca: &Certificate,
        now: SystemTime,
    ) -> Result<Self, NodeError> {
        let cert = Certificate::from_pem(certificate)?;
        let key = PrivateKey::from_pem(private_key).map_err(CertError::from)?;
        if cert.public_key() != key.public() {
            return Err(CertError::KeyMismatch.into());
        }
        let peer = verify_node(&[cert.der()], ca, now, &Revocations::default())?;
        Ok(Self::of(peer.name, &cert, &key))
    }

    fn of(name: NodeName, cert: &Certificate, key: &PrivateKey) -> Self {
        Self {
            name,
            certificate_pem: cert.to_pem(),
            private_key_pem: key.to_pem(),
            not_after: cert.validity().1,
            serial: cert.serial(),
        }
    }
}

/// A node that has proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePeer {
    /// Who it is.
    pub name: NodeName,
    /// Serial number of its certificate: hex, lower case, no leading zeros.
    pub serial: String,
    /// SHA-256 of its certificate, hex.
    pub fingerprint: String,
    /// Last second of validity, since 1970.
    pub not_after: i64,
}

/// Who is at the other end of a TLS connection: the certificate chain (DER, leaf
/// first) is one step long, issued by `ca`, in date at `now`, a node's, and not
/// revoked. What follows the leaf is not looked at: only `ca` is believed.
pub fn verify_node<C: AsRef<[u8]>>(
    chain: &[C],
    ca: &Certificate,
    now: SystemTime,
    revoked: &Revocations,
) -> Result<NodePeer, NodeError> {
    let der = chain.first().ok_or(NodeError::Missing)?.as_ref();
    let cert = Certificate::from_der(der)?;
    cert.verify(ca, now, Usage::Client)?;
    let name = name_in(der)?;
    let (serial, fingerprint) = (cert.serial(), cert.fingerprint());
    if revoked.contains(&name, &serial, &fingerprint) {
        return Err(NodeError::Revoked { name, serial });
    }
    Ok(NodePeer { name, serial, fingerprint, not_after: cert.validity().1 })
}

/// The name in a certificate that has the form of a node's.
fn name_in(der: &[u8]) -> Result<NodeName, NodeError> {
    use NodeError::NotANode;
    let cert = parse(der)?;
    let mut names = cert.subject().iter_common_name();
    let cn = names.next().and_then(|n| n.as_str().ok()).unwrap_or_default();
    let name = cn.strip_prefix(CN_PREFIX).ok_or(NotANode("its name is not that of a node"))?;
    if names.next().is_some() {
        return Err(NotANode("it has two names"));
    }
    let name = NodeName::parse(name)?;
    let san = cert.subject_alternative_name().ok().flatten();
    let uri = match san.as_ref().map(|s| s.value.general_names.as_slice()) {
        Some([GeneralName::URI(uri)]) => *uri,
        _ => return Err(NotANode("it has not the one alternative name that nodes have")),
    };
    if uri != name.uri() {
        return Err(NotANode("its two names differ"));
    }
    let usage = cert.extended_key_usage().ok().flatten().map(|u| u.value);
    if !usage.is_some_and(|u| u.client_auth && !u.server_auth && !u.any) {
        return Err(NotANode("it is not for clients alone"));
    }
    Ok(name)
}

/// Certificates withdrawn before their end: `cluster.revoked_nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    names: BTreeSet<String>,
    /// Serial numbers and fingerprints, as [`hex`] leaves them.
    numbers: BTreeSet<String>,
}

impl Revocations {
    /// From entries each of which is a node's name, a serial number or a SHA-256
    /// fingerprint (hex, colons allowed). One that could be either is taken as both.
    /// `Err` is the entry that says nothing.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, String> {
        let mut out = Self::default();
        for entry in entries {
            let text = entry.as_ref().trim();
            if text.is_empty() {
                return Err(entry.as_ref().to_owned());
            }
            out.numbers.extend(hex(text));
            out.names.insert(text.to_owned());
        }
        Ok(out)
    }

    /// Whether a certificate is withdrawn, by any of what identifies it.
    pub fn contains(&self, name: &NodeName, serial: &str, fingerprint: &str) -> bool {
        let numbered = |n: &str| hex(n).is_some_and(|n| self.numbers.contains(&n));
        self.names.contains(name.as_str()) || numbered(serial) || numbered(fingerprint)
    }

    /// Whether every certificate of this name is withdrawn.
    pub fn has_name(&self, name: &NodeName) -> bool {
        self.names.contains(name.as_str())
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// A hexadecimal number in one spelling: lower case, no colons, no leading zeros.
fn hex(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    Some(digits.trim_start_matches('0').to_owned())
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
