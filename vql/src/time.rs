//! Times: from numbers and from texts in many layouts, and their members.

use crate::value::{Time, Value};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// A time from a time, a number of epoch seconds or a text.
pub(crate) fn to_time(value: &Value) -> Option<Time> {
    match value {
        Value::Time(t) => Some(*t),
        Value::Int(i) => from_number(*i),
        Value::UInt(u) => from_number(i64::try_from(*u).ok()?),
        Value::Float(f) => from_seconds(*f),
        Value::Str(s) => {
            let text = s.to_text();
            match text.trim().parse::<f64>() {
                Ok(seconds) => match text.trim().parse::<i64>() {
                    Ok(whole) => from_number(whole),
                    Err(_) => from_seconds(seconds),
                },
                Err(_) => parse_time(&text),
            }
        }
        _ => None,
    }
}

/// Seconds, milliseconds, microseconds or nanoseconds, told by magnitude.
pub(crate) fn from_number(n: i64) -> Option<Time> {
    let nanoseconds = match n.unsigned_abs() {
        m if m > 20_000_000_000_000_000 => i128::from(n),
        m if m > 20_000_000_000_000 => i128::from(n) * 1_000,
        m if m > 20_000_000_000 => i128::from(n) * 1_000_000,
        _ => i128::from(n) * 1_000_000_000,
    };
    Time::from_nanosecond(nanoseconds).ok()
}

/// Seconds since the epoch with a fraction.
pub(crate) fn from_seconds(seconds: f64) -> Option<Time> {
    let whole = seconds.floor();
    // Cut, not rounded: so the same number gives the same time as elsewhere.
    let nanoseconds = ((seconds - whole) * 1e9) as i128;
    if !whole.is_finite() {
        return None;
    }
    Time::from_nanosecond((whole as i128).checked_mul(1_000_000_000)? + nanoseconds).ok()
}

/// A time written as text; UTC unless the text says otherwise.
pub fn parse_time(text: &str) -> Option<Time> {
    parse_time_in(text, &TimeZone::UTC)
}

/// A time written as text, in `zone` unless the text says otherwise.
pub(crate) fn parse_time_in(text: &str, zone: &TimeZone) -> Option<Time> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Time>() {
        return Some(time);
    }
    let at = |civil: DateTime| civil.to_zoned(zone.clone()).ok().map(|z| z.timestamp());
    if let Ok(civil) = text.parse::<DateTime>() {
        return at(civil);
    }
    if let Ok(date) = text.parse::<Date>() {
        return at(date.at(0, 0, 0, 0));
    }
    crate::dates::read(text, zone)
}

/// Members of a time: the methods of Go's type which take no argument.
pub(crate) fn time_member(t: Time, name: &str) -> Option<Value> {
    let utc = || t.to_zoned(TimeZone::UTC);
    Some(match name {
        "Unix" => t.as_second().into(),
        "UnixNano" => i64::try_from(t.as_nanosecond()).unwrap_or(0).into(),
        "UnixMilli" => t.as_millisecond().into(),
        "UnixMicro" => t.as_microsecond().into(),
        "Nanosecond" => t.subsec_nanosecond().rem_euclid(1_000_000_000).into(),
        "Year" => utc().year().into(),
        "Month" => utc().month().into(),
        "Day" => utc().day().into(),
        "Hour" => utc().hour().into(),
        "Minute" => utc().minute().into(),
        "Second" => utc().second().into(),
        "YearDay" => utc().day_of_year().into(),
        "Weekday" => utc().weekday().to_sunday_zero_offset().into(),
        "String" => crate::value::rfc3339(t).into(),
        "UTC" | "Local" => Value::Time(t),
        "IsZero" => (t.as_second() == -62_135_596_800).into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes() {
        for n in
            [1_590_938_885, 1_590_938_885_000, 1_590_938_885_000_000, 1_590_938_885_000_000_000]
        {
            assert_eq!(from_number(n).unwrap().as_second(), 1_590_938_885, "{n}");
        }
    }

    #[test]
    fn layouts() {
        for text in [
            "2020-05-31T15:28:05Z",
            "2020-05-31T16:28:05+01:00",
            "2020-05-31 15:28:05",
            "Sun, 31 May 2020 15:28:05 +0000",
            "05/31/2020 15:28:05",
            "Sun May 31 15:28:05 2020",
            "31/May/2020:15:28:05 +0000",
        ] {
            assert_eq!(parse_time(text).map(|t| t.as_second()), Some(1_590_938_885), "{text}");
        }
        assert_eq!(parse_time("2020-05-31").map(|t| t.as_second()), Some(1_590_883_200));
        let float = Value::Float(1_574_384_906.081_153_9);
        assert_eq!(to_time(&float).map(|t| t.subsec_nanosecond()), Some(81_153_869));
        let logged = parse_time("Mar  7 08:09:10").map(crate::value::rfc3339);
        assert_eq!(logged.as_deref(), Some("0000-03-07T08:09:10Z"));
        assert_eq!(parse_time("nonsense"), None);
    }
}
