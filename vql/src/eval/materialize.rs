//! Replacing queries inside values by their rows.

use super::rows::drain;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::value::{Dict, Value};
use futures::future::BoxFuture;
use std::sync::Arc;

/// The value with all queries in it, at any depth, replaced by lists of rows.
pub fn materialize(value: Value, scope: &Scope) -> Reply {
    if !has_query(&value) {
        return Reply::Ready(value);
    }
    let scope = scope.clone();
    Reply::from_future(async move { deep(value, &scope).await })
}

fn has_query(value: &Value) -> bool {
    match value {
        Value::Query(_) => true,
        Value::List(items) => items.iter().any(has_query),
        Value::Dict(d) => d.values().any(has_query),
        _ => false,
    }
}

fn deep<'a>(value: Value, scope: &'a Scope) -> BoxFuture<'a, Value> {
    Box::pin(async move {
        match value {
            Value::Query(_) => Value::list(drain(&value, scope).await),
            Value::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for item in Arc::unwrap_or_clone(items) {
                    out.push(if has_query(&item) { deep(item, scope).await } else { item });
                }
                Value::list(out)
            }
            Value::Dict(dict) => {
                let mut out = Dict::with_capacity(dict.len());
                for (key, item) in Arc::unwrap_or_clone(dict) {
                    let item = if has_query(&item) { deep(item, scope).await } else { item };
                    out.set(key, item);
                }
                out.into()
            }
            other => other,
        }
    })
}
