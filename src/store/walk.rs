//! What is in a datastore, found by looking: organisations, clients, flows,
//! result sets, uploads, events. For verification and migration; everything is
//! read, so this is as slow as the store is large.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::objects::{Child, StoreError, Tree};
use super::path::{DirPath, FilePath, Org, PathType};
use super::paths::{self, Client, Flow, Hunt, SERVER_CLIENT};
use super::resultset::{ResultSet, TimedSet};
use super::snapshot;
use super::uploads::{Holes, MAX_EXPAND, Upload, UploadKind, UploadRow};

/// The organisations of a datastore, the root first.
pub async fn orgs(tree: &Tree) -> Result<Vec<Org>, StoreError> {
    let mut ids = BTreeSet::new();
    for c in tree.children(&paths::orgs_dir()).await? {
        // The directory exists from the first write on, the record always.
        ids.insert(c.name);
    }
    Ok([Org::root()].into_iter().chain(ids.into_iter().map(Org::new)).collect())
}

/// Ids of clients that have a directory, `server` included if it has one.
pub async fn client_dirs(tree: &Tree, org: &Org) -> Result<Vec<String>, StoreError> {
    let children = tree.children(&paths::clients_dir(org)).await?;
    let is_id = |n: &str| n.starts_with("C.") || n == SERVER_CLIENT;
    Ok(children.into_iter().filter(|c| c.is_dir && is_id(&c.name)).map(|c| c.name).collect())
}

/// Ids of a client's flows, oldest first: those with a context in either
/// encoding, and those of which only a directory is left.
pub async fn flow_ids(tree: &Tree, client: &Client<'_>) -> Result<Vec<String>, StoreError> {
    let all = tree.children(&client.collections()).await?;
    let ids: BTreeSet<String> =
        all.into_iter().filter(|c| c.name.starts_with("F.")).map(|c| c.name).collect();
    Ok(ids.into_iter().collect())
}

/// A client's result sets by flow: the full name (`Artifact/Source`) and file
/// of each.
pub async fn results_by_flow(
    tree: &Tree,
    client: &Client<'_>,
) -> Result<BTreeMap<String, BTreeMap<String, FilePath>>, StoreError> {
    let mut out: BTreeMap<String, BTreeMap<String, FilePath>> = BTreeMap::new();
    for artifact in tree.files(&client.artifacts()).await?.into_iter().filter(|c| c.is_dir) {
        let name = &artifact.name;
        for c in tree.files(&client.artifact_dir(name)).await? {
            let flow = client.flow(&c.name);
            if !c.is_dir {
                if c.kind == PathType::Json {
                    let sets = out.entry(c.name.clone()).or_default();
                    sets.insert(name.clone(), flow.results(name, None));
                }
                continue;
            }
            let dir = DirPath::files(flow.results(name, None).0);
            for s in tree.files(&dir).await? {
                // Directories here are caches of sorted and filtered views.
                if !s.is_dir && s.kind == PathType::Json {
                    let sets = out.entry(c.name.clone()).or_default();
                    sets.insert(format!("{name}/{}", s.name), flow.results(name, Some(&s.name)));
                }
            }
        }
    }
    Ok(out)
}

/// Directories of event rows or logs below `root`, by `Artifact/Source`.
pub async fn event_dirs(
    tree: &Tree,
    root: &DirPath,
) -> Result<BTreeMap<String, DirPath>, StoreError> {
    let below = |dir: &DirPath, c: &Child| {
        // What is stored verbatim must be opened by its name on disk.
        let name = if dir.0.safe { &c.disk } else { &c.name };
        DirPath::files(dir.0.clone().child(&[name]))
    };
    let has_days = |children: &[Child]| {
        let dated = |n: &str| super::resultset::timed::date_in(n).is_some();
        children.iter().any(|c| !c.is_dir && c.kind == PathType::Json && dated(&c.name))
    };
    let mut out = BTreeMap::new();
    for a in tree.files(root).await?.into_iter().filter(|c| c.is_dir) {
        let dir = below(root, &a);
        let children = tree.files(&dir).await?;
        if has_days(&children) {
            out.insert(a.name.clone(), dir.clone());
        }
        for s in children.iter().filter(|c| c.is_dir) {
            let sub = below(&dir, s);
            if has_days(&tree.files(&sub).await?) {
                out.insert(format!("{}/{}", a.name, s.name), sub);
            }
        }
    }
    Ok(out)
}

