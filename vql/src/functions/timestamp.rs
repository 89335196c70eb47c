//! timestamp() and timestamp_format(): times from numbers and text, and back.

use super::go_layout::to_strftime;
use crate::error::Error;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::time::{from_number, from_seconds, parse_time_in, to_time};
use crate::value::{Time, Value};
use jiff::tz::TimeZone;

/// Seconds from the year 1 to the Unix epoch: Go's zero time.
const ZERO_TIME: i64 = -62_135_596_800;
/// Seconds from 1601 to 1970.
const WINDOWS_EPOCH: i64 = 11_644_473_600;
/// Seconds from 1970 to 2001.
const COCOA_EPOCH: i64 = 978_307_200;
/// Seconds from 1904 to 1970.
const MAC_EPOCH: i64 = 2_082_844_800;

pub(super) fn register(registry: &mut Registry) {
    let timestamp = Signature::new("timestamp", "A time.")
        .arg("epoch", ArgType::Any, "Seconds, or finer units told by magnitude, or text.")
        .arg("cocoatime", ArgType::Int, "Seconds since 2001.")
        .arg("mactime", ArgType::Int, "Seconds since 1904.")
        .arg("winfiletime", ArgType::Int, "Units of 100 ns since 1601.")
        .arg("string", ArgType::String, "A time as text.")
        .arg("timestamp", ArgType::Any, "The same as epoch.")
        .arg("format", ArgType::String, "The layout of the text, as Go writes it.");
    registry.function_sync(timestamp, |scope, args| {
        let seconds = |s: i64| Time::from_second(s).ok();
        if let Some(s) = args.opt_int("cocoatime")? {
            return Ok(seconds(s.saturating_add(COCOA_EPOCH)).into());
        }
        if let Some(s) = args.opt_int("mactime")? {
            return Ok(seconds(s.saturating_sub(MAC_EPOCH)).into());
        }
        if let Some(ticks) = args.opt_int("winfiletime")? {
            let epoch = i128::from(WINDOWS_EPOCH) * 1_000_000_000;
            let time = Time::from_nanosecond(i128::from(ticks) * 100 - epoch);
            return Ok(time.ok().into());
        }
        if args.has("string") {
            let text = args.string("string")?;
            return Ok(match args.opt_string("format")? {
                Some(layout) => parse_layout(&layout, &text, scope).into(),
                None if text.is_empty() => Value::Null,
                None => from_text(&text, scope),
            });
        }
        let name = if args.has("epoch") { "epoch" } else { "timestamp" };
        Ok(match args.any(name) {
            Value::Int(0) => zero(),
            Value::Int(n) => from_number(n).into(),
            Value::Float(f) => from_seconds(f).into(),
            Value::Str(s) => match args.opt_string("format")? {
                Some(layout) => parse_layout(&layout, s.to_text().trim(), scope).into(),
                None => from_text(&s.to_text(), scope),
            },
            Value::Bool(b) => from_number(i64::from(b)).into(),
            other => to_time(&other).into(),
        })
    });

    let format = Signature::new("timestamp_format", "A time as text.")
        .required("time", ArgType::Any, "The time.")
        .arg("format", ArgType::String, "The layout, as Go writes it.");
    registry.function_sync(format, |scope, args| {
        let time = match args.any("time") {
            Value::Str(text) => match from_text(&text.to_text(), scope) {
                Value::Time(time) => Some(time),
                _ => None,
            },
            other => to_time(&other),
        };
        let Some(time) = time else { return Ok(Value::Null) };
        let layout = args.opt_string("format")?.unwrap_or_default();
        let whole = Time::from_second(time.as_second()).unwrap_or(time);
        let time = if matches!(layout.as_str(), "" | "RFC3339") { whole } else { time };
        let zoned = time.to_zoned(zone(scope));
        let utc = zoned.offset().is_zero();
        Ok(match layout.as_str() {
            "" | "RFC3339" | "RFC3339Nano" if utc => crate::value::rfc3339(time).into(),
            "" | "RFC3339" | "RFC3339Nano" => {
                time.display_with_offset(zoned.offset()).to_string().into()
            }
            _ => {
                // `Z` stands for no offset at all.
                let layout = match utc {
                    true => layout.replace("Z07:00", "Z").replace("Z0700", "Z"),
                    false => layout,
                };
                let text = jiff::fmt::strtime::format(to_strftime(&layout, false), &zoned);
                text.map_err(Error::failed)?.into()
            }
        })
    });
}

fn zero() -> Value {
    Time::from_second(ZERO_TIME).ok().into()
}

fn from_text(text: &str, scope: &Scope) -> Value {
    let text = text.trim();
    if text.is_empty() {
        return zero();
    }
    if let Ok(n) = text.parse::<i64>() {
        return if n == 0 { zero() } else { from_number(n).into() };
    }
    if let Ok(f) = text.parse::<f64>() {
        return from_seconds(f).into();
    }
    parse_time_in(text, &zone(scope)).into()
}

/// The zone of texts: that of `PARSE_TZ`, else of `TZ`; UTC when absent or unknown.
fn zone(scope: &Scope) -> TimeZone {
    let named = |variable| scope.resolve_string(variable);
    let name = named("PARSE_TZ").or_else(|| named("TZ"));
    name.and_then(|name| TimeZone::get(&name).ok()).unwrap_or(TimeZone::UTC)
}

fn parse_layout(layout: &str, text: &str, scope: &Scope) -> Option<Time> {
    let broken = jiff::fmt::strtime::parse(to_strftime(layout, true), text).ok()?;
    if let Ok(time) = broken.to_timestamp() {
        return Some(time);
    }
    let civil = match broken.to_datetime() {
        Ok(civil) => civil,
        Err(_) => broken.to_date().ok()?.at(0, 0, 0, 0),
    };
    Some(civil.to_zoned(zone(scope)).ok()?.timestamp())
}
