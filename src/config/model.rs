//! The typed view of the keys that are honoured, with the stock defaults.
//!
//! Fields carry what stands in the file (0 or empty when absent); methods give
//! the value in force. Durations are methods, so that units cannot be mixed up.

use std::time::Duration;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::Value;

use crate::crypto::certs::{DEFAULT_GATEWAY_NAME, DEFAULT_PINNED_NAME, LEAF_DAYS};

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
    /// Defaults of services.
    pub defaults: Defaults,
    /// Security settings that are honoured.
    pub security: Security,
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

/// `Client`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClientConfig {
    /// Labels an agent reports.
    pub labels: Vec<String>,
    /// Base URLs, each ending in `/`; https, http, wss or ws.
    pub server_urls: Vec<String>,
    /// The deployment's CA, PEM.
    pub ca_certificate: String,
    /// Literal text that every packet carries.
    pub nonce: String,
    /// Agent state file on Linux.
    pub writeback_linux: String,
    /// Suffix of the second state file.
    pub level2_writeback_suffix: String,
    /// Seconds.
    min_poll: u64,
    /// Seconds.
    max_poll: u64,
    /// Seconds.
    max_poll_std: u64,
    /// Seconds.
    ws_ping_wait_sec: u64,
    /// Seconds.
    connection_timeout: u64,
    /// Seconds.
    default_max_wait: u64,
    /// Seconds.
    default_server_flow_stats_update: u64,
    /// Seconds; -1 is never.
    client_info_update_time: i64,
    /// Agents accept certificates of the deployment's CA for TLS.
    pub use_self_signed_ssl: bool,
    pinned_server_name: String,
    max_upload_size: u64,
    concurrency: u64,
    /// Lists are sent uncompressed.
    pub disable_compression: bool,
    /// The agent's buffer.
    pub local_buffer: LocalBuffer,
    /// Outer TLS of agents.
    #[serde(rename = "Crypto")]
    pub crypto: CryptoConfig,
}

/// `Client.local_buffer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LocalBuffer {
    memory_size: u64,
    /// Bytes on disk; 0 keeps the buffer in memory.
    pub disk_size: u64,
    /// File on Linux.
    pub filename_linux: String,
}

/// `Client.Crypto`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CryptoConfig {
    /// Extra TLS roots, PEM.
    pub root_certs: String,
    /// PKI, PKI_OR_THUMBPRINT or THUMBPRINT_ONLY; empty is PKI.
    pub certificate_verification_mode: String,
    /// A server accepts TLS 1.2.
    pub allow_weak_tls_server: bool,
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

impl ClientConfig {
    /// Pause between polls.
    pub fn min_poll(&self) -> Duration {
        secs(self.min_poll, 1)
    }
    /// How long a server holds a poll; base of an agent's back-off.
    pub fn max_poll(&self) -> Duration {
        secs(self.max_poll, 60)
    }
    /// Upper bound of the jitter on `max_poll`.
    pub fn max_poll_std(&self) -> Duration {
        secs(self.max_poll_std, 30)
    }
    /// Period of WebSocket pings.
    pub fn ws_ping_wait(&self) -> Duration {
        secs(self.ws_ping_wait_sec, 60)
    }
    /// Limit on connecting and on waiting for response headers.
    pub fn connection_timeout(&self) -> Duration {
        secs(self.connection_timeout, 300)
    }
    /// How long a part of a result may wait for more rows.
    pub fn default_max_wait(&self) -> Duration {
        secs(self.default_max_wait, 100)
    }
    /// Period of an agent's flow statistics.
    pub fn flow_stats_update(&self) -> Duration {
        secs(self.default_server_flow_stats_update, 5)
    }
    /// Period of an agent's description of itself; `None` is never.
    pub fn client_info_update(&self) -> Option<Duration> {
        match self.client_info_update_time {
            -1 => None,
            n if n > 0 => Some(Duration::from_secs(n as u64)),
            _ => Some(Duration::from_secs(86_400)),
        }
    }
    /// The name agents demand in the server's certificate.
    pub fn pinned_server_name(&self) -> &str {
        text_or(&self.pinned_server_name, DEFAULT_PINNED_NAME)
    }
    /// Bytes an agent aims at in one POST.
    pub fn max_upload_size(&self) -> u64 {
        or(self.max_upload_size, 5 << 20)
    }
    /// Collections an agent runs at once.
    pub fn concurrency(&self) -> u64 {
        or(self.concurrency, 2)
    }
    /// Collections a server keeps in flight at one agent: two more than it runs.
    pub fn in_flight(&self) -> u64 {
        2 + or(self.concurrency, 2)
    }
    /// Bytes of the agent's memory buffer.
    pub fn buffer_memory(&self) -> u64 {
        or(self.local_buffer.memory_size, 50 << 20)
    }
}

