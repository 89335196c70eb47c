//! memoize(): rows of a query by one column, computed once in a while.

use crate::eval::{member, rows};
use crate::log::Level;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Key, Object, Value};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, Shared};
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Seconds a result is used for when no period is given.
const PERIOD: i64 = 60;

pub(super) fn register(registry: &mut Registry) {
    let memoize = Signature::new("memoize", "Looks rows up by a column; see get().")
        .required("query", ArgType::Query, "The rows.")
        .required("key", ArgType::String, "The column to look rows up by.")
        .arg("period", ArgType::Int, "Seconds after which the query runs again.")
        .arg("name", ArgType::String, "What the log calls it; every call has its own rows.")
        .arg("filename", ArgType::String, "Accepted; rows are kept in memory.")
        .version(3);
    registry.function_sync(memoize, |scope, args| {
        let period = args.opt_int("period")?.filter(|p| *p > 0).unwrap_or(PERIOD);
        let query = args.any("query");
        Ok(Value::object(Memo(Arc::new(Rows {
            name: args.opt_string("name")?.unwrap_or_else(|| query.go_text()),
            query,
            scope: scope.clone(),
            key: args.string("key")?,
            period: Duration::from_secs(period.unsigned_abs()),
            loading: Mutex::default(),
            loaded: Mutex::default(),
        }))))
    });
}

/// The rows of a query by the text of one column.
#[derive(Clone)]
pub(super) struct Memo(Arc<Rows>);

struct Rows {
    name: String,
    query: Value,
    scope: Scope,
    key: String,
    period: Duration,
    /// The run of the query that is under way.
    loading: Mutex<Option<Shared<BoxFuture<'static, Arc<Dict>>>>>,
    loaded: Mutex<Option<(Instant, Arc<Dict>)>>,
}

impl Rows {
    fn present(&self) -> Option<Arc<Dict>> {
        let loaded = lock(&self.loaded);
        let fresh = loaded.as_ref().filter(|(since, _)| since.elapsed() < self.period);
        fresh.map(|(_, rows)| rows.clone())
    }

    /// The row of a key, after running the query when it is due.
    async fn get(&self, key: &str) -> Option<Value> {
        if let Some(rows) = self.present() {
            return rows.get(key).cloned();
        }
        let run = lock(&self.loading).get_or_insert_with(|| self.start()).clone();
        let rows = run.await;
        let mut loading = lock(&self.loading);
        if loading.take().is_some() {
            *lock(&self.loaded) = Some((Instant::now(), rows.clone()));
        }
        rows.get(key).cloned()
    }

    /// Runs the query in a task of its own: whoever asked first may be left alone in the
    /// middle of it, while others wait.
    fn start(&self) -> Shared<BoxFuture<'static, Arc<Dict>>> {
        let (name, scope) = (self.name.clone(), self.scope.clone());
        let load = load(self.query.clone(), scope.clone(), self.key.clone());
        let load = async move {
            let (rows, count) = load.await;
            scope.log(Level::Default, format!("memoize {name}: {count} rows"));
            rows
        };
        let task = AbortOnDropHandle::new(tokio::spawn(load));
        task.map(|done| Arc::new(done.unwrap_or_default())).boxed().shared()
    }
}

async fn load(query: Value, scope: Scope, key: String) -> (Dict, usize) {
    let (mut found, mut count) = (Dict::new(), 0);
    let mut stream = rows(&query, &scope);
    while let Some(row) = stream.next().await {
        if let Some(key) = member(&row, &key) {
            found.update(Key::from(&key.to_str()), row);
            count += 1;
        }
    }
    (found, count)
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo").field("key", &self.0.key).finish_non_exhaustive()
    }
}

impl Object for Memo {
    fn type_name(&self) -> &'static str {
        "memo"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn fetches(&self) -> bool {
        true
    }
    fn fetch(&self, name: &str) -> BoxFuture<'static, Option<Value>> {
        let (rows, name) = (self.0.clone(), name.to_owned());
        Box::pin(async move { rows.get(&name).await })
    }
    fn to_plain(&self) -> Value {
        Dict::new().with("LRUCache", Dict::new()).into()
    }
    fn truth(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asked_first_may_be_left_alone() {
        let scope = crate::ScopeBuilder::new(Arc::new(Registry::standard())).build();
        let slow = "LET M <= memoize(key='K', query={ \
             SELECT _value AS K FROM range(end=3) WHERE sleep(ms=20) OR TRUE })";
        crate::run(slow, &scope).await.unwrap();
        let memo = scope.resolve("M").unwrap();
        let memo = memo.downcast::<Memo>().unwrap().0.clone();
        let mut first = Box::pin(memo.get("1"));
        assert!(futures::poll!(&mut first).is_pending());
        let second = tokio::time::timeout(Duration::from_secs(60), memo.get("1")).await.unwrap();
        assert!(second.is_some() && memo.present().is_some());
        assert!(first.await.is_some());
    }

    #[test]
    fn rows_are_members() {
        let script = "LET Q = SELECT _value AS K, _value * 2 AS V FROM range(end=3) \
            LET M <= memoize(query=Q, key='K', name='mine') \
            SELECT M.`2`.V AS A, M[1].V AS B, M.x AS C, get(item=M, field=2).V AS D, \
              get(item=M, member='7.V', default='no') AS E, M FROM scope()";
        let (rows, log) = crate::tests::rows_and_log(script);
        let expected = r#"[{"A":4,"B":2,"C":null,"D":4,"E":"no","M":{"LRUCache":{}}}]"#;
        assert_eq!(rows, expected);
        assert_eq!(log, ["DEFAULT: memoize mine: 3 rows"]);
    }
}
