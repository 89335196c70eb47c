//! Certificates of the private PKI: one CA, leafs signed by it directly.
//!
//! Shapes follow what stock agents and API clients expect: RSA 2048,
//! SHA256WithRSA, 128-bit random serials, KeyUsage and BasicConstraints
//! critical, both EKUs on every certificate.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name};

use super::PublicKey;
pub use super::authority::Authority;
use super::keys::{Hash, KeyError, pem_block, to_pem};

/// PEM type of certificates.
pub const CERTIFICATE_TAG: &str = "CERTIFICATE";
/// Lifetime of a CA, days.
pub const CA_DAYS: u32 = 10 * 365;
/// Default lifetime of a leaf, days.
pub const LEAF_DAYS: u32 = 365;
/// The name agents demand of their server unless the configuration says otherwise.
pub const DEFAULT_PINNED_NAME: &str = "VelociraptorServer";
/// Name of the certificate with which the GUI calls the API.
pub const DEFAULT_GATEWAY_NAME: &str = "GRPC_GW";

/// Why a certificate could not be read, trusted or issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// No PEM block, or a key that cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not DER of an X.509 certificate or PKCS#10 request.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Neither a CN nor a DNS or IP alternative name.
    #[error("the certificate names nobody")]
    NoName,
    /// Issued by somebody else, or the signature does not match.
    #[error("not signed by the deployment's CA")]
    NotOurs,
    /// The signer may not issue certificates.
    #[error("the issuer is not a certificate authority")]
    IssuerNotCa,
    /// Outside its validity at the given time.
    #[error("valid only from {from} to {to} (seconds since 1970), now is {now}")]
    OutOfDate {
        /// Not before.
        from: i64,
        /// Not after.
        to: i64,
        /// The time of the check.
        now: i64,
    },
    /// The extended key usage excludes this purpose.
    #[error("may not be used for {0}")]
    WrongUsage(&'static str),
    /// Valid, but for another name.
    #[error("is for {found:?}, not for {wanted:?}")]
    WrongName {
        /// The certificate's name.
        found: String,
        /// The pinned name.
        wanted: String,
    },
    /// Key and certificate do not belong together.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The name or date cannot be put into a certificate.
    #[error("cannot issue a certificate: {0}")]
    Issue(String),
}

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Proves a server (frontend, API).
    Server,
    /// Proves a caller (API client, gateway, node).
    Client,
}

/// A parsed certificate with the facts the product uses.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    name: Option<String>,
    key: PublicKey,
    not_before: i64,
    not_after: i64,
}

pub(super) const SHA256_RSA: Oid<'static> = oid!(1.2.840.113549.1.1.11);
const SHA384_RSA: Oid<'static> = oid!(1.2.840.113549.1.1.12);
const SHA512_RSA: Oid<'static> = oid!(1.2.840.113549.1.1.13);

/// Whether `signature` over `message` is `key`'s, with a hash we accept.
pub(super) fn signed_by(
    key: &PublicKey,
    algorithm: &AlgorithmIdentifier<'_>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let hash = match &algorithm.algorithm {
        a if *a == SHA256_RSA => Hash::Sha256,
        a if *a == SHA384_RSA => Hash::Sha384,
        a if *a == SHA512_RSA => Hash::Sha512,
        _ => return false,
    };
    key.verify_with(hash, message, signature)
}

/// The RSA key of a certificate or request.
pub(super) fn rsa_key(spki: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, KeyError> {
    const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
    if spki.algorithm.algorithm != RSA {
        return Err(KeyError::NotRsa);
    }
    PublicKey::from_pkcs1(&spki.subject_public_key.data)
}

pub(super) fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().next()?.as_str().ok().map(str::to_owned)
}

fn name_of(cert: &X509Certificate<'_>) -> Option<String> {
    if let Some(cn) = common_name(cert.subject()).filter(|n| !n.is_empty()) {
        return Some(cn);
    }
    let san = cert.subject_alternative_name().ok()??;
    let names = &san.value.general_names;
    let dns = names.iter().find_map(|n| match n {
        GeneralName::DNSName(d) => Some((*d).to_owned()),
        _ => None,
    });
    dns.or_else(|| {
        names.iter().find_map(|n| match n {
            GeneralName::IPAddress(b) => match b.len() {
                4 => <[u8; 4]>::try_from(*b).ok().map(|a| IpAddr::from(a).to_string()),
                16 => <[u8; 16]>::try_from(*b).ok().map(|a| IpAddr::from(a).to_string()),
                _ => None,
            },
            _ => None,
        })
    })
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(CertError::Malformed("certificate")),
    }
}

