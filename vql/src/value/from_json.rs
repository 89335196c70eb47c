//! JSON to values. Decoding re-types data: long strings shaped as RFC 3339
//! become times.

use super::{Dict, Time, Value};
use serde_json::Value as Json;

impl Value {
    /// Converts decoded JSON; strings of 20 or more bytes which parse as
    /// RFC 3339 become times.
    pub fn from_json(json: Json) -> Value {
        convert(json, true)
    }

    /// Converts decoded JSON without turning strings into times.
    pub fn from_json_plain(json: Json) -> Value {
        convert(json, false)
    }
}

impl Dict {
    /// Converts a decoded JSON object as [`Value::from_json`] does.
    pub fn from_json(map: serde_json::Map<String, Json>) -> Dict {
        map.into_iter().map(|(k, v)| (k, Value::from_json(v))).collect()
    }
}

fn convert(json: Json, times: bool) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => number(&n),
        Json::String(s) if times => time(&s).map_or_else(|| Value::from(s), Value::Time),
        Json::String(s) => Value::from(s),
        Json::Array(items) => items.into_iter().map(|v| convert(v, times)).collect(),
        Json::Object(map) => {
            let mut dict = Dict::with_capacity(map.len());
            for (key, value) in map {
                dict.update(key, convert(value, times));
            }
            dict.into()
        }
    }
}

fn number(n: &serde_json::Number) -> Value {
    if let Some(i) = n.as_i64() {
        return Value::Int(i);
    }
    if let Some(u) = n.as_u64() {
        return Value::from(u);
    }
    n.as_f64().map_or(Value::Null, Value::Float)
}

fn time(text: &str) -> Option<Time> {
    let bytes = text.as_bytes();
    (bytes.len() >= 20 && bytes[10] == b'T').then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Value {
        Value::from_json(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn times_and_integers_are_retyped() {
        assert!(matches!(from("\"2020-01-02T03:04:05Z\""), Value::Time(_)));
        assert!(matches!(from("\"2020-01-02 03:04:05Z\""), Value::Str(_)));
        assert!(matches!(from("\"2020-01-02T03:04\""), Value::Str(_)));
        assert!(matches!(from("9007199254740993"), Value::Int(9007199254740993)));
        assert!(matches!(from("18446744073709551615"), Value::UInt(u64::MAX)));
        assert!(matches!(from("1.0"), Value::Float(_)));
    }
}
