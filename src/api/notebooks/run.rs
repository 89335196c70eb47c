//! Working a cell out: its queries with the rights of whoever asked, their rows into
//! sets of the datastore, and what stock pages show of it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::{NotebookCell, NotebookMetadata};
use vql::syntax::ast::Statement;
use vql::{Level, Scope};

use super::{Api, Caller, key};
use crate::plugins::server::{self, Session};
use crate::services::notebooks::layout::{Kind, Part, Piece, pieces};
use crate::services::notebooks::markdown;
use crate::services::notebooks::{At, title, variables};
use crate::store::paths::{Cell, Notebook};
use crate::store::resultset::SetWriter;
use crate::store::{FilePath, StoreError, StoreKind};

/// Log lines that are shown with a cell; further ones are in its log.
const SHOWN: usize = 100;
/// Log lines that are kept.
const KEPT: usize = 10_000;
/// How long queries that are to end are waited for.
const GRACE: Duration = Duration::from_secs(10);

/// What queries of a cell said.
#[derive(Default)]
struct Lines {
    lines: Vec<(Level, String)>,
    lost: usize,
}

impl Api {
    /// Works a cell out on the GUI side. Answers when that is done, or after `wait`
    /// with the cell as it was begun.
    pub(super) async fn work_out(
        &self,
        caller: &Caller,
        n: &NotebookMetadata,
        cell: NotebookCell,
        wait: Duration,
    ) -> NotebookCell {
        let cancel = CancellationToken::new();
        let key = key(&caller.org.id, &n.notebook_id, &cell);
        self.desk.running().insert(key.clone(), cancel.clone());
        let (done, result) = oneshot::channel();
        let (api, caller, n, begun) = (self.clone(), caller.clone(), n.clone(), cell.clone());
        self.server.env.spawn_gui(async move {
            let over = api.evaluate(&caller, &n, begun, &cancel).await;
            let at = At { server: &api.server, org: &caller.org, id: &n.notebook_id };
            if let Err(error) = api.server.notebooks.finish(at, over.clone()).await {
                tracing::error!(notebook = n.notebook_id, %error, "a cell was not stored");
            }
            api.desk.running().remove(&key);
            let _ = done.send(over);
        });
        tokio::select! {
            biased;
            over = result => over.unwrap_or(cell),
            () = tokio::time::sleep(wait) => cell,
        }
    }

