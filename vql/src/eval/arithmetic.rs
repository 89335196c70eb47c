//! `+ - * /` on numbers, strings, lists, dictionaries and queries.

use super::rows::drain;
use crate::query::{Query, QuerySource};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::value::{Dict, Value};
use std::sync::Arc;

/// Longer strings are not built by `+` and `*`.
const MAX_STRING: usize = 100_000_000;

/// `left + right`.
pub(super) fn add(left: Value, right: Value, scope: &Scope) -> Reply {
    let result = match (&left, &right) {
        (Value::Query(_), Value::Query(_)) => {
            let source = QuerySource::Concat(left, right);
            Value::Query(Arc::new(Query::new(source)))
        }
        (Value::List(_), Value::Query(_)) => {
            let scope = scope.clone();
            return Reply::from_future(async move {
                let rows = drain(&right, &scope).await;
                concat(&left, &Value::list(rows))
            });
        }
        (Value::Query(_), Value::List(_)) => {
            let scope = scope.clone();
            return Reply::from_future(async move {
                let rows = drain(&left, &scope).await;
                concat(&Value::list(rows), &right)
            });
        }
        (Value::Object(o), _) => o.add(&right).unwrap_or_default(),
        (Value::Null, _) => Value::Null,
        (Value::List(_), _) | (_, Value::List(_)) => concat(&left, &right),
        (Value::Str(a), Value::Str(b)) => {
            if a.len() + b.len() > MAX_STRING {
                scope.error("Adding strings would exceed 100 MB");
                return Reply::Ready(Value::Null);
            }
            let mut bytes = Vec::with_capacity(a.len() + b.len());
            bytes.extend_from_slice(a.as_bytes());
            bytes.extend_from_slice(b.as_bytes());
            Value::from(bytes)
        }
        (Value::Dict(a), Value::Dict(b)) => {
            let mut merged = Dict::clone(a);
            for (key, value) in b.iter() {
                merged.update(key, value.clone());
            }
            merged.into()
        }
        (Value::Float(a), Value::Bool(b)) => Value::Float(a + f64::from(u8::from(*b))),
        (Value::Bool(_), _) | (_, Value::Bool(_)) => Value::Null,
        _ => numbers(&left, &right, i64::wrapping_add, |a, b| a + b),
    };
    Reply::Ready(result)
}

/// Lists joined; anything else counts as a list of itself, NULL on the left is NULL.
fn concat(left: &Value, right: &Value) -> Value {
    let part = |v: &Value| match v {
        Value::List(items) => items.to_vec(),
        other => vec![other.clone()],
    };
    let mut items = part(left);
    items.extend(part(right));
    Value::list(items)
}

/// `left - right`.
pub(super) fn subtract(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Dict(a), Value::Dict(b)) => a
            .iter()
            .filter(|(k, _)| !b.contains(k))
            .map(|(k, v)| (k, v.clone()))
            .collect::<Dict>()
            .into(),
        _ => numbers(left, right, i64::wrapping_sub, |a, b| a - b),
    }
}

/// `left * right`.
pub(super) fn multiply(left: &Value, right: &Value, scope: &Scope) -> Value {
    match (left, right) {
        (Value::Str(s), Value::Int(_) | Value::Float(_)) => {
            let times = right.as_number().filter(|n| *n >= 0.0);
            let Some(times) = times.map(|n| n as usize) else { return Value::Null };
            if s.len().saturating_mul(times) > MAX_STRING {
                scope.error("Repeating a string would exceed 100 MB");
                return Value::Null;
            }
            s.as_bytes().repeat(times).into()
        }
        (Value::Dict(a), Value::Dict(b)) => a
            .iter()
            .filter(|(k, _)| b.contains(k))
            .map(|(k, v)| (k, v.clone()))
            .collect::<Dict>()
            .into(),
        _ => numbers(left, right, i64::wrapping_mul, |a, b| a * b),
    }
}

/// `left / right`: always a fraction. An integer zero below, or an integer
/// zero above a fraction, gives NULL.
pub(super) fn divide(left: &Value, right: &Value) -> Value {
    let zero = |v: &Value| matches!(v, Value::Int(0) | Value::Bool(false));
    if zero(left) && matches!(right, Value::Float(_)) {
        return Value::Null;
    }
    match (left.as_number(), right.as_number()) {
        (Some(_), Some(_)) if zero(right) => Value::Null,
        (Some(a), Some(b)) => Value::Float(a / b),
        _ => Value::Null,
    }
}

fn numbers(
    left: &Value,
    right: &Value,
    integers: fn(i64, i64) -> i64,
    floats: fn(f64, f64) -> f64,
) -> Value {
    if let (Some(a), Some(b)) = (integer(left), integer(right)) {
        return Value::Int(integers(a, b));
    }
    match (left.as_number(), right.as_number()) {
        (Some(a), Some(b)) => Value::Float(floats(a, b)),
        _ => Value::Null,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(i) => Some(*i),
        Value::UInt(u) => Some(*u as i64),
        Value::Bool(b) => Some(i64::from(*b)),
        _ => None,
    }
}
