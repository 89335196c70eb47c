//! `parallelize`: a query over parts of the rows of a collection, several at once.

use std::sync::Arc;

use futures::StreamExt;
use vql::{ArgType, Args, Emitter, Error, Registry, Scope, Signature};

use super::args::or_variable;
use super::results::{Part, rows_of};
use super::session::Session;
use crate::services::acl::Permission;

/// Parts worked on at once unless it is said, and at most.
const WORKERS: usize = 4;
const MAX_WORKERS: usize = 32;
/// Rows of a part unless it is said.
const BATCH: u64 = 10_000;

/// Arguments, and the variables that `source()` finds them in.
const VARIABLES: [(&str, &str); 6] = [
    ("client_id", "ClientId"),
    ("flow_id", "FlowId"),
    ("hunt_id", "HuntId"),
    ("artifact", "ArtifactName"),
    ("source", "ArtifactSource"),
    ("notebook_id", "NotebookId"),
];

pub(super) fn register(r: &mut Registry) {
    let doc = "Runs a query over parts of a set of rows, which it reads with source().";
    let sig = Signature::new("parallelize", doc)
        .arg("client_id", ArgType::String, "The client.")
        .arg("flow_id", ArgType::String, "The collection.")
        .arg("hunt_id", ArgType::String, "Or a hunt, which is one part.")
        .arg("artifact", ArgType::String, "The artifact, perhaps with /Source.")
        .arg("source", ArgType::String, "The source.")
        .arg("start_time", ArgType::Int, "Events from then on; they are one part.")
        .arg("end_time", ArgType::Int, "Events before then.")
        .arg("notebook_id", ArgType::String, "Or a notebook, of which a cell is one part.")
        .arg("notebook_cell_id", ArgType::String, "Its cell.")
        .arg("notebook_cell_table", ArgType::Int, "Which of the cell's queries.")
        .required("query", ArgType::Query, "What to run.")
        .arg("workers", ArgType::Int, "Parts at once.")
        .arg("batch", ArgType::Int, "Rows of a part.");
    r.plugin_async(sig, |scope, args, emitter| async move { run(&scope, &args, &emitter).await });
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::ReadResults)?;
    let inner = scope.child();
    for (argument, variable) in VARIABLES {
        if let Some(value) = args.opt_string(argument)? {
            inner.set(variable, value);
        }
    }
    let more = [
        ("notebook_cell_id", "NotebookCellId"),
        ("notebook_cell_table", "NotebookCellTable"),
        ("start_time", "StartTime"),
        ("end_time", "EndTime"),
    ];
    for (argument, variable) in more.into_iter().filter(|(argument, _)| args.has(argument)) {
        inner.set(variable, args.any(argument));
    }
    let number = |name: &str| Ok::<_, Error>(args.opt_int(name)?.filter(|n| *n > 0));
    let workers = number("workers")?.and_then(|n| usize::try_from(n).ok());
    let workers = workers.unwrap_or(WORKERS).min(MAX_WORKERS);
    let batch = number("batch")?.map_or(BATCH, i64::unsigned_abs);
    let whole = args.has("hunt_id") || args.has("notebook_cell_id");
    let rows = match (whole, or_variable(args, scope, "flow_id", "FlowId")?) {
        (false, Some(flow)) => Some(rows_of(&session, &inner, &flow).await?),
        _ => None,
    };
    let parts: Vec<Scope> = match rows {
        Some(rows) => (0..rows.div_ceil(batch))
            .map(|n| inner.with_extension(Arc::new(Part { start: n * batch, count: batch })))
            .collect(),
        None => vec![inner],
    };
    let mut done = futures::stream::iter(parts)
        .map(|part| async move {
            // As they come: a part may be a whole hunt.
            let mut rows = args.rows_in("query", &part);
            while let Some(row) = rows.next().await {
                emitter.send(row).await?;
            }
            Ok::<_, Error>(())
        })
        .buffer_unordered(workers);
    while let Some(part) = done.next().await {
        part?;
    }
    Ok(())
}
