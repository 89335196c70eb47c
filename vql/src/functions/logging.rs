//! log(), now() and sleep(): the query's log and clock.

use super::format::values;
use super::go_format::sprintf;
use crate::log::Level;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use std::time::Duration;

/// Seconds within which the same message is logged once.
const DEDUPLICATE: i64 = 60;

pub(super) fn register(registry: &mut Registry) {
    let log = Signature::new("log", "Writes to the log of the query; always true.")
        .required("message", ArgType::String, "The message, a format when args are given.")
        .arg("dedup", ArgType::Int, "Seconds to suppress the same message; -1 for never.")
        .arg("args", ArgType::Any, "Values to format.")
        .arg("level", ArgType::String, "DEFAULT, WARN, ERROR, INFO, DEBUG or ALERT.");
    registry.function_sync(log, |scope, args| {
        let message = args.bytes("message")?;
        let message = match args.has("args") {
            true => sprintf(message.as_bytes(), &values(args.any("args"), true)),
            false => message.as_bytes().to_vec(),
        };
        let message = crate::value::lossy(&message);
        let (level, text) = Level::split(&message);
        let level = Level::from_name(&args.string("level")?).unwrap_or(level);
        let seconds = args.opt_int("dedup")?.unwrap_or(DEDUPLICATE);
        if seconds < 0 || scope.session().first_within(level, text, seconds) {
            scope.log(level, text);
        }
        Ok(true.into())
    });

    let now = Signature::new("now", "Seconds since the epoch.");
    registry.function_sync(now.arg("ns", ArgType::Bool, "In nanoseconds."), |scope, args| {
        let now = scope.now();
        Ok(match args.bool("ns")? {
            true => i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX).into(),
            false => now.as_second().into(),
        })
    });

    let sleep = Signature::new("sleep", "Waits; always true.")
        .arg("time", ArgType::Int, "Seconds.")
        .arg("ms", ArgType::Int, "Milliseconds.");
    registry.function_async(sleep, |_, args| async move {
        let part = |name| Ok::<_, crate::Error>(args.int(name)?.max(0) as u64);
        let wait = Duration::from_secs(part("time")?) + Duration::from_millis(part("ms")?);
        tokio::time::sleep(wait).await;
        Ok(Value::Bool(true))
    });
}
