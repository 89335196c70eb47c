//! `sleep` and `clock`.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use vql::{ArgType, Registry, Signature, Value};

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let sleep = Signature::new("sleep", "Wait for a while; gives true.")
        .refused(false)
        .arg("time", ArgType::Int, "Seconds.")
        .arg("ms", ArgType::Int, "Milliseconds.");
    registry.function_async(sleep, |_scope, args| async move {
        tokio::time::sleep(period(args.int("time")?, args.int("ms")?)).await;
        Ok(Value::Bool(true))
    });
    let clock = Signature::new("clock", "Gives a row with the time, again and again.")
        .arg("start", ArgType::Any, "When to begin.")
        .arg("period", ArgType::Int, "Seconds between rows (1).")
        .arg("ms", ArgType::Int, "Milliseconds between rows, on top.");
    registry.plugin_async(clock, |scope, args, emitter| async move {
        let mut every = period(args.int("period")?, args.int("ms")?);
        if every.is_zero() {
            every = Duration::from_secs(1);
        }
        // With a time to begin at, that is the first row's.
        let at_once = args.has("start");
        if let Some(start) = args.time("start")? {
            let wait = start.as_nanosecond() - wall(&scope).as_nanosecond();
            let wait = u64::try_from(wait).unwrap_or(0);
            tokio::time::sleep(Duration::from_nanos(wait)).await;
        }
        let first = if at_once { Instant::now() } else { Instant::now() + every };
        let mut ticks = interval_at(first, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            emitter.send(time_row(wall(&scope))).await?;
        }
    });
}

/// What the host's clock says, even where `now()` stands still.
fn wall(scope: &vql::Scope) -> vql::Time {
    let env = scope.extension::<crate::env::Env>();
    let told = env.and_then(|env| vql::Time::from_nanosecond(env.clock.nanos().into()).ok());
    told.unwrap_or_else(|| scope.now())
}

fn period(seconds: i64, ms: i64) -> Duration {
    let positive = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(positive(seconds)) + Duration::from_millis(positive(ms))
}

/// The members a time shows when it is a row.
fn time_row(t: vql::Time) -> vql::Dict {
    vql::Dict::new()
        .with("Sec", t.as_second())
        .with("Nsec", i64::from(t.subsec_nanosecond()))
        .with("Unix", t.as_second())
        .with("UnixNano", i64::try_from(t.as_nanosecond()).unwrap_or(i64::MAX))
        .with("String", vql::rfc3339(t))
}
