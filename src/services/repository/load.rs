//! Definitions from folders and archives of this host: `--definitions`, the
//! folders the configuration names, and what people hand over. Reads through
//! the environment; keeps nothing.

use std::io;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Origin, Repository};
use crate::env::{Env, fs};
use crate::store::zip::Archive;

/// Largest artifact file read, in bytes. The largest shipped upstream is under 1 MiB.
pub(super) const MAX_FILE: usize = 16 << 20;

/// Largest archive of definitions read, in bytes. A stock release's has 3 MiB.
pub const MAX_ARCHIVE: usize = 256 << 20;

/// Folders below a definitions folder that are followed.
pub(super) const MAX_DEPTH: usize = 32;

/// The text of a definition, or why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is; for a member of an archive `archive!member`.
    pub path: String,
    /// What it says.
    pub text: Result<String, String>,
}

/// Every definition of a file, of the folders below `path`, or of an archive
/// (a stock release's definitions, a pack, an exchange's), in path order.
pub async fn find(env: &Env, path: &str) -> io::Result<Vec<Found>> {
    let meta = env.fs.stat(path).await?;
    if meta.is_dir {
        let mut found = Vec::new();
        for path in files(env, path.to_owned(), MAX_DEPTH).await? {
            let text = text(env, &path).await.map_err(|e| e.to_string());
            found.push(Found { path, text });
        }
        return Ok(found);
    }
    if is_definition(path) {
        let text = text(env, path).await.map_err(|e| e.to_string());
        return Ok(vec![Found { path: path.to_owned(), text }]);
    }
    let bytes = fs::read_limited(&*env.fs, path, MAX_ARCHIVE).await?;
    let owned = path.to_owned();
    let unpacked = env.offload(move || unpack(&owned, bytes)).await;
    unpacked.unwrap_or_else(|| Err(io::Error::other("the work was aborted")))
}

/// The definitions of an archive. Blocks.
pub fn unpack(path: &str, bytes: Vec<u8>) -> io::Result<Vec<Found>> {
    let mut archive = Archive::open(io::Cursor::new(bytes))
        .map_err(|e| io::Error::new(e.kind(), format!("{path}: neither .yaml nor {e}")))?;
    let mut members: Vec<_> = archive.members().to_vec();
    members.retain(|m| !m.is_dir() && is_definition(&m.name));
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let mut read = |member| {
        let bytes = archive.read(member, MAX_FILE as u64).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
    };
    let one = |m| Found { path: String::new(), text: read(m) };
    let found = members.iter().map(one).collect::<Vec<_>>();
    let named = members.iter().zip(found);
    Ok(named.map(|(m, f)| Found { path: format!("{path}!{}", m.name), ..f }).collect())
}

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

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::env::real;

    #[tokio::test]
    async fn folders_files_and_archives_hold_definitions() {
        let env = real::env();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/a.yaml"), "name: A\n").unwrap();
        std::fs::write(at("b.YML"), "name: B\n").unwrap();
        std::fs::write(at("readme.md"), "no").unwrap();
        let members: [(&str, &[u8]); 4] = [
            ("x/d.yaml", b"name: D\n"),
            ("c.yaml", b"name: C\n"),
            ("bad.yml", b"\xff"),
            ("x/", b""),
        ];
        std::fs::write(at("pack.zip"), crate::store::zip::archive(&members)).unwrap();
        let texts = |found: Vec<Found>| {
            found.into_iter().map(|f| f.text.unwrap_or_else(|e| e)).collect::<Vec<_>>()
        };
        let root = dir.path().to_str().unwrap();
        assert_eq!(texts(find(&env, root).await.unwrap()), ["name: B\n", "name: A\n"]);
        assert_eq!(texts(find(&env, &at("b.YML")).await.unwrap()), ["name: B\n"]);
        let pack = find(&env, &at("pack.zip")).await.unwrap();
        assert!(pack[1].path.ends_with("pack.zip!c.yaml"), "{pack:?}");
        assert_eq!(texts(pack), ["not UTF-8", "name: C\n", "name: D\n"]);
        assert!(find(&env, &at("readme.md")).await.unwrap_err().to_string().contains("readme.md"));
        assert!(find(&env, &at("nowhere")).await.is_err());
    }
}
