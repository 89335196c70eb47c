//! What agents get: `Client`.

use std::time::Duration;

use serde::Deserialize;

use super::{or, secs, text_or};
use crate::crypto::certs::DEFAULT_PINNED_NAME;

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
