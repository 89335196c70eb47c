//! The typed view of the keys that are honoured, with the stock defaults.
//!
//! Fields carry what stands in the file (0 or empty when absent); methods give
//! the value in force. Durations are methods, so that units cannot be mixed up.

use std::time::Duration;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::Value;

use crate::crypto::certs::LEAF_DAYS;

mod client;
mod server;

pub use client::{ClientConfig, CryptoConfig, LocalBuffer};
pub use server::{
    ApiClientConfig, ApiConfig, Authenticator, CaConfig, DatastoreConfig, FrontendConfig,
    GuiConfig, GuiUser, Limits, ListenConfig, LoggingConfig, Resources,
};

/// A whole configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What wrote the file.
    pub version: Version,
    /// What agents need; the only section, with `version` and `autoexec`, that they get.
    #[serde(rename = "Client")]
    pub client: ClientConfig,
    /// Where the gRPC API listens.
    #[serde(rename = "API")]
    pub api: ApiConfig,
    /// The web interface.
    #[serde(rename = "GUI")]
    pub gui: GuiConfig,
    /// The CA's private key, which may be kept offline.
    #[serde(rename = "CA")]
    pub ca: CaConfig,
    /// This node, or the master's.
    #[serde(rename = "Frontend")]
    pub frontend: FrontendConfig,
    /// The minions; each lies over `Frontend`.
    #[serde(rename = "ExtraFrontends")]
    pub extra_frontends: Vec<FrontendConfig>,
    /// Where files are kept.
    #[serde(rename = "Datastore")]
    pub datastore: DatastoreConfig,
    /// Log files.
    #[serde(rename = "Logging")]
    pub logging: LoggingConfig,
    /// The metrics listener.
    #[serde(rename = "Monitoring")]
    pub monitoring: ListenConfig,
    /// How an API client reaches the server.
    pub api_config: ApiClientConfig,
    /// What a repacked binary runs.
    pub autoexec: AutoExecConfig,
    /// Key of hidden query names; see [`Config::obfuscation_nonce`].
    #[serde(rename = "obfuscation_nonce")]
    pub obfuscation_nonce_text: String,
    /// Which server takes mail.
    #[serde(rename = "Mail")]
    pub mail: MailConfig,
    /// Defaults of services.
    pub defaults: Defaults,
    /// Security settings that are honoured.
    pub security: Security,
}

/// `Mail`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MailConfig {
    /// Who sends.
    pub from: String,
    /// The server.
    pub server: String,
    /// Its port; 0 is 587.
    pub server_port: u64,
    /// For authentication.
    pub auth_username: String,
    /// Its password.
    pub auth_password: String,
    /// Take any certificate.
    pub skip_verify: bool,
}

/// What wrote a file, or what an agent is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Version {
    /// Program name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Source revision.
    pub commit: String,
    /// When it was built, RFC 3339.
    pub build_time: String,
}

/// `autoexec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AutoExecConfig {
    /// Arguments in place of an empty command line.
    pub argv: Vec<String>,
    /// Artifacts the file carries.
    pub artifact_definitions: Vec<Value>,
}

/// `defaults`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Defaults {
    hunt_expiry_hours: i64,
    event_max_wait: u64,
    event_max_wait_jitter: u64,
    /// Directories of artifact definitions.
    pub artifact_definitions_directories: Vec<String>,
    unauthenticated_lru_timeout_sec: i64,
    /// Rows in one part of a result; 0 leaves it to the compiler.
    pub max_rows: u64,
    /// Bytes of rows an agent gathers; 0 leaves it to the compiler.
    pub max_row_buffer_size: u64,
    /// Seconds a part may wait; 0 leaves it to the compiler.
    pub max_batch_wait: u64,
    /// Agents are not asked about collections they should be running.
    pub disable_active_inflight_checks: bool,
    inflight_check_time: i64,
    notebook_cell_timeout_min: i64,
    notebook_versions: i64,
    certificate_validity_days: i64,
    export_max_timeout_sec: i64,
    /// Metadata fields that can be searched.
    pub indexed_client_metadata: Vec<String>,
    disable_inventory_service_external_access: bool,
}

fn positive(value: i64, default: u64) -> u64 {
    u64::try_from(value).ok().filter(|n| *n > 0).unwrap_or(default)
}

