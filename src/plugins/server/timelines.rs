//! Timelines of notebooks: rows in the order in which they happened, in parts that
//! are read together.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Scope, Signature, Time, Value};

use super::args::needed;
use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::store::path::PathSpec;
use crate::store::paths::Notebook;
use crate::store::resultset::{ResultSet, Rows, TimedWriter, tidx};
use crate::store::{DirPath, FilePath, StoreError, StoreKind};

/// Rows put in order at most; they are held in memory meanwhile.
const MAX_ROWS: usize = 2_000_000;
/// Their bytes.
const MAX_BYTES: usize = 512 << 20;
/// Largest time index read.
const MAX_INDEX: usize = 256 << 20;
/// Characters of a message made of a row.
const MESSAGE: usize = 80;
/// The event that tells of changes.
const CHANGED: &str = "Server.Internal.TimelineAdd";

/// A part as stock stores it: 64-bit numbers are text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part {
    #[serde(skip_serializing_if = "Nanos::is_zero")]
    start_time: Nanos,
    #[serde(skip_serializing_if = "Nanos::is_zero")]
    end_time: Nanos,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    timestamp_column: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message_column: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    timestamp_description_column: String,
}

/// Nanoseconds since 1970, written as text; a bare number is read, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Nanos(i64);

impl Nanos {
    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Nanos {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        number.map(Nanos).ok_or_else(|| serde::de::Error::custom("no number"))
    }
}

/// A timeline of several parts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Super {
    name: String,
    timelines: Vec<Part>,
}

impl Super {
    fn row(&self) -> Value {
        let parts = self.timelines.iter().map(|p| {
            Dict::new()
                .with("start_time", p.start_time.0)
                .with("end_time", p.end_time.0)
                .with("id", p.id.as_str())
                .with("timestamp_column", p.timestamp_column.as_str())
                .with("message_column", p.message_column.as_str())
                .with("timestamp_description_column", p.timestamp_description_column.as_str())
                .with("active", false)
                .with("version", "")
        });
        Dict::new()
            .with("name", self.name.as_str())
            .with("timelines", parts.collect::<Value>())
            .into()
    }
}

fn store(e: impl Into<StoreError>) -> Error {
    failed(e.into().into())
}

pub(super) fn register(r: &mut Registry) {
    let notebook = |sig: Signature| {
        sig.arg("notebook_id", ArgType::String, "The notebook; default is the variable NotebookId.")
    };
    let sig = Signature::new("timeline_add", "Adds rows to a timeline, or replaces a part of it.")
        .required("timeline", ArgType::String, "The timeline; a new one is made.")
        .required("name", ArgType::String, "The part.")
        .required("query", ArgType::Query, "The rows.")
        .required("key", ArgType::String, "The column with the time.")
        .arg("message_column", ArgType::String, "The column with the message.")
        .arg("ts_desc_column", ArgType::String, "The column that says what the time means.")
        .version(2);
    r.function_async(notebook(sig), |scope, args| async move { add(&scope, &args).await });

    let sig = Signature::new("timeline_delete", "Deletes a timeline, or a part of it.")
        .required("timeline", ArgType::String, "The timeline.")
        .arg("name", ArgType::String, "The part.")
        .version(2);
    r.function_async(notebook(sig), |scope, args| async move { delete(&scope, &args).await });

    let sig = Signature::new("timeline", "Rows of a timeline in the order of time.")
        .required("timeline", ArgType::String, "The timeline.")
        .arg("components", ArgType::Strings, "Only these parts.")
        .arg("skip", ArgType::Strings, "Not these parts.")
        .arg("start", ArgType::Time, "From then on.")
        .version(2);
    r.plugin_async(notebook(sig), |scope, args, emitter| async move {
        read(&scope, &args, &emitter).await
    });

    let sig = Signature::new("timelines", "Timelines of a notebook.").version(2);
    r.plugin_async(notebook(sig), |scope, args, emitter| async move {
        let (session, id) = of_notebook(&scope, &args, Permission::ReadResults)?;
        let notebook = Notebook::new(&session.org.id, &id);
        for name in names(&session, &id).await? {
            if let Some(timeline) = load(&session, &notebook, &name).await? {
                emitter.send(timeline.row()).await?;
            }
        }
        Ok(())
    });
}

/// The timelines of a notebook.
pub(super) async fn names(session: &Session, id: &str) -> Result<Vec<String>, Error> {
    let dir: PathSpec = Notebook::new(&session.org.id, id).dir().0.child(&["timelines"]);
    let found = session.server.tree.children(&DirPath::objects(dir)).await.map_err(store)?;
    Ok(found.into_iter().filter(|c| !c.is_dir).map(|c| c.name).collect())
}

type Of = (std::sync::Arc<Session>, String);

