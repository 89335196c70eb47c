//! query(): runs a text or a query without sight of the caller's variables.

use crate::engine::{Limits, eval};
use crate::error::Error;
use crate::eval::rows;
use crate::functions::Exits;
use crate::log::Level;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::stream::{Emitter, RowStream};
use crate::syntax::parse;
use crate::value::Value;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn register(registry: &mut Registry) {
    let query = Signature::new("query", "Runs a query apart from the caller's variables.")
        .required("query", ArgType::Lazy, "Text or a query.")
        .arg("env", ArgType::Dict, "Variables it sees.")
        .arg("copy_env", ArgType::Strings, "Names of the caller's variables it sees.")
        .arg("inherit", ArgType::Bool, "It sees all variables of the caller.")
        .arg("timeout", ArgType::Float, "Seconds after which it ends.")
        .arg("progress_timeout", ArgType::Float, "Seconds without progress after which it ends.")
        .arg("cpu_limit", ArgType::Float, "Accepted; the caller's limits hold.")
        .arg("iops_limit", ArgType::Float, "Accepted; the caller's limits hold.")
        .version(2);
    registry.plugin_async(query, |scope, args, emitter| async move {
        let exits = Arc::<Exits>::default();
        let inner = if args.bool("inherit")? { scope.child() } else { scope.isolated() };
        let inner = exits.scope(&inner);
        for name in args.strings("copy_env")? {
            if let Some(value) = scope.resolve(&name) {
                inner.set(name, value);
            }
        }
        for (name, value) in args.dict("env")?.iter() {
            inner.set(name, value.clone());
        }
        let seconds = |name| -> Result<Option<Duration>, Error> {
            let value = args.opt_float(name)?.filter(|s| *s > 0.0);
            Ok(value.and_then(|s| Duration::try_from_secs_f64(s).ok()))
        };
        let limits = Limits { timeout: seconds("timeout")?, rows: None };
        let progress = seconds("progress_timeout")?;
        let rows = match args.lazy("query").eval().await {
            Value::Str(text) => {
                let text = text.to_text();
                scope.log(Level::Default, format!("query: running query {text}"));
                match parse(&text) {
                    Ok(statements) => eval(statements, &inner, limits),
                    Err(error) => {
                        scope.error(format!("query: {error}"));
                        return Ok(());
                    }
                }
            }
            // Several texts are no query; rows that are there already are one.
            Value::List(items) if items.iter().any(|v| matches!(v, Value::Str(_))) => {
                return Err(Error::Arg("query should be one text or a query, not a list".into()));
            }
            other => limited(rows(&other, &inner), limits),
        };
        let done = relay(rows, progress, &emitter).await;
        exits.run().await;
        done
    });
}

async fn relay(
    mut rows: RowStream,
    progress: Option<Duration>,
    emitter: &Emitter,
) -> Result<(), Error> {
    loop {
        let row = match progress {
            Some(limit) => tokio::time::timeout(limit, rows.next())
                .await
                .map_err(|_| Error::failed("no progress: query ends"))?,
            None => rows.next().await,
        };
        match row {
            Some(row) => emitter.send(row).await?,
            None => return Ok(()),
        }
    }
}

fn limited(rows: RowStream, limits: Limits) -> RowStream {
    match limits.timeout {
        Some(timeout) => Box::pin(rows.take_until(tokio::time::sleep(timeout))),
        None => rows,
    }
}
