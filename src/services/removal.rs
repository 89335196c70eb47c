//! Removing the files of clients and flows, or listing them. Knows where they are,
//! not whether they may go.

use std::io::ErrorKind;

use futures::future::BoxFuture;

use super::server::{Org, Server, ServiceError, fleet_dir};
use crate::store::path::PathType;
use crate::store::paths::{Client, legacy_client};
use crate::store::{DirPath, StoreError};

/// A file that a deletion has removed, or would remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What it was, as stock names it: `Datastore` or `Filestore` for files of a
    /// client, `Result`, `Log` and the like for files of a flow.
    pub what: &'static str,
    /// From the root of its tree.
    pub path: String,
    /// Why it is still there; empty: it is not.
    pub error: String,
}

/// One walk: what to do and what was found.
struct Walk<'a> {
    server: &'a Server,
    /// Files to be left alone.
    keep: &'a str,
    really: bool,
    /// What a file is, by its path.
    name: &'a (dyn Fn(&str) -> &'static str + Sync),
    removed: Vec<Removed>,
}

fn io(e: std::io::Error) -> ServiceError {
    StoreError::from(e).into()
}

/// An object or a file, by its name on disk.
fn tree_of(path: &str) -> &'static str {
    if path.ends_with(".db") { "Datastore" } else { "Filestore" }
}

/// What a file is to its flow, by its place below the flow's directory.
fn part_of_flow(path: &str, flow: &str) -> &'static str {
    let below = path.split_once(&format!("/collections/{flow}/")).map(|(_, rest)| rest);
    let Some(below) = below else {
        let context = path.contains(&format!("/collections/{flow}."));
        return if context { "CollectionContext" } else { "Result" };
    };
    let first = below.split(['/', '.']).next().unwrap_or_default();
    match first {
        "logs" => "Log",
        "task" => "Task",
        "stats" => "Stats",
        "upload_transactions" => "UploadTransactions",
        "uploads" if below.starts_with("uploads/") => "Upload",
        "uploads" => "UploadMetadata",
        "notebook" => "NotebookData",
        _ => "Unknown",
    }
}

impl Walk<'_> {
    fn note(&mut self, path: &str, e: Option<std::io::Error>) {
        let root = &self.server.tree.root;
        let shown = path.strip_prefix(&root.ds).or_else(|| path.strip_prefix(&root.fs));
        self.removed.push(Removed {
            what: (self.name)(path),
            path: shown.unwrap_or(path).to_owned(),
            error: e.map(|e| e.to_string()).unwrap_or_default(),
        });
    }

    async fn file(&mut self, path: &str) {
        let fs = &*self.server.env.fs;
        let done = match self.really {
            true => fs.remove(path).await,
            false => fs.stat(path).await.map(drop),
        };
        match done {
            Ok(()) => self.note(path, None),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => self.note(path, Some(e)),
        }
    }

    /// Everything below a directory, and then the directory.
    fn dir<'b>(&'b mut self, dir: &'b str) -> BoxFuture<'b, Result<(), ServiceError>> {
        Box::pin(async move {
            let fs = self.server.env.fs.clone();
            for e in fs.list(dir).await.map_err(io)? {
                let path = format!("{dir}/{}", e.name);
                if e.is_dir {
                    self.dir(&path).await?;
                } else if path != self.keep {
                    self.file(&path).await;
                }
            }
            if self.really
                && let Err(e) = fs.remove_dir(dir).await
            {
                // Something in it stays, which was noted, or is somebody's who is quicker.
                tracing::debug!(dir, error = %e, "directory not removed");
            }
            Ok(())
        })
    }

    fn found(mut self) -> Vec<Removed> {
        self.removed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.removed.dedup();
        self.removed
    }
}

impl Server {
    /// All files of a client but its key.
    pub(super) async fn clear_client(
        &self,
        org: &Org,
        client: &str,
        really: bool,
    ) -> Result<Vec<Removed>, ServiceError> {
        let path = Client { org: &org.id, id: client };
        let key = self.tree.root.object(&path.key()).map_err(StoreError::from)?;
        let mut walk =
            Walk { server: self, keep: &key, really, name: &tree_of, removed: Vec::new() };
        let legacy = self.tree.root.object(&legacy_client(&org.id, client));
        walk.file(&legacy.map_err(StoreError::from)?).await;
        let mut dirs = self.both(&path.dir())?;
        dirs.extend(self.both(&path.downloads())?);
        dirs.push(self.kept_parts(org, client));
        for dir in dirs {
            walk.dir(&dir).await?;
        }
        Ok(walk.found())
    }