/// `API`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiConfig {
    /// Name under which other nodes reach the API.
    pub hostname: String,
    bind_address: String,
    bind_port: u32,
    bind_scheme: String,
    pinned_gw_name: String,
}

impl ApiConfig {
    /// Listening address.
    pub fn bind_address(&self) -> &str {
        text_or(&self.bind_address, "127.0.0.1")
    }
    /// Listening port.
    pub fn bind_port(&self) -> u16 {
        port(self.bind_port, 8001)
    }
    /// `tcp` or `unix`.
    pub fn bind_scheme(&self) -> &str {
        text_or(&self.bind_scheme, "tcp")
    }
    /// The certificate name that may act for others.
    pub fn pinned_gw_name(&self) -> &str {
        text_or(&self.pinned_gw_name, DEFAULT_GATEWAY_NAME)
    }
}

fn port(value: u32, default: u16) -> u16 {
    match u16::try_from(value) {
        Ok(0) | Err(_) => default,
        Ok(p) => p,
    }
}

/// `GUI`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GuiConfig {
    bind_address: String,
    bind_port: u32,
    /// No TLS: a proxy in front does it.
    pub use_plain_http: bool,
    /// Prefix of all paths, without a slash at the end.
    pub base_path: String,
    /// Where users reach the GUI.
    pub public_url: String,
    /// Certificate of the gateway, PEM.
    pub gw_certificate: String,
    /// Its key, PEM.
    pub gw_private_key: String,
    /// How users prove who they are; only `Basic` is offered.
    pub authenticator: Authenticator,
    /// Users made at the first start, with all rights.
    pub initial_users: Vec<GuiUser>,
}

impl GuiConfig {
    /// Listening address.
    pub fn bind_address(&self) -> &str {
        text_or(&self.bind_address, "127.0.0.1")
    }
    /// Listening port.
    pub fn bind_port(&self) -> u16 {
        port(self.bind_port, 8889)
    }
}

/// `GUI.authenticator`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Authenticator {
    /// Kind; compared without regard to case.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One of `GUI.initial_users`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GuiUser {
    /// User name.
    pub name: String,
    /// Hex of SHA-256 over salt and password.
    pub password_hash: String,
    /// Hex of the salt.
    pub password_salt: String,
}

/// `CA`.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct CaConfig {
    /// The CA's key, PEM; empty when it is kept offline.
    pub private_key: String,
}

impl std::fmt::Debug for CaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.private_key.is_empty() { "CaConfig(none)" } else { "CaConfig(key)" })
    }
}

/// `Frontend`, and each of `ExtraFrontends`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FrontendConfig {
    hostname: String,
    bind_address: String,
    bind_port: u32,
    /// Prefix of all paths, without a slash at the end.
    pub base_path: String,
    /// No TLS: a proxy in front does it.
    pub use_plain_http: bool,
    /// The identity towards agents, and the TLS certificate unless overridden; PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub private_key: String,
    /// Outer TLS certificate, a file.
    pub tls_certificate_filename: String,
    /// Its key, a file.
    pub tls_private_key_filename: String,
    /// Header that holds the client's address, set by a proxy.
    pub proxy_header: String,
    /// Query names are sent in the clear.
    pub do_not_compress_artifacts: bool,
    /// First event table.
    pub default_client_monitoring_artifacts: Vec<String>,
    /// Refuse to run as another user.
    pub run_as_user: String,
    /// Log lines that make a collection an error.
    pub collection_error_regex: String,
    /// Limits.
    pub resources: Resources,
    // Where 0.5 kept some of the limits.
    concurrency: u64,
    max_upload_size: u64,
    expected_clients: i64,
    per_client_upload_rate: i64,
    global_upload_rate: i64,
}

/// `Frontend.resources`; limits are [`Limits`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    connections_per_second: u64,
    notifications_per_second: u64,
    enrollments_per_second: i64,
    concurrency: u64,
    concurrency_timeout: u64,
    max_upload_size: u64,
    expected_clients: i64,
    per_client_upload_rate: i64,
    global_upload_rate: i64,
    target_heap_size: u64,
    default_log_batch_time: u64,
}

/// The limits of one frontend in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// New connections a second.
    pub connections_per_second: u64,
    /// Hunt recruitment a second, the whole cluster together.
    pub notifications_per_second: u64,
    /// Enrolments and key look-ups a second.
    pub enrollments_per_second: u64,
    /// POSTs worked on at once; `None` leaves it to the number of cores.
    pub concurrency: Option<u64>,
    /// How long a POST may wait for its turn.
    pub concurrency_timeout: Duration,
    /// Largest body, bytes.
    pub max_body: u64,
    /// Sessions cached.
    pub expected_clients: u64,
    /// Bytes a second for each client; `None` is unlimited.
    pub per_client_upload_rate: Option<u64>,
    /// Bytes a second for all clients; `None` is unlimited.
    pub global_upload_rate: Option<u64>,
    /// Soft limit on memory, bytes; `None` takes it from the control group.
    pub memory: Option<u64>,
    /// How long agents gather log lines.
    pub log_batch_time: Duration,
}

