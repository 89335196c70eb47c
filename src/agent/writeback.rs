//! The agent's private state on disk: key, identity, last server certificate
//! and event table. Two files when a level 2 suffix is set: the first holds
//! only what identity needs and is rarely written, the second everything.
//! Keys of other programs in the files are kept.

use std::io;
use std::sync::Arc;

use velociraptor_proto::json;
use velociraptor_proto::proto::VqlEventTable;
use yaml_serde::{Mapping, Value};

use crate::env::{FileSystem, fs};

/// Largest state file read, in bytes: event tables carry artifact texts.
const LIMIT: usize = 64 << 20;
/// What the first file holds when there are two.
const IDENTITY: [&str; 3] = ["install_time", "private_key", "client_id"];

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WritebackError {
    /// The file system refused.
    #[error("state file: {0}")]
    Io(#[from] io::Error),
    /// Neither file is YAML; making a new identity over it would be wrong.
    #[error("state file {path}: {reason}")]
    Corrupt {
        /// Which file.
        path: String,
        /// What the parser said.
        reason: String,
    },
    /// A value cannot be written.
    #[error("state file: {0}")]
    Encode(String),
}

/// The state, in memory and on disk.
pub struct Writeback {
    fs: Arc<dyn FileSystem>,
    path: String,
    level2: Option<String>,
    /// Everything, unknown keys included.
    doc: Mapping,
    /// The first file as it is on disk.
    first: Mapping,
}

impl std::fmt::Debug for Writeback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writeback").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Writeback {
    /// Reads the state at `path` (and `path` + `suffix`); absent files are
    /// empty. A damaged file is an error unless the other one has the key.
    pub async fn load(
        fs: Arc<dyn FileSystem>,
        path: &str,
        suffix: &str,
    ) -> Result<Writeback, WritebackError> {
        let level2 = (!suffix.is_empty()).then(|| format!("{path}{suffix}"));
        let first = read(&*fs, path).await;
        let second = match &level2 {
            Some(p) => read(&*fs, p).await,
            None => Ok(Mapping::new()),
        };
        let has_key = |m: &Mapping| m.contains_key("private_key");
        let (first, second) = match (first, second) {
            (Ok(a), Ok(b)) => (a, b),
            (Ok(a), Err(e)) if has_key(&a) => {
                tracing::warn!("{e}; going on without it");
                (a, Mapping::new())
            }
            (Err(e), Ok(b)) if has_key(&b) => {
                tracing::warn!("{e}; going on with the second copy");
                (Mapping::new(), b)
            }
            (Err(e), _) | (_, Err(e)) => return Err(e),
        };
        let mut doc = second;
        for (k, v) in &first {
            // The first file decides about identity: it may have been re-keyed.
            let identity = k.as_str().is_some_and(|k| IDENTITY.contains(&k));
            if identity || level2.is_none() || !doc.contains_key(k) {
                doc.insert(k.clone(), v.clone());
            }
        }
        Ok(Writeback { fs, path: path.into(), level2, doc, first })
    }

    /// On no disk: [`Writeback::save`] does nothing.
    pub fn in_memory(fs: Arc<dyn FileSystem>) -> Writeback {
        let (doc, first) = (Mapping::new(), Mapping::new());
        Writeback { fs, path: String::new(), level2: None, doc, first }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.doc.get(key).and_then(Value::as_str).filter(|s| !s.is_empty())
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.doc.insert(Value::from(key), value.into());
    }

    /// The private key, PKCS#1 PEM.
    pub fn private_key(&self) -> Option<&str> {
        self.text("private_key")
    }

    /// The client id written beside the key; informational.
    pub fn client_id(&self) -> Option<&str> {
        self.text("client_id")
    }

    /// When the agent was first started, unix seconds; 0 when unknown.
    pub fn install_time(&self) -> u64 {
        self.doc.get("install_time").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The last `server.pem` that verified.
    pub fn last_server_pem(&self) -> Option<&str> {
        self.text("last_server_pem")
    }

    /// Sets key, id and time of installation.
    pub fn set_identity(&mut self, private_key: &str, client_id: &str, install_time: u64) {
        self.set("install_time", install_time);
        self.set("private_key", private_key);
        self.set("client_id", client_id);
    }

    /// Sets the last `server.pem`; true when it changed.
    pub fn set_last_server_pem(&mut self, pem: &str) -> bool {
        let changed = self.last_server_pem() != Some(pem);
        if changed {
            self.set("last_server_pem", pem);
        }
        changed
    }

    /// The saved event table, if there is one that can be read.
    pub fn event_table(&self) -> Option<VqlEventTable> {
        let value = self.doc.get("event_queries")?;
        let text = serde_json::to_vec(value).ok()?;
        match json::from_json(&text) {
            Ok(table) => Some(table),
            Err(e) => {
                tracing::warn!("saved event table: {e}");
                None
            }
        }
    }

    /// Replaces the saved event table.
    pub fn set_event_table(&mut self, table: &VqlEventTable) -> Result<(), WritebackError> {
        let encode = |e: &dyn std::fmt::Display| WritebackError::Encode(e.to_string());
        let row = json::to_sparse_row(table).map_err(|e| encode(&e))?;
        // JSON is YAML: numbers keep their spelling this way.
        let value: Value = yaml_serde::from_str(&row.to_string()).map_err(|e| encode(&e))?;
        self.set("event_queries", value);
        Ok(())
    }

    /// Writes what changed; readers see the old or the new file.
    pub async fn save(&mut self) -> Result<(), WritebackError> {
        if self.path.is_empty() {
            return Ok(());
        }
        let Some(level2) = self.level2.clone() else {
            return self.write(&self.path, &self.doc).await;
        };
        self.write(&level2, &self.doc).await?;
        let mut first = self.first.clone();
        for key in IDENTITY {
            if let Some(v) = self.doc.get(key) {
                first.insert(Value::from(key), v.clone());
            }
        }
        if first != self.first {
            self.write(&self.path, &first).await?;
            self.first = first;
        }
        Ok(())
    }

    async fn write(&self, path: &str, doc: &Mapping) -> Result<(), WritebackError> {
        let text = yaml_serde::to_string(doc).map_err(|e| WritebackError::Encode(e.to_string()))?;
        let tmp = format!("{path}.new");
        // Left by a crash; nobody else uses the name.
        if let Err(e) = self.fs.remove(&tmp).await
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e.into());
        }
        Ok(fs::replace(&*self.fs, &tmp, path, text.as_bytes()).await?)
    }
}