pub(super) fn seconds(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

impl Certificate {
    /// From DER; the key must be RSA.
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let cert = parse(der)?;
        Ok(Self {
            name: name_of(&cert),
            key: rsa_key(cert.public_key())?,
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
            der: der.to_vec(),
        })
    }

    /// From the first `CERTIFICATE` block of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, CertError> {
        Self::from_der(&pem_block(text, CERTIFICATE_TAG)?)
    }

    /// As a `CERTIFICATE` block.
    pub fn to_pem(&self) -> String {
        to_pem(CERTIFICATE_TAG, &self.der)
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Common name, else first DNS, else first IP alternative name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Serial number: hex, lower case, no leading zeros.
    pub fn serial(&self) -> String {
        parse(&self.der).map_or_else(|_| String::new(), |c| c.serial.to_str_radix(16))
    }

    /// SHA-256 of the certificate, hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der))
    }

    /// The certified key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// First and last second of validity, since 1970.
    pub fn validity(&self) -> (i64, i64) {
        (self.not_before, self.not_after)
    }

    /// Whether `now` is within the validity.
    pub fn check_dates(&self, now: SystemTime) -> Result<(), CertError> {
        let (from, to, now) = (self.not_before, self.not_after, seconds(now));
        if now < from || now > to {
            return Err(CertError::OutOfDate { from, to, now });
        }
        Ok(())
    }

    /// Whether `ca` issued this certificate, both are in date at `now`, and it
    /// may be used for `usage`. Chains are exactly one step; names are not checked.
    pub fn verify(&self, ca: &Certificate, now: SystemTime, usage: Usage) -> Result<(), CertError> {
        let (leaf, issuer) = (parse(&self.der)?, parse(&ca.der)?);
        let signed = signed_by(
            &ca.key,
            &leaf.signature_algorithm,
            leaf.tbs_certificate.as_ref(),
            &leaf.signature_value.data,
        );
        // RFC 5280 4.1.1.2: the unsigned copy of the algorithm must equal the signed one.
        let signed = signed && leaf.signature_algorithm == leaf.tbs_certificate.signature;
        if leaf.issuer().as_raw() != issuer.subject().as_raw() || !signed {
            return Err(CertError::NotOurs);
        }
        let is_ca = matches!(issuer.basic_constraints(), Ok(Some(c)) if c.value.ca);
        let may_sign = match issuer.key_usage() {
            Ok(Some(usage)) => usage.value.key_cert_sign(),
            Ok(None) => true,
            Err(_) => false,
        };
        if !is_ca || !may_sign {
            return Err(CertError::IssuerNotCa);
        }
        self.check_dates(now)?;
        ca.check_dates(now)?;
        for cert in [&leaf, &issuer] {
            if cert.extensions().iter().any(|e| {
                e.critical
                    && matches!(e.parsed_extension(), ParsedExtension::UnsupportedExtension { .. })
            }) {
                return Err(CertError::Malformed("certificate (unknown critical extension)"));
            }
            let allowed = match cert.extended_key_usage() {
                Ok(Some(eku)) => {
                    eku.value.any
                        || match usage {
                            Usage::Server => eku.value.server_auth,
                            Usage::Client => eku.value.client_auth,
                        }
                }
                Ok(None) => true,
                Err(_) => false,
            };
            if !allowed {
                return Err(CertError::WrongUsage(match usage {
                    Usage::Server => "a server",
                    Usage::Client => "a client",
                }));
            }
        }
        Ok(())
    }
}

/// Checks a fetched `server.pem`: RSA, signed by `ca`, in date, a server
/// certificate, and named exactly `pinned`. Other PEM blocks are skipped.
pub fn verify_server_pem(
    text: &str,
    ca: &Certificate,
    pinned: &str,
    now: SystemTime,
) -> Result<Certificate, CertError> {
    let cert = Certificate::from_pem(text)?;
    cert.verify(ca, now, Usage::Server)?;
    match cert.name() {
        None => Err(CertError::NoName),
        Some(n) if n == pinned => Ok(cert),
        Some(n) => Err(CertError::WrongName { found: n.to_owned(), wanted: pinned.to_owned() }),
    }
}

#[cfg(test)]
#[path = "certs_tests.rs"]
mod tests;
