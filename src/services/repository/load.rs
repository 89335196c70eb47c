//! Definitions from folders of this host: `--definitions` and the folders the
//! configuration names. Reads through the environment; keeps nothing.

use std::io;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Origin, Repository};
use crate::env::{Env, fs};

/// Largest artifact file read, in bytes. The largest shipped upstream is under 1 MiB.
pub(super) const MAX_FILE: usize = 16 << 20;

/// Folders below a definitions folder that are followed.
pub(super) const MAX_DEPTH: usize = 32;

/// A file that was not loaded, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path.
    pub path: String,
    /// The reason.
    pub reason: String,
}

/// Loads every `*.yaml` and `*.yml` below `dir`, in path order. Files that are
/// not acceptable are reported and skipped: one bad file must not keep a
/// server from starting. A missing folder is an error.
pub async fn folder(env: &Env, repository: &Repository, dir: &str) -> io::Result<Vec<Skipped>> {
    env.fs.stat(dir).await?;
    let mut skipped = Vec::new();
    for path in files(env, dir.to_owned(), MAX_DEPTH).await? {
        let loaded = match text(env, &path).await {
            Err(e) => Err(e.to_string()),
            Ok(text) => repository.add(&text, Origin::Folder).map(drop).map_err(|e| e.to_string()),
        };
        if let Err(reason) = loaded {
            tracing::warn!(%path, %reason, "artifact definition skipped");
            skipped.push(Skipped { path, reason });
        }
    }
    Ok(skipped)
}

/// Definition files below `dir`.
fn files(env: &Env, dir: String, depth: usize) -> BoxFuture<'_, io::Result<Vec<String>>> {
    async move {
        let mut found = Vec::new();
        for entry in env.fs.list(&dir).await? {
            let path = format!("{}/{}", dir.trim_end_matches('/'), entry.name);
            if entry.is_dir && depth > 0 {
                found.extend(files(env, path, depth - 1).await?);
            } else if is_definition(&entry.name) {
                found.push(path);
            }
        }
        Ok(found)
    }
    .boxed()
}

fn is_definition(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".yaml") || lower.ends_with(".yml")
}

async fn text(env: &Env, path: &str) -> io::Result<String> {
    let bytes = fs::read_limited(&*env.fs, path, MAX_FILE).await?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
