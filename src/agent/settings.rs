//! What the agent needs to know of its configuration: the client fields that
//! do not concern the connection itself. Knows no YAML.

use std::time::Duration;

/// Agent settings, with the stock defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The deployment secret; replaces `$NONCE` in paths.
    pub nonce: String,
    /// Absolute path of the private state file.
    pub writeback: String,
    /// Suffix of the second state file; empty keeps everything in one file.
    pub level2_suffix: String,
    /// Absolute path of the on-disk buffer; `None` buffers in memory only.
    pub buffer_path: Option<String>,
    /// Bytes the disk buffer may hold.
    pub buffer_disk: u64,
    /// Bytes the memory buffer may hold.
    pub buffer_memory: u64,
    /// Target size of one POST in bytes.
    pub max_upload_size: u64,
    /// Collections that run at the same time.
    pub concurrency: usize,
    /// Longest time a partial batch of rows is held.
    pub default_max_wait: Duration,
    /// Period of progress reports.
    pub stats_period: Duration,
    /// Period of host facts; `None` sends none.
    pub info_period: Option<Duration>,
    /// Gap between two rounds of either loop.
    pub min_poll: Duration,
    /// Base of every wait after a failure.
    pub max_poll: Duration,
    /// Upper bound of the jitter added to `max_poll`.
    pub max_poll_std: Duration,
    /// Send message lists uncompressed.
    pub disable_compression: bool,
    /// Labels reported to the server.
    pub labels: Vec<String>,
    /// Name reported to the server.
    pub client_name: String,
    /// Version reported to the server.
    pub client_version: String,
    /// Base URLs, shown to queries as `config.server_urls`.
    pub server_urls: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            nonce: String::new(),
            writeback: "/etc/velociraptor.writeback.yaml".into(),
            level2_suffix: String::new(),
            buffer_path: None,
            buffer_disk: 1 << 30,
            buffer_memory: 50 << 20,
            max_upload_size: 5 << 20,
            concurrency: 2,
            default_max_wait: Duration::from_secs(100),
            stats_period: Duration::from_secs(5),
            info_period: Some(Duration::from_secs(86_400)),
            min_poll: Duration::from_secs(1),
            max_poll: Duration::from_secs(60),
            max_poll_std: Duration::from_secs(30),
            disable_compression: false,
            labels: Vec::new(),
            client_name: crate::AGENT_NAME.into(),
            client_version: env!("CARGO_PKG_VERSION").into(),
            server_urls: Vec::new(),
        }
    }
}

impl Settings {
    /// `path` with `$NONCE` and `%NONCE%` replaced by the nonce, of which only
    /// letters, digits, `-` and `_` are kept.
    pub fn expand(&self, path: &str) -> String {
        let keep = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let nonce: String = self.nonce.chars().filter(keep).collect();
        path.replace("%NONCE%", &nonce).replace("$NONCE", &nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_in_paths() {
        let s = Settings { nonce: "a/b+c=".into(), ..Default::default() };
        assert_eq!(s.expand("/x/$NONCE/%NONCE%.yaml"), "/x/abc/abc.yaml");
    }
}
