//! Notebooks: opening and writing them, and working their cells out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use velociraptor_proto::proto::{
    Env, GetTableRequest, GetTableResponse, NotebookCell, NotebookCellRequest, NotebookMetadata,
};

use super::status::status;
use super::table::{column_types, finish};
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::ids::OrgId;
use crate::services::notebooks::layout::Part;
use crate::services::notebooks::{At, Limits, is_cell, variables};
use crate::services::tables::{Of, Set, sets_of};
use crate::store::paths::Notebook;

mod asked;
mod files;
mod run;

pub(super) use asked::Asked;

/// How long a call waits for a cell before it answers that it is being worked out.
const WAIT: Duration = Duration::from_secs(2);
/// What a cell says that was being worked out when the server ended.
const STOPPED: &str = "The server was stopped before this was done. Run it again.";

/// Organisation, notebook, cell and version.
type Key = (OrgId, String, String, String);

/// The cells of notebooks that are being worked out.
#[derive(Debug)]
pub(super) struct Desk {
    limits: Limits,
    places: Semaphore,
    running: Mutex<BTreeMap<Key, CancellationToken>>,
}

impl Desk {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Semaphore::new(limits.cells.clamp(1, Semaphore::MAX_PERMITS)),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cells that are being worked out, and how many may be.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.running().len(), self.limits.cells)
    }
}

fn key(org: &OrgId, notebook: &str, cell: &NotebookCell) -> Key {
    (org.clone(), notebook.to_owned(), cell.cell_id.clone(), cell.current_version.clone())
}

