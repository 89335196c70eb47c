//! The file with which a program calls the API.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::load::ConfigError;
use super::{Config, ServerIdentity, Settings};
use crate::crypto::PrivateKey;
use crate::crypto::certs::CertError;
use crate::env::Entropy;

/// Whether a name can be a user's: what the stock program takes.
pub fn check_name(config: &Config, name: &str) -> Result<(), ConfigError> {
    let fail = |why: &str| Err(ConfigError::Change(format!("user name {name:?}: {why}")));
    if name.is_empty() {
        return fail("is empty");
    }
    if name == config.client.pinned_server_name() || name == config.api.pinned_gw_name() {
        return fail("is the server's own");
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "@.-_#+".contains(c);
    if !name.chars().all(good) {
        return fail("may have only letters, digits and @ . - _ # +");
    }
    Ok(())
}

/// A new key and certificate for `name`, as the contents of its file.
pub fn issue(
    config: &Config,
    settings: &Settings,
    entropy: &dyn Entropy,
    now: SystemTime,
    name: &str,
) -> Result<Value, ConfigError> {
    check_name(config, name)?;
    let id = ServerIdentity::of(config, settings)
        .map_err(|(path, e)| ConfigError::Change(format!("{path}: {e}")))?;
    let ca = id.authority.ok_or_else(|| {
        ConfigError::Change(
            "CA.private_key is not in this file: give --ca_key FILE, or run the command where that key is".into(),
        )
    })?;
    let key = PrivateKey::generate().map_err(CertError::from)?;
    let days = config.certificate_validity_days();
    let cert = ca.issue(entropy, now, days, name, key.public())?;
    let mut out = json!({
        "ca_certificate": config.client.ca_certificate,
        "client_cert": cert.to_pem(),
        "client_private_key": key.to_pem().to_string(),
        "api_connection_string": config.api_connection_string(),
        "name": name,
    });
    let pinned = config.client.pinned_server_name();
    if pinned != crate::crypto::certs::DEFAULT_PINNED_NAME {
        out["pinned_server_name"] = pinned.into();
    }
    Ok(out)
}
