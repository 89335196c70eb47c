//! Issuing certificates and requests.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber,
};

use super::certs::{CA_DAYS, CertError, Certificate, seconds};
use super::{PrivateKey, PublicKey};
use crate::env::Entropy;

pub(super) const CA_DNS: &str = "Velociraptor_ca.velocidex.com";
pub(super) const DAY: u64 = 86_400;

/// A key as the certificate writer sees it.
pub(super) struct Subject<'a>(pub(super) &'a PublicKey);
pub(super) struct Signer<'a>(pub(super) &'a PrivateKey);

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

/// PrintableString where the characters allow it, as stock writes names. A question
/// mark is allowed too, but the library that writes it thinks otherwise and panics.
fn dn_value(s: &str) -> DnValue {
    match rcgen::string::PrintableString::try_from(s) {
        Ok(text) if !s.contains('?') => DnValue::PrintableString(text),
        _ => DnValue::Utf8String(s.to_owned()),
    }
}

pub(super) fn params(
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

/// [`params`] of a certificate that is not a CA's.
fn leaf(
    entropy: &dyn Entropy,
    now: SystemTime,
    days: u32,
    name: &str,
) -> Result<CertificateParams, CertError> {
    let mut p = params(entropy, now, days)?;
    p.distinguished_name.push(DnType::OrganizationName, dn_value("Velociraptor"));
    p.distinguished_name.push(DnType::CommonName, dn_value(name));
    p.is_ca = IsCa::ExplicitNoCa;
    p.use_authority_key_identifier_extension = true;
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
        let mut p = leaf(entropy, now, days, name)?;
        p.subject_alt_names = vec![match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.try_into().map_err(issue_error)?),
        }];
        self.sign(p, key)
    }

    /// Certifies `key` for TLS clients alone, under a common name and a URI.
    pub(super) fn issue_client(
        &self,
        entropy: &dyn Entropy,
        now: SystemTime,
        days: u32,
        name: &str,
        uri: &str,
        key: &PublicKey,
    ) -> Result<Certificate, CertError> {
        let mut p = leaf(entropy, now, days, name)?;
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        p.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(issue_error)?)];
        self.sign(p, key)
    }

    fn sign(&self, p: CertificateParams, key: &PublicKey) -> Result<Certificate, CertError> {
        let ca = self.cert.der().to_vec().into();
        let issuer = Issuer::from_ca_cert_der(&ca, Signer(&self.key)).map_err(issue_error)?;
        let der = p.signed_by(&Subject(key), &issuer).map_err(issue_error)?;
        Certificate::from_der(der.der())
    }
}