async fn read(fs: &dyn FileSystem, path: &str) -> Result<Mapping, WritebackError> {
    let data = match fs::read_limited(fs, path, LIMIT).await {
        Ok(d) => d,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Mapping::new()),
        Err(e) => return Err(e.into()),
    };
    let corrupt = |reason: String| WritebackError::Corrupt { path: path.into(), reason };
    match yaml_serde::from_slice(&data).map_err(|e| corrupt(e.to_string()))? {
        Value::Mapping(m) => Ok(m),
        Value::Null => Ok(Mapping::new()),
        _ => Err(corrupt("not a mapping".into())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use velociraptor_proto::proto::{VqlCollectorArgs, VqlEnv, VqlRequest};

    fn table() -> VqlEventTable {
        VqlEventTable {
            event: vec![VqlCollectorArgs {
                query: vec![VqlRequest {
                    vql: "SELECT \"a\\n: 'b'\" FROM clock()\n# é".into(),
                    name: "Generic.Client.Stats".into(),
                }],
                env: vec![VqlEnv { key: "k".into(), value: "010".into(), ..Default::default() }],
                max_wait: 120,
                cpu_limit: 12.5,
                ..Default::default()
            }],
            version: 1_769_000_000_123_456_789,
        }
    }

    async fn load(dir: &std::path::Path, suffix: &str) -> Result<Writeback, WritebackError> {
        let path = dir.join("w.yaml").to_string_lossy().into_owned();
        Writeback::load(crate::env::real::env().fs, &path, suffix).await
    }

    #[tokio::test]
    async fn two_files_and_unknown_keys() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("w.yaml"), "install_time: 7\nother: [1, x]\n").unwrap();
        let mut w = load(dir.path(), ".bak").await.unwrap();
        assert_eq!(w.install_time(), 7);
        w.set_identity("-----BEGIN\nabc\n", "C.1", 8);
        assert!(w.set_last_server_pem("PEM"));
        assert!(!w.set_last_server_pem("PEM"));
        w.set_event_table(&table()).unwrap();
        w.save().await.unwrap();
        w.save().await.unwrap();

        let first = std::fs::read_to_string(dir.path().join("w.yaml")).unwrap();
        assert!(first.contains("private_key") && first.contains("other"), "{first}");
        assert!(!first.contains("event_queries") && !first.contains("last_server_pem"));
        for f in ["w.yaml", "w.yaml.bak"] {
            let mode = std::fs::metadata(dir.path().join(f)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{f}");
        }

        let w = load(dir.path(), ".bak").await.unwrap();
        assert_eq!(w.event_table().unwrap(), table());
        assert_eq!(w.private_key(), Some("-----BEGIN\nabc\n"));
        assert_eq!(w.client_id(), Some("C.1"));
        assert_eq!(w.last_server_pem(), Some("PEM"));
        assert!(w.doc.contains_key("other"));
    }

    #[tokio::test]
    async fn damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = load(dir.path(), ".bak").await.unwrap();
        w.set_identity("key", "C.1", 8);
        w.save().await.unwrap();
        std::fs::write(dir.path().join("w.yaml.bak"), "a: [").unwrap();
        assert_eq!(load(dir.path(), ".bak").await.unwrap().private_key(), Some("key"));
        std::fs::write(dir.path().join("w.yaml"), "- a\n").unwrap();
        assert!(matches!(load(dir.path(), ".bak").await, Err(WritebackError::Corrupt { .. })));
    }

    #[tokio::test]
    async fn reads_a_stock_file() {
        let dir = tempfile::tempdir().unwrap();
        let text = "client_id: C.2\nprivate_key: |\n  -----BEGIN RSA PRIVATE KEY-----\n  x\n\
            event_queries:\n  version: 1700000000000000000\n  event:\n  - Query:\n    - VQL: SELECT 1\n\
            \x20     Name: A\n    max_wait: 120\n    env:\n    - key: a\n      value: b\ncheckpoints:\n- flow_id: F.1\n";
        std::fs::write(dir.path().join("w.yaml"), text).unwrap();
        let w = load(dir.path(), "").await.unwrap();
        let t = w.event_table().unwrap();
        assert_eq!(t.version, 1_700_000_000_000_000_000);
        assert_eq!(t.event[0].query[0].vql, "SELECT 1");
        assert_eq!(t.event[0].env[0].value, "b");
    }
}
