//! log(), now() and sleep(): the query's log and clock.

use super::format::values;
use super::go_format::sprintf;
use crate::eval::{materialize, truth};
use crate::log::Level;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Value};
use std::time::Duration;

/// Seconds within which the same message is logged once.
const DEDUPLICATE: i64 = 60;
/// The same for alerts of one name.
const DEDUPLICATE_ALERTS: i64 = 7200;

pub(super) fn register(registry: &mut Registry) {
    let log = Signature::new("log", "Writes to the log of the query; always true.")
        .refused(false)
        .required("message", ArgType::String, "The message, a format when args are given.")
        .arg("dedup", ArgType::Int, "Seconds to suppress the same message; -1 for never.")
        .arg("args", ArgType::Any, "Values to format.")
        .arg("level", ArgType::String, "DEFAULT, WARN, ERROR, INFO, DEBUG or ALERT.");
    registry.function_sync(log.version(2), |scope, args| {
        let message = args.bytes("message")?;
        let seconds = args.opt_int("dedup")?.filter(|n| *n != 0).unwrap_or(DEDUPLICATE);
        // What is to be formatted counts, not what comes of it.
        if !scope.session().first_within(&message.to_text(), seconds) {
            return Ok(true.into());
        }
        let message = match args.has("args") {
            true => sprintf(message.as_bytes(), &values(args.any("args"), true)),
            false => message.as_bytes().to_vec(),
        };
        let level = Level::from_name(&args.string("level")?).unwrap_or(Level::Default);
        scope.say(level, crate::value::lossy(&message));
        Ok(true.into())
    });

    let alert = Signature::new("alert", "Writes an alert to the log, for people to look at.")
        .arg("name", ArgType::String, "Its name, which it needs.")
        .arg("dedup", ArgType::Int, "Seconds within which one of that name is no alert (7200).")
        .arg("condition", ArgType::Any, "No alert unless this is true.")
        .any_args()
        .version(2);
    registry.function_async(alert, |scope, args| async move {
        if args.has("condition") && !truth(&args.any("condition"), &scope).await {
            return Ok(Value::Null);
        }
        // An alert that can not be made is an error of the query, not only of the call.
        let seconds = match args.opt_int("dedup") {
            Ok(seconds) if args.has("name") => seconds.filter(|n| *n != 0),
            Ok(_) => return Ok(refused(&scope, "Field name is required")),
            Err(error) => return Ok(refused(&scope, &error.to_string())),
        };
        let seconds = seconds.unwrap_or(DEDUPLICATE_ALERTS);
        let name = args.string("name")?;
        let mut data = args.to_dict();
        for declared in ["name", "dedup", "condition"] {
            data.remove(declared);
        }
        let data = materialize(data.into(), &scope).await;
        let alert = Dict::new()
            .with("name", name.as_str())
            .with("timestamp", scope.now())
            .with("event_data", data);
        let text = Value::from(alert).to_json();
        if scope.session().first_within(&name, seconds) {
            scope.say(Level::Alert, text);
        } else {
            // It is kept, but calls nobody.
            scope.say(Level::Info, format!("Alert {name} (Sup): {text}"));
        }
        Ok(true.into())
    });

    let now = Signature::new("now", "Seconds since the epoch.");
    registry.function_sync(
        now.arg("ns", ArgType::Bool, "In nanoseconds.").version(2),
        |scope, args| {
            let now = scope.now();
            Ok(match args.bool("ns")? {
                true => i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX).into(),
                false => now.as_second().into(),
            })
        },
    );

    let sleep = Signature::new("sleep", "Waits; always true.")
        .refused(false)
        .arg("time", ArgType::Int, "Seconds.")
        .arg("ms", ArgType::Int, "Milliseconds.");
    registry.function_async(sleep, |_, args| async move {
        let part = |name| Ok::<_, crate::Error>(args.int(name)?.max(0) as u64);
        let wait = Duration::from_secs(part("time")?) + Duration::from_millis(part("ms")?);
        tokio::time::sleep(wait).await;
        Ok(Value::Bool(true))
    });
}

fn refused(scope: &Scope, why: &str) -> Value {
    scope.error(format!("alert: {why}"));
    Value::Null
}

#[cfg(test)]
mod tests {
    use crate::tests::rows_and_log;

    #[test]
    fn alerts_are_written_once() {
        let script = "SELECT alert(name='A', X=_value, Q={SELECT 1 AS B FROM scope()}) AS A, \
              alert(name='B', condition=FALSE) AS B FROM range(end=2)";
        let (rows, log) = rows_and_log(script);
        assert_eq!(rows, r#"[{"A":true,"B":null},{"A":true,"B":null}]"#);
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(log[0].starts_with("ALERT: {\"name\":\"A\",\"timestamp\":\""), "{log:?}");
        assert!(log[0].ends_with("\"event_data\":{\"X\":0,\"Q\":[{\"B\":1}]}}"), "{log:?}");
        assert!(log[1].starts_with("INFO: Alert A"), "{log:?}");
    }

    #[test]
    fn an_alert_that_cannot_be_made_is_an_error() {
        let script = "SELECT alert(B=2) AS A, alert(name='A', dedup='x') AS B FROM scope()";
        let (rows, log) = rows_and_log(script);
        assert_eq!(rows, r#"[{"A":null,"B":null}]"#);
        let expected = "ERROR: alert: Field dedup should be an int not string.";
        assert_eq!(log, ["ERROR: alert: Field name is required", expected]);
    }

    #[test]
    fn the_format_decides_what_is_the_same() {
        let script = "SELECT log(message='m %v', args=_value), log(message='n', dedup=-1), \
              log(message='WARN: o', level='nonsense') FROM range(end=2)";
        let (_, log) = rows_and_log(script);
        let expected = ["DEFAULT: m 0", "DEFAULT: n", "DEFAULT: WARN: o", "DEFAULT: n"];
        assert_eq!(log, expected);
    }
}
