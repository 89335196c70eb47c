//! parse_csv of given text, batch and column_filter: rows as tables.
//! A host with files replaces parse_csv.

use crate::Args;
use crate::csv::{CsvHeader, CsvOptions, parse_csv};
use crate::error::Error;
use crate::eval::{call_lambda, truth};
use crate::go_regex::{GoRegex, compile};
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::stream::from_rows;
use crate::value::{Dict, Value};
use futures::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

pub(super) fn register(registry: &mut Registry) {
    let csv = Signature::new("parse_csv", "The rows of CSV text.")
        .required("filename", ArgType::Paths, "The text: the accessor must be data.")
        .arg("accessor", ArgType::String, "Only data is known without files.")
        .arg("auto_headers", ArgType::Bool, "Columns are called Col0, Col1, ...")
        .arg("separator", ArgType::String, "Between cells.")
        .arg("comment", ArgType::String, "Starts lines to be skipped.")
        .arg("columns", ArgType::Strings, "Names of the columns.");
    registry.plugin_stream(csv, |_, args| {
        if args.string("accessor")? != "data" {
            return Err(Error::failed("only the data accessor is available here"));
        }
        let options = csv_options(args)?;
        let texts = args.list("filename");
        let rows =
            texts.into_iter().flat_map(move |text| parse_csv(text.to_str().as_bytes(), &options));
        Ok(from_rows(rows.map(Value::from)))
    });

    let batch = Signature::new("batch", "Several rows as one.")
        .arg("batch_size", ArgType::Int, "How many.")
        .arg("batch_func", ArgType::Lambda, "Ends a batch when it is true for its rows.")
        .arg("timeout", ArgType::Int, "Seconds after which what there is is a batch.")
        .required("query", ArgType::Query, "The rows.");
    registry.plugin_async(batch, |scope, args, emitter| async move {
        const SIZE: i64 = 10;
        const TIMEOUT: i64 = 3600;
        let given = args.opt_int("batch_size")?.filter(|n| *n > 0);
        // A size is all that counts when there is one.
        let ends = args.lambda("batch_func")?.filter(|_| given.is_none());
        let size = match &ends {
            Some(_) => usize::MAX,
            None => usize::try_from(given.unwrap_or(SIZE)).unwrap_or(usize::MAX),
        };
        let timeout = args.opt_int("timeout")?.filter(|n| *n > 0).unwrap_or(TIMEOUT);
        let timeout = Duration::from_secs(timeout.unsigned_abs());
        let mut source = args.rows("query");
        let mut rows = Vec::new();
        // From the beginning, and from each batch on.
        let mut due = Instant::now() + timeout;
        loop {
            let row = tokio::time::timeout_at(due, source.next()).await.ok();
            let full = match row {
                Some(Some(row)) => {
                    rows.push(row);
                    let last = match &ends {
                        Some(lambda) => {
                            let batch = Value::list(rows.clone());
                            let verdict = call_lambda(lambda, &scope, vec![batch]).await;
                            truth(&verdict, &scope).await
                        }
                        None => false,
                    };
                    last || rows.len() >= size
                }
                // The time is up.
                None => true,
                Some(None) => break,
            };
            if full {
                due = Instant::now() + timeout;
                if !rows.is_empty() {
                    let batch = Value::list(std::mem::take(&mut rows));
                    emitter.send(Dict::new().with("rows", batch)).await?;
                }
            }
        }
        if !rows.is_empty() {
            emitter.send(Dict::new().with("rows", Value::list(rows))).await?;
        }
        Ok(())
    });

    let filter = Signature::new("column_filter", "Rows with fewer columns.")
        .required("query", ArgType::Query, "The rows.")
        .arg("exclude", ArgType::Strings, "Patterns of columns to drop.")
        .arg("include", ArgType::Strings, "Patterns of columns to keep.");
    registry.plugin_async(filter, |_, args, emitter| async move {
        let (include, exclude) = (patterns(&args, "include")?, patterns(&args, "exclude")?);
        let any = |list: &[GoRegex], name: &str| list.iter().any(|p| p.is_match(name.as_bytes()));
        let mut rows = args.rows("query");
        while let Some(row) = rows.next().await {
            let kept = row.into_row().into_iter().filter(|(name, _)| {
                (include.is_empty() || any(&include, name)) && !any(&exclude, name)
            });
            emitter.send(kept.collect::<Dict>()).await?;
        }
        Ok(())
    });
}

fn csv_options(args: &Args) -> Result<CsvOptions, Error> {
    let byte = |name| Ok::<_, Error>(args.string(name)?.bytes().next());
    let columns = args.strings("columns")?;
    let header = match (columns.is_empty(), args.bool("auto_headers")?) {
        (false, _) => CsvHeader::Given(columns),
        (true, true) => CsvHeader::Numbered,
        (true, false) => CsvHeader::FirstLine,
    };
    Ok(CsvOptions {
        separator: byte("separator")?.unwrap_or(b','),
        comment: byte("comment")?,
        header,
    })
}

fn patterns(args: &Args, name: &str) -> Result<Vec<GoRegex>, Error> {
    let texts = args.strings(name)?;
    // The case of names counts here, as it does where columns are named.
    texts.iter().map(|p| compile(p, false).map_err(Error::failed)).collect()
}

#[cfg(test)]
mod tests {
    use crate::tests::{rows, scope};
    use crate::value::Value;

    #[test]
    fn batches_end_by_size_or_by_their_rows() {
        let by_size = "SELECT rows._value AS V FROM batch(query={ SELECT * FROM range(end=5) }, \
            batch_size=2)";
        assert_eq!(rows(by_size), r#"[{"V":[0,1]},{"V":[2,3]},{"V":[4]}]"#);
        let by_rows = "SELECT rows._value AS V FROM batch(query={ SELECT * FROM range(end=4) }, \
            batch_func='x=>2 IN x._value')";
        assert_eq!(rows(by_rows), r#"[{"V":[0,1,2]},{"V":[3]}]"#);
        let ten = "SELECT len(list=rows) AS N FROM batch(query={ SELECT * FROM range(end=12) })";
        assert_eq!(rows(ten), r#"[{"N":10},{"N":2}]"#);
    }

    #[test]
    fn columns_are_told_apart_by_case() {
        let of = |args: &str| {
            rows(&format!(
                "SELECT * FROM column_filter({args}, query={{ SELECT 1 AS A, 2 AS B FROM scope() }})"
            ))
        };
        assert_eq!(of("exclude=('a', 'B')"), r#"[{"A":1}]"#);
        assert_eq!(of("include=('a', 'B')"), r#"[{"B":2}]"#);
    }

    /// The alarm runs from the last batch on, not from its first row: what comes a second after
    /// the first row is certainly late.
    #[tokio::test(start_paused = true)]
    async fn batches_end_with_the_time() {
        let (scope, _) = scope();
        let text = "SELECT rows._value AS V FROM batch(batch_size=3, timeout=1, query={ \
            SELECT _value FROM range(end=6) WHERE sleep(ms=if(condition=_value < 5, then=100, \
              else=900)) })";
        let rows = crate::run(text, &scope).await.unwrap();
        let expected = r#"[{"V":[0,1,2]},{"V":[3,4]},{"V":[5]}]"#;
        assert_eq!(Value::from(rows).to_json(), expected);
    }
}
