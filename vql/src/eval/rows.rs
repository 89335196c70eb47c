//! Rows of any value.

use super::materialize::materialize;
use super::select::select_rows;
use super::stack::{STACK_OVERFLOW, fresh_stack};
use crate::log::Level;
use crate::query::{Query, QuerySource};
use crate::scope::Scope;
use crate::stream::{RowStream, empty, from_rows};
use crate::value::{Dict, Value};
use futures::StreamExt;
use std::future::Future;

/// Iterates a value: rows of a query, a dictionary as one row, elements of a
/// list (NULLs skipped), a scalar as one row. What has no members is wrapped as
/// `_value`.
pub fn rows(value: &Value, scope: &Scope) -> RowStream {
    match value {
        Value::Query(query) => query_rows(query, scope),
        Value::Null => empty(),
        Value::List(items) => {
            let items: Vec<Value> = items.to_vec();
            if items.iter().any(|v| matches!(v, Value::Query(_))) {
                let scope = scope.clone();
                return later(async move {
                    match materialize(Value::list(items), &scope).await {
                        Value::List(items) => from_rows(wrapped(items.to_vec())),
                        _ => empty(),
                    }
                });
            }
            from_rows(wrapped(items))
        }
        Value::Object(object) => match object.rows() {
            Some(rows) => from_rows(wrapped(rows)),
            None => from_rows([wrap(value.clone())]),
        },
        other => from_rows([wrap(other.clone())]),
    }
}

fn wrapped(items: Vec<Value>) -> impl Iterator<Item = Value> + Send + 'static {
    items.into_iter().filter(|v| !v.is_null()).map(wrap)
}

/// A row for a value: itself if it has members.
fn wrap(value: Value) -> Value {
    match value {
        Value::Dict(_) => value,
        Value::Object(ref o) if !o.members().is_empty() => value,
        other => Dict::new().with("_value", other).into(),
    }
}

/// Runs a query: in the scope it captured, else in `scope`.
pub(crate) fn query_rows(query: &Query, scope: &Scope) -> RowStream {
    let inner = query.captured.as_ref().unwrap_or(scope).mention();
    if inner.too_deep() {
        inner.log(Level::Default, STACK_OVERFLOW);
        return empty();
    }
    match fresh_stack(&inner, query.nesting) {
        Some((spawner, scope)) => spawner.stream(source_rows(query, &scope)),
        None => source_rows(query, &inner),
    }
}

fn source_rows(query: &Query, scope: &Scope) -> RowStream {
    match &query.source {
        QuerySource::Select(select) => select_rows(select, scope),
        QuerySource::Host(host) => host(scope),
        QuerySource::Concat(a, b) => {
            let (b, second) = (b.clone(), scope.clone());
            let rest = later(async move { rows(&b, &second) });
            Box::pin(rows(a, scope).chain(rest))
        }
    }
}

/// A stream which is made when first polled.
pub(crate) fn later(stream: impl Future<Output = RowStream> + Send + 'static) -> RowStream {
    Box::pin(futures::stream::once(stream).flatten())
}

/// All rows of a value.
pub(crate) async fn drain(value: &Value, scope: &Scope) -> Vec<Value> {
    rows(value, scope).collect().await
}
