//! Settings of this implementation alone, in a file of their own.
//!
//! The stock program refuses files with keys it does not know, so these never go
//! into its configuration. The file is optional; every field has a default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Name of the file beside the configuration when `--settings` is not given.
pub const FILE_NAME: &str = "velociraptor-fleet.yaml";

/// All settings. Unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The write-ahead journal.
    pub journal: Journal,
    /// When received data gets its final names.
    pub settle: Settle,
    /// Limits the stock configuration has no key for.
    pub limits: Limits,
    /// Nodes of the cluster.
    pub cluster: Cluster,
    /// Keys of earlier rotations.
    pub rotation: Rotation,
}

/// `journal`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Bytes that are committed together at most.
    pub group_bytes: u64,
    /// Payloads larger than this, in bytes, go to a spill file of their own.
    pub spill_bytes: u64,
    /// Bytes after which the next journal file is begun.
    pub file_bytes: u64,
    /// Milliseconds after which a POST that is not durable yet is answered 500.
    pub commit_timeout_ms: u64,
    /// Breaks the promise that nothing acknowledged is lost: answers before the
    /// journal is written. For the test that shows that such a server is caught.
    pub danger_acknowledge_early: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            group_bytes: 16 << 20,
            spill_bytes: 256 << 10,
            file_bytes: 256 << 20,
            commit_timeout_ms: 20_000,
            danger_acknowledge_early: false,
        }
    }
}

impl Journal {
    /// [`Journal::commit_timeout_ms`] as a duration.
    pub fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.commit_timeout_ms)
    }
}

/// `settle`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settle {
    /// Milliseconds between two looks at what has become complete.
    pub interval_ms: u64,
}

impl Default for Settle {
    fn default() -> Self {
        Self { interval_ms: 500 }
    }
}

/// `limits`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of client data waiting to be committed before more is refused.
    pub pending_bytes: u64,
    /// Milliseconds any call to the store may take.
    pub store_timeout_ms: u64,
    /// Bytes all lists of one packet may have after inflation.
    pub packet_inflated_bytes: u64,
    /// Connections open at once; 0 leaves it to the file descriptor limit.
    pub connections: u64,
    /// Clients' connections begin with a PROXY protocol version 2 header.
    pub proxy_protocol: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_bytes: 256 << 20,
            store_timeout_ms: 20_000,
            packet_inflated_bytes: crate::crypto::envelope::MAX_TOTAL_BYTES as u64,
            connections: 0,
            proxy_protocol: false,
        }
    }
}

/// `cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// This node's name; empty derives it from the frontend's host name and port.
    pub node: String,
}

/// `rotation`: written by `config rotate_keys`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// Earlier private keys of the frontend, PEM, newest first: agents that have not
    /// fetched the new certificate yet still encrypt to them.
    pub old_private_keys: Vec<String>,
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rotation({} keys)", self.old_private_keys.len())
    }
}

impl Settings {
    /// From YAML; an empty file is all defaults.
    pub fn parse(text: &str) -> Result<Self, yaml_serde::Error> {
        let value: Option<Self> = yaml_serde::from_str(text)?;
        Ok(value.unwrap_or_default())
    }
}

/// The settings file that belongs to a configuration file.
pub fn beside(config: &str) -> String {
    match config.rfind('/') {
        Some(i) => format!("{}/{FILE_NAME}", &config[..i]),
        None => FILE_NAME.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_default_and_unknown_keys_are_errors() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert_eq!(Settings::parse("# nothing\n").unwrap(), Settings::default());
        let s = Settings::parse("journal:\n  group_bytes: 5\n").unwrap();
        assert_eq!(s.journal.group_bytes, 5);
        assert_eq!(s.journal.spill_bytes, Journal::default().spill_bytes);
        for bad in ["jurnal: {}\n", "journal:\n  group: 5\n", "journal: 3\n", "- a\n"] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(beside("/etc/v/server.config.yaml"), "/etc/v/velociraptor-fleet.yaml");
        assert_eq!(beside("server.config.yaml"), "velociraptor-fleet.yaml");
    }
}
