//! The values of the language and their cheap representation.
//! Knows nothing of evaluation.

mod bytes;
mod convert;
mod dict;
mod from_json;
mod json;
mod object;
mod text;

pub use bytes::{Key, Str, lossy};
pub use dict::Dict;
pub use object::Object;
pub use text::{format_float, go_float, go_time, rfc3339};

use crate::query::{Lambda, Query, StoredExpr};
use std::sync::{Arc, LazyLock};

/// A point in time with nanosecond precision.
pub type Time = jiff::Timestamp;

/// A result row.
pub type Row = Dict;

/// A value of the language. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// The absent value.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// Any integer which fits.
    Int(i64),
    /// Only integers above `i64::MAX`.
    UInt(u64),
    /// A fraction.
    Float(f64),
    /// A string (bytes).
    Str(Str),
    /// Raw bytes, base64 in JSON. Strings of the language are never this.
    Bytes(Arc<[u8]>),
    /// A time.
    Time(Time),
    /// A list.
    List(Arc<Vec<Value>>),
    /// A dictionary.
    Dict(Arc<Dict>),
    /// A query which has not run.
    Query(Arc<Query>),
    /// A stored expression (`LET X = expr`), evaluated at each mention.
    Expr(Arc<StoredExpr>),
    /// A parsed `x => expr`.
    Lambda(Arc<Lambda>),
    /// A host value.
    Object(Arc<dyn Object>),
}

static NIL_LIST: LazyLock<Arc<Vec<Value>>> = LazyLock::new(|| Arc::new(Vec::new()));

impl Value {
    /// A list.
    pub fn list(items: Vec<Value>) -> Value {
        Value::List(Arc::new(items))
    }

    /// The empty list whose JSON is `null`: the value of a sub-select without rows.
    pub fn nil_list() -> Value {
        Value::List(NIL_LIST.clone())
    }

    /// Wraps a host value.
    pub fn object(object: impl Object) -> Value {
        Value::Object(Arc::new(object))
    }

    /// The host value as its concrete type.
    pub fn downcast<T: Object>(&self) -> Option<&T> {
        match self {
            Value::Object(o) => o.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// True for `NULL`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&Str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// The list elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(l) => Some(l),
            _ => None,
        }
    }

    /// The dictionary, if it is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Value::Dict(d) => Some(d),
            _ => None,
        }
    }

    /// The number as a fraction: integers, fractions and booleans.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::UInt(u) => Some(*u as f64),
            Value::Float(f) => Some(*f),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    pub(crate) fn is_nil_list(&self) -> bool {
        matches!(self, Value::List(l) if Arc::ptr_eq(l, &NIL_LIST))
    }

    /// The dictionary of a row: its members, or none for scalars.
    pub fn into_row(self) -> Row {
        match self {
            Value::Dict(d) => Arc::unwrap_or_clone(d),
            Value::Object(o) => object_dict(o.members(), |name| o.member(name)),
            _ => Dict::new(),
        }
    }

    /// The name Go's `%T` gives, which conversions in artifacts test for.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "types.Null",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int64",
            Value::UInt(_) => "uint64",
            Value::Float(_) => "float64",
            Value::Str(_) => "string",
            Value::Bytes(_) => "[]uint8",
            Value::Time(_) => "time.Time",
            Value::List(l) if l.is_empty() => "[]types.Any",
            Value::List(l) if l.iter().all(|v| matches!(v, Value::Dict(_))) => "[]types.Row",
            Value::List(_) => "[]types.Any",
            Value::Dict(_) => "*ordereddict.Dict",
            Value::Query(_) => "*vfilter._StoredQuery",
            Value::Expr(_) => "*vfilter.StoredExpression",
            Value::Lambda(_) => "*vfilter.Lambda",
            Value::Object(o) => o.type_name(),
        }
    }
}

/// Collects named members into a dictionary.
pub(crate) fn object_dict(names: Vec<Key>, member: impl Fn(&str) -> Option<Value>) -> Dict {
    let mut dict = Dict::with_capacity(names.len());
    for name in names {
        let value = member(&name).unwrap_or_default();
        dict.set(name, value);
    }
    dict
}