/// Everything in the datastore, by organisation, as one value:
///
/// ```json
/// {"root": {"clients": {"C.1": {"snapshot": true, "key": true, "tasks": 0,
///    "flows": {"F.1": {"artifacts": [], "rows": {"A/S": 1}, "logs": 1,
///      "uploads": [{"vfs_path": "", "size": 1, "stored": 1, "sha256": ""}]}},
///    "events": {"A": {"2026-01-02": 1}}, "event_logs": {}}},
///  "hunts": {"H.1": {"clients": 1, "completions": 1, "markers": 1}},
///  "server_events": {}, "server_event_logs": {}, "problems": []}}
/// ```
///
/// Rows are counted by reading; an index that says otherwise, and whatever
/// cannot be read, is a problem. Problems never stop the walk; the file system
/// failing does.
pub async fn inventory(tree: &Tree) -> Result<Value, StoreError> {
    let mut out = Map::new();
    for org in orgs(tree).await? {
        let mut w = Walk { tree, org: &org, problems: Vec::new() };
        let mut v = w.org().await?;
        v.insert("problems".into(), json!(w.problems));
        out.insert(org.to_string(), Value::Object(v));
    }
    Ok(Value::Object(out))
}

struct Walk<'a> {
    tree: &'a Tree,
    org: &'a Org,
    problems: Vec<String>,
}

