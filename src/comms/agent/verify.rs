//! How an agent judges a server's TLS certificate. The outer layer only: who
//! the server is, is settled by `server.pem`.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};

use super::ConnectorConfig;
use crate::comms::tls::{self, TlsError};
use crate::env::Env;

/// `Crypto.certificate_verification_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Signed by the deployment CA, whatever its name; or valid for its name
    /// under any trusted root.
    #[default]
    Pki,
    /// A listed certificate, or as [`Verification::Pki`].
    PkiOrThumbprint,
    /// A listed certificate, nothing else.
    ThumbprintOnly,
}

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thumbprint(pub [u8; 32]);

impl Thumbprint {
    /// Reads 64 hex digits, perhaps with colons; `None` if it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
        let mut out = [0; 32];
        hex::decode_to_slice(digits, &mut out).ok()?;
        Some(Self(out))
    }
}

#[derive(Debug)]
struct Judge {
    mode: Verification,
    thumbprints: Vec<Thumbprint>,
    ca: RootCertStore,
    /// The deployment's and the configured ones.
    configured: RootCertStore,
    native: bool,
    /// The same with those of the operating system: hundreds of kilobytes, and
    /// milliseconds to read, for the few servers that the CA did not certify.
    all: OnceLock<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

/// TLS for dialling frontends by the rules of `c`.
pub(super) fn client_config(env: &Env, c: &ConnectorConfig) -> Result<Arc<ClientConfig>, TlsError> {
    let ca = tls::roots([c.ca_certificate.as_str()])?;
    let configured = tls::roots([c.ca_certificate.as_str(), c.root_certs.as_str()])?;
    let judge = Judge {
        mode: c.verification,
        thumbprints: c.thumbprints.clone(),
        ca,
        configured,
        native: c.native_roots,
        all: OnceLock::new(),
        provider: env.crypto.clone(),
    };
    let b = ClientConfig::builder_with_details(env.crypto.clone(), tls::wall_clock(env))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge));
    let mut config = match &c.identity {
        None => b.with_no_client_auth(),
        Some(id) => b.with_client_auth_cert(id.chain.clone(), id.key.clone_key())?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

impl Judge {
    fn all(&self) -> &RootCertStore {
        if !self.native {
            return &self.configured;
        }
        self.all.get_or_init(|| {
            let native = rustls_native_certs::load_native_certs();
            for e in &native.errors {
                tracing::debug!(error = %e, "system certificates");
            }
            let mut all = self.configured.clone();
            all.add_parsable_certificates(native.certs);
            all
        })
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.mode != Verification::Pki {
            let print = Thumbprint(Sha256::digest(leaf).into());
            if self.thumbprints.contains(&print) {
                return Ok(ServerCertVerified::assertion());
            }
            if self.mode == Verification::ThumbprintOnly {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
        }
        let cert = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let signed = |roots| {
            verify_server_cert_signed_by_trust_anchor(&cert, roots, intermediates, now, algorithms)
        };
        if signed(&self.ca).is_ok() {
            return Ok(ServerCertVerified::assertion());
        }
        signed(self.all())?;
        verify_server_name(&cert, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprints() {
        let plain = "00".repeat(31) + "Ff";
        let colons = "00:".repeat(31) + "ff";
        assert_eq!(Thumbprint::parse(&plain), Thumbprint::parse(&colons));
        assert_eq!(Thumbprint::parse(&plain).unwrap().0[31], 255);
        assert_eq!(Thumbprint::parse("00ff"), None);
    }
}