impl FrontendConfig {
    /// Public name.
    pub fn hostname(&self) -> &str {
        text_or(&self.hostname, "localhost")
    }
    /// Listening address.
    pub fn bind_address(&self) -> &str {
        text_or(&self.bind_address, "0.0.0.0")
    }
    /// Listening port.
    pub fn bind_port(&self) -> u16 {
        port(self.bind_port, 8000)
    }
    /// `<hostname>-<port>`, by which nodes are told apart.
    pub fn node_name(&self) -> String {
        format!("{}-{}", self.hostname(), self.bind_port())
    }
    /// The limits in force, with the stock defaults and bounds.
    pub fn limits(&self) -> Limits {
        let r = &self.resources;
        let some = |n: u64| (n > 0).then_some(n);
        let first = |a: u64, b: u64| if a > 0 { a } else { b };
        let firsti = |a: i64, b: i64| if a > 0 { a as u64 } else { b.max(0) as u64 };
        let upload = first(r.max_upload_size, self.max_upload_size);
        Limits {
            connections_per_second: or(r.connections_per_second, 100).min(1000),
            notifications_per_second: or(r.notifications_per_second, 100),
            enrollments_per_second: or(r.enrollments_per_second.max(0) as u64, 100),
            concurrency: some(first(r.concurrency, self.concurrency)),
            concurrency_timeout: secs(r.concurrency_timeout, 600),
            // Stock allows twice the configured size; agents overshoot their target.
            max_body: or(upload.saturating_mul(2), 64 << 20),
            expected_clients: or(firsti(r.expected_clients, self.expected_clients), 10_000),
            per_client_upload_rate: some(firsti(
                r.per_client_upload_rate,
                self.per_client_upload_rate,
            )),
            global_upload_rate: some(firsti(r.global_upload_rate, self.global_upload_rate)),
            memory: some(r.target_heap_size),
            log_batch_time: secs(r.default_log_batch_time, 2),
        }
    }
}

/// `Datastore`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DatastoreConfig {
    /// Stock's storage engine; all file ones have one layout on disk.
    pub implementation: String,
    location: String,
    filestore_directory: String,
    /// `zlib` asks agents to compress rows.
    pub compression: String,
}

impl DatastoreConfig {
    /// Directory of small objects, without a slash at the end.
    pub fn location(&self) -> &str {
        text_or(&self.location, &self.filestore_directory).trim_end_matches(['/', '\\'])
    }
    /// Directory of result sets and uploads, without a slash at the end.
    pub fn filestore_directory(&self) -> &str {
        text_or(&self.filestore_directory, &self.location).trim_end_matches(['/', '\\'])
    }
}

/// `Logging`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoggingConfig {
    /// Directory of log files; empty writes none.
    pub output_directory: String,
}

/// `Monitoring`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListenConfig {
    bind_address: String,
    bind_port: u32,
}

impl ListenConfig {
    /// Listening address.
    pub fn bind_address(&self) -> &str {
        text_or(&self.bind_address, "127.0.0.1")
    }
    /// Listening port.
    pub fn bind_port(&self) -> u16 {
        port(self.bind_port, 8003)
    }
}

/// `api_config`, and an API client's whole file.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct ApiClientConfig {
    /// The deployment's CA, PEM.
    pub ca_certificate: String,
    /// The caller's certificate, PEM.
    pub client_cert: String,
    /// Its key, PEM.
    pub client_private_key: String,
    /// `host:port` of the API.
    pub api_connection_string: String,
    /// The caller's user name.
    pub name: String,
    pinned_server_name: String,
    /// Largest message received, bytes; 0 is the library's default.
    pub max_grpc_recv_size: u64,
}

impl ApiClientConfig {
    /// The name demanded in the API's certificate.
    pub fn pinned_server_name(&self) -> &str {
        text_or(&self.pinned_server_name, DEFAULT_PINNED_NAME)
    }
}

impl std::fmt::Debug for ApiClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiClientConfig({} at {})", self.name, self.api_connection_string)
    }
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
    certificate_validity_days: i64,
    /// Metadata fields that can be searched.
    pub indexed_client_metadata: Vec<String>,
}

fn positive(value: i64, default: u64) -> u64 {
    u64::try_from(value).ok().filter(|n| *n > 0).unwrap_or(default)
}

impl Defaults {
    /// How long a hunt recruits.
    pub fn hunt_expiry(&self) -> Duration {
        Duration::from_secs(positive(self.hunt_expiry_hours, 168).saturating_mul(3600))
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
    /// Accept agents that speak protocol versions below 4.
    pub allow_ancient_clients: bool,
}

impl Config {
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
