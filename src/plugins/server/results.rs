//! Rows that collections brought: results, logs, uploads.

use bytes::Bytes;
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Scope, Signature, Value};

use super::args::{needed, or_variable};
use super::events;
use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::flows::Rows;
use crate::services::notebooks::At;
use crate::services::repository::{Kind, source_name};
use crate::store::client_path;
use crate::store::resultset::read_rows;

/// Rows read at a time.
const PAGE: u64 = 1000;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("source", "Rows of a collected artifact.")
        .arg("client_id", ArgType::String, "The client; default is the variable ClientId.")
        .arg("flow_id", ArgType::String, "The collection; default is the variable FlowId.")
        .arg("artifact", ArgType::String, "The artifact, perhaps with /Source.")
        .arg("source", ArgType::String, "The source.")
        .arg("start_time", ArgType::Time, "Events from then on.")
        .arg("end_time", ArgType::Time, "Events before then.")
        .arg("hunt_id", ArgType::String, "Instead: the rows that this hunt collected.")
        .arg("orgs", ArgType::Strings, "Those of a hunt from these organisations.")
        .arg("notebook_id", ArgType::String, "Instead: the rows of a cell of this notebook.")
        .arg("notebook_cell_id", ArgType::String, "The cell.")
        .arg("notebook_cell_version", ArgType::String, "Its version; default the current one.")
        .arg("notebook_cell_table", ArgType::Int, "Which of its queries; default the first.")
        .arg("start_row", ArgType::Int, "Rows to leave out first.")
        .arg("count", ArgType::Int, "Rows at most.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        if or_variable(&args, &scope, "notebook_cell_id", "NotebookCellId")?.is_some() {
            return cell(&session, &scope, &args, &emitter).await;
        }
        let of_flow = or_variable(&args, &scope, "flow_id", "FlowId")?.is_some();
        let of_hunt = match of_flow {
            true => args.opt_string("hunt_id")?.is_some_and(|id| !id.is_empty()),
            false => or_variable(&args, &scope, "hunt_id", "HuntId")?.is_some(),
        };
        if of_hunt {
            return super::hunts::results(&scope, &args, &emitter).await;
        }
        let artifact = needed(&args, &scope, "artifact", "ArtifactName")?;
        let name = match or_variable(&args, &scope, "source", "ArtifactSource")? {
            Some(source) if !artifact.contains('/') => source_name(&artifact, &source),
            _ => artifact,
        };
        let kind = session.org.repository.kind_of(&name);
        let flow = or_variable(&args, &scope, "flow_id", "FlowId")?;
        // An artifact that is not defined here can still have left rows; without a
        // collection only events are meant.
        if kind.map_or(flow.is_none(), Kind::is_event) {
            let client = or_variable(&args, &scope, "client_id", "ClientId")?;
            let client = client.unwrap_or_else(|| "server".to_owned());
            let window = events::Window::of(&args)?;
            return events::stored(&session, &client, &name, window, &emitter).await;
        }
        let client = needed(&args, &scope, "client_id", "ClientId")?;
        let flow = needed(&args, &scope, "flow_id", "FlowId")?;
        results(&session, &client, &flow, &name, &args, &emitter).await
    });

    let sig = Signature::new("flow_results", "Rows of one collection.")
        .required("client_id", ArgType::String, "The client.")
        .required("flow_id", ArgType::String, "The collection.")
        .arg("artifact", ArgType::String, "The artifact, perhaps with /Source; default the first.")
        .arg("source", ArgType::String, "The source.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let (client, flow) = (args.string("client_id")?, args.string("flow_id")?);
        let name = match args.opt_string("artifact")? {
            Some(a) if a.contains('/') => a,
            Some(a) => source_name(&a, &args.string("source")?),
            None => String::new(),
        };
        results(&session, &client, &flow, &name, &args, &emitter).await
    });

    let sig = Signature::new("flow_logs", "The query log of a collection.")
        .arg("client_id", ArgType::String, "The client; default is the variable ClientId.")
        .arg("flow_id", ArgType::String, "The collection; default is the variable FlowId.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let (client, flow) = place(&args, &scope)?;
        pages(&session, &client, &flow, &Rows::Logs, 0, u64::MAX, &emitter).await
    });

    let sig = Signature::new("uploads", "Files that a collection uploaded.")
        .arg("client_id", ArgType::String, "The client; default is the variable ClientId.")
        .arg("flow_id", ArgType::String, "The collection; default is the variable FlowId.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let (client, flow) = place(&args, &scope)?;
        uploads(&session, &client, &flow, &emitter).await
    });
}

