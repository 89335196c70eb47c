//! A new deployment: keys, certificates, nonces, and stock's choice of defaults.

use std::time::SystemTime;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::load::ConfigError;
use crate::crypto::PrivateKey;
use crate::crypto::certs::{
    Authority, CertError, DEFAULT_GATEWAY_NAME, DEFAULT_PINNED_NAME, LEAF_DAYS,
};
use crate::env::Entropy;

/// The answers that shape a new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Public DNS name or address of the master frontend.
    pub hostname: String,
    /// Port agents connect to.
    pub frontend_port: u16,
    /// Port of the GUI.
    pub gui_port: u16,
    /// Agents use WebSockets.
    pub websocket: bool,
    /// Directory of everything stored.
    pub datastore: String,
    /// Directory of log files; empty writes none.
    pub logs: String,
    /// Lifetime of the internal certificates, days.
    pub validity_days: u32,
    /// Agents on Windows keep their state in the registry.
    pub registry_writeback: bool,
    /// First users and their passwords; they get every right.
    pub users: Vec<(String, String)>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            frontend_port: 8000,
            gui_port: 8889,
            websocket: false,
            datastore: "/var/tmp/velociraptor".into(),
            logs: String::new(),
            validity_days: LEAF_DAYS,
            registry_writeback: false,
            users: Vec::new(),
        }
    }
}

/// Text of a new nonce: base64 of eight random bytes.
pub fn nonce(entropy: &dyn Entropy) -> String {
    let mut raw = [0; 8];
    entropy.fill(&mut raw);
    BASE64.encode(&raw)
}

/// A user as `GUI.initial_users` holds it: SHA-256 over a random salt and the password.
pub fn user(entropy: &dyn Entropy, name: &str, password: &str) -> Value {
    let mut salt = [0; 32];
    entropy.fill(&mut salt);
    let mut h = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    h.update(&salt);
    h.update(password.as_bytes());
    json!({
        "name": name,
        "password_hash": hex::encode(h.finish()),
        "password_salt": hex::encode(salt),
    })
}

/// What wrote a configuration: us.
pub fn version() -> Value {
    json!({ "name": crate::PRODUCT, "version": env!("CARGO_PKG_VERSION") })
}

/// The private keys of a deployment.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Of the CA.
    pub ca: PrivateKey,
    /// Of the frontends.
    pub frontend: PrivateKey,
    /// Of the gateway.
    pub gateway: PrivateKey,
}

impl Keys {
    /// Three new RSA keys: up to a second of CPU.
    pub fn generate() -> Result<Self, ConfigError> {
        let key = || PrivateKey::generate().map_err(CertError::from);
        Ok(Self { ca: key()?, frontend: key()?, gateway: key()? })
    }
}

/// A whole server configuration with fresh keys.
pub fn server(
    entropy: &dyn Entropy,
    now: SystemTime,
    choices: &Choices,
) -> Result<Value, ConfigError> {
    server_with(entropy, now, choices, &Keys::generate()?)
}