impl Defaults {
    /// How long a hunt recruits.
    pub fn hunt_expiry(&self) -> Duration {
        Duration::from_secs(positive(self.hunt_expiry_hours, 168).saturating_mul(3600))
    }
    /// Longest time an export may take, if it is said.
    pub fn export_timeout(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.export_max_timeout_sec).ok().filter(|n| *n > 0);
        seconds.map(Duration::from_secs)
    }
    /// How long agents gather event rows.
    pub fn event_max_wait(&self) -> Duration {
        secs(self.event_max_wait, 120)
    }
    /// Upper bound of the jitter on it.
    pub fn event_max_wait_jitter(&self) -> Duration {
        secs(self.event_max_wait_jitter, 20)
    }
    /// How long it is remembered that a client is unknown; `None` is not at all.
    pub fn unauthenticated_timeout(&self) -> Option<Duration> {
        match self.unauthenticated_lru_timeout_sec {
            n if n < 0 => None,
            n => Some(Duration::from_secs(positive(n, 10))),
        }
    }
    /// After how long an agent is asked about a silent collection.
    pub fn inflight_check(&self) -> Duration {
        Duration::from_secs(positive(self.inflight_check_time, 60))
    }
    /// Versions of a notebook's cell that are kept.
    pub fn notebook_versions(&self) -> u64 {
        positive(self.notebook_versions, 5)
    }

    /// Limit on a notebook cell.
    pub fn notebook_cell_timeout(&self) -> Duration {
        Duration::from_secs(positive(self.notebook_cell_timeout_min, 10).saturating_mul(60))
    }
}

/// `security`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Security {
    certificate_validity_days: i64,
    /// Whether agents that speak protocol versions below 4 are served. Stock
    /// takes an absent key for no; here only `false` is.
    pub allow_ancient_clients: Option<bool>,
    disable_inventory_service_external_access: bool,
}

impl Config {
    /// Whether the server must not fetch tools from elsewhere.
    pub fn tools_offline(&self) -> bool {
        self.security.disable_inventory_service_external_access
            || self.defaults.disable_inventory_service_external_access
    }

    /// Lifetime of new server certificates, days.
    pub fn certificate_validity_days(&self) -> u32 {
        let days = positive(self.security.certificate_validity_days, 0);
        let days =
            if days > 0 { days } else { positive(self.defaults.certificate_validity_days, 0) };
        u32::try_from(days).ok().filter(|d| *d > 0).unwrap_or(LEAF_DAYS)
    }

    /// Key of hidden query names: what stands in the file, or for files that have
    /// none the hex of SHA-256 over the text of the frontend's private key.
    pub fn obfuscation_nonce(&self) -> String {
        if !self.obfuscation_nonce_text.is_empty() {
            return self.obfuscation_nonce_text.clone();
        }
        let key = self.frontend.private_key.as_bytes();
        hex::encode(digest::digest(&digest::SHA256, key))
    }

    /// Where API clients connect: as configured, else derived as stock does.
    pub fn api_connection_string(&self) -> String {
        if !self.api_config.api_connection_string.is_empty() {
            return self.api_config.api_connection_string.clone();
        }
        let bind = self.api.bind_address();
        let host = match (self.api.hostname.as_str(), bind) {
            (h, _) if !h.is_empty() => h,
            (_, "127.0.0.1") => bind,
            _ if !self.frontend.hostname.is_empty() => &self.frontend.hostname,
            _ => bind,
        };
        match host.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{}", self.api.bind_port()),
            Err(_) => format!("{host}:{}", self.api.bind_port()),
        }
    }

    /// All nodes' names: the master first, then the minions. Scalars a minion does
    /// not set are the master's.
    pub fn node_names(&self) -> Vec<String> {
        let extra = self.extra_frontends.iter().map(|f| {
            let host = text_or(&f.hostname, self.frontend.hostname());
            format!("{host}-{}", port(f.bind_port, self.frontend.bind_port()))
        });
        std::iter::once(self.frontend.node_name()).chain(extra).collect()
    }
}

fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn text_or<'a>(value: &'a str, default: &'a str) -> &'a str {
    if value.is_empty() { default } else { value }
}

fn secs(value: u64, default: u64) -> Duration {
    Duration::from_secs(or(value, default))
}

fn port(value: u32, default: u16) -> u16 {
    match u16::try_from(value) {
        Ok(0) | Err(_) => default,
        Ok(p) => p,
    }
}
