//! Notebooks: texts and queries with their results, as stock stores them. Who may
//! open which is decided here; no query is run here.
//!
//! A record lists its cells in brief; each version of a cell has a record and the
//! rows of its queries of its own. One process, the master, writes them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};
use velociraptor_proto::proto::{
    NotebookCell, NotebookCellRequest, NotebookContext, NotebookMetadata,
};

use super::audit::audit;
use super::ids::{new_cell_id, new_cell_version, new_notebook_id};
use super::server::{Org, Server, ServiceError};
use crate::store::paths::{self, Notebook};
use crate::store::{DirPath, FilePath, StoreError};

mod attachments;
pub mod desk;
pub mod layout;
pub mod markdown;

use layout::{Kind, Part};
use markdown::{Block, Inline};

/// Longest input of a cell, bytes.
const MAX_INPUT: usize = 256 << 10;
/// Cells of a notebook.
const MAX_CELLS: usize = 1000;
/// Longest name or description, bytes.
const MAX_NAME: usize = 16 << 10;
/// Characters of a cell's title.
const TITLE: usize = 120;

/// Limits of notebooks.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Versions of a cell that are kept.
    pub versions: usize,
    /// Rows that one query of a cell leaves.
    pub rows: u64,
    /// Cells evaluated at once.
    pub cells: usize,
    /// How long one is evaluated.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { versions: 5, rows: 1_000_000, cells: 5, timeout: Duration::from_secs(600) }
    }
}

/// Whoever changes records does it one at a time.
#[derive(Debug, Default)]
pub struct Notebooks {
    writing: Mutex<()>,
    desk: OnceLock<Arc<dyn desk::CellDesk>>,
}

/// A notebook in its organisation.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Whose.
    pub server: &'a Server,
    /// Organisation.
    pub org: &'a Org,
    /// Its id.
    pub id: &'a str,
}

/// Whether somebody may open it.
pub fn may_open(n: &NotebookMetadata, user: &str) -> bool {
    n.public || n.creator == user || n.collaborators.iter().any(|c| c == user)
}

/// Whether the id is that of a notebook.
pub fn is_id(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    // An event artifact with a source has a slash in its name.
    let odd = |id: &str| id.contains("..") || (id.contains('/') && !id.starts_with("N.E."));
    id.len() <= 250 && id.starts_with("N.") && id.len() > 2 && id.chars().all(plain) && !odd(id)
}

/// The notebook that a file of the datastore belongs to, as its components say.
pub fn owner_of(components: &[String]) -> Option<&str> {
    let all: Vec<&str> = components.iter().map(String::as_str).collect();
    match all.as_slice() {
        ["notebooks", id, ..]
        | ["downloads", "notebooks", id, ..]
        | ["hunts", _, "notebook", id, ..]
        | ["clients", _, "collections", _, "notebook", id, ..]
        | ["clients", _, "monitoring_notebooks", _, id, ..] => Some(id),
        _ => None,
    }
}

/// What a notebook belongs to, as its id says: the variables that queries find.
pub fn variables(id: &str) -> Vec<(&'static str, String)> {
    let owner = |rest: &str, name, prefix: &str| match rest.split_once('-') {
        Some((what, client)) => {
            vec![(name, format!("{prefix}{what}")), ("ClientId", client.to_owned())]
        }
        None => Vec::new(),
    };
    if let Some(rest) = id.strip_prefix("N.F.") {
        return owner(rest, "FlowId", "F.");
    }
    if let Some(rest) = id.strip_prefix("N.E.") {
        return owner(rest, "ArtifactName", "");
    }
    match id.strip_prefix("N.H.") {
        Some(rest) => vec![("HuntId", format!("H.{rest}"))],
        None => Vec::new(),
    }
}