/// A whole server configuration around these keys.
pub fn server_with(
    entropy: &dyn Entropy,
    now: SystemTime,
    choices: &Choices,
    keys: &Keys,
) -> Result<Value, ConfigError> {
    let ca = Authority::self_signed(keys.ca.clone(), entropy, now)?;
    let leaf = |name: &str, key: &PrivateKey| -> Result<(String, String), ConfigError> {
        let cert = ca.issue(entropy, now, choices.validity_days, name, key.public())?;
        Ok((cert.to_pem(), key.to_pem().to_string()))
    };
    let (certificate, private_key) = leaf(DEFAULT_PINNED_NAME, &keys.frontend)?;
    let (gw_certificate, gw_private_key) = leaf(DEFAULT_GATEWAY_NAME, &keys.gateway)?;
    let scheme = if choices.websocket { "wss" } else { "https" };
    let host = match choices.hostname.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => choices.hostname.clone(),
    };
    let windows_writeback = if choices.registry_writeback {
        "HKLM\\SOFTWARE\\Velocidex\\Velociraptor"
    } else {
        "$ProgramFiles\\Velociraptor\\velociraptor.writeback.yaml"
    };
    let users: Vec<Value> = choices.users.iter().map(|(n, p)| user(entropy, n, p)).collect();
    let mut config = json!({
        "version": version(),
        "Client": {
            "server_urls": [format!("{scheme}://{host}:{}/", choices.frontend_port)],
            "ca_certificate": ca.certificate().to_pem(),
            "nonce": nonce(entropy),
            "writeback_darwin": "/etc/velociraptor.writeback.yaml",
            "writeback_linux": "/etc/velociraptor.writeback.yaml",
            "writeback_windows": windows_writeback,
            "tempdir_windows": "$ProgramFiles\\Velociraptor\\Tools",
            "max_poll": 60,
            "nanny_max_connection_delay": 600,
            "windows_installer": {
                "service_name": "Velociraptor",
                "install_path": "$ProgramFiles\\Velociraptor\\Velociraptor.exe",
                "service_description": "Velociraptor service",
            },
            "darwin_installer": {
                "service_name": "com.velocidex.velociraptor",
                "install_path": "/usr/local/bin/velociraptor",
            },
            "use_self_signed_ssl": true,
            "pinned_server_name": DEFAULT_PINNED_NAME,
            "max_upload_size": 5_242_880,
            "local_buffer": {
                "memory_size": 52_428_800,
                "disk_size": 1_073_741_824,
                "filename_linux": "/var/tmp/Velociraptor_Buffer.bin",
                "filename_windows": "$TEMP/Velociraptor_Buffer.bin",
                "filename_darwin": "/var/tmp/Velociraptor_Buffer.bin",
            },
        },
        "API": {
            "bind_address": "127.0.0.1",
            "bind_port": 8001,
            "bind_scheme": "tcp",
            "pinned_gw_name": DEFAULT_GATEWAY_NAME,
        },
        "GUI": {
            "bind_address": "127.0.0.1",
            "bind_port": choices.gui_port,
            "public_url": format!("https://{host}:{}/app/index.html", choices.gui_port),
            "gw_certificate": gw_certificate,
            "gw_private_key": gw_private_key,
            "initial_users": users,
            "authenticator": { "type": "Basic" },
        },
        "CA": { "private_key": ca.private_key().to_pem().to_string() },
        "Frontend": {
            "hostname": choices.hostname,
            "bind_address": "0.0.0.0",
            "bind_port": choices.frontend_port,
            "certificate": certificate,
            "private_key": private_key,
            "default_client_monitoring_artifacts": ["Generic.Client.Stats"],
            "GRPC_pool_max_size": 100,
            "GRPC_pool_max_wait": 60,
            "resources": {
                "notifications_per_second": 100,
                "max_upload_size": 104_857_600,
                "expected_clients": 30_000,
            },
        },
        "Datastore": {
            "implementation": "FileBaseDataStore",
            "location": choices.datastore,
            "filestore_directory": choices.datastore,
            "compression": "zlib",
        },
        "Logging": {
            "output_directory": choices.logs,
            "separate_logs_per_component": true,
            "debug": { "disabled": true },
            "info": { "rotation_time": 604_800, "max_age": 31_536_000 },
            "error": { "rotation_time": 604_800, "max_age": 31_536_000 },
        },
        "Monitoring": { "bind_address": "127.0.0.1", "bind_port": 8003 },
        "obfuscation_nonce": nonce(entropy),
        "defaults": { "hunt_expiry_hours": 168, "notebook_cell_timeout_min": 10 },
    });
    if choices.validity_days != LEAF_DAYS {
        config["security"] = json!({ "certificate_validity_days": choices.validity_days });
    }
    prune(&mut config);
    Ok(config)
}

/// Leaves out empty texts and lists.
fn prune(v: &mut Value) {
    if let Value::Object(map) = v {
        prune_map(map);
    }
}

fn prune_map(map: &mut Map<String, Value>) {
    map.retain(|_, v| match v {
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        _ => true,
    });
    map.values_mut().for_each(prune);
}