    async fn evaluate(
        &self,
        caller: &Caller,
        n: &NotebookMetadata,
        mut cell: NotebookCell,
        cancel: &CancellationToken,
    ) -> NotebookCell {
        let began = Instant::now();
        let _place = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            place = self.desk.places.acquire() => place.ok(),
        };
        let lines = Arc::new(Mutex::new(Lines::default()));
        let failed = match cancel.is_cancelled() {
            true => Some("Cancelled before it began.".to_owned()),
            false => self.queries(caller, n, &cell, &lines, cancel).await,
        };
        let Lines { lines, lost } =
            std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
        let path = Notebook::new(&caller.org.id, &n.notebook_id)
            .cell(&cell.cell_id, &cell.current_version);
        if !lines.is_empty()
            && let Err(error) = self.keep_lines(&path, &lines).await
        {
            tracing::warn!(%error, cell = cell.cell_id, "the log of a cell was not stored");
        }
        cell.messages = (lines.iter().take(SHOWN))
            .map(|(level, text)| format!("{}:{text}", level.name()))
            .collect();
        cell.more_messages = lost > 0 || lines.len() > SHOWN;
        cell.error = failed.unwrap_or_default();
        cell.calculating = false;
        cell.duration = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
        "{}".clone_into(&mut cell.data);
        let at = At { server: &self.server, org: &caller.org, id: &n.notebook_id };
        match at.parts(&cell).await {
            Ok(parts) => {
                cell.summary = title(&parts);
                cell.output = self.page(&n.notebook_id, &cell, &parts);
            }
            Err(e) => cell.error = e.to_string(),
        }
        cell
    }

    /// Runs what a cell asks for; says what went wrong, if anything.
    async fn queries(
        &self,
        caller: &Caller,
        n: &NotebookMetadata,
        cell: &NotebookCell,
        lines: &Arc<Mutex<Lines>>,
        cancel: &CancellationToken,
    ) -> Option<String> {
        let session = Session {
            server: self.server.clone(),
            org: caller.org.clone(),
            principal: caller.name.clone(),
            policy: caller.policy.clone(),
        };
        let sink = lines.clone();
        let log = move |level: Level, text: &str| {
            let mut all = sink.lock().unwrap_or_else(PoisonError::into_inner);
            match all.lines.len() < KEPT {
                true => all.lines.push((level, text.to_owned())),
                false => all.lost += 1,
            }
        };
        let scope = server::scope(self.registry.clone(), session.into(), log, cancel.clone());
        let limit = self.desk.limits.timeout;
        let work = self.statements(&scope, caller, n, cell);
        tokio::pin!(work);
        let why = tokio::select! {
            biased;
            found = &mut work => Err(found),
            () = tokio::time::sleep(limit) => Ok(format!("Stopped after {} s.", limit.as_secs())),
            () = cancel.cancelled() => Ok("Cancelled.".to_owned()),
        };
        let found = match why {
            Err(found) => found,
            Ok(why) => {
                // Queries end at their next row; the rows until then are kept.
                cancel.cancel();
                let _ = tokio::time::timeout(GRACE, work).await;
                Some(why)
            }
        };
        scope.close();
        found
    }

    async fn statements(
        &self,
        scope: &Scope,
        caller: &Caller,
        n: &NotebookMetadata,
        cell: &NotebookCell,
    ) -> Option<String> {
        scope.set("NotebookId", n.notebook_id.as_str());
        for (name, value) in variables(&n.notebook_id) {
            scope.set(name, value);
        }
        if let Some(c) = &n.context {
            for (name, at) in [("StartTime", c.start_time), ("EndTime", c.end_time)] {
                if at > 0 {
                    scope.set(name, at);
                }
            }
        }
        prepare(scope, n).await;
        for e in n.env.iter().chain(&cell.env) {
            scope.set(e.key.clone(), e.value.clone());
        }
        let path = Notebook::new(&caller.org.id, &n.notebook_id)
            .cell(&cell.cell_id, &cell.current_version);
        let kind = Kind::of(&cell.r#type);
        let groups: Vec<Vec<Statement>> = match kind {
            Kind::Vql => match vql::parse(&cell.input) {
                Ok(all) => all.into_iter().map(|s| vec![s]).collect(),
                // A cell of comments is a text.
                Err(_) if pieces(kind, &cell.input).iter().all(|p| matches!(p, Piece::Text(_))) => {
                    Vec::new()
                }
                Err(e) => return Some(format!("VQL: {e}")),
            },
            _ => {
                let mut groups = Vec::new();
                for piece in pieces(kind, &cell.input) {
                    if let Piece::Query(text) = piece {
                        match vql::parse(&text) {
                            Ok(all) => groups.push(all),
                            Err(e) => return Some(format!("VQL of {text:?}: {e}")),
                        }
                    }
                }
                groups
            }
        };
        let mut number = 0;
        for group in groups {
            let leaves =
                kind != Kind::Vql || group.iter().any(|s| matches!(s, Statement::Select(_)));
            if !leaves {
                let mut rows = vql::eval(group, scope, vql::Limits::default());
                while rows.next().await.is_some() {}
                continue;
            }
            number += 1;
            if let Err(e) = self.rows_into(scope, group, &path.query(number)).await {
                return Some(format!("the rows could not be stored: {e}"));
            }
        }
        None
    }

    async fn rows_into(
        &self,
        scope: &Scope,
        group: Vec<Statement>,
        at: &FilePath,
    ) -> Result<(), StoreError> {
        let limit = self.desk.limits.rows;
        let limits = vql::Limits { timeout: None, rows: Some(limit) };
        let mut rows = vql::eval_shown(group, scope, limits);
        let mut set = NewSet::create(self, at).await?;
        while let Some(row) = rows.next().await {
            if let Err(e) = set.writer.row(row.to_json().as_bytes()).await {
                set.discard(self).await;
                return Err(e);
            }
        }
        set.place(self, at).await
    }

    async fn keep_lines(&self, path: &Cell, lines: &[(Level, String)]) -> Result<(), StoreError> {
        let mut set = NewSet::create(self, &path.logs()).await?;
        let now = self.server.env.clock.unix();
        for (level, text) in lines {
            let row = json!({ "Timestamp": now, "Level": level.name(), "message": text });
            if let Err(e) = set.writer.row(row.to_string().as_bytes()).await {
                set.discard(self).await;
                return Err(e);
            }
        }
        set.place(self, &path.logs()).await
    }

    /// What stock pages show: the texts, and for rows a mark that they replace by a
    /// table.
    fn page(&self, notebook: &str, cell: &NotebookCell, parts: &[Part]) -> String {
        let mut out = String::new();
        for part in parts {
            match part {
                Part::Text(blocks) => out.push_str(&markdown::html(blocks)),
                Part::Rows(n) => {
                    let what = json!({
                        "notebook_id": notebook,
                        "cell_id": cell.cell_id,
                        "cell_version": cell.current_version,
                        "table_id": n,
                        "TableOptions": {},
                        "Version": self.server.env.clock.unix(),
                    });
                    let what = percent(&what.to_string());
                    let _ = writeln!(
                        out,
                        "<div class=\"panel\"><velo-csv-viewer base-url=\"'v1/GetTable'\" \
                         params='{what}' /></div>"
                    );
                }
            }
        }
        out
    }
}