impl Api {
    fn at<'a>(&'a self, caller: &'a Caller, id: &'a str) -> At<'a> {
        At { server: &self.server, org: &caller.org, id }
    }

    /// Cells whose server ended are over.
    fn settled(&self, org: &OrgId, notebook: &str, mut cell: NotebookCell) -> NotebookCell {
        if cell.calculating && !self.desk.running().contains_key(&key(org, notebook, &cell)) {
            cell.calculating = false;
            if cell.error.is_empty() {
                STOPPED.clone_into(&mut cell.error);
            }
        }
        cell
    }

    /// Notebooks of their own that the caller may open.
    pub(super) async fn notebook_list(
        &self,
        caller: &Caller,
    ) -> Result<Vec<NotebookMetadata>, Status> {
        caller.require(Permission::ReadResults)?;
        let found = self.server.notebooks.list(&self.server, &caller.org, &caller.name).await;
        found.map_err(|e| status(&e))
    }

    /// The same as stock's table.
    pub(super) async fn notebook_table(
        &self,
        caller: &Caller,
        r: &GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        let all = self.notebook_list(caller).await?;
        let time = |seconds: i64| vql::Time::from_second(seconds).map(|t| t.to_string());
        let row = |n: NotebookMetadata| {
            json!({
                "NotebookId": n.notebook_id,
                "Name": n.name,
                "Description": n.description,
                "Creation Time": time(n.created_time).unwrap_or_default(),
                "Modified Time": time(n.modified_time).unwrap_or_default(),
                "Creator": n.creator,
                "Collaborators": n.collaborators,
            })
        };
        let rows = all.into_iter().filter_map(|n| match row(n) {
            Value::Object(row) => Some(row),
            _ => None,
        });
        let rows: Vec<Map<String, Value>> = rows.collect();
        let total = rows.len() as u64;
        let mut table = finish(rows, total, r, true)?;
        if table.columns.is_empty() {
            table.columns = ["NotebookId", "Name", "Description"].map(str::to_owned).into();
        }
        table.column_types =
            column_types(&[("Creation Time", "timestamp"), ("Modified Time", "timestamp")]);
        Ok(table)
    }

    /// One notebook; `None` where there is none yet.
    pub(super) async fn notebook(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Option<NotebookMetadata>, Status> {
        caller.require(Permission::ReadResults)?;
        let at = self.at(caller, id);
        if at.read().await.map_err(|e| status(&e))?.is_none() {
            return Ok(None);
        }
        let mut n = at.open(&caller.name).await.map_err(|e| status(&e))?;
        let cells = std::mem::take(&mut n.cell_metadata);
        let cells = cells.into_iter().map(|c| self.settled(&caller.org.id, id, c));
        n.cell_metadata = cells.collect();
        Ok(Some(n))
    }

    /// Makes one, with the cells that its artifacts bring or some to begin with.
    pub(super) async fn new_notebook(
        &self,
        caller: &Caller,
        asked: NotebookMetadata,
    ) -> Result<NotebookMetadata, Status> {
        caller.require(Permission::NotebookEditor)?;
        self.make_notebook(caller, asked).await
    }

    async fn make_notebook(
        &self,
        caller: &Caller,
        asked: NotebookMetadata,
    ) -> Result<NotebookMetadata, Status> {
        let artifacts = asked.artifacts.clone();
        let made =
            self.server.notebooks.create(&self.server, &caller.org, &caller.name, asked).await;
        let (made, fresh) = made.map_err(|e| status(&e))?;
        let id = made.notebook_id.clone();
        if fresh {
            for first in self.first_cells(caller, &made, &artifacts).await? {
                let cell = NotebookCellRequest { notebook_id: id.clone(), ..first };
                self.add_cell(caller, &cell, WAIT).await?;
            }
        }
        let found = self.notebook(caller, &id).await?;
        found.ok_or_else(|| Status::not_found("Not Found"))
    }

    /// The cells a notebook begins with: those of its artifacts; for their sets without
    /// such the first rows.
    async fn first_cells(
        &self,
        caller: &Caller,
        n: &NotebookMetadata,
        artifacts: &[String],
    ) -> Result<Vec<NotebookCellRequest>, Status> {
        let of = variables(&n.notebook_id);
        let value = |name: &str| of.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        let (mut artifacts, mut plugin) = (artifacts.to_vec(), "source()");
        if let (Some(flow), Some(client)) = (value("FlowId"), value("ClientId")) {
            let found = self.server.flow(&caller.org, client, flow).await;
            let context = found.map_err(|e| status(&e))?;
            artifacts = context.and_then(|c| c.request).map(|r| r.artifacts).unwrap_or_default();
        } else if let Some(hunt) = value("HuntId") {
            let found = self.server.hunt(&caller.org, hunt, false);
            artifacts = found.map(|h| h.artifacts).unwrap_or_default();
            plugin = "hunt_results()";
        } else if let Some(name) = value("ArtifactName") {
            artifacts = vec![name.to_owned()];
        }
        let cell = |kind: &str, input: String, env: Vec<Env>| NotebookCellRequest {
            r#type: kind.to_owned(),
            input,
            env,
            ..NotebookCellRequest::default()
        };
        let mut out = Vec::new();
        for name in &artifacts {
            let Some(artifact) = caller.org.repository.get(name) else { continue };
            let own = artifact.sources.iter().flat_map(|s| &s.notebook);
            let own: Vec<_> = own
                .filter(|c| {
                    matches!(c.r#type.to_ascii_lowercase().as_str(), "vql" | "md" | "markdown")
                })
                .map(|c| {
                    let env = c.env.iter();
                    let env = env.map(|e| Env { key: e.key.clone(), value: e.value.clone() });
                    cell(&c.r#type, c.template.clone(), env.collect())
                })
                .collect();
            let is_template = of.is_empty();
            if !own.is_empty() || is_template {
                out.extend(own);
                continue;
            }
            for set in sets_of(&caller.org, std::slice::from_ref(name)) {
                let from = plugin.replace("()", &format!("(artifact=\"{set}\")"));
                out.push(cell("vql", format!("SELECT *\nFROM {from}\nLIMIT 50\n"), Vec::new()));
            }
        }
        if out.is_empty() {
            let title = if n.name.is_empty() { "Notebook" } else { n.name.as_str() };
            out.push(cell("markdown", format!("# {title}\n\n{}\n", n.description), Vec::new()));
        }
        Ok(out)
    }

    pub(super) async fn change_notebook(
        &self,
        caller: &Caller,
        asked: NotebookMetadata,
    ) -> Result<NotebookMetadata, Status> {
        caller.require(Permission::NotebookEditor)?;
        let id = asked.notebook_id.clone();
        let done = self.server.notebooks.change(self.at(caller, &id), &caller.name, asked).await;
        done.map_err(|e| status(&e))
    }

    pub(super) async fn delete_notebook(
        &self,
        caller: &Caller,
        asked: &NotebookMetadata,
    ) -> Result<(), Status> {
        caller.require(Permission::NotebookEditor)?;
        let at = self.at(caller, &asked.notebook_id);
        self.server.notebooks.delete(at, &caller.name).await.map_err(|e| status(&e))?;
        let all = self.desk.running();
        let gone = all.iter().filter(|(k, _)| k.0 == caller.org.id && k.1 == asked.notebook_id);
        gone.for_each(|(_, cancel)| cancel.cancel());
        Ok(())
    }

    /// Adds a cell and works it out.
    pub(super) async fn new_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
    ) -> Result<NotebookMetadata, Status> {
        caller.require(Permission::NotebookEditor)?;
        self.add_cell(caller, asked, WAIT).await
    }

    async fn add_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
        wait: Duration,
    ) -> Result<NotebookMetadata, Status> {
        let at = self.at(caller, &asked.notebook_id);
        let done = self.server.notebooks.add(at, &caller.name, asked).await;
        let (n, cell) = done.map_err(|e| status(&e))?;
        self.work_out(caller, &n, cell, wait).await;
        let found = self.notebook(caller, &asked.notebook_id).await?;
        let mut found = found.ok_or_else(|| Status::not_found("Not Found"))?;
        found.latest_cell_id = n.latest_cell_id;
        Ok(found)
    }

    /// Another input of a cell, as its next version, and works it out.
    pub(super) async fn update_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
    ) -> Result<NotebookCell, Status> {
        caller.require(Permission::NotebookEditor)?;
        self.write_cell(caller, asked).await
    }

    async fn write_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
    ) -> Result<NotebookCell, Status> {
        let at = self.at(caller, &asked.notebook_id);
        let limits = &self.desk.limits;
        let begun = self.server.notebooks.begin(at, &caller.name, asked, limits).await;
        let (n, cell) = begun.map_err(|e| status(&e))?;
        let wait = if asked.sync { limits.timeout } else { WAIT };
        Ok(self.work_out(caller, &n, cell, wait).await)
    }

    pub(super) async fn one_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
    ) -> Result<NotebookCell, Status> {
        caller.require(Permission::ReadResults)?;
        let at = self.at(caller, &asked.notebook_id);
        at.open(&caller.name).await.map_err(|e| status(&e))?;
        let cell = at.cell(&asked.cell_id, &asked.version).await.map_err(|e| status(&e))?;
        Ok(self.settled(&caller.org.id, &asked.notebook_id, cell))
    }

    /// What a cell shows.
    pub(super) async fn cell_parts(
        &self,
        caller: &Caller,
        notebook: &str,
        cell: &NotebookCell,
    ) -> Result<Vec<Part>, Status> {
        self.at(caller, notebook).parts(cell).await.map_err(|e| status(&e))
    }

    pub(super) async fn revert_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
    ) -> Result<NotebookCell, Status> {
        caller.require(Permission::NotebookEditor)?;
        let at = self.at(caller, &asked.notebook_id);
        let done = self.server.notebooks.revert(at, &caller.name, &asked.cell_id, &asked.version);
        done.await.map_err(|e| status(&e))
    }

    /// Stops a cell. One that nobody works on any more is marked as over.
    pub(super) async fn cancel_cell(
        &self,
        caller: &Caller,
        asked: &NotebookCellRequest,
    ) -> Result<(), Status> {
        caller.require(Permission::NotebookEditor)?;
        let at = self.at(caller, &asked.notebook_id);
        at.open(&caller.name).await.map_err(|e| status(&e))?;
        let cell = at.cell(&asked.cell_id, &asked.version).await.map_err(|e| status(&e))?;
        let key = key(&caller.org.id, &asked.notebook_id, &cell);
        if let Some(cancel) = self.desk.running().get(&key) {
            cancel.cancel();
            return Ok(());
        }
        if cell.calculating {
            let over = self.settled(&caller.org.id, &asked.notebook_id, cell);
            self.server.notebooks.finish(at, over).await.map_err(|e| status(&e))?;
        }
        Ok(())
    }

    /// Rows of a cell's query, or of its log, for somebody who may open the notebook.
    pub(super) async fn cell_set(
        &self,
        caller: &Caller,
        id: &str,
        cell: (&str, &str),
        table: Option<u32>,
    ) -> Result<Set, Status> {
        caller.require(Permission::ReadResults)?;
        let at = self.at(caller, id);
        let n = at.open(&caller.name).await.map_err(|e| status(&e))?;
        let (name, mut version) = (cell.0, cell.1.to_owned());
        if version.is_empty() {
            let listed = n.cell_metadata.iter().find(|c| c.cell_id == name);
            version = listed.map(|c| c.current_version.clone()).unwrap_or_default();
        }
        if !is_cell(name, &version) {
            return Err(Status::invalid_argument(format!("{name} {version} is no cell")));
        }
        let path = Notebook::new(&caller.org.id, id).cell(name, &version);
        let file = match table {
            Some(n) => path.query(n),
            None => path.logs(),
        };
        Ok(Set { server: self.server.clone(), org: caller.org.clone(), of: Of::File(file) })
    }
}
