//! New server keys, or new dates for the old ones.
//!
//! Agents fetch the certificate again when a request fails, but until then they
//! encrypt to the old key. So the old key is kept, in our own settings file, and
//! still opens sessions: no agent is turned away by a rotation.

use std::time::SystemTime;

use serde_json::Value;

use super::identity::ServerIdentity;
use super::load::ConfigError;
use super::{Config, Document, Settings};
use crate::crypto::PrivateKey;
use crate::crypto::certs::{Authority, CertError};
use crate::env::Entropy;

/// Earlier keys kept; older ones are dropped.
const KEPT: usize = 4;

fn authority(identity: ServerIdentity) -> Result<Authority, ConfigError> {
    identity.authority.ok_or_else(|| {
        ConfigError::Change(
            "CA.private_key is not in this file: give --ca_key FILE, or run the command where that key is".into(),
        )
    })
}

fn identity(config: &Config, settings: &Settings) -> Result<ServerIdentity, ConfigError> {
    ServerIdentity::of(config, settings)
        .map_err(|(path, e)| ConfigError::Change(format!("{path}: {e}")))
}

/// Gives frontend and gateway new keys and certificates in `doc`, and puts the old
/// frontend key into `settings`. Both must then be written, the settings first.
pub fn rotate_keys(
    doc: &mut Document,
    config: &Config,
    settings: &mut Settings,
    entropy: &dyn Entropy,
    now: SystemTime,
    days: u32,
) -> Result<(), ConfigError> {
    let ca = authority(identity(config, settings)?)?;
    for (cert_path, key_path, name) in names(config) {
        let key = PrivateKey::generate().map_err(CertError::from)?;
        let cert = ca.issue(entropy, now, days, name, key.public())?;
        doc.set(cert_path, cert.to_pem().into());
        doc.set(key_path, Value::String(key.to_pem().to_string()));
    }
    // Hidden names of queries under way depend on the old key when there is no nonce.
    if config.obfuscation_nonce_text.is_empty() {
        doc.set("obfuscation_nonce", config.obfuscation_nonce().into());
    }
    let old = &mut settings.rotation.old_private_keys;
    old.retain(|k| *k != config.frontend.private_key);
    old.insert(0, config.frontend.private_key.clone());
    old.truncate(KEPT);
    Ok(())
}

/// Gives the existing keys new certificates, valid for `days` from `now`.
pub fn reissue_certs(
    doc: &mut Document,
    config: &Config,
    entropy: &dyn Entropy,
    now: SystemTime,
    days: u32,
) -> Result<(), ConfigError> {
    let id = identity(config, &Settings::default())?;
    let Some((_, gateway_key)) = &id.gateway else {
        return Err(ConfigError::Change("GUI.gw_private_key: missing".into()));
    };
    let keys = [id.key().public().clone(), gateway_key.public().clone()];
    let ca = authority(id)?;
    for ((cert_path, _, name), key) in names(config).into_iter().zip(keys) {
        let cert = ca.issue(entropy, now, days, name, &key)?;
        doc.set(cert_path, cert.to_pem().into());
    }
    Ok(())
}

fn names(config: &Config) -> [(&'static str, &'static str, &str); 2] {
    [
        ("Frontend.certificate", "Frontend.private_key", config.client.pinned_server_name()),
        ("GUI.gw_certificate", "GUI.gw_private_key", config.api.pinned_gw_name()),
    ]
}