fn place(args: &Args, scope: &Scope) -> Result<(String, String), Error> {
    let client = needed(args, scope, "client_id", "ClientId")?;
    Ok((client, needed(args, scope, "flow_id", "FlowId")?))
}

/// Rows of one query of a notebook's cell.
async fn cell(
    session: &Session,
    scope: &Scope,
    args: &Args,
    emitter: &Emitter,
) -> Result<(), Error> {
    let id = needed(args, scope, "notebook_id", "NotebookId")?;
    let name = needed(args, scope, "notebook_cell_id", "NotebookCellId")?;
    let (server, org) = (&session.server, &session.org);
    let at = At { server, org, id: &id };
    // What is left of a notebook whose record is gone is for those who may read results.
    let known = at.read().await.map_err(failed)?;
    if known.is_some() && !session.policy.is_super_user() {
        at.open(&session.principal).await.map_err(failed)?;
    }
    let mut version = args.string("notebook_cell_version")?;
    if version.is_empty() {
        let cells = known.map(|n| n.cell_metadata).unwrap_or_default();
        let listed = cells.into_iter().find(|c| c.cell_id == name);
        version = listed.map(|c| c.current_version).unwrap_or_default();
    }
    let table = or_variable(args, scope, "notebook_cell_table", "NotebookCellTable")?;
    let table = table.and_then(|n| n.parse::<u32>().ok()).unwrap_or(1).max(1);
    let path = at.cell_rows(&name, &version, table).map_err(failed)?;
    let (mut start, mut left) = span(args)?;
    while left > 0 {
        let count = PAGE.min(left);
        let rows = read_rows(&server.tree, &path, start, count).await;
        let rows = rows.map_err(|e| failed(e.into()))?;
        let got = rows.len() as u64;
        for row in rows {
            send(emitter, &row).await?;
        }
        if got < count {
            return Ok(());
        }
        (start, left) = (start + got, left - got);
    }
    Ok(())
}

/// The rows of a set that a query is to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Rows before it.
    pub start: u64,
    /// Rows of it, at most.
    pub count: u64,
}

/// Rows to leave out, and how many to show.
fn span(args: &Args) -> Result<(u64, u64), Error> {
    let number = |key: &str| Ok::<_, Error>(args.opt_int(key)?.and_then(|n| u64::try_from(n).ok()));
    let (start, count) = (number("start_row")?, number("count")?);
    if let (None, None, Some(part)) = (start, count, args.scope().extension::<Part>()) {
        return Ok((part.start, part.count));
    }
    Ok((start.unwrap_or(0), count.filter(|n| *n > 0).unwrap_or(u64::MAX)))
}

/// The set that `name` means: of an artifact whose only source with results has a name,
/// the artifact's own name will do, and an empty name means the first.
async fn set_of(
    session: &Session,
    client: &str,
    flow: &str,
    name: &str,
) -> Result<Option<String>, Error> {
    let found = session.server.flow(&session.org, client, flow).await.map_err(failed)?;
    let Some(context) = found else { return Ok(None) };
    let have = &context.artifacts_with_results;
    let mut name = name.to_owned();
    if !have.contains(&name) {
        let below = format!("{name}/");
        let mut like = have.iter().filter(|n| name.is_empty() || n.starts_with(&below));
        if let (Some(first), more) = (like.next(), like.next())
            && (name.is_empty() || more.is_none())
        {
            name = first.clone();
        }
    }
    Ok(Some(name))
}

