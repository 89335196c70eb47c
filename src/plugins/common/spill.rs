//! Temporary files for rows that do not fit into memory (`vql::Spill`). They have
//! no name once they are open: nothing is left behind, however a process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use vql::{Object, Spill, SpillFile, SpillFiles, Value};

use super::path::OsPath;
use crate::env::Env;
use crate::env::fs::{File, Open};

/// Bytes of rows that one sort, grouping or set of a query holds in memory when
/// nothing else is configured.
pub const MEMORY: usize = 64 << 20;

/// Where queries of this process put rows. `written` counts the bytes.
pub fn spill(env: &Env, limit: usize, written: Arc<AtomicU64>) -> Arc<Spill> {
    let files = Arc::new(Temporary { env: env.clone(), written });
    Arc::new(Spill { files, limit })
}

struct Temporary {
    env: Env,
    written: Arc<AtomicU64>,
}

impl SpillFiles for Temporary {
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn SpillFile>, String>> {
        Box::pin(async move {
            let mut random = [0; 12];
            self.env.entropy.fill(&mut random);
            let dir = std::env::temp_dir();
            let path = format!("{}/velociraptor-rows-{}", dir.display(), hex::encode(random));
            let opened = self.env.fs.open(&path, Open::CreateNew).await;
            let file = opened.map_err(|e| e.to_string())?;
            // The open file stays; only its name goes.
            self.env.fs.remove(&path).await.map_err(|e| e.to_string())?;
            let written = self.written.clone();
            Ok(Arc::new(Opened { file, written }) as Arc<dyn SpillFile>)
        })
    }

    fn encode(&self, object: &Arc<dyn Object>) -> Option<Vec<u8>> {
        object.as_any().downcast_ref::<OsPath>()?.to_bytes()
    }

    fn decode(&self, bytes: &[u8]) -> Option<Value> {
        OsPath::from_bytes(bytes).map(Value::object)
    }
}

struct Opened {
    file: Box<dyn File>,
    written: Arc<AtomicU64>,
}

impl SpillFile for Opened {
    fn write(&self, offset: u64, data: Vec<u8>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
            self.file.write_at(offset, data.into()).await.map_err(|e| e.to_string())
        })
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move { self.file.read_at(offset, length).await.map_err(|e| e.to_string()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vql::Registry;

    async fn query(limit: usize, text: &str) -> (String, u64) {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = crate::env::real::env();
        let written = Arc::new(AtomicU64::new(0));
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .extension(spill(&env, limit, written.clone()))
            .extension(Arc::new(env))
            .build();
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        (rows, written.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn paths_come_back_as_paths() {
        let text = "LET Rows <= SELECT _value AS N, OSPath + ('x', str(str=_value)) AS P \
            FROM foreach(row={ SELECT * FROM stat(filename='/') }, \
                         query={ SELECT _value, OSPath FROM range(start=0, end=30000) }) \
            SELECT N, P, P.Basename AS B, P[0] AS First FROM Rows ORDER BY N DESC";
        let (expected, none) = query(MEMORY, text).await;
        assert_eq!(none, 0);
        let (rows, written) = query(5_000_000, text).await;
        assert!(written > 20_000, "{written}");
        assert_eq!(rows, expected);
        assert!(
            rows.starts_with(r#"[{"N":29999,"P":"/x/29999","B":"29999","First":"x"}"#),
            "{rows}"
        );
    }
}
