//! Lists of things that are no rows, such as the sections of a program: as rows each is
//! the column `_value`. In all else they are lists.

use std::any::Any;

use vql::{Dict, Object, Value};

/// See the module.
#[derive(Clone, Debug)]
pub struct Records(pub Vec<Value>);

impl Object for Records {
    fn type_name(&self) -> &'static str {
        "[]interface {}"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(self.0.iter().filter_map(|v| vql::member(v, name)).collect())
    }

    fn index(&self, index: i64) -> Option<Value> {
        let at = if index < 0 { index + self.0.len() as i64 } else { index };
        self.0.get(usize::try_from(at).ok()?).cloned()
    }

    fn to_plain(&self) -> Value {
        Value::list(self.0.clone())
    }

    fn rows(&self) -> Option<Vec<Value>> {
        Some(self.0.iter().map(|v| Dict::new().with("_value", v.clone()).into()).collect())
    }
}
