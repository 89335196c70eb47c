//! Hunts in stock files: read at the start, written behind the journal.
//!
//! The object, the request, the table of clients, the table of ends, the table
//! that the web interface sorts, a marker for each client, and the table of all
//! hunts: each is replaced whole, by the master alone. A record is needed until
//! everything it changed is in its file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;
use velociraptor_proto::proto::hunt::State;
use velociraptor_proto::proto::{ArtifactCollectorArgs, Hunt};

use super::table::{End, LiveHunt, Member, Unwritten, flow_of_hunt};
use crate::env::fs::parent;
use crate::services::flows::status;
use crate::services::housekeeping::Settle;
use crate::services::recover::stored_flow;
use crate::services::server::{Org, Server, ServiceError};
use crate::services::settle::blob;
use crate::store::paths;
use crate::store::{DirPath, FilePath, StoreError, StoreKind};

/// Largest table read, bytes: some millions of clients.
const LIMIT: usize = 1 << 30;

/// Names that one file has at most: file systems have their limits.
const LINKS: usize = 10_000;

/// Tables are written no more often than this, and less often the longer they are.
const EVERY: Duration = Duration::from_secs(2);

/// Rows for which one more second is waited.
const ROWS_A_SECOND: usize = 5000;

/// Reads the hunts of every organisation.
pub async fn load(server: &Server) -> Result<(), ServiceError> {
    for org in server.orgs() {
        let mut found = 0;
        for child in server.tree.children(&paths::hunts_dir(&org.id)).await? {
            if child.is_dir || !child.name.starts_with("H.") {
                continue;
            }
            match load_one(server, &org, &child.name).await {
                Ok(Some(hunt)) => {
                    org.state().hunts.insert(hunt);
                    found += 1;
                }
                Ok(None) => {}
                Err(ServiceError::Store(StoreError::Corrupt { path, reason })) => {
                    tracing::error!(path, reason, "a hunt cannot be read; left in place");
                }
                Err(e) => return Err(e),
            }
        }
        if found > 0 {
            tracing::info!(org = %org.id, hunts = found, "hunts loaded");
        }
    }
    Ok(())
}

async fn load_one(server: &Server, org: &Org, id: &str) -> Result<Option<LiveHunt>, ServiceError> {
    let path = paths::Hunt { org: &org.id, id };
    let Some(mut hunt) = server.tree.get(&path.object()).await? else { return Ok(None) };
    if hunt.state() == State::Deleted {
        return Ok(None);
    }
    hunt.hunt_id = id.to_owned();
    hunt.stats = None;
    if let Some(full) = server.tree.get(&path.request()).await?
        && full.start_request.is_some()
    {
        hunt.start_request = full.start_request;
    }
    let mut members = BTreeMap::new();
    for row in rows(server, &path.clients()).await? {
        let Some(client) = row["ClientId"].as_str().filter(|c| !c.is_empty()) else { continue };
        let flow = row["FlowId"].as_str().filter(|f| !f.is_empty());
        let flow = flow.map_or_else(|| flow_of_hunt(id), str::to_owned);
        let since = number(&row["Timestamp"]).saturating_mul(1_000_000);
        members.insert(client.to_owned(), Member { flow, since, end: None });
    }
    let mut details = BTreeMap::new();
    for row in rows(server, &path.enriched()).await? {
        if let (Some(c), Some(f)) = (row["ClientId"].as_str(), row["FlowId"].as_str()) {
            details.insert((c.to_owned(), f.to_owned()), row);
        }
    }
    for row in rows(server, &path.errors()).await? {
        let (Some(c), Some(f)) = (row["ClientId"].as_str(), row["FlowId"].as_str()) else {
            continue;
        };
        let Some(m) = members.get_mut(c).filter(|m| m.flow == f) else { continue };
        let mut end = End {
            started: micros(&row["StartTime"]),
            ended: micros(&row["EndTime"]),
            failed: row["Status"] == "ERROR",
            error: row["Error"].as_str().unwrap_or_default().to_owned(),
            ..End::default()
        };
        match details.get(&(c.to_owned(), f.to_owned())) {
            // A stock server writes that table minutes behind.
            Some(d) if d["State"] == "FINISHED" || d["State"] == "ERROR" => {
                end.rows = number(&d["TotalRows"]);
                end.bytes = number(&d["TotalBytes"]);
                end.duration = (number(&d["Duration"]) as i64).saturating_mul(1_000_000_000);
            }
            _ => totals(server, org, c, f, &mut end).await?,
        }
        m.end = Some(end);
    }
    let marked = server.tree.children(&path.participation_dir()).await?;
    let ran: BTreeSet<String> = marked
        .into_iter()
        .filter(|c| !c.is_dir && !members.contains_key(&c.name))
        .map(|c| c.name)
        .collect();
    Ok(Some(LiveHunt::loaded(hunt, members, ran)))
}

