//! `diff`: runs a query again and again and gives the rows that came and went.

use std::time::Duration;

use futures::StreamExt;
use indexmap::IndexMap;
use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature};

/// Seconds between two runs when nothing else is said.
const PERIOD: i64 = 60;

/// Rows of one run by the text of their key; several may have the same.
type Rows = IndexMap<String, Vec<Dict>>;

/// Adds `diff`.
pub fn register(registry: &mut Registry) {
    let doc = "Runs a query periodically and gives what changed since the run before.";
    let diff = Signature::new("diff", doc)
        .required("query", ArgType::Query, "The query.")
        .required("key", ArgType::String, "The column by which rows are known again.")
        .arg("period", ArgType::Int, "Seconds between two runs (60).");
    registry.plugin_async(diff, |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let key = args.string("key")?;
    let period = args.opt_int("period")?.filter(|n| *n > 0).unwrap_or(PERIOD);
    let period = Duration::from_secs(period.unsigned_abs());
    // The first run is what others are compared with.
    let mut before: Option<Rows> = None;
    loop {
        scope.log(Level::Debug, "diff: running the query");
        let mut now = Rows::new();
        let mut rows = args.rows("query");
        while let Some(row) = rows.next().await {
            scope.charge_op().await;
            let Some(key) = vql::member(&row, &key) else { continue };
            let (key, row) = (key.go_text(), row.into_row());
            if before.as_ref().is_some_and(|b| !b.contains_key(&key)) {
                emitter.send(row.clone().with("Diff", "added")).await?;
            }
            now.entry(key).or_default().push(row);
        }
        let gone = before.iter().flatten().filter(|(key, _)| !now.contains_key(*key));
        for row in gone.flat_map(|(_, rows)| rows) {
            emitter.send(row.clone().with("Diff", "removed")).await?;
        }
        before = Some(now);
        tokio::time::sleep(period).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_that_come_and_go() {
        let mut registry = Registry::standard();
        register(&mut registry);
        let runs = Arc::new(AtomicUsize::new(0));
        // Each run has other rows; those without a key are no rows.
        registry.plugin_async(Signature::new("seen", "Rows of a run."), move |_, _, emitter| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let names: &[&str] = [&["a", "b", "b"][..], &["b"], &["c", "b"]][run.min(2)];
            async move {
                for name in names {
                    emitter.send(Dict::new().with("Name", *name).with("Run", run)).await?;
                }
                emitter.send(Dict::new().with("Run", run)).await
            }
        });
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).build();
        let text = "SELECT Name, Run, Diff FROM diff(key='Name', period=10, \
            query={ SELECT * FROM seen() }) LIMIT 2";
        let start = tokio::time::Instant::now();
        let rows = vql::run(text, &scope).await.unwrap();
        let expected =
            r#"[{"Name":"a","Run":0,"Diff":"removed"},{"Name":"c","Run":2,"Diff":"added"}]"#;
        assert_eq!(vql::Value::from(rows).to_json(), expected);
        assert_eq!(start.elapsed(), Duration::from_secs(20));
    }
}
