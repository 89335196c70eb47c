//! `a.b`, `a[i]` and `a[i:j]`.

use super::expr::evaluate;
use super::rows::rows;
use super::symbol::stored_expression;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::syntax::ast::Suffix;
use crate::value::{Dict, Value};
use futures::StreamExt;

/// The member `name` of a value which needs no query to run.
pub fn member(value: &Value, name: &str) -> Option<Value> {
    match value {
        Value::Dict(d) => d.get(name).cloned().or_else(|| pseudo_member(d, name)),
        Value::Object(o) => o.member(name),
        Value::Time(t) => crate::time::time_member(*t, name),
        Value::List(items) => {
            Some(Value::list(items.iter().filter_map(|v| member(v, name)).collect()))
        }
        _ => None,
    }
}

fn pseudo_member(dict: &Dict, name: &str) -> Option<Value> {
    Some(match name {
        "@Items" => {
            dict.iter().map(|(k, v)| Dict::new().with("Key", k).with("Value", v.clone())).collect()
        }
        "@Keys" => dict.keys().map(Value::from).collect(),
        "@Values" => dict.values().cloned().collect(),
        "@Len" => dict.len().into(),
        "@ToMap" => {
            let mut sorted: Vec<_> = dict.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            sorted.into_iter().map(|(k, v)| (k, v.clone())).collect::<Dict>().into()
        }
        "@String" => dict.to_json().into(),
        _ => return None,
    })
}

/// `value.name`; a query is drained to the list of that column.
pub(crate) fn dereference(value: Value, name: &str, scope: &Scope) -> Reply {
    match value {
        Value::Query(_) => {
            let mut stream = rows(&value, scope);
            let name = name.to_string();
            Reply::from_future(async move {
                let mut column = Vec::new();
                while let Some(row) = stream.next().await {
                    column.push(member(&row, &name).unwrap_or_default());
                }
                Value::list(column)
            })
        }
        other if fetches(&other) => fetched(&other, name),
        other => match member(&other, name) {
            // A variable of a scope that is looked at as a value.
            Some(Value::Expr(stored)) => stored_expression(&stored, &scope.mention()),
            found => Reply::Ready(found.unwrap_or_default()),
        },
    }
}

/// Whether the members of a value have to be waited for.
fn fetches(value: &Value) -> bool {
    matches!(value, Value::Object(o) if o.fetches())
}

/// A member that has to be waited for.
fn fetched(value: &Value, name: &str) -> Reply {
    let Value::Object(object) = value else { return Reply::Ready(Value::Null) };
    let found = object.fetch(name);
    Reply::from_future(async move { found.await.unwrap_or_default() })
}

/// Applies one suffix.
pub(super) fn suffixes(value: Value, suffix: &Suffix, scope: &Scope) -> Reply {
    match suffix {
        Suffix::Name(name) => dereference(value, &name.name, scope),
        Suffix::Index(None) => Reply::Ready(Value::Null),
        Suffix::Index(Some(index)) => {
            evaluate(index, scope).then(scope, |scope, index| at_index(value, index, scope))
        }
        Suffix::Slice(from, to) => {
            let bound = |e: &Option<_>| match e {
                Some(e) => evaluate(e, scope),
                None => Reply::Ready(Value::Null),
            };
            let to = bound(to);
            bound(from).then(scope, |scope, from| {
                to.then(scope, move |_, to| Reply::Ready(slice(&value, from.as_int(), to.as_int())))
            })
        }
    }
}

fn at_index(value: Value, index: Value, scope: &Scope) -> Reply {
    match (&value, &index) {
        (Value::Query(_), Value::Int(index)) => {
            let Ok(index) = usize::try_from(*index) else {
                return Reply::Ready(Value::nil_list());
            };
            let mut stream = rows(&value, scope).skip(index);
            Reply::from_future(async move { stream.next().await.unwrap_or_else(Value::nil_list) })
        }
        (Value::Query(_), Value::Str(name)) => dereference(value.clone(), &name.to_text(), scope),
        (Value::List(items), Value::Int(index)) => Reply::Ready(element(items, *index)),
        (Value::Str(s), Value::Int(index)) => {
            let at = position(*index, s.len());
            let byte = at.and_then(|at| s.as_bytes().get(at));
            Reply::Ready(byte.map_or(Value::Null, |b| Value::from(*b)))
        }
        (Value::Object(_), key) if fetches(&value) => fetched(&value, &key.to_text()),
        (Value::Object(o), Value::Int(index)) => Reply::Ready(o.index(*index).unwrap_or_default()),
        (Value::List(_), _) => Reply::Ready(Value::Null),
        (_, Value::Str(name)) => Reply::Ready(member(&value, &name.to_text()).unwrap_or_default()),
        (Value::Dict(d), other) => {
            Reply::Ready(d.get(&other.to_text()).cloned().unwrap_or_default())
        }
        _ => Reply::Ready(Value::Null),
    }
}

/// The element at an index, which wraps around at both ends.
pub(crate) fn element(items: &[Value], index: i64) -> Value {
    match i64::try_from(items.len()) {
        Ok(len) if len > 0 => items[index.rem_euclid(len) as usize].clone(),
        _ => Value::Null,
    }
}

/// An index counted from the end when negative.
fn position(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index + len as i64 } else { index };
    usize::try_from(index).ok()
}

fn slice(value: &Value, from: Option<i64>, to: Option<i64>) -> Value {
    let range = |len: usize| {
        let clamp = |i: i64| {
            let i = if i < 0 { i.saturating_add(len as i64) } else { i };
            i.clamp(0, len as i64) as usize
        };
        let (from, to) = (from.map_or(0, clamp), to.map_or(len, clamp));
        from..to.max(from)
    };
    match value {
        Value::List(items) => items[range(items.len())].iter().cloned().collect(),
        Value::Str(s) => s.as_bytes()[range(s.len())].into(),
        Value::Query(_) => Value::nil_list(),
        Value::Object(o) => o.slice(from, to).unwrap_or_default(),
        _ => Value::Null,
    }
}