/// What a flow collected, from its own files.
async fn totals(
    server: &Server,
    org: &Org,
    client: &str,
    flow: &str,
    end: &mut End,
) -> Result<(), ServiceError> {
    let (context, reports) = stored_flow(server, &org.id, client, flow).await?;
    let Some(mut context) = context else { return Ok(()) };
    let reports: Vec<_> = reports.values().collect();
    status::derive(&mut context, &reports, server.env.clock.micros());
    end.rows = context.total_collected_rows;
    end.bytes = context.total_uploaded_bytes;
    end.duration = context.execution_duration;
    Ok(())
}

/// All rows of a table: of the file itself, since the index may be of another time.
async fn rows(server: &Server, at: &FilePath) -> Result<Vec<Value>, ServiceError> {
    let Some(data) = server.tree.get_file(at, LIMIT).await? else { return Ok(vec![]) };
    let rows = crate::store::resultset::writer::rows_of(&data);
    Ok(rows.filter_map(|r| serde_json::from_slice(r).ok()).collect())
}

fn number(v: &Value) -> u64 {
    match v {
        Value::Number(n) => n.as_u64().or_else(|| n.as_f64().map(|f| f as u64)).unwrap_or(0),
        Value::String(s) => s.parse().unwrap_or(0),
        _ => 0,
    }
}

/// A time as a row of ends has it.
fn micros(v: &Value) -> u64 {
    let time = v.as_str().and_then(|s| s.parse::<jiff::Timestamp>().ok());
    time.map_or_else(|| number(v), |t| u64::try_from(t.as_microsecond()).unwrap_or(0))
}

fn time(micros: u64) -> String {
    let t = i64::try_from(micros).ok().and_then(|m| jiff::Timestamp::from_microsecond(m).ok());
    t.unwrap_or_default().to_string()
}

/// What is to be written of one hunt.
struct Work {
    id: String,
    hunt: Hunt,
    request: Option<ArtifactCollectorArgs>,
    tables: Option<[String; 3]>,
    unwritten: Unwritten,
}

impl Server {
    /// Writes what changed of hunts, or of those whose turn it is.
    pub(in crate::services) async fn settle_hunts(&self, org: &Arc<Org>, how: Settle) {
        let deleted = {
            let state = org.state();
            let all = state.hunts.deleted.iter();
            all.map(|(id, p)| (id.clone(), p.len())).collect::<Vec<_>>()
        };
        for (id, pins) in deleted {
            if !self.standing.may_decide() {
                return;
            }
            match self.remove_hunt_files(org, &id).await {
                Ok(()) => {
                    let mut state = org.state();
                    let same = state.hunts.deleted.get(&id).is_some_and(|p| p.len() == pins);
                    if same {
                        state.hunts.deleted.remove(&id);
                    }
                }
                Err(e) => {
                    tracing::warn!(hunt = id, error = %e, "files of a deleted hunt not removed yet")
                }
            }
        }
        let ids: Vec<String> = org.state().hunts.iter().map(|(id, _)| id.clone()).collect();
        let mut index = org.state().hunts.index;
        for id in ids {
            if !self.standing.may_decide() {
                return;
            }
            let Some(work) = self.hunt_work(org, &id, how) else { continue };
            index = true;
            if let Err(e) = self.write_hunt(org, &work).await {
                tracing::error!(hunt = id, error = %e, "hunt not written to stock files; tried again");
                let mut state = org.state();
                if let Some(h) = state.hunts.get_mut(&id) {
                    h.unwritten.put_back(work.unwritten);
                }
            }
        }
        if index && self.standing.may_decide() {
            org.state().hunts.index = false;
            if let Err(e) = self.write_hunt_index(org).await {
                tracing::error!(error = %e, "table of hunts not written; tried again");
                org.state().hunts.index = true;
            }
        }
    }