/// How many rows `source()` would read in a scope whose variables name a collection.
pub(super) async fn rows_of(session: &Session, scope: &Scope, flow: &str) -> Result<u64, Error> {
    let variable = |name: &str| scope.resolve_string(name).unwrap_or_default();
    let (client, mut name) = (variable("ClientId"), variable("ArtifactName"));
    let source = variable("ArtifactSource");
    if !source.is_empty() && !name.contains('/') {
        name = source_name(&name, &source);
    }
    let Some(name) = set_of(session, &client, flow, &name).await? else { return Ok(0) };
    let (server, org) = (&session.server, &session.org);
    server.row_count(org, &client, flow, &Rows::Results(name)).await.map_err(failed)
}

/// Rows of one set of a collection.
async fn results(
    session: &Session,
    client: &str,
    flow: &str,
    name: &str,
    args: &Args,
    emitter: &Emitter,
) -> Result<(), Error> {
    let Some(name) = set_of(session, client, flow, name).await? else { return Ok(()) };
    let (start, count) = span(args)?;
    pages(session, client, flow, &Rows::Results(name), start, count, emitter).await
}

/// Emits rows page by page, so that a large table is never in memory.
async fn pages(
    session: &Session,
    client: &str,
    flow: &str,
    which: &Rows,
    mut start: u64,
    mut left: u64,
    emitter: &Emitter,
) -> Result<(), Error> {
    while left > 0 {
        let (server, org, n) = (&session.server, &session.org, PAGE.min(left));
        let rows = server.rows(org, client, flow, which, start, n).await.map_err(failed)?;
        let got = rows.len() as u64;
        for row in rows {
            send(emitter, &row).await?;
        }
        if got < n {
            return Ok(());
        }
        start += got;
        left -= got;
    }
    Ok(())
}

/// Emits one row of JSON; text that is not JSON is no row.
pub(super) async fn send(emitter: &Emitter, row: &Bytes) -> Result<(), Error> {
    match serde_json::from_slice::<serde_json::Value>(row) {
        Ok(json @ serde_json::Value::Object(_)) => emitter.send(Value::from_json(json)).await,
        _ => Ok(()),
    }
}

/// Where the file of an upload is in the file store, as the accessor `fs` names
/// it, and its path on the client. Old rows have no components, and the former
/// in place of the latter.
fn place_of(row: &Dict) -> (String, Value) {
    let text = |v: &Value| v.as_str().map(|s| s.to_text().into_owned());
    let name = row.get("vfs_path").cloned().unwrap_or_default();
    let components: Vec<String> = match row.get("_Components") {
        Some(Value::List(l)) => l.iter().filter_map(text).collect(),
        _ => vec![],
    };
    match components.is_empty() {
        false => (format!("fs:{}", client_path::join(&components)), name),
        true => {
            let components = client_path::split(&text(&name).unwrap_or_default());
            (format!("fs:{}", client_path::join(&components)), "".into())
        }
    }
}

async fn uploads(
    session: &Session,
    client: &str,
    flow: &str,
    emitter: &Emitter,
) -> Result<(), Error> {
    let rows = session.server.upload_rows(&session.org, client, flow).await.map_err(failed)?;
    for row in rows {
        let serde_json::Value::Object(map) = row else { continue };
        let mut row = Dict::from_json(map);
        let member = |name: &str| row.get(name).cloned().unwrap_or_default();
        let upload = Dict::new()
            .with("Path", member("vfs_path"))
            .with("Size", member("file_size"))
            .with("StoredSize", member("uploaded_size"))
            .with("Accessor", member("_accessor"))
            .with("Type", member("Type"))
            .with("Components", member("_Components"));
        let (place, from) = place_of(&row);
        row.set("vfs_path", place);
        row.set("client_path", from);
        row.set("Upload", upload);
        emitter.send(row).await?;
    }
    Ok(())
}