fn of_notebook(scope: &Scope, args: &Args, right: Permission) -> Result<Of, Error> {
    let session = Session::with(scope, right)?;
    let id = needed(args, scope, "notebook_id", "NotebookId")?;
    if !id.starts_with("N.") && !id.starts_with("Dashboard") {
        return Err(Error::Arg(format!("{id} is no notebook")));
    }
    Ok((session, id))
}

async fn load(session: &Session, of: &Notebook, name: &str) -> Result<Option<Super>, Error> {
    let at = of.super_timeline(name);
    let Some(data) = session.server.tree.get_raw(&at).await.map_err(store)? else {
        return Ok(None);
    };
    let read = serde_json::from_slice(&data);
    read.map(Some).map_err(|e| Error::failed(format!("timeline {name}: {e}")))
}

async fn save(session: &Session, of: &Notebook, timeline: &Super) -> Result<(), Error> {
    let data = serde_json::to_vec(timeline).map_err(Error::failed)?;
    let at = of.super_timeline(&timeline.name);
    session.server.tree.set_raw(&at, &data).await.map_err(store)
}

async fn tell(session: &Session, row: serde_json::Value) {
    let rows = Bytes::from(format!("{row}\n"));
    let (server, org) = (&session.server, &session.org);
    if let Err(e) = server.push_events(org, "server", CHANGED, rows).await {
        tracing::warn!(error = %e, "the change of a timeline was not told");
    }
}

fn nanos(t: Time) -> i64 {
    i64::try_from(t.as_nanosecond()).unwrap_or(i64::MAX)
}

async fn add(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (session, id) = of_notebook(scope, args, Permission::ReadResults)?;
    let (name, part, key) = (args.string("timeline")?, args.string("name")?, args.string("key")?);
    if name.is_empty() || part.is_empty() {
        return Err(Error::Arg("a timeline and a part of it should be named".into()));
    }
    let (mut rows, mut bytes, mut without) = (Vec::<(i64, Bytes)>::new(), 0usize, 0u64);
    let mut stream = args.rows("query");
    while let Some(row) = stream.next().await {
        let value = vql::member(&row, &key).unwrap_or_default();
        let at = Args::from_dict("timeline_add", scope, Dict::new().with("at", value));
        let Some(at) = at.time("at")? else {
            without += 1;
            continue;
        };
        let json = Bytes::from(row.to_json());
        bytes += json.len();
        rows.push((nanos(at), json));
        if rows.len() > MAX_ROWS || bytes > MAX_BYTES {
            let text = format!("more than {MAX_ROWS} rows or {MAX_BYTES} bytes; use several parts");
            return Err(Error::failed(text));
        }
    }
    if without > 0 {
        scope.log_text(format!("timeline_add: {without} rows have no time in {key}"));
    }
    // Of one time, in the order in which they came.
    rows.sort_by_key(|(at, _)| *at);
    let notebook = Notebook::new(&session.org.id, &id);
    let at = notebook.timeline(&name, &part);
    write(&session, &at, &rows).await?;
    let _one = session.server.users.writing().await;
    let mut timeline = load(&session, &notebook, &name).await?.unwrap_or_default();
    timeline.name.clone_from(&name);
    timeline.timelines.retain(|p| p.id != part);
    timeline.timelines.push(Part {
        start_time: Nanos(rows.first().map_or(0, |r| r.0)),
        end_time: Nanos(rows.last().map_or(0, |r| r.0)),
        id: part.clone(),
        timestamp_column: key.clone(),
        message_column: args.string("message_column")?,
        timestamp_description_column: args.string("ts_desc_column")?,
    });
    save(&session, &notebook, &timeline).await?;
    let row = json!({
        "NotebookId": id, "SuperTimelineName": name, "Action": "AddTimeline",
        "Timeline": part, "TimestampColumn": key,
    });
    tell(&session, row).await;
    Ok(timeline.row())
}

/// Replaces a part.
async fn write(session: &Session, at: &FilePath, rows: &[(i64, Bytes)]) -> Result<(), Error> {
    let tree = &session.server.tree;
    let fs = &*session.server.env.fs;
    tree.record_long_names(&at.0).await.map_err(store)?;
    let data = tree.temp(StoreKind::Files);
    let index = format!("{data}.tidx");
    let done = async {
        let mut w = TimedWriter::create(fs, &data, &index).await?;
        for (nanos, row) in rows {
            w.row(*nanos, row).await?;
        }
        w.finish().await?;
        let path = |p: &FilePath| tree.root.file(p).map_err(StoreError::from);
        fs.rename(&index, &path(&at.time_index())?).await?;
        fs.rename(&data, &path(at)?).await?;
        fs.sync_dir(crate::env::fs::parent(&path(at)?)).await?;
        Ok::<_, StoreError>(())
    };
    let done = done.await;
    if done.is_err() {
        let _ = fs.remove(&data).await;
        let _ = fs.remove(&index).await;
    }
    done.map_err(store)
}