impl Walk<'_> {
    /// Takes what was read; damage becomes a problem.
    fn noted<T>(&mut self, r: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match r {
            Ok(v) => Ok(Some(v)),
            Err(StoreError::Io(e)) => Err(StoreError::Io(e)),
            Err(e) => {
                self.problems.push(e.to_string());
                Ok(None)
            }
        }
    }

    async fn org(&mut self) -> Result<Map<String, Value>, StoreError> {
        let (tree, org) = (self.tree, self.org);
        let loaded = snapshot::load(tree, org).await?;
        if loaded.damaged > 0 {
            self.problems.push(format!("{} client records not readable", loaded.damaged));
        }
        if !loaded.indexed && loaded.clients.len() > loaded.legacy {
            self.problems.push("the client snapshot has no index".into());
        }
        let mut ids: BTreeSet<String> = client_dirs(tree, org).await?.into_iter().collect();
        ids.extend(loaded.clients.keys().cloned());
        let mut clients = Map::new();
        for id in ids {
            let mut v = self.client(&Client { org, id: &id }).await?;
            v.insert("snapshot".into(), json!(loaded.clients.contains_key(&id)));
            if let Some(c) = loaded.clients.get(&id) {
                v.insert("hostname".into(), json!(c.hostname));
                v.insert("labels".into(), json!(c.labels));
            }
            clients.insert(id, Value::Object(v));
        }
        let mut out = Map::new();
        out.insert("clients".into(), Value::Object(clients));
        out.insert("hunts".into(), self.hunts().await?);
        let days = self.events(&paths::server_events_dir(org)).await?;
        out.insert("server_events".into(), days);
        let days = self.events(&paths::server_event_logs_dir(org)).await?;
        out.insert("server_event_logs".into(), days);
        Ok(out)
    }

    async fn client(&mut self, c: &Client<'_>) -> Result<Map<String, Value>, StoreError> {
        let mut results = results_by_flow(self.tree, c).await?;
        let mut ids: BTreeSet<String> = flow_ids(self.tree, c).await?.into_iter().collect();
        ids.extend(results.keys().cloned());
        let mut flows = Map::new();
        for id in ids {
            let sets = results.remove(&id).unwrap_or_default();
            let v = self.flow(&c.flow(&id), sets).await?;
            flows.insert(id, v);
        }
        let key = self.tree.get(&c.key()).await;
        let tasks = self.tree.children(&c.tasks()).await?;
        let mut out = Map::new();
        out.insert("key".into(), json!(self.noted(key)?.flatten().is_some()));
        out.insert("tasks".into(), json!(tasks.iter().filter(|t| !t.is_dir).count()));
        out.insert("flows".into(), Value::Object(flows));
        out.insert("events".into(), self.events(&c.monitoring()).await?);
        out.insert("event_logs".into(), self.events(&c.monitoring_logs()).await?);
        Ok(out)
    }

    async fn flow(
        &mut self,
        f: &Flow<'_>,
        sets: BTreeMap<String, FilePath>,
    ) -> Result<Value, StoreError> {
        let context = self.tree.get(&f.context()).await;
        let context = self.noted(context)?.flatten();
        let mut rows = Map::new();
        for (name, at) in sets {
            rows.insert(name, json!(self.rows(&at).await?));
        }
        let artifacts = context.as_ref().and_then(|c| c.request.as_ref()).map(|r| &r.artifacts);
        let mut v = json!({
            "context": context.is_some(),
            "artifacts": artifacts.cloned().unwrap_or_default(),
            "rows": rows,
            "logs": self.rows(&f.logs()).await?,
            "uploads": self.uploads(f).await?,
        });
        let csv = self.tree.root.file(&f.legacy_logs())?;
        if let Some(csv) = self.tree.open_read(&csv).await? {
            v["csv_log_bytes"] = json!(csv.size().await?);
        }
        if let Some(c) = context {
            v["state"] = json!(c.state().as_str_name());
            v["creator"] = json!(c.request.map(|r| r.creator).unwrap_or_default());
        }
        Ok(v)
    }

    /// Rows found by reading a set.
    async fn rows(&mut self, at: &FilePath) -> Result<u64, StoreError> {
        let set = ResultSet::open(self.tree, at).await?;
        let Some(found) = self.noted(set.scan_rows().await)? else { return Ok(0) };
        if let Some(said) = set.total_rows().filter(|n| *n != found) {
            let path = self.tree.root.file(at)?;
            self.problems.push(format!("{path}: {found} rows, but its index says {said}"));
        }
        Ok(found)
    }

    async fn uploads(&mut self, f: &Flow<'_>) -> Result<Vec<Value>, StoreError> {
        let mut out = Vec::new();
        let mut listed = BTreeSet::new();
        let set = ResultSet::open(self.tree, &f.uploads()).await?;
        let mut rows = set.rows(0).await?;
        while let Some(row) = rows.next().await? {
            let row = match UploadRow::decode(&row) {
                Ok(r) => r,
                Err(e) => {
                    self.problems.push(format!("uploads of {}: {e}", f.id));
                    continue;
                }
            };
            if row.kind == UploadKind::Map {
                continue;
            }
            let Some(at) = row.file(self.org) else {
                self.problems.push(format!("uploads of {}: no place for {}", f.id, row.vfs_path));
                continue;
            };
            let path = self.tree.root.file(&at)?;
            let v = match self.upload(&at).await? {
                Some(v) => v,
                None => {
                    self.problems.push(format!("{path}: listed, but not there"));
                    Map::new()
                }
            };
            listed.insert(path);
            let mut v = v;
            v.insert("vfs_path".into(), json!(row.vfs_path));
            v.insert("accessor".into(), json!(row.accessor));
            v.insert("file_size".into(), json!(row.file_size));
            out.push(Value::Object(v));
        }
        for path in self.files_below(f).await? {
            if !listed.contains(&path) {
                self.problems.push(format!("{path}: no row lists this upload"));
            }
        }
        Ok(out)
    }

    async fn upload(&mut self, at: &FilePath) -> Result<Option<Map<String, Value>>, StoreError> {
        let Some(u) = Upload::open(self.tree, at).await? else { return Ok(None) };
        let mut v = Map::new();
        v.insert("size".into(), json!(self.noted(u.size(Holes::Padded))?));
        v.insert("stored".into(), json!(u.stored_size()));
        v.insert("sparse".into(), json!(u.is_sparse()));
        v.insert("sha256".into(), json!(self.noted(u.sha256(Holes::Skipped).await)?));
        // What exports would expand is hashed as the client saw it, too.
        if u.is_sparse() && u.worth_expanding(MAX_EXPAND).unwrap_or(false) {
            let hash = u.sha256(Holes::Padded).await;
            v.insert("sha256_padded".into(), json!(self.noted(hash)?));
        }
        Ok(Some(v))
    }

    /// Uploaded files on disk, without their maps and chunk indexes.
    async fn files_below(&self, f: &Flow<'_>) -> Result<Vec<String>, StoreError> {
        let mut todo = vec![self.tree.root.dir(&f.uploads_dir())?];
        let mut out = BTreeSet::new();
        while let Some(dir) = todo.pop() {
            for e in self.tree.fs.list(&dir).await? {
                let path = format!("{dir}/{}", e.name);
                if e.is_dir {
                    todo.push(path);
                } else {
                    out.insert(path);
                }
            }
        }
        let helper = |p: &String| {
            let of = |ext: &str| p.strip_suffix(ext).is_some_and(|stem| out.contains(stem));
            of(PathType::SparseIndex.extension()) || of(PathType::ChunkIndex.extension())
        };
        Ok(out.iter().filter(|p| !helper(p)).cloned().collect())
    }

    async fn events(&mut self, root: &DirPath) -> Result<Value, StoreError> {
        let mut out = Map::new();
        for (name, dir) in event_dirs(self.tree, root).await? {
            let set = TimedSet::open(self.tree, &dir).await?;
            let days = set.count_by_day().await;
            out.insert(name, json!(self.noted(days)?.unwrap_or_default()));
        }
        Ok(Value::Object(out))
    }

    async fn hunts(&mut self) -> Result<Value, StoreError> {
        let mut out = Map::new();
        let children = self.tree.children(&paths::hunts_dir(self.org)).await?;
        let ids: BTreeSet<String> = children
            .into_iter()
            .filter(|c| !c.is_dir && c.name.starts_with("H."))
            .map(|c| c.name)
            .collect();
        for id in ids {
            let h = Hunt { org: self.org, id: &id };
            let object = self.tree.get(&h.object()).await;
            let object = self.noted(object)?.flatten();
            let markers = self.tree.children(&h.participation_dir()).await?;
            let v = json!({
                "clients": self.rows(&h.clients()).await?,
                "completions": self.rows(&h.errors()).await?,
                "markers": markers.iter().filter(|m| !m.is_dir).count(),
                "state": object.map(|o| o.state().as_str_name()),
            });
            out.insert(id, v);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
