//! Tests of the language as a whole: scripts and the JSON of their rows.

mod cancel;
mod generated;
mod language;
mod limits;
mod spill;
mod traps;

use crate::{Level, Registry, Scope, ScopeBuilder, Value};
use std::sync::{Arc, Mutex};

/// Captured log lines.
pub(crate) type Lines = Arc<Mutex<Vec<String>>>;

/// A scope over the standard callables and a few for tests, and its log.
pub(crate) fn scope() -> (Scope, Lines) {
    let lines = Lines::default();
    let sink = lines.clone();
    let clock = || "2020-05-31T15:28:05.00000001Z".parse().unwrap();
    let scope = ScopeBuilder::new(Arc::new(Registry::standard()))
        .log(move |level: Level, text: &str| {
            sink.lock().unwrap().push(format!("{}: {text}", level.name()));
        })
        .clock(clock)
        .build();
    (scope, lines)
}

/// Runs a script in a fresh scope; the JSON of all its rows.
pub(crate) fn rows(script: &str) -> String {
    rows_and_log(script).0
}

/// Runs a script in a fresh scope; the JSON of its rows and its log.
pub(crate) fn rows_and_log(script: &str) -> (String, Vec<String>) {
    let (scope, lines) = scope();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let rows = runtime.block_on(crate::run(script, &scope));
    let rows = rows.unwrap_or_else(|e| panic!("{script}: {e}"));
    let lines = lines.lock().unwrap().clone();
    (Value::from(rows).to_json(), lines)
}

/// The JSON of one expression.
pub(crate) fn value(expression: &str) -> String {
    let rows = rows(&format!("SELECT {expression} AS X FROM scope()"));
    let inner = rows.strip_prefix("[{\"X\":").and_then(|r| r.strip_suffix("}]"));
    inner.unwrap_or_else(|| panic!("{expression}: {rows}")).to_string()
}
