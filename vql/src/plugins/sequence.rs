//! sequence(): looks for rows that come one after another.

use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use futures::StreamExt;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds rows are remembered when not given.
const MAX_AGE: i64 = 60;
/// Most rows remembered.
const MAX_ROWS: usize = 10_000;

pub(super) fn register(registry: &mut Registry) {
    let sequence = Signature::new("sequence", "Looks at the recent rows of several queries.")
        .required("query", ArgType::Lazy, "Run after each row, over the rows in SEQUENCE.")
        .arg("max_age", ArgType::Int, "Seconds a row is remembered.")
        .any_args();
    registry.plugin_async(sequence, |scope, args, emitter| async move {
        let age = args.opt_int("max_age")?.filter(|n| *n > 0).unwrap_or(MAX_AGE);
        let age = Duration::from_secs(age.unsigned_abs());
        let names = args.names().filter(|n| !["query", "max_age"].contains(&n.as_str()));
        let sources: Vec<_> = names.map(|name| args.rows(name.as_str())).collect();
        let mut rows = futures::stream::select_all(sources);
        let mut recent: VecDeque<(Instant, Value)> = VecDeque::new();
        while let Some(row) = rows.next().await {
            scope.charge_op().await;
            while recent.front().is_some_and(|(at, _)| at.elapsed() > age)
                || recent.len() >= MAX_ROWS
            {
                recent.pop_front();
            }
            recent.push_back((Instant::now(), row));
            let inner = scope.child();
            inner.set("SEQUENCE", recent.iter().map(|(_, row)| row.clone()).collect::<Value>());
            let mut found = args.lazy("query").rows_in(&inner);
            let mut any = false;
            while let Some(row) = found.next().await {
                any = true;
                emitter.send(row).await?;
            }
            // What was found is not found again.
            if any {
                recent.clear();
            }
        }
        Ok(())
    });
}