async fn delete(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (session, id) = of_notebook(scope, args, Permission::NotebookEditor)?;
    let (name, part) = (args.string("timeline")?, args.opt_string("name")?);
    let notebook = Notebook::new(&session.org.id, &id);
    let tree = &session.server.tree;
    {
        let _one = session.server.users.writing().await;
        let found = load(&session, &notebook, &name).await?;
        let mut timeline =
            found.ok_or_else(|| Error::failed(format!("timeline {name} not found")))?;
        let (gone, left): (Vec<Part>, Vec<Part>) =
            timeline.timelines.into_iter().partition(|p| part.as_ref().is_none_or(|n| *n == p.id));
        timeline.timelines = left;
        // First the record: nobody looks for a part that it does not name.
        match part {
            Some(_) => save(&session, &notebook, &timeline).await?,
            None => tree.delete(&notebook.super_timeline(&name)).await.map_err(store)?,
        }
        for p in gone {
            let at = notebook.timeline(&name, &p.id);
            tree.delete_file(&at).await.map_err(store)?;
            tree.delete_file(&at.time_index()).await.map_err(store)?;
        }
    }
    let row = json!({
        "NotebookId": id, "SuperTimelineName": name,
        "Component": part.unwrap_or_default(), "Action": "Delete",
    });
    tell(&session, row).await;
    Ok(true.into())
}

/// A part being read.
struct Reading {
    part: Part,
    rows: Rows,
    times: std::vec::IntoIter<tidx::TimeEntry>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<(i64, Dict)>, Error> {
        while let Some(row) = self.rows.next().await.map_err(store)? {
            let Some(entry) = self.times.next() else { return Ok(None) };
            if let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(&row) {
                return Ok(Some((entry.nanos, Dict::from_json(map))));
            }
        }
        Ok(None)
    }

    /// The row as it is shown.
    fn shown(&self, nanos: i64, mut row: Dict) -> Dict {
        let or = |given: &str, default: &str| {
            if given.is_empty() { default.to_owned() } else { given.to_owned() }
        };
        let message_column = or(&self.part.message_column, "Message");
        let about_column = or(&self.part.timestamp_description_column, "Description");
        let message = match row.get(&message_column) {
            Some(v) => v.to_text(),
            None => summary(&row, &self.part.timestamp_column),
        };
        let about = row.get(&about_column).map(Value::to_text).unwrap_or_default();
        row.remove(&self.part.message_column);
        row.remove(&self.part.timestamp_description_column);
        let at = Time::from_nanosecond(i128::from(nanos)).unwrap_or(Time::UNIX_EPOCH);
        let mut out = Dict::new()
            .with("Timestamp", Value::Time(at))
            .with("Message", message)
            .with("Description", about);
        for (name, value) in row.iter() {
            if !matches!(name.as_str(), "Timestamp" | "Message" | "Description") {
                out.set(name.clone(), value.clone());
            }
        }
        out.with("_Source", self.part.id.as_str())
    }
}

/// A message for a row that has none.
fn summary(row: &Dict, time_column: &str) -> String {
    let mut text = String::new();
    for (name, value) in row.iter().filter(|(n, _)| n.as_str() != time_column) {
        text += &format!("{name}: {} ", value.to_text());
        if text.chars().count() > MESSAGE {
            return text.chars().take(MESSAGE).chain(" ...".chars()).collect();
        }
    }
    text
}

async fn read(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let (session, id) = of_notebook(scope, args, Permission::ReadResults)?;
    let name = args.string("timeline")?;
    let (only, not) = (args.strings("components")?, args.strings("skip")?);
    let start = args.time("start")?.map_or(i64::MIN, nanos);
    let notebook = Notebook::new(&session.org.id, &id);
    let timeline = load(&session, &notebook, &name).await?;
    let timeline = timeline.ok_or_else(|| Error::failed(format!("timeline {name} not found")))?;
    let tree = &session.server.tree;
    let mut all = Vec::new();
    // What comes next of each part, by time and then by part.
    let mut heads: BTreeMap<(i64, usize), Dict> = BTreeMap::new();
    for part in timeline.timelines {
        if !(only.is_empty() || only.contains(&part.id)) || not.contains(&part.id) {
            continue;
        }
        let at = notebook.timeline(&name, &part.id);
        let index = tree.get_file(&at.time_index(), MAX_INDEX).await.map_err(store)?;
        let rows = ResultSet::open(tree, &at).await.map_err(store)?.rows(0).await;
        let times = tidx::parse(&index.unwrap_or_default()).into_iter();
        let mut one = Reading { part, rows: rows.map_err(store)?, times };
        if let Some((at, row)) = one.next().await? {
            heads.insert((at, all.len()), row);
        }
        all.push(one);
    }
    while let Some(((at, i), row)) = heads.pop_first() {
        if at >= start {
            emitter.send(all[i].shown(at, row)).await?;
        }
        if let Some((at, row)) = all[i].next().await? {
            heads.insert((at, i), row);
        }
    }
    Ok(())
}