    fn hunt_work(&self, org: &Org, id: &str, how: Settle) -> Option<Work> {
        let mut state = org.state();
        let now = Instant::now();
        let names: BTreeMap<String, String>;
        {
            let live = state.hunts.get(id)?;
            let wait = EVERY + Duration::from_secs((live.members().len() / ROWS_A_SECOND) as u64);
            let due = live.written.is_none_or(|t| now >= t + wait) || how == Settle::All;
            let u = &live.unwritten;
            if !u.any() || !(due || u.object) {
                return None;
            }
            let host = |c: &String| Some((c.clone(), state.clients.get(c)?.info.hostname.clone()));
            names = match u.tables {
                true => live.members().keys().filter_map(host).collect(),
                false => BTreeMap::new(),
            };
        }
        let live = state.hunts.get_mut(id)?;
        live.written = Some(now);
        let unwritten = std::mem::take(&mut live.unwritten);
        Some(Work {
            id: id.to_owned(),
            hunt: live.shown(false),
            request: live.hunt.start_request.clone().filter(|_| unwritten.request),
            tables: unwritten.tables.then(|| tables(id, live, &names)),
            unwritten,
        })
    }

    async fn write_hunt(&self, org: &Org, w: &Work) -> Result<(), ServiceError> {
        let path = paths::Hunt { org: &org.id, id: &w.id };
        if let Some(request) = &w.request {
            let full = Hunt { start_request: Some(request.clone()), ..Hunt::default() };
            self.tree.set(&path.request(), &full).await?;
        }
        if let Some([clients, errors, enriched]) = &w.tables {
            for (at, rows) in
                [(path.clients(), clients), (path.errors(), errors), (path.enriched(), enriched)]
            {
                self.replace_table(&at, rows).await?;
            }
        }
        let markers: Vec<&String> = w.unwritten.markers.iter().collect();
        for some in markers.chunks(LINKS) {
            self.write_markers(&path, some).await?;
        }
        // Last, so that a hunt is never there without what belongs to it.
        Ok(self.tree.set(&path.object(), &w.hunt).await?)
    }

    /// Marks that these clients have the hunt: names of one empty file.
    async fn write_markers(
        &self,
        path: &paths::Hunt<'_>,
        clients: &[&String],
    ) -> Result<(), ServiceError> {
        let fs = &*self.env.fs;
        let empty = self.tree.temp(StoreKind::Objects);
        crate::env::fs::create_synced(fs, &empty, b"").await.map_err(StoreError::from)?;
        let linked = async {
            let mut dir = String::new();
            for client in clients {
                let at = self.tree.root.object(&path.participation(client))?;
                match fs.link(&empty, &at).await {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
                    _ => dir = parent(&at).to_owned(),
                }
            }
            Ok::<_, StoreError>(fs.sync_dir(&dir).await?)
        };
        let linked = linked.await;
        let _ = fs.remove(&empty).await;
        Ok(linked?)
    }

    async fn replace_table(&self, at: &FilePath, rows: &str) -> Result<(), ServiceError> {
        let blob = Bytes::copy_from_slice(rows.as_bytes());
        let Some((data, index)) = crate::store::resultset::canonical(&blob) else { return Ok(()) };
        self.tree.set_file(at, &data).await?;
        Ok(self.tree.set_file(&at.index(), &index).await?)
    }