/// A cell as the notebook's record lists it.
fn brief(cell: &NotebookCell, now: i64) -> NotebookCell {
    NotebookCell {
        cell_id: cell.cell_id.clone(),
        summary: cell.summary.clone(),
        timestamp: now,
        r#type: cell.r#type.clone(),
        current_version: cell.current_version.clone(),
        available_versions: cell.available_versions.clone(),
        calculating: cell.calculating,
        ..NotebookCell::default()
    }
}

/// The first heading of what a cell shows.
pub fn title(parts: &[Part]) -> String {
    fn words(parts: &[Inline]) -> String {
        let one = |p: &Inline| match p {
            Inline::Text(t) | Inline::Code(t) | Inline::Image(_, t) => t.clone(),
            Inline::Strong(p) | Inline::Em(p) | Inline::Link(_, p) => words(p),
        };
        parts.iter().map(one).collect()
    }
    let blocks = parts.iter().flat_map(|p| match p {
        Part::Text(blocks) => blocks.as_slice(),
        Part::Rows(_) => &[],
    });
    let mut titles = blocks.filter_map(|b| match b {
        Block::Heading(_, p) => Some(words(p)),
        _ => None,
    });
    titles.next().unwrap_or_default().chars().take(TITLE).collect()
}

impl At<'_> {
    fn path(&self) -> Notebook {
        Notebook::new(&self.org.id, self.id)
    }

    fn nanos(&self) -> i64 {
        i64::try_from(self.server.env.clock.nanos()).unwrap_or(i64::MAX)
    }

    /// Where all of it is, but its record.
    fn everything(&self) -> Vec<DirPath> {
        let dirs = [self.path().dir(), paths::notebook_downloads(&self.org.id, self.id)];
        dirs.into_iter().flat_map(|d| [DirPath::objects(d.0.clone()), d]).collect()
    }

    /// Its record.
    pub async fn read(&self) -> Result<Option<NotebookMetadata>, ServiceError> {
        if !is_id(self.id) {
            return Err(ServiceError::Invalid(format!("{} is no id of a notebook", self.id)));
        }
        let Some(mut found) = self.server.tree.get(&self.path().object()).await? else {
            return Ok(None);
        };
        self.id.clone_into(&mut found.notebook_id);
        let mut seen = std::collections::BTreeSet::new();
        found.cell_metadata.retain(|c| !c.cell_id.is_empty() && seen.insert(c.cell_id.clone()));
        Ok(Some(found))
    }

    /// Its record, for somebody who may open it.
    pub async fn open(&self, user: &str) -> Result<NotebookMetadata, ServiceError> {
        let found = self.read().await?;
        let found = found.ok_or_else(|| ServiceError::NotFound(format!("notebook {}", self.id)))?;
        if may_open(&found, user) {
            return Ok(found);
        }
        let details = json!({ "notebook_id": self.id });
        audit(self.server, self.org, user, "NotebookNotShared", details).await;
        Err(ServiceError::Denied(format!("notebook {} is not shared with {user}", self.id)))
    }

    async fn store(&self, mut n: NotebookMetadata) -> Result<NotebookMetadata, ServiceError> {
        n.modified_time = i64::try_from(self.server.env.clock.unix()).unwrap_or(i64::MAX);
        // What is worked out when it is read.
        (n.available_downloads, n.available_uploads) = (None, None);
        n.timelines.clear();
        self.server.tree.set(&self.path().object(), &n).await?;
        Ok(n)
    }

    /// A version of a cell, the current one without a name.
    pub async fn cell(&self, id: &str, version: &str) -> Result<NotebookCell, ServiceError> {
        let version = match version.is_empty() {
            false => version.to_owned(),
            true => {
                let all = self.read().await?.map(|n| n.cell_metadata).unwrap_or_default();
                all.into_iter()
                    .find(|c| c.cell_id == id)
                    .map(|c| c.current_version)
                    .unwrap_or_default()
            }
        };
        if !is_cell(id, &version) {
            return Err(ServiceError::Invalid(format!("{id} {version} is no cell")));
        }
        let path = self.path().cell(id, &version);
        let found = self.server.tree.get(&path.object()).await?;
        let mut found = found.ok_or_else(|| ServiceError::NotFound(format!("cell {id}")))?;
        self.id.clone_into(&mut found.notebook_id);
        Ok(found)
    }

    /// Where the rows of a cell's n-th query are, from 1; cells of old have no version.
    pub fn cell_rows(&self, id: &str, version: &str, n: u32) -> Result<FilePath, ServiceError> {
        if !is_cell(id, version) || !is_id(self.id) {
            return Err(ServiceError::Invalid(format!("{} {id} {version} is no cell", self.id)));
        }
        Ok(self.path().cell(id, version).query(n))
    }

    /// The numbers of a cell's queries that left rows.
    pub async fn tables(&self, id: &str, version: &str) -> Result<Vec<u32>, ServiceError> {
        if !is_cell(id, version) {
            return Err(ServiceError::Invalid(format!("{id} {version} is no cell")));
        }
        let dir = self.path().cell(id, version).dir();
        let files = self.server.tree.files(&dir).await?;
        let mut out: Vec<u32> = (files.iter())
            .filter(|f| !f.is_dir && f.kind == crate::store::path::PathType::Json)
            .filter_map(|f| f.name.strip_prefix("query_")?.parse().ok())
            .collect();
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    /// What a cell shows.
    pub async fn parts(&self, cell: &NotebookCell) -> Result<Vec<Part>, ServiceError> {
        let tables = self.tables(&cell.cell_id, &cell.current_version).await?;
        Ok(layout::parts(Kind::of(&cell.r#type), &cell.input, &tables))
    }
}

/// Whether these name a version of a cell.
pub fn is_cell(id: &str, version: &str) -> bool {
    let plain = |t: &str| t.len() <= 40 && t.chars().all(|c| c.is_ascii_alphanumeric());
    id.strip_prefix("NC.").is_some_and(|rest| !rest.is_empty() && plain(rest)) && plain(version)
}

impl Notebooks {
    async fn one(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// Notebooks of their own that somebody may open, newest first.
    pub async fn list(
        &self,
        server: &Server,
        org: &Org,
        user: &str,
    ) -> Result<Vec<NotebookMetadata>, ServiceError> {
        self.list_for(server, org, Some(user)).await
    }

    /// The same; of everybody if no user is named.
    pub async fn list_for(
        &self,
        server: &Server,
        org: &Org,
        user: Option<&str>,
    ) -> Result<Vec<NotebookMetadata>, ServiceError> {
        let mut out = Vec::new();
        for child in server.tree.children(&paths::notebooks_dir(&org.id)).await? {
            let id = child.name;
            if child.is_dir || !is_id(&id) {
                continue;
            }
            match (At { server, org, id: &id }).read().await {
                Ok(Some(n)) if !n.hidden && user.is_none_or(|u| may_open(&n, u)) => out.push(n),
                Ok(_) => {}
                Err(ServiceError::Store(StoreError::Corrupt { path, reason })) => {
                    tracing::warn!(path, reason, "a notebook cannot be read; left in place");
                }
                Err(e) => return Err(e),
            }
        }
        out.sort_by(|a, b| b.notebook_id.cmp(&a.notebook_id));
        Ok(out)
    }

    /// Makes a notebook: one of its own, or that of a flow, a hunt or an event
    /// artifact, which its id names. One that is there is opened.
    pub async fn create(
        &self,
        server: &Server,
        org: &Org,
        user: &str,
        asked: NotebookMetadata,
    ) -> Result<(NotebookMetadata, bool), ServiceError> {
        let owned = !variables(&asked.notebook_id).is_empty();
        let id = match owned {
            true => asked.notebook_id.clone(),
            false => new_notebook_id(&server.env),
        };
        let _one = self.one().await;
        let at = At { server, org, id: &id };
        if owned && at.read().await?.is_some() {
            return Ok((at.open(user).await?, false));
        }
        let now = i64::try_from(server.env.clock.unix()).unwrap_or(i64::MAX);
        let mut made = NotebookMetadata {
            name: bounded("name", asked.name)?,
            description: bounded("description", asked.description)?,
            creator: user.to_owned(),
            created_time: now,
            notebook_id: id.clone(),
            collaborators: asked.collaborators,
            public: asked.public,
            artifacts: asked.artifacts,
            env: asked.env,
            context: asked.context,
            column_types: asked.column_types,
            ..NotebookMetadata::default()
        };
        if owned {
            let of = variables(&id);
            let value = |name: &str| {
                of.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap_or_default()
            };
            let (flow_id, hunt_id) = (value("FlowId"), value("HuntId"));
            let kind = match (flow_id.is_empty(), hunt_id.is_empty()) {
                (false, _) => "Flow",
                (_, false) => "Hunt",
                _ => "Event",
            };
            made.context = Some(NotebookContext {
                r#type: kind.to_owned(),
                flow_id,
                hunt_id,
                client_id: value("ClientId"),
                event_artifact: value("ArtifactName"),
                ..made.context.unwrap_or_default()
            });
        }
        let made = at.store(made).await?;
        audit(server, org, user, "NewNotebook", json!({ "notebook_id": id, "name": made.name }))
            .await;
        Ok((made, true))
    }

    /// Changes name, description, who may open it, and the order of its cells; cells
    /// that are left out are gone.
    pub async fn change(
        &self,
        at: At<'_>,
        user: &str,
        asked: NotebookMetadata,
    ) -> Result<NotebookMetadata, ServiceError> {
        let _one = self.one().await;
        let mut now = at.open(user).await?;
        let mut old = std::mem::take(&mut now.cell_metadata);
        for cell in &asked.cell_metadata {
            if let Some(i) = old.iter().position(|c| c.cell_id == cell.cell_id) {
                now.cell_metadata.push(old.remove(i));
            }
        }
        let shared = (now.public, &now.collaborators) != (asked.public, &asked.collaborators);
        now.name = bounded("name", asked.name)?;
        now.description = bounded("description", asked.description)?;
        now.public = asked.public;
        now.collaborators = asked.collaborators;
        if !asked.column_types.is_empty() {
            now.column_types = asked.column_types;
        }
        if shared {
            let details = json!({
                "notebook_id": at.id, "public": now.public, "collaborators": now.collaborators,
            });
            audit(at.server, at.org, user, "ShareNotebook", details).await;
        }
        let now = at.store(now).await?;
        for gone in old {
            forget(at, &gone.cell_id, &gone.available_versions).await;
        }
        Ok(now)
    }

    /// Adds a cell at the end, or before the cell that is named; its first version is
    /// stored as being worked out.
    pub async fn add(
        &self,
        at: At<'_>,
        user: &str,
        asked: &NotebookCellRequest,
    ) -> Result<(NotebookMetadata, NotebookCell), ServiceError> {
        let _one = self.one().await;
        let mut n = at.open(user).await?;
        if n.cell_metadata.len() >= MAX_CELLS {
            return Err(ServiceError::Invalid(format!("a notebook has at most {MAX_CELLS} cells")));
        }
        let version = new_cell_version(&at.server.env);
        let cell = NotebookCell {
            cell_id: new_cell_id(&at.server.env),
            available_versions: vec![version.clone()],
            current_version: version,
            ..begun(at, asked, &asked.r#type)?
        };
        let place = n.cell_metadata.iter().position(|c| c.cell_id == asked.cell_id);
        let place = place.unwrap_or(n.cell_metadata.len());
        write(at, &cell).await?;
        n.cell_metadata.insert(place, brief(&cell, at.nanos()));
        n.latest_cell_id.clone_from(&cell.cell_id);
        Ok((at.store(n).await?, cell))
    }

    /// Begins a new version of a cell. Versions after the current one, which
    /// somebody went back from, are gone, and so are the oldest.
    pub async fn begin(
        &self,
        at: At<'_>,
        user: &str,
        asked: &NotebookCellRequest,
        limits: &Limits,
    ) -> Result<(NotebookMetadata, NotebookCell), ServiceError> {
        let _one = self.one().await;
        let n = at.open(user).await?;
        let now = n.cell_metadata.iter().find(|c| c.cell_id == asked.cell_id);
        let now = now.ok_or_else(|| ServiceError::NotFound(format!("cell {}", asked.cell_id)))?;
        let mut versions = now.available_versions.clone();
        if now.current_version.is_empty() {
            versions = vec![String::new()];
        }
        let current = versions.iter().position(|v| *v == now.current_version);
        let mut gone = versions.split_off(current.map_or(versions.len(), |n| n + 1));
        let version = new_cell_version(&at.server.env);
        versions.push(version.clone());
        let extra = versions.len().saturating_sub(limits.versions.max(1));
        gone.extend(versions.drain(..extra));
        let cell = NotebookCell {
            cell_id: asked.cell_id.clone(),
            current_version: version,
            available_versions: versions,
            ..begun(at, asked, &now.r#type)?
        };
        let n = put(at, n, &cell).await?;
        forget(at, &asked.cell_id, &gone).await;
        Ok((n, cell))
    }

    /// Stores what came of a cell, unless it or its notebook is gone.
    pub async fn finish(&self, at: At<'_>, mut cell: NotebookCell) -> Result<(), ServiceError> {
        let _one = self.one().await;
        let Some(n) = at.read().await? else { return Ok(()) };
        let Some(now) = n.cell_metadata.iter().find(|c| c.cell_id == cell.cell_id) else {
            return Ok(());
        };
        if !now.available_versions.contains(&cell.current_version) {
            return Ok(());
        }
        cell.timestamp = at.nanos();
        if now.current_version == cell.current_version {
            put(at, n, &cell).await?;
            return Ok(());
        }
        write(at, &cell).await
    }

    /// Makes another version the current one.
    pub async fn revert(
        &self,
        at: At<'_>,
        user: &str,
        cell: &str,
        version: &str,
    ) -> Result<NotebookCell, ServiceError> {
        let _one = self.one().await;
        let n = at.open(user).await?;
        let now = n.cell_metadata.iter().find(|c| c.cell_id == cell);
        let now = now.filter(|c| c.available_versions.iter().any(|v| v == version));
        let now =
            now.ok_or_else(|| ServiceError::NotFound(format!("version {version} of {cell}")))?;
        let mut then = at.cell(cell, version).await?;
        version.clone_into(&mut then.current_version);
        then.available_versions.clone_from(&now.available_versions);
        put(at, n, &then).await?;
        Ok(then)
    }

    /// Deletes a notebook with everything below it.
    pub async fn delete(&self, at: At<'_>, user: &str) -> Result<(), ServiceError> {
        let _one = self.one().await;
        at.open(user).await?;
        audit(at.server, at.org, user, "DeleteNotebook", json!({ "notebook_id": at.id })).await;
        at.server.tree.delete(&at.path().object()).await?;
        let all = at.everything();
        told(&remove(at.server, &all, true).await);
        Ok(())
    }

    /// The files of a notebook, whoever may open it; `really` deletes it with all of
    /// them, and nobody writes to it meanwhile.
    pub async fn purge(&self, at: At<'_>, really: bool) -> Result<Vec<Removed>, ServiceError> {
        let _one = self.one().await;
        if really {
            at.server.tree.delete(&at.path().object()).await?;
        }
        Ok(remove(at.server, &at.everything(), really).await)
    }
}

fn bounded(what: &str, text: String) -> Result<String, ServiceError> {
    match text.len() <= MAX_NAME {
        true => Ok(text),
        false => Err(ServiceError::Invalid(format!("{what} is longer than {MAX_NAME} bytes"))),
    }
}

/// A cell that is being worked out.
fn begun(
    at: At<'_>,
    asked: &NotebookCellRequest,
    kind: &str,
) -> Result<NotebookCell, ServiceError> {
    if asked.input.len() > MAX_INPUT {
        let text = format!("a cell has at most {MAX_INPUT} bytes; this has {}", asked.input.len());
        return Err(ServiceError::Invalid(text));
    }
    let kind = if asked.r#type.is_empty() { kind } else { &asked.r#type };
    let kind = if kind.is_empty() { "markdown" } else { kind };
    if Kind::of(kind) == Kind::Other {
        return Err(ServiceError::Invalid(format!("cells of type {kind} are not known here")));
    }
    Ok(NotebookCell {
        input: asked.input.clone(),
        r#type: kind.to_ascii_lowercase(),
        timestamp: at.nanos(),
        currently_editing: asked.currently_editing,
        calculating: true,
        env: asked.env.clone(),
        notebook_id: at.id.to_owned(),
        ..NotebookCell::default()
    })
}

async fn write(at: At<'_>, cell: &NotebookCell) -> Result<(), ServiceError> {
    let path = at.path().cell(&cell.cell_id, &cell.current_version);
    Ok(at.server.tree.set(&path.object(), cell).await?)
}

/// Stores a cell, then the notebook that lists it.
async fn put(
    at: At<'_>,
    mut n: NotebookMetadata,
    cell: &NotebookCell,
) -> Result<NotebookMetadata, ServiceError> {
    write(at, cell).await?;
    let now = at.nanos();
    for listed in n.cell_metadata.iter_mut().filter(|c| c.cell_id == cell.cell_id) {
        *listed = brief(cell, now);
    }
    at.store(n).await
}

/// Removes versions of a cell that no record names any more. What cannot be removed
/// stays and is in nobody's way.
async fn forget(at: At<'_>, cell: &str, versions: &[String]) {
    for version in versions.iter().filter(|v| is_cell(cell, v)) {
        let path = at.path().cell(cell, version);
        if let Err(e) = at.server.tree.delete(&path.object()).await {
            tracing::warn!(cell, version, error = %e, "a version of a cell was not removed");
        }
        told(&remove(at.server, &[DirPath::objects(path.dir().0), path.dir()], true).await);
    }
}

/// A file of a notebook, and why it could not be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where it is, or was.
    pub path: String,
    /// Why it is there still.
    pub error: Option<String>,
}

fn told(removed: &[Removed]) {
    for Removed { path, error } in removed.iter().filter(|r| r.error.is_some()) {
        tracing::warn!(path, error, "a file of a notebook was not removed");
    }
}

/// What is in directories, and below; `really` removes it, and them.
async fn remove(server: &Server, dirs: &[DirPath], really: bool) -> Vec<Removed> {
    let fs = &*server.env.fs;
    let mut removed = Vec::new();
    let mut open: Vec<String> = dirs.iter().filter_map(|d| server.tree.root.dir(d).ok()).collect();
    open.sort();
    open.dedup();
    let mut seen = Vec::new();
    while let Some(dir) = open.pop() {
        for e in fs.list(&dir).await.unwrap_or_default() {
            let path = format!("{dir}/{}", e.name);
            if e.is_dir {
                open.push(path);
                continue;
            }
            let error = match really {
                true => fs.remove(&path).await.err().map(|e| e.to_string()),
                false => None,
            };
            removed.push(Removed { path, error });
        }
        seen.push(dir);
    }
    // Deepest first; one that is not empty stays.
    for dir in seen.iter().rev().filter(|_| really) {
        let _ = fs.remove_dir(dir).await;
    }
    removed
}

#[cfg(test)]
mod tests;
