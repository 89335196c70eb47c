//! int, atoi, parse_float: numbers from other values.

use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::syntax::parse_int;
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let int =
        Signature::new("int", "A number truncated or a text parsed; otherwise 0.").refused(false);
    registry.function_sync(int.arg("int", ArgType::Any, "A number or text."), |_, args| {
        Ok(match args.any("int") {
            Value::Int(i) => Value::Int(i),
            Value::UInt(u) => Value::UInt(u),
            Value::Float(f) => Value::Int(f as i64),
            Value::Str(s) => whole(&s.to_text()).into(),
            _ => Value::Int(0),
        })
    });

    let atoi = Signature::new("atoi", "An integer from text; 0 when it is none.");
    registry.function_sync(atoi.required("string", ArgType::Any, "The text."), |_, args| {
        Ok(match args.any("string") {
            Value::Int(i) => Value::Int(i),
            Value::Float(f) => Value::Int(f as i64),
            Value::Bool(b) => Value::Int(b.into()),
            other => whole(&other.to_text()).into(),
        })
    });

    let parse_float = Signature::new("parse_float", "A fraction from text; 0 when it is none.");
    let parse_float = parse_float.required("string", ArgType::Any, "The text.");
    registry.function_sync(parse_float, |_, args| {
        let value = args.any("string");
        let number = match &value {
            Value::Str(s) => float(&s.to_text()),
            other => other.as_number(),
        };
        Ok(number.unwrap_or(0.0).into())
    });
}

/// A fraction as text has it: no space around it, digits perhaps parted by underscores.
fn float(text: &str) -> Option<f64> {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let parted = text.match_indices('_').all(|(at, _)| {
        digit(text[..at].chars().next_back()) && digit(text[at + 1..].chars().next())
    });
    if parted { text.replace('_', "").parse().ok() } else { None }
}

/// The number of a text; 0 when it is none, the nearest when it is too large.
fn whole(text: &str) -> i64 {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    parse_int(text).unwrap_or_else(|| {
        match !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            true if text.starts_with('-') => i64::MIN,
            true => i64::MAX,
            false => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_fractions() {
        assert_eq!(["5.5", "1_0", ".5", "1e3"].map(float), [5.5, 10.0, 0.5, 1000.0].map(Some));
        assert_eq!([" 5", "_1", "1__0", "x", ""].map(float), [None; 5]);
    }

    #[test]
    fn texts_of_numbers() {
        let parted = ["1_000", "0x_ff", "0_7", "_1", "1__0", "1_"];
        assert_eq!(parted.map(whole), [1000, 255, 7, 0, 0, 0]);
        assert_eq!(crate::tests::value("(atoi(string=' 5'), atoi(string=TRUE))"), "[0,1]");
        assert_eq!((whole("12"), whole("-0x10"), whole("x9"), whole("")), (12, -16, 0, 0));
        assert_eq!(
            (whole("99999999999999999999"), whole("-99999999999999999999")),
            (i64::MAX, i64::MIN)
        );
    }
}
