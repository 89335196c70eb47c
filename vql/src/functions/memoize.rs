//! memoize(): rows of a query by one column, computed once in a while.

use crate::error::Error;
use crate::eval::{member, rows};
use crate::registry::Registry;
use crate::scope::Scope;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Key, Object, Value};
use futures::StreamExt;
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

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
            loading: tokio::sync::Mutex::new(()),
            loaded: Mutex::default(),
        }))
    });
}

/// The rows of a query by the text of one column.
#[derive(Debug)]
pub(super) struct Memo {
    query: Value,
    scope: Scope,
    key: String,
    period: Duration,
    loading: tokio::sync::Mutex<()>,
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
        let _one_at_a_time = self.loading.lock().await;
        let rows = match self.present() {
            Some(rows) => rows,
            None => {
                let fresh = Arc::new(self.load().await);
                *lock(&self.loaded) = Some((Instant::now(), fresh.clone()));
                fresh
            }
        };
        rows.get(key).cloned()
    }

    async fn load(&self) -> Dict {
        let mut found = Dict::new();
        let mut stream = rows(&self.query, &self.scope);
        while let Some(row) = stream.next().await {
            if let Some(key) = member(&row, &self.key) {
                found.update(Key::from(&key.to_str()), row);
            }
        }
        found
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
