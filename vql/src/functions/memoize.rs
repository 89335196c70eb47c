//! memoize(): rows of a query by one column, computed once in a while.

use crate::error::Error;
use crate::eval::{member, rows};
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
        .arg("name", ArgType::String, "Accepted; every call has its own rows.")
        .arg("filename", ArgType::String, "Not supported.");
    registry.function_sync(memoize, |scope, args| {
        if args.has("filename") {
            return Err(Error::Arg("Field filename is not supported here".into()));
        }
        let period = args.opt_int("period")?.filter(|p| *p > 0).unwrap_or(PERIOD);
        Ok(Value::object(Memo {
            query: args.any("query"),
            scope: scope.clone(),
            key: args.string("key")?,
            period: Duration::from_secs(period.unsigned_abs()),
            loading: Mutex::default(),
            loaded: Mutex::default(),
        }))
    });
}

/// The rows of a query by the text of one column.
pub(super) struct Memo {
    query: Value,
    scope: Scope,
    key: String,
    period: Duration,
    /// The run of the query that is under way.
    loading: Mutex<Option<Shared<BoxFuture<'static, Arc<Dict>>>>>,
    loaded: Mutex<Option<(Instant, Arc<Dict>)>>,
}

impl Memo {
    fn present(&self) -> Option<Arc<Dict>> {
        let loaded = lock(&self.loaded);
        let fresh = loaded.as_ref().filter(|(since, _)| since.elapsed() < self.period);
        fresh.map(|(_, rows)| rows.clone())
    }

    /// The row of a key, after running the query when it is due.
    pub(super) async fn get(&self, key: &str) -> Option<Value> {
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
        let load = load(self.query.clone(), self.scope.clone(), self.key.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(load));
        task.map(|done| Arc::new(done.unwrap_or_default())).boxed().shared()
    }
}

async fn load(query: Value, scope: Scope, key: String) -> Dict {
    let mut found = Dict::new();
    let mut stream = rows(&query, &scope);
    while let Some(row) = stream.next().await {
        if let Some(key) = member(&row, &key) {
            found.update(Key::from(&key.to_str()), row);
        }
    }
    found
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Object for Memo {
    fn type_name(&self) -> &'static str {
        "memo"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn member(&self, name: &str) -> Option<Value> {
        self.present()?.get(name).cloned()
    }
    fn to_plain(&self) -> Value {
        Value::Null
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
        let memo = memo.downcast::<Memo>().unwrap();
        let mut first = Box::pin(memo.get("1"));
        assert!(futures::poll!(&mut first).is_pending());
        let second = tokio::time::timeout(Duration::from_secs(60), memo.get("1")).await.unwrap();
        assert!(second.is_some() && memo.present().is_some());
        assert!(first.await.is_some());
    }
}
