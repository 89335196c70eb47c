//! Values the language does not know: a host gives them members and a text.

use super::{Key, Value};
use futures::future::BoxFuture;
use std::any::Any;
use std::fmt;

/// A host value such as a path, a file record or a parsed structure.
/// Only [`Object::type_name`] and [`Object::as_any`] are required.
pub trait Object: Any + Send + Sync + fmt::Debug {
    /// The name shown by `%T`.
    fn type_name(&self) -> &'static str;

    /// For downcasts: `self`.
    fn as_any(&self) -> &dyn Any;

    /// `value.name`; `None` when there is no such member.
    fn member(&self, _name: &str) -> Option<Value> {
        None
    }

    /// Whether members have to be waited for: then [`Object::fetch`] gives them.
    fn fetches(&self) -> bool {
        false
    }

    /// `value.name` of a value whose members have to be waited for.
    fn fetch(&self, name: &str) -> BoxFuture<'static, Option<Value>> {
        let found = self.member(name);
        Box::pin(async move { found })
    }

    /// Names for `SELECT *`, in order.
    fn members(&self) -> Vec<Key> {
        Vec::new()
    }

    /// `value[index]`.
    fn index(&self, _index: i64) -> Option<Value> {
        None
    }

    /// `value[from:to]`, counted from the end when negative.
    fn slice(&self, _from: Option<i64>, _to: Option<i64>) -> Option<Value> {
        None
    }

    /// The string form; `None` shows the JSON of the members.
    fn text(&self) -> Option<String> {
        None
    }

    /// What JSON shows: the string form if any, else a dictionary of the members.
    fn to_plain(&self) -> Value {
        match self.text() {
            Some(text) => text.into(),
            None => Value::from(super::object_dict(self.members(), |name| self.member(name))),
        }
    }

    /// The truth of the value.
    fn truth(&self) -> bool {
        false
    }

    /// `self = other`.
    fn equals(&self, _other: &Value) -> bool {
        false
    }

    /// `self < other`; `None` when the two do not compare.
    fn less(&self, _other: &Value) -> Option<bool> {
        None
    }

    /// `self > other`; `None` when the two do not compare.
    fn greater(&self, _other: &Value) -> Option<bool> {
        None
    }

    /// `self + other`.
    fn add(&self, _other: &Value) -> Option<Value> {
        None
    }

    /// Rows when the value is used as a source; `None` is one row, the value.
    fn rows(&self) -> Option<Vec<Value>> {
        None
    }
}
