//! foreach(): a query for every row of another, perhaps in parallel.

use crate::eval::{member, rows};
use crate::log::Level;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::stream::Emitter;
use crate::value::Value;
use crate::{Error, Scope};
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What `async` means.
const ASYNC_WORKERS: i64 = 100;
/// More are not started.
const MAX_WORKERS: i64 = 10_000;

pub(super) fn register(registry: &mut Registry) {
    let foreach = Signature::new("foreach", "Runs a query for each row of another.")
        .required("row", ArgType::Lazy, "The rows: a query, list, dictionary or scalar.")
        .arg("query", ArgType::Lazy, "The query, which sees the members of the row.")
        .arg("async", ArgType::Bool, "Runs many at the same time.")
        .arg("workers", ArgType::Int, "How many run at the same time.")
        .arg("column", ArgType::String, "Takes this member of the row as the row.");
    registry.plugin_async(foreach, |scope, args, emitter| async move {
        let workers = match args.opt_int("workers")? {
            Some(n) if n > 0 => n.min(MAX_WORKERS),
            _ if args.bool("async")? => ASYNC_WORKERS,
            _ => 1,
        };
        if workers > 1 {
            let message = format!("Creating {workers} workers for foreach plugin");
            scope.log(Level::Debug, message);
        }
        let column = args.opt_string("column")?;
        // Evaluated once: all rows share what a bound query captured.
        let query = match args.has("query") {
            true => Some(args.lazy("query").eval().await),
            false => None,
        };
        let source = args.lazy("row").eval().await;
        let mut source = rows(&source, &scope);
        let permits = Arc::new(Semaphore::new(workers as usize));
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        while let Some(row) = source.next().await {
            // The member is taken as it is: a scalar has no columns.
            let row = match &column {
                Some(name) => member(&row, name).unwrap_or_default(),
                None => row,
            };
            // A missing member is a row without columns; without a column NULL is no row.
            if row.is_null() && column.is_none() {
                continue;
            }
            scope.charge_op().await;
            let Some(query) = &query else {
                emitter.send(row).await?;
                continue;
            };
            let inner = scope.with_row(row);
            if workers == 1 {
                each(query, &inner, &emitter).await?;
                continue;
            }
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let (query, emitter) = (query.clone(), emitter.clone());
            tasks.spawn(async move {
                let _permit = permit;
                each(&query, &inner, &emitter).await
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    });
}

async fn each(query: &Value, scope: &Scope, emitter: &Emitter) -> Result<(), Error> {
    let mut rows = rows(query, scope);
    while let Some(row) = rows.next().await {
        emitter.send(row).await?;
    }
    Ok(())
}
