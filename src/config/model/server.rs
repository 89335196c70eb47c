//! What only servers and callers of the API read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{or, port, secs, text_or};
use crate::crypto::certs::{DEFAULT_GATEWAY_NAME, DEFAULT_PINNED_NAME};

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
    /// How users prove who they are.
    pub authenticator: Authenticator,
    /// Networks from which people are let in, as `10.0.0.0/8`; none lets all in.
    pub allowed_cidr: Vec<String>,
    /// Header in which a proxy says where somebody is.
    pub forwarded_proxy_header: String,
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
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Authenticator {
    /// Kind; compared without regard to case.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the provider's discovery document is.
    pub oidc_issuer: String,
    /// Tells several providers apart; part of the address of its log-in.
    pub oidc_name: String,
    /// Further parameters of the address people are sent to.
    pub oidc_auth_url_params: BTreeMap<String, String>,
    /// Our id at the provider.
    pub oauth_client_id: String,
    /// Our secret there.
    pub oauth_client_secret: String,
    /// Which claims say who somebody is.
    pub claims: OidcClaims,
    /// Do not pin users to what never changes at the provider.
    pub disable_email_to_sub_pin: bool,
    /// Azure's directory.
    pub tenant: String,
    /// Roles of people with a certificate who are no users yet.
    pub default_roles_for_unknown_user: Vec<String>,
    /// Minutes a log-in lasts; 0 leaves it to our own setting.
    pub default_session_expiry_min: u64,
    /// Several providers.
    pub sub_authenticators: Vec<Authenticator>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// `GUI.authenticator.claims`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OidcClaims {
    /// The claim that is the user's name.
    pub username: String,
    /// Take an address that the provider does not call verified.
    pub allow_unverified_email: bool,
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
    pub(super) hostname: String,
    bind_address: String,
    pub(super) bind_port: u32,
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
    /// Event artifacts of the server until its table is changed.
    pub default_server_monitoring_artifacts: Vec<String>,
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
    /// New connections a second; `None` leaves it to the number of cores.
    pub connections_per_second: Option<u64>,
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
    /// Public name as it stands in the file.
    pub fn hostname_text(&self) -> &str {
        &self.hostname
    }
    /// Listening port, or `default` if none stands in the file.
    pub fn port_or(&self, default: u16) -> u16 {
        port(self.bind_port, default)
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
            connections_per_second: some(r.connections_per_second.min(1000)),
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