    /// The key of a client, and its directory if nothing else is in it.
    pub(super) async fn clear_key(
        &self,
        org: &Org,
        client: &str,
        really: bool,
    ) -> Result<Vec<Removed>, ServiceError> {
        let path = Client { org: &org.id, id: client };
        let key = self.tree.root.object(&path.key()).map_err(StoreError::from)?;
        let mut walk = Walk { server: self, keep: "", really, name: &tree_of, removed: Vec::new() };
        walk.file(&key).await;
        if really {
            for dir in self.both(&path.dir())? {
                let _ = self.env.fs.remove_dir(&dir).await;
            }
        }
        Ok(walk.found())
    }

    /// All files of a flow.
    pub(super) async fn clear_flow(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        really: bool,
    ) -> Result<Vec<Removed>, ServiceError> {
        let path = Client { org: &org.id, id: client };
        let f = path.flow(flow);
        let name = |path: &str| part_of_flow(path, flow);
        let mut walk = Walk { server: self, keep: "", really, name: &name, removed: Vec::new() };
        let fs = &*self.env.fs;
        // The context first: without it no reader looks further.
        let context = self.tree.root.object(&f.context()).map_err(StoreError::from)?;
        walk.file(&context).await;
        let old = f.context().path.typed(PathType::ObjectProto);
        walk.file(&self.tree.root.resolve(&old).map_err(StoreError::from)?).await;
        let mut dirs = self.both(&f.dir())?;
        dirs.extend(self.both(&f.downloads())?);
        dirs.push(format!("{}/{flow}", self.kept_parts(org, client)));
        for dir in dirs {
            walk.dir(&dir).await?;
        }
        // Results lie beside those of other flows.
        let artifacts = self.tree.root.dir(&path.artifacts()).map_err(StoreError::from)?;
        for artifact in fs.list(&artifacts).await.map_err(io)?.iter().filter(|e| e.is_dir) {
            let dir = format!("{artifacts}/{}", artifact.name);
            for e in fs.list(&dir).await.map_err(io)? {
                let at = format!("{dir}/{}", e.name);
                if e.is_dir && e.name == flow {
                    walk.dir(&at).await?;
                } else if !e.is_dir && result_of(&e.name, flow) {
                    walk.file(&at).await;
                }
            }
            if really {
                // It goes if nothing is in it.
                let _ = fs.remove_dir(&dir).await;
            }
        }
        let found = walk.found();
        if really && !found.is_empty() {
            // The table that a stock server pages through; it makes a new one.
            let table = path.flow_index();
            self.tree.delete_file(&table).await?;
            self.tree.delete_file(&table.index()).await?;
        }
        Ok(found)
    }

    fn kept_parts(&self, org: &Org, client: &str) -> String {
        let folder = super::part_uploads::folder(&org.id, client, "");
        format!("{}/{}", fleet_dir(&self.tree.root), folder.trim_end_matches('/'))
    }

    /// A directory in both trees, which may be one.
    fn both(&self, dir: &DirPath) -> Result<Vec<String>, ServiceError> {
        let relative = dir.0.clone().typed(PathType::Any);
        let at = |d: DirPath| self.tree.root.dir(&d).map_err(StoreError::from);
        let objects = at(DirPath::objects(relative.clone().typed(PathType::ObjectDir)))?;
        let files = at(DirPath::files(relative))?;
        Ok(if objects == files { vec![objects] } else { vec![objects, files] })
    }
}

/// Whether a file in an artifact's directory holds rows of this flow, or is made
/// from such: `<flow>.json`, `<flow>.json.index`. `F.X` is not `F.X.H`.
fn result_of(name: &str, flow: &str) -> bool {
    let rest = name.strip_prefix(flow).and_then(|r| r.strip_prefix('.'));
    rest.is_some_and(|r| r.split('.').next() == Some("json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart() {
        assert!(result_of("F.X.json", "F.X") && result_of("F.X.json.index", "F.X"));
        assert!(!result_of("F.X.H.json", "F.X") && !result_of("F.XY.json", "F.X"));
        let part = |below: &str| part_of_flow(&format!("/d/clients/C.1/{below}"), "F.X");
        assert_eq!(part("collections/F.X.json.db"), "CollectionContext");
        assert_eq!(part("collections/F.X/logs.json.index"), "Log");
        assert_eq!(part("collections/F.X/task.db"), "Task");
        assert_eq!(part("collections/F.X/uploads.json"), "UploadMetadata");
        assert_eq!(part("collections/F.X/uploads/file/a"), "Upload");
        assert_eq!(part("collections/F.X/requests.json.db"), "Unknown");
        assert_eq!(part("artifacts/A.B/F.X.json"), "Result");
        assert_eq!(tree_of("/d/clients/C.1/key.db"), "Datastore");
        assert_eq!(tree_of("/d/clients/C.1/monitoring/A/2026-01-01.json"), "Filestore");
    }
}
