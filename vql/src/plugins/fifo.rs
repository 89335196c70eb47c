//! fifo(): the recent rows of an event query, which keeps running.

use crate::log::Level;
use crate::query::QuerySource;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::stream::{RowStream, from_rows};
use crate::value::Value;
use futures::StreamExt;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Rows and seconds kept when not given.
const MAX_ROWS: i64 = 10;
const MAX_AGE: i64 = 5;

pub(super) fn register(registry: &mut Registry) {
    let fifo = Signature::new("fifo", "The rows an event query yielded lately.")
        .required("query", ArgType::Query, "The event query; it starts with the first use.")
        .arg("max_age", ArgType::Int, "Seconds rows are kept.")
        .arg("max_rows", ArgType::Int, "Rows kept.")
        .arg("flush", ArgType::Bool, "Forgets the rows which were read.");
    registry.plugin_stream(fifo, |scope, args| {
        let age = args.opt_int("max_age")?.filter(|n| *n > 0).unwrap_or(MAX_AGE);
        let rows = args.opt_int("max_rows")?.filter(|n| *n > 0).unwrap_or(MAX_ROWS);
        let query = args.any("query");
        let flush = args.bool("flush")?;
        let limits = (rows as usize, Duration::from_secs(age.unsigned_abs()));
        let fifos = &scope.session().fifos;
        let Some(buffer) = fifos.running_or_start(&query, limits, scope, || args.rows("query"))
        else {
            return Ok(from_rows(Vec::new()));
        };
        let mut held = lock(&buffer);
        let found: Vec<Value> = held.iter().map(|(_, row)| row.clone()).collect();
        if flush {
            held.clear();
        }
        Ok(from_rows(found))
    });
}

type Buffer = Arc<Mutex<VecDeque<(Instant, Value)>>>;

/// The running event queries of a session, each by the place where it is written: two queries of
/// the same text run each for itself, and one that is written in a LET runs once however often
/// the LET is mentioned.
#[derive(Default)]
pub(crate) struct Fifos(Mutex<BTreeMap<usize, Running>>);

struct Running {
    buffer: Buffer,
    /// Keeps the place from being taken by another query.
    _query: Value,
    _task: AbortOnDropHandle<()>,
}

/// Where a query is written. One made anew for each call, as with arguments bound, is nowhere
/// else, and so are values which are no queries.
fn place(query: &Value) -> usize {
    match query {
        Value::Query(query) => match &query.source {
            QuerySource::Select(select) if query.captured.is_none() => Arc::as_ptr(select).addr(),
            _ => Arc::as_ptr(query).addr(),
        },
        Value::List(rows) => Arc::as_ptr(rows).addr(),
        Value::Object(object) => Arc::as_ptr(object).cast::<()>().addr(),
        _ => 0,
    }
}

impl Fifos {
    /// The rows of a query that runs. The first use only starts it: there are none yet, however
    /// quick it is.
    fn running_or_start(
        &self,
        query: &Value,
        (capacity, age): (usize, Duration),
        scope: &Scope,
        rows: impl FnOnce() -> RowStream,
    ) -> Option<Buffer> {
        let mut running = lock(&self.0);
        let place = place(query);
        if let Some(found) = running.get(&place) {
            return Some(found.buffer.clone());
        }
        scope.log(Level::Default, format!("Creating FIFO for {}", query.go_text()));
        let buffer = Buffer::default();
        let (target, cancel, mut rows) = (buffer.clone(), scope.cancellation().clone(), rows());
        let pump = async move {
            while let Some(Some(row)) = cancel.run_until_cancelled(rows.next()).await {
                let mut held = lock(&target);
                if held.len() >= capacity {
                    held.pop_front();
                }
                held.push_back((Instant::now(), row));
                // Old rows go when others come.
                held.retain(|(at, _)| at.elapsed() <= age);
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(pump));
        running.insert(place, Running { buffer, _query: query.clone(), _task: task });
        None
    }

    /// Stops all of them.
    pub(crate) fn clear(&self) {
        let running = std::mem::take(&mut *lock(&self.0));
        drop(running);
    }
}
