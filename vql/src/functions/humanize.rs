//! humanize(): sizes, ages and digit groups for people.

use crate::registry::Registry;
use crate::signature::{ArgType, Signature};

pub(super) fn register(registry: &mut Registry) {
    let humanize = Signature::new("humanize", "Formats a number or time for people.")
        .refused(false)
        .arg("bytes", ArgType::Int, "A size, in powers of 1000.")
        .arg("ibytes", ArgType::Int, "A size, in powers of 1024.")
        .arg("time", ArgType::Time, "A time, relative to now.")
        .arg("comma", ArgType::Int, "A number, its digits in groups.");
    registry.function_sync(humanize, |scope, args| {
        if let Some(number) = args.opt_int("comma")? {
            return Ok(comma(number).into());
        }
        if let Some(bytes) = args.opt_int("bytes")? {
            return Ok(size(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"]).into());
        }
        if let Some(bytes) = args.opt_int("ibytes")? {
            let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
            return Ok(size(bytes, 1024.0, &units).into());
        }
        if let Some(time) = args.time("time")? {
            return Ok(age(scope.now().as_second() - time.as_second()).into());
        }
        // Nothing is no bytes.
        Ok(size(0, 1000.0, &["B"]).into())
    });
}

fn size(bytes: i64, base: f64, units: &[&str]) -> String {
    let bytes = bytes.max(0);
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    let decimals = usize::from(value < 10.0);
    format!("{value:.decimals$} {}", units[unit])
}

fn comma(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn age(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const WEEK: i64 = 7 * DAY;
    const MONTH: i64 = 30 * DAY;
    const YEAR: i64 = 12 * MONTH;
    let suffix = if seconds < 0 { "from now" } else { "ago" };
    let s = seconds.saturating_abs();
    let counted = |n: i64, unit: &str| match n {
        1 => format!("1 {unit} {suffix}"),
        n => format!("{n} {unit}s {suffix}"),
    };
    match s {
        0 => "now".into(),
        _ if s < MINUTE => counted(s, "second"),
        _ if s < HOUR => counted(s / MINUTE, "minute"),
        _ if s < DAY => counted(s / HOUR, "hour"),
        _ if s < WEEK => counted(s / DAY, "day"),
        _ if s < MONTH => counted(s / WEEK, "week"),
        _ if s < YEAR => counted(s / MONTH, "month"),
        _ if s < 37 * YEAR => counted(s / YEAR, "year"),
        _ => format!("a long while {suffix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts() {
        let si = ["B", "kB", "MB"];
        assert_eq!(size(82_854_982, 1000.0, &si), "83 MB");
        assert_eq!(size(1500, 1000.0, &si), "1.5 kB");
        assert_eq!(size(9, 1000.0, &si), "9 B");
        assert_eq!(comma(-1234567), "-1,234,567");
        assert_eq!(comma(123), "123");
        assert_eq!(age(3 * 86400 + 5), "3 days ago");
        assert_eq!(age(-60), "1 minute from now");
    }
}
