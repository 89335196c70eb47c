//! Values of SQL as values of queries, and back.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rusqlite::types::{Value as Sql, ValueRef};
use vql::{Error, Time, Value};

/// Seconds from which on a number counts milliseconds.
const MILLISECONDS: u64 = 1_000_000_000_000;

/// What a column holds, by the type it was declared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// What it is stored as.
    Anything,
    /// Numbers that mean times, or texts.
    Times,
    /// Numbers that mean yes and no.
    Booleans,
}

impl Holds {
    /// By the declared type; computed columns have none.
    pub(super) fn declared(name: Option<&str>) -> Holds {
        match name.unwrap_or_default().to_ascii_lowercase().as_str() {
            "date" | "datetime" | "timestamp" => Holds::Times,
            "boolean" => Holds::Booleans,
            _ => Holds::Anything,
        }
    }

    /// The value of a column. A text that is no time stays one.
    pub(super) fn value(self, value: ValueRef<'_>) -> Value {
        match (value, self) {
            (ValueRef::Null, _) => Value::Null,
            (ValueRef::Integer(n), Holds::Booleans) => Value::Bool(n > 0),
            (ValueRef::Integer(n), Holds::Times) => {
                let time = match n.unsigned_abs() > MILLISECONDS {
                    true => Time::from_millisecond(n),
                    false => Time::from_second(n),
                };
                time.map_or(n.into(), Value::Time)
            }
            (ValueRef::Integer(n), Holds::Anything) => n.into(),
            (ValueRef::Real(f), _) => Value::Float(f),
            (ValueRef::Text(text), Holds::Times) => {
                std::str::from_utf8(text).ok().and_then(time).map_or(text.into(), Value::Time)
            }
            (ValueRef::Text(text) | ValueRef::Blob(text), _) => text.into(),
        }
    }
}

/// A time as SQL writes it, in UTC when it does not say.
fn time(text: &str) -> Option<Time> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let civil: DateTime = text.strip_suffix('Z').unwrap_or(text).parse().ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// What stands for a `?`.
pub(super) fn to_sql(value: &Value) -> Result<Sql, Error> {
    Ok(match value {
        Value::Null => Sql::Null,
        Value::Float(f) => Sql::Real(*f),
        Value::Bool(b) => Sql::Integer((*b).into()),
        Value::Time(t) => Sql::Text(t.strftime("%Y-%m-%d %H:%M:%S%.f+00:00").to_string()),
        Value::Dict(_) => {
            return Err(Error::failed(format!("{} is no value for a statement", value.to_json())));
        }
        other => match other.as_int() {
            Some(n) => Sql::Integer(n),
            None => {
                let text = other.to_str();
                match std::str::from_utf8(text.as_bytes()) {
                    Ok(text) => Sql::Text(text.to_owned()),
                    Err(_) => Sql::Blob(text.as_bytes().to_vec()),
                }
            }
        },
    })
}
