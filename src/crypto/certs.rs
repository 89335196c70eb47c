//! Certificates of the private PKI: one CA, leafs signed by it directly.
//!
//! Shapes follow what stock agents and API clients expect: RSA 2048,
//! SHA256WithRSA, 128-bit random serials, KeyUsage and BasicConstraints
//! critical, both EKUs on every certificate.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name};

use super::keys::{Hash, KeyError, pem_block, to_pem};
use super::{PrivateKey, PublicKey};
use crate::env::Entropy;

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

const CA_DNS: &str = "Velociraptor_ca.velocidex.com";
const DAY: u64 = 86_400;

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

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(CertError::Malformed("certificate")),
    }
}

fn seconds(now: SystemTime) -> i64 {
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

/// A key as the certificate writer sees it.
struct Subject<'a>(&'a PublicKey);
struct Signer<'a>(&'a PrivateKey);

impl rcgen::PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_pkcs1()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public().as_pkcs1()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::SigningKey for Signer<'_> {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(msg).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn issue_error(e: rcgen::Error) -> CertError {
    CertError::Issue(e.to_string())
}

/// PrintableString where the characters allow it, as stock writes names.
fn dn_value(s: &str) -> DnValue {
    rcgen::string::PrintableString::try_from(s)
        .map_or_else(|_| DnValue::Utf8String(s.to_owned()), DnValue::PrintableString)
}

fn params(
    entropy: &dyn Entropy,
    now: SystemTime,
    days: u32,
) -> Result<CertificateParams, CertError> {
    let mut serial = [0; 16];
    entropy.fill(&mut serial);
    let end = now
        .checked_add(Duration::from_secs(u64::from(days) * DAY))
        .filter(|end| seconds(*end) < 253_402_300_800) // the year 10000
        .ok_or_else(|| CertError::Issue("the validity ends too late".into()))?;
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.serial_number = Some(SerialNumber::from_slice(&serial));
    p.not_before = now.into();
    p.not_after = end.into();
    p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    p.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(p)
}

pub(super) fn csr_der(cn: &str, key: &PrivateKey) -> Result<Vec<u8>, CertError> {
    let mut p = CertificateParams::default();
    p.distinguished_name = DistinguishedName::new();
    p.distinguished_name.push(DnType::CommonName, dn_value(cn));
    let csr = p.serialize_request(&Signer(key)).map_err(issue_error)?;
    Ok(csr.der().to_vec())
}

/// The deployment's certificate authority: certificate and key.
#[derive(Clone, Debug)]
pub struct Authority {
    cert: Certificate,
    key: PrivateKey,
}

impl Authority {
    /// A new CA with a new key, valid ten years from `now`.
    pub fn generate(entropy: &dyn Entropy, now: SystemTime) -> Result<Self, CertError> {
        Self::self_signed(PrivateKey::generate()?, entropy, now)
    }

    /// A new CA for an existing key, valid ten years from `now`.
    pub fn self_signed(
        key: PrivateKey,
        entropy: &dyn Entropy,
        now: SystemTime,
    ) -> Result<Self, CertError> {
        let mut p = params(entropy, now, CA_DAYS)?;
        p.distinguished_name.push(DnType::OrganizationName, dn_value("Velociraptor CA"));
        p.key_usages.push(KeyUsagePurpose::KeyCertSign);
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.subject_alt_names = vec![SanType::DnsName(CA_DNS.try_into().map_err(issue_error)?)];
        let der = p.self_signed(&Signer(&key)).map_err(issue_error)?;
        Self::new(Certificate::from_der(der.der())?, key)
    }

    /// From certificate and key, which must belong together.
    pub fn new(cert: Certificate, key: PrivateKey) -> Result<Self, CertError> {
        if cert.public_key() != key.public() {
            return Err(CertError::KeyMismatch);
        }
        Ok(Self { cert, key })
    }

    /// From the two PEM texts of a configuration.
    pub fn from_pem(cert: &str, key: &str) -> Result<Self, CertError> {
        Self::new(Certificate::from_pem(cert)?, PrivateKey::from_pem(key)?)
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.cert
    }

    /// The CA's key.
    pub fn private_key(&self) -> &PrivateKey {
        &self.key
    }

    /// Certifies `key` under `name`, which becomes CN and alternative name (an IP
    /// one if it is an address), for `days` from `now`.
    ///
    /// Frontend, gateway and API client certificates differ in name only.
    pub fn issue(
        &self,
        entropy: &dyn Entropy,
        now: SystemTime,
        days: u32,
        name: &str,
        key: &PublicKey,
    ) -> Result<Certificate, CertError> {
        if name.is_empty() {
            return Err(CertError::NoName);
        }
        let mut p = params(entropy, now, days)?;
        p.distinguished_name.push(DnType::OrganizationName, dn_value("Velociraptor"));
        p.distinguished_name.push(DnType::CommonName, dn_value(name));
        p.is_ca = IsCa::ExplicitNoCa;
        p.use_authority_key_identifier_extension = true;
        p.subject_alt_names = vec![match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.try_into().map_err(issue_error)?),
        }];
        let ca = self.cert.der().to_vec().into();
        let issuer = Issuer::from_ca_cert_der(&ca, Signer(&self.key)).map_err(issue_error)?;
        let der = p.signed_by(&Subject(key), &issuer).map_err(issue_error)?;
        Certificate::from_der(der.der())
    }
}

#[cfg(test)]
#[path = "certs_tests.rs"]
mod tests;
