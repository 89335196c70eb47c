//! What counts as true.

use super::rows::rows;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::value::Value;
use futures::StreamExt;

/// The truth of a value; a query is true when it yields a row.
pub fn truth(value: &Value, scope: &Scope) -> Reply<bool> {
    match value {
        Value::Query(_) => {
            let mut rows = rows(value, scope);
            Reply::from_future(async move { rows.next().await.is_some() })
        }
        other => Reply::Ready(plain_truth(other)),
    }
}

/// The truth of anything but a query. Negative numbers are false.
pub(crate) fn plain_truth(value: &Value) -> bool {
    match value {
        Value::Null | Value::Query(_) | Value::Expr(_) => false,
        Value::Bool(b) => *b,
        Value::Int(i) => *i > 0,
        Value::UInt(u) => *u > 0,
        Value::Float(f) => *f > 0.0,
        Value::Str(s) => !s.is_empty(),
        Value::Bytes(b) => !b.is_empty(),
        Value::Time(t) => t.as_nanosecond() > 0,
        Value::List(items) => !items.is_empty(),
        Value::Dict(d) => !d.is_empty(),
        Value::Lambda(_) => true,
        Value::Object(o) => o.truth(),
    }
}