/// Variables that a notebook made by a stock server brings for every cell.
async fn prepare(scope: &Scope, n: &NotebookMetadata) {
    for request in &n.requests {
        for e in &request.env {
            scope.set(e.key.clone(), e.value.clone());
        }
        for query in &request.query {
            let Ok(all) = vql::parse(&query.vql) else { continue };
            let lets: Vec<_> = all.into_iter().filter(|s| matches!(s, Statement::Let(_))).collect();
            let mut rows = vql::eval(lets, scope, vql::Limits::default());
            while rows.next().await.is_some() {}
        }
    }
}

/// Everything but letters and digits as percent codes, as scripts read it back.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for b in text.bytes() {
        match b.is_ascii_alphanumeric() {
            true => out.push(char::from(b)),
            false => drop(write!(out, "%{b:02X}")),
        }
    }
    out
}

/// A set being written under a name of its own.
struct NewSet {
    writer: SetWriter,
    data: String,
    index: String,
}

impl NewSet {
    async fn create(api: &Api, at: &FilePath) -> Result<Self, StoreError> {
        let tree = &api.server.tree;
        tree.record_long_names(&at.0).await?;
        let data = tree.temp(StoreKind::Files);
        let index = format!("{data}.index");
        let writer = SetWriter::create(&*api.server.env.fs, &data, &index).await?;
        Ok(Self { writer, data, index })
    }

    async fn discard(self, api: &Api) {
        drop(self.writer);
        for name in [&self.data, &self.index] {
            let _ = api.server.env.fs.remove(name).await;
        }
    }

    /// Gives it its name, the index first: no set is seen without one.
    async fn place(self, api: &Api, at: &FilePath) -> Result<(), StoreError> {
        let (fs, root) = (&*api.server.env.fs, &api.server.tree.root);
        let Self { writer, data, index } = self;
        let done = async {
            writer.finish().await?;
            let (to, to_index) = (root.file(at)?, root.file(&at.index())?);
            fs.rename(&index, &to_index).await?;
            fs.rename(&data, &to).await?;
            fs.sync_dir(crate::env::fs::parent(&to)).await?;
            Ok::<_, StoreError>(())
        };
        let done = done.await;
        if done.is_err() {
            for name in [&data, &index] {
                let _ = fs.remove(name).await;
            }
        }
        done
    }
}
