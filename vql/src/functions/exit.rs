//! atexit() and background(): queries beside the query.

use crate::error::Error;
use crate::eval::rows;
use crate::log::Level;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use futures::StreamExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Seconds a query at the end may take when not given.
const TIMEOUT: i64 = 60;

pub(super) fn register(registry: &mut Registry) {
    let atexit = Signature::new("atexit", "Runs a query when this one has ended.")
        .required("query", ArgType::Any, "The query.")
        .arg("env", ArgType::Dict, "Further variables it sees.")
        .arg("timeout", ArgType::Int, "Seconds it may take (60).")
        .version(1);
    registry.function_sync(atexit, |scope, args| {
        let Some(query) = args.query("query") else {
            let kind = args.any("query").type_name();
            scope.log(Level::Default, format!("atexit: a query is needed, not {kind}"));
            return Ok(true.into());
        };
        // By then the variables of the query are gone.
        let inner = scope.isolated();
        for name in scope.names() {
            if let Some(value) = scope.resolve(&name) {
                inner.set(name, value);
            }
        }
        for (name, value) in args.dict("env")?.iter() {
            inner.set(name.clone(), value.clone());
        }
        let seconds = args.opt_int("timeout")?.filter(|n| *n > 0).unwrap_or(TIMEOUT);
        let exit = Exit {
            query: Value::Query(query),
            scope: inner,
            timeout: Duration::from_secs(seconds.unsigned_abs()),
        };
        match scope.extension::<Exits>() {
            Some(exits) => lock(&exits.0).push(exit),
            None => scope.on_close(move || {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(exit.run());
                }
            }),
        }
        Ok(true.into())
    });

    let background = Signature::new("background", "Runs a query beside this one, for its effects.")
        .required("query", ArgType::Query, "The query; it ends with this one at the latest.")
        .version(1);
    registry.function_sync(background, |scope, args| {
        let mut rows = args.rows("query");
        let cancel = scope.cancellation().clone();
        let task =
            tokio::runtime::Handle::try_current().map_err(Error::failed)?.spawn(async move {
                while cancel.run_until_cancelled(rows.next()).await.flatten().is_some() {}
            });
        lock(&scope.session_value::<Beside>().0).push(AbortOnDropHandle::new(task));
        Ok(true.into())
    });
}

/// Queries that run beside.
#[derive(Default)]
struct Beside(Mutex<Vec<AbortOnDropHandle<()>>>);

/// Queries to run when a query inside of another ends.
#[derive(Default)]
pub(crate) struct Exits(Mutex<Vec<Exit>>);

impl Exits {
    /// Runs them, the newest first.
    pub(crate) async fn run(&self) {
        let mut all = std::mem::take(&mut *lock(&self.0));
        while let Some(exit) = all.pop() {
            exit.run().await;
        }
    }

    /// A scope whose queries at the end are these.
    pub(crate) fn scope(self: &Arc<Exits>, scope: &Scope) -> Scope {
        scope.with_extension(self.clone())
    }
}

struct Exit {
    query: Value,
    scope: Scope,
    timeout: Duration,
}

impl Exit {
    async fn run(self) {
        self.scope.log(Level::Default, format!("Running AtExit query {}", self.query.go_text()));
        let mut rows = rows(&self.query, &self.scope);
        let drain = async { while rows.next().await.is_some() {} };
        if tokio::time::timeout(self.timeout, drain).await.is_err() {
            self.scope.log(Level::Default, "atexit: the query took too long and was ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{rows_and_log, scope};
    use std::time::Duration;

    #[test]
    fn at_the_end_of_an_inner_query() {
        let script = "LET Inner = SELECT _value, \
              atexit(env=dict(Y=2), query={ SELECT log(message='end %v', args=[X + Y, ]) \
                FROM scope() }) AS A FROM range(end=1) \
            SELECT * FROM query(query=Inner, env=dict(X=5)) \
            SELECT log(message='after'), atexit(query='text') AS B FROM scope()";
        let (rows, log) = rows_and_log(script);
        assert!(rows.contains("\"A\":true") && rows.contains("\"B\":true"), "{rows}");
        let said: Vec<_> = log.iter().filter(|l| !l.contains("AtExit")).collect();
        assert_eq!(said[..2], ["DEFAULT: end 7", "DEFAULT: after"], "{log:?}");
    }

    #[tokio::test]
    async fn at_the_end_of_the_query() {
        let (scope, lines) = scope();
        let script = "LET X <= 3 SELECT atexit(query={ SELECT log(message='x %v', args=X) \
            FROM scope() }) FROM scope()";
        crate::run(script, &scope).await.unwrap();
        assert!(lines.lock().unwrap().is_empty());
        scope.close();
        let said = async {
            while !lines.lock().unwrap().iter().any(|l| l == "DEFAULT: x 3") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), said).await.unwrap();
    }

    #[tokio::test]
    async fn beside_the_query() {
        let (scope, lines) = scope();
        let script = "SELECT background(query={ SELECT log(message='beside') FROM scope() }) AS B \
            FROM scope()";
        crate::run(script, &scope).await.unwrap();
        let said = async {
            while !lines.lock().unwrap().iter().any(|l| l == "DEFAULT: beside") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), said).await.unwrap();
    }
}
