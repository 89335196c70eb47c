//! Text of values as Go's `%v` gives it, and number and time text.

use super::{Str, Time, Value};

impl Value {
    /// The string form: `NULL` is empty, containers are `[a b]` or JSON.
    pub fn to_str(&self) -> Str {
        match self {
            Value::Str(s) => s.clone(),
            Value::Bytes(b) => Str::from(&b[..]),
            Value::Null => Str::from(""),
            other => Str::from(other.go_text()),
        }
    }

    /// The string form, NULL as `Null`.
    pub(crate) fn text_or_null(&self) -> Str {
        if self.is_null() { Str::from("Null") } else { self.to_str() }
    }

    /// The string form as text; invalid bytes become U+FFFD.
    pub fn to_text(&self) -> String {
        match self {
            Value::Str(s) => s.to_text().into_owned(),
            other => other.to_str().to_text().into_owned(),
        }
    }

    /// The text of `%v`.
    pub fn go_text(&self) -> String {
        match self {
            Value::Null => "Null".into(),
            Value::Bool(b) => b.to_string(),
            Value::Int(i) => i.to_string(),
            Value::UInt(u) => u.to_string(),
            Value::Float(f) => go_float(*f),
            Value::Str(s) => s.to_text().into_owned(),
            Value::Bytes(b) => super::lossy(b).into_owned(),
            Value::Time(t) => go_time(*t),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(Value::go_text).collect();
                format!("[{}]", items.join(" "))
            }
            Value::Dict(d) => d.to_json(),
            Value::Query(q) => q.to_string(),
            Value::Expr(e) => e.to_string(),
            Value::Lambda(l) => l.to_string(),
            Value::Object(o) => o.text().unwrap_or_else(|| self.to_json()),
        }
    }
}

/// Shortest decimal digits and exponent: `0.d1d2d3... * 10^exp`.
fn digits(f: f64) -> (String, i32) {
    let text = format!("{:e}", f.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.replace('.', ""), exponent.parse().unwrap_or(0))
}

fn exponent_form(digits: &str, exp: i32, width: usize, plus: bool) -> String {
    let (head, tail) = digits.split_at(1);
    let dot = if tail.is_empty() { "" } else { "." };
    let sign = match (exp < 0, plus) {
        (true, _) => "-",
        (false, true) => "+",
        (false, false) => "",
    };
    format!("{head}{dot}{tail}e{sign}{:0width$}", exp.unsigned_abs())
}

/// JSON text of a fraction: shortest digits, exponent below 1e-6 and from 1e21.
pub fn format_float(f: f64) -> String {
    let sign = if f.is_sign_negative() { "-" } else { "" };
    let abs = f.abs();
    if abs != 0.0 && !(1e-6..1e21).contains(&abs) {
        let (digits, exp) = digits(f);
        return format!("{sign}{}", exponent_form(&digits, exp, 1, false));
    }
    format!("{f}")
}

/// `%v` text of a fraction: exponent form below 1e-4 and from 1e6.
pub fn go_float(f: f64) -> String {
    if f.is_nan() {
        return "NaN".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let (digits, exp) = digits(f);
    let sign = if f.is_sign_negative() { "-" } else { "" };
    if f != 0.0 && !(-4..6).contains(&exp) {
        return format!("{sign}{}", exponent_form(&digits, exp, 2, true));
    }
    format!("{f}")
}

/// The text Go gives a time in UTC: `2020-05-31 15:28:05.5 +0000 UTC`.
pub fn go_time(t: Time) -> String {
    let text = t.to_string();
    let body = text.strip_suffix('Z').unwrap_or(&text);
    format!("{} +0000 UTC", body.replacen('T', " ", 1))
}

/// RFC 3339 in UTC with up to nine fraction digits, trailing zeros trimmed.
pub fn rfc3339(t: Time) -> String {
    t.to_string()
}
