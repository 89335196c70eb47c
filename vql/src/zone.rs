//! The zone in which a query's times are shown: the variable `TZ` names it. Times have no zone
//! of their own, so they become text where rows leave the query, and not before.

use crate::engine::{Limits, eval};
use crate::scope::Scope;
use crate::stream::RowStream;
use crate::syntax::ast::Statement;
use crate::value::{Dict, Value};
use futures::StreamExt;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Like [`eval`](crate::eval), with times in the zone of `TZ`: for rows that are shown or stored.
pub fn eval_shown(statements: Vec<Statement>, scope: &Scope, limits: Limits) -> RowStream {
    let scope = scope.clone();
    eval(statements, &scope.clone(), limits).map(move |row| shown(row, &scope)).boxed()
}

/// The value with its times in the zone of `TZ`, if there is one.
pub(crate) fn shown(value: Value, scope: &Scope) -> Value {
    let name = scope.resolve_string("TZ").filter(|name| !name.is_empty());
    match name.and_then(|name| TimeZone::get(&name).ok()) {
        Some(zone) => within(value, &zone),
        None => value,
    }
}

fn within(value: Value, zone: &TimeZone) -> Value {
    match value {
        Value::Time(time) => match zone.to_offset(time) {
            offset if offset.is_zero() => Value::Time(time),
            offset => time.display_with_offset(offset).to_string().into(),
        },
        Value::List(items) => {
            let items = Arc::unwrap_or_clone(items).into_iter();
            Value::list(items.map(|item| within(item, zone)).collect())
        }
        Value::Dict(dict) => {
            let members = Arc::unwrap_or_clone(dict).into_iter();
            members.map(|(name, value)| (name, within(value, zone))).collect::<Dict>().into()
        }
        Value::Object(object) => match object.to_plain() {
            plain @ (Value::Dict(_) | Value::List(_) | Value::Time(_)) => within(plain, zone),
            _ => Value::Object(object),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::rows;

    #[test]
    fn a_query_may_say_where_its_times_are_read() {
        let script = "LET TZ <= 'Australia/Brisbane' \
            SELECT serialize(item=timestamp(epoch=1)) AS A, timestamp_format(time=1) AS B, \
              timestamp(string='2020-09-13 12:00').Unix AS C FROM scope()";
        let expected = r#"[{"A":"\"1970-01-01T10:00:01+10:00\"","B":"1970-01-01T10:00:01+10:00","C":1599962400}]"#;
        assert_eq!(rows(script), expected);
        let script = "LET PARSE_TZ <= 'Australia/Brisbane' \
            SELECT timestamp_format(time='2020-09-13 12:00', format='Kitchen') AS A, \
              timestamp_format(time=1.5) AS B, timestamp_format(time=1.5, format='RFC3339Nano') AS C, \
              timestamp(epoch=1) AS D FROM scope()";
        let expected = r#"[{"A":"12:00PM","B":"1970-01-01T10:00:01+10:00","C":"1970-01-01T10:00:01.5+10:00","D":"1970-01-01T00:00:01Z"}]"#;
        assert_eq!(rows(script), expected);
    }
}
