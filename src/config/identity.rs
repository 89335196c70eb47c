//! Keys and certificates of a configuration, parsed and checked against each other.

use crate::crypto::certs::{Authority, CertError, Certificate};
use crate::crypto::{KeyError, PrivateKey};

use super::{Config, Settings};

/// A server's cryptographic identity.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// The deployment's CA.
    pub ca: Certificate,
    /// The CA with its key, unless that is kept offline.
    pub authority: Option<Authority>,
    /// What agents fetch as `server.pem`; its CN is the source of our packets.
    pub certificate: Certificate,
    /// For [`crate::crypto::envelope::unwrap_session`]: the current key, then those of
    /// earlier rotations. Never empty.
    pub keys: Vec<PrivateKey>,
    /// With which the GUI calls the API, and its key; a minion has none.
    pub gateway: Option<(Certificate, PrivateKey)>,
}

impl ServerIdentity {
    /// Parses everything; the error names the key it came from.
    pub fn of(config: &Config, settings: &Settings) -> Result<Self, (&'static str, CertError)> {
        let ca = certificate("Client.ca_certificate", &config.client.ca_certificate)?;
        let authority = match config.ca.private_key.is_empty() {
            true => None,
            false => {
                let key = private_key("CA.private_key", &config.ca.private_key)?;
                let both = Authority::new(ca.clone(), key);
                Some(both.map_err(|e| ("CA.private_key", e))?)
            }
        };
        let (certificate, key) = pair(
            ("Frontend.certificate", &config.frontend.certificate),
            ("Frontend.private_key", &config.frontend.private_key),
        )?;
        let gateway = (&config.gui.gw_certificate, &config.gui.gw_private_key);
        let gateway = match gateway.0.is_empty() && gateway.1.is_empty() {
            true => None,
            false => {
                Some(pair(("GUI.gw_certificate", gateway.0), ("GUI.gw_private_key", gateway.1))?)
            }
        };
        let mut keys = vec![key];
        for old in &settings.rotation.old_private_keys {
            keys.push(private_key("rotation.old_private_keys", old)?);
        }
        Ok(Self { ca, authority, certificate, keys, gateway })
    }

    /// The key that signs, and to which agents encrypt now.
    pub fn key(&self) -> &PrivateKey {
        &self.keys[0]
    }

    /// The name agents know this server by.
    pub fn source(&self) -> &str {
        self.certificate.name().unwrap_or_default()
    }
}

type Named<'a> = (&'static str, &'a str);

pub(super) fn certificate(
    path: &'static str,
    pem: &str,
) -> Result<Certificate, (&'static str, CertError)> {
    Certificate::from_pem(pem).map_err(|e| (path, e))
}

pub(super) fn private_key(
    path: &'static str,
    pem: &str,
) -> Result<PrivateKey, (&'static str, CertError)> {
    PrivateKey::from_pem(pem).map_err(|e: KeyError| (path, e.into()))
}

pub(super) fn pair(
    cert: Named<'_>,
    key: Named<'_>,
) -> Result<(Certificate, PrivateKey), (&'static str, CertError)> {
    let certificate = certificate(cert.0, cert.1)?;
    let private = private_key(key.0, key.1)?;
    if certificate.public_key() != private.public() {
        return Err((key.0, CertError::KeyMismatch));
    }
    Ok((certificate, private))
}