    async fn write_hunt_index(&self, org: &Org) -> Result<(), ServiceError> {
        let mut rows = Vec::new();
        for hunt in self.hunts(org, false, false) {
            let text = velociraptor_proto::json::to_named_object(&hunt)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?;
            rows.push(json!({
                "HuntId": hunt.hunt_id,
                "Description": hunt.hunt_description,
                "Tags": hunt.tags.join("\n"),
                "Created": hunt.create_time,
                "Started": hunt.start_time,
                "Expires": hunt.expires,
                "Creator": hunt.creator,
                "Hunt": data_encoding::BASE64.encode(text.as_bytes()),
            }));
        }
        let at = paths::hunt_index(&org.id);
        let blob = blob(&rows);
        if let Some((data, index)) = crate::store::resultset::canonical(&blob) {
            self.tree.set_file(&at, &data).await?;
            return Ok(self.tree.set_file(&at.index(), &index).await?);
        }
        // None left.
        self.tree.delete_file(&at.index()).await?;
        Ok(self.tree.delete_file(&at).await?)
    }

    async fn remove_hunt_files(&self, org: &Org, id: &str) -> Result<(), ServiceError> {
        let path = paths::Hunt { org: &org.id, id };
        // The object first: without it nothing else is read.
        self.tree.delete(&path.object()).await?;
        for at in [path.clients(), path.errors()] {
            self.tree.delete_file(&at.index()).await?;
            self.tree.delete_file(&at).await?;
        }
        for dir in [path.participation_dir(), path.dir(), objects(&path), path.downloads()] {
            let dir = self.tree.root.dir(&dir).map_err(StoreError::from)?;
            self.remove_below(&dir).await?;
        }
        Ok(())
    }

    /// Removes a directory and all below it.
    async fn remove_below(&self, dir: &str) -> Result<(), ServiceError> {
        let fs = &*self.env.fs;
        let gone = |r: std::io::Result<()>| match r {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::from(e)),
            _ => Ok(()),
        };
        let mut open = vec![dir.to_owned()];
        let mut dirs = Vec::new();
        while let Some(dir) = open.pop() {
            for e in fs.list(&dir).await.map_err(StoreError::from)? {
                let path = format!("{dir}/{}", e.name);
                match e.is_dir {
                    true => open.push(path),
                    false => gone(fs.remove(&path).await)?,
                }
            }
            dirs.push(dir);
        }
        for dir in dirs.iter().rev() {
            gone(fs.remove_dir(dir).await)?;
        }
        Ok(())
    }
}

/// Objects below a hunt: its request, its notebook.
fn objects<'a>(path: &paths::Hunt<'a>) -> DirPath {
    DirPath::objects(path.dir().0)
}

/// The tables of clients, of ends, and for the web interface.
fn tables(id: &str, live: &LiveHunt, names: &BTreeMap<String, String>) -> [String; 3] {
    let [mut clients, mut errors, mut enriched] = [String::new(), String::new(), String::new()];
    for (client, m) in live.in_order() {
        let row = json!({
            "HuntId": id, "ClientId": client, "FlowId": m.flow,
            "Timestamp": m.since / 1_000_000,
        });
        let _ = writeln!(clients, "{row}");
        let none = End::default();
        let end = m.end.as_ref();
        let (state, e) = match end {
            Some(e) if e.failed => ("ERROR", e),
            Some(e) => ("FINISHED", e),
            None => ("RUNNING", &none),
        };
        if end.is_some() {
            let row = json!({
                "ClientId": client, "FlowId": m.flow, "StartTime": time(e.started),
                "EndTime": time(e.ended), "Status": state, "Error": e.error,
            });
            let _ = writeln!(errors, "{row}");
        }
        let started = if e.started > 0 { e.started } else { m.since };
        let row = json!({
            "ClientId": client,
            "Hostname": names.get(client).map_or("", String::as_str),
            "FlowId": m.flow, "StartedTime": started / 1000, "State": state,
            "Duration": e.duration / 1_000_000_000, "TotalBytes": e.bytes, "TotalRows": e.rows,
        });
        let _ = writeln!(enriched, "{row}");
    }
    [clients, errors, enriched]
}
