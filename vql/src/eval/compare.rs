//! `=`, `<`, `>`, IN and what they say about unlike kinds.

use super::matching::matches;
use crate::scope::Scope;
use crate::syntax::ast::CompareOp;
use crate::value::{Dict, Time, Value};

/// Applies a comparison operator.
pub(super) fn compare(op: CompareOp, left: &Value, right: &Value, scope: &Scope) -> bool {
    match op {
        CompareOp::Equal => equal(left, right),
        CompareOp::NotEqual => !equal(left, right),
        CompareOp::Diamond => false,
        CompareOp::Less => less(left, right),
        CompareOp::Greater => greater(left, right),
        CompareOp::LessEqual => less(left, right) || equal(left, right),
        CompareOp::GreaterEqual => greater(left, right) || equal(left, right),
        CompareOp::In => contains(right, left),
        CompareOp::Match => matches(left, right, scope),
    }
}

/// `left = right`.
pub fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) => false,
        (Value::Str(a), Value::Str(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Bytes(a), Value::Str(b)) | (Value::Str(b), Value::Bytes(a)) => **a == *b.as_bytes(),
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::UInt(a), Value::UInt(b)) => a == b,
        (Value::Int(_), Value::UInt(_)) | (Value::UInt(_), Value::Int(_)) => false,
        (Value::Bool(b), Value::Str(s)) => {
            *b == matches!(s.as_bytes(), b"Y" | b"y" | b"TRUE" | b"True")
        }
        (Value::Time(a), Value::Time(b)) => a == b,
        (Value::Time(t), number) => number.as_number().is_some_and(|n| seconds(*t) == n),
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| equal(a, b))
        }
        (Value::Dict(a), Value::Dict(b)) => equal_dicts(a, b),
        (Value::Object(o), other) => o.equals(other),
        (a, b) => match (a.as_number(), b.as_number()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
    }
}

fn equal_dicts(a: &Dict, b: &Dict) -> bool {
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| equal(v, w)))
}

fn seconds(t: Time) -> f64 {
    t.as_nanosecond() as f64 / 1e9
}

fn is_integer(v: &Value) -> bool {
    matches!(v, Value::Int(_) | Value::UInt(_))
}

/// A left side which is no number is "less" and "greater" than any integer.
fn odd_left(left: &Value) -> bool {
    use Value::*;
    matches!(left, Str(_) | Bytes(_) | List(_) | Dict(_) | Object(_) | Query(_))
}

/// `left < right`.
pub fn less(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Str(a), Value::Str(b)) => a < b,
        (Value::Object(o), other) => match o.less(other) {
            Some(less) => less,
            None => is_integer(other),
        },
        (left, right) if odd_left(left) && is_integer(right) => true,
        (Value::Time(a), Value::Time(b)) => a < b,
        (Value::Time(t), Value::Str(s)) => {
            crate::time::parse_time(&s.to_text()).is_some_and(|s| *t < s)
        }
        (Value::Str(s), Value::Time(t)) => {
            crate::time::parse_time(&s.to_text()).is_some_and(|s| s < *t)
        }
        (Value::Time(t), number) => number.as_number().is_some_and(|n| seconds(*t) < n),
        (number, Value::Time(t)) => number.as_number().is_some_and(|n| n < seconds(*t)),
        (Value::Dict(a), Value::Dict(b)) => a.len() < b.len(),
        (Value::Str(_) | Value::List(_), Value::Dict(_)) => true,
        (Value::List(a), Value::List(b)) => match (a.first(), b.first()) {
            (None, Some(_)) => true,
            (Some(a), Some(b)) => less(a, b),
            _ => false,
        },
        (left, right) => numbers(left, right, |a, b| a < b, |a, b| a < b),
    }
}

/// `left > right`; not simply the reverse of `<`.
fn greater(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Str(a), Value::Str(b)) => a > b,
        (left, right) if odd_left(left) && is_integer(right) => true,
        (Value::Object(o), other) => o.greater(other).unwrap_or(false),
        (Value::Dict(_) | Value::List(_), _) => false,
        (_, Value::Dict(_) | Value::List(_) | Value::Object(_)) => false,
        (Value::Bool(_), Value::Int(_) | Value::UInt(_)) => less(left, right),
        (Value::Int(_) | Value::UInt(_) | Value::Bool(_), Value::Bool(_)) => false,
        (Value::Time(_), _) | (_, Value::Time(_)) => less(right, left),
        (left, right) => numbers(left, right, |a, b| a > b, |a, b| a > b),
    }
}

fn numbers(
    left: &Value,
    right: &Value,
    integers: fn(i128, i128) -> bool,
    floats: fn(f64, f64) -> bool,
) -> bool {
    if let (Some(a), Some(b)) = (integer(left), integer(right)) {
        return integers(a, b);
    }
    match (left.as_number(), right.as_number()) {
        (Some(a), Some(b)) => floats(a, b),
        _ => false,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::UInt(u) => Some(i128::from(*u)),
        Value::Bool(b) => Some(i128::from(*b)),
        _ => None,
    }
}

/// `item IN container`: member name, substring or equal element.
fn contains(container: &Value, item: &Value) -> bool {
    match (container, item) {
        (Value::Dict(d), Value::Str(key)) => d.contains(&key.to_text()),
        (Value::Str(s), Value::Str(part)) => find(s.as_bytes(), part.as_bytes()).is_some(),
        (Value::List(items), item) => items.iter().any(|v| equal(item, v)),
        (Value::Object(object), item) => match object.to_plain() {
            list @ Value::List(_) => contains(&list, item),
            _ => false,
        },
        _ => false,
    }
}

/// The position of `part` in `whole`.
pub(crate) fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    whole.windows(part.len()).position(|window| window == part)
}
