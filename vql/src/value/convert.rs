//! Conversions from plain types.

use super::{Dict, Key, Object, Str, Time, Value};
use std::sync::Arc;

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}
impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Value::Float(v)
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        i64::try_from(v).map_or(Value::UInt(v), Value::Int)
    }
}
impl From<usize> for Value {
    fn from(v: usize) -> Self {
        Value::from(v as u64)
    }
}
macro_rules! integers {
    ($($t:ty),*) => {$(
        impl From<$t> for Value {
            fn from(v: $t) -> Self {
                Value::Int(i64::from(v))
            }
        }
    )*};
}
integers!(i8, i16, i32, i64, u8, u16, u32);

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Str(v.into())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::Str(v.into())
    }
}
impl From<&String> for Value {
    fn from(v: &String) -> Self {
        Value::Str(v.as_str().into())
    }
}
impl From<Str> for Value {
    fn from(v: Str) -> Self {
        Value::Str(v)
    }
}
impl From<&Key> for Value {
    fn from(v: &Key) -> Self {
        Value::Str(v.into())
    }
}
/// Bytes become a string of the language, not [`Value::Bytes`].
impl From<&[u8]> for Value {
    fn from(v: &[u8]) -> Self {
        Value::Str(v.into())
    }
}
/// Bytes become a string of the language, not [`Value::Bytes`].
impl From<Vec<u8>> for Value {
    fn from(v: Vec<u8>) -> Self {
        Value::Str(v.into())
    }
}
impl From<Time> for Value {
    fn from(v: Time) -> Self {
        Value::Time(v)
    }
}
impl From<Dict> for Value {
    fn from(v: Dict) -> Self {
        Value::Dict(Arc::new(v))
    }
}
impl From<Arc<Dict>> for Value {
    fn from(v: Arc<Dict>) -> Self {
        Value::Dict(v)
    }
}
impl From<Vec<Value>> for Value {
    fn from(v: Vec<Value>) -> Self {
        Value::list(v)
    }
}
impl From<Vec<Dict>> for Value {
    fn from(v: Vec<Dict>) -> Self {
        v.into_iter().collect()
    }
}
impl From<Vec<String>> for Value {
    fn from(v: Vec<String>) -> Self {
        v.into_iter().collect()
    }
}
impl From<Arc<dyn Object>> for Value {
    fn from(v: Arc<dyn Object>) -> Self {
        Value::Object(v)
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Value::Null, Into::into)
    }
}
impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        Value::list(iter.into_iter().map(Into::into).collect())
    }
}
