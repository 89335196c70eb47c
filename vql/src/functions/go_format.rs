//! A formatter after Go's fmt package, over values of the language.

use crate::value::{Value, go_float};

/// Wider fields and longer fractions are cut to this.
const MAX_WIDTH: usize = 10_000;

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Formats `args` after `format`.
pub(super) fn sprintf(format: &[u8], args: &[Value]) -> Vec<u8> {
    let mut out = Vec::with_capacity(format.len() + 16);
    let mut at = 0;
    let mut next = 0;
    while at < format.len() {
        let byte = format[at];
        at += 1;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut spec = Spec::default();
        at = flags(format, at, &mut spec);
        let star = |at: &mut usize, out: &mut Vec<u8>, next: &mut usize| {
            if format.get(*at) == Some(&b'*') {
                *at += 1;
                let value = args.get(*next).and_then(Value::as_int);
                *next += 1;
                if value.is_none() {
                    out.extend_from_slice(b"%!(BADWIDTH)");
                }
                return value;
            }
            number(format, at)
        };
        if let Some(width) = star(&mut at, &mut out, &mut next) {
            spec.minus |= width < 0;
            spec.width = Some((width.unsigned_abs() as usize).min(MAX_WIDTH));
        }
        if format.get(at) == Some(&b'.') {
            at += 1;
            let precision = star(&mut at, &mut out, &mut next).unwrap_or(0).max(0);
            spec.precision = Some((precision as usize).min(MAX_WIDTH));
        }
        let Some(&verb) = format.get(at) else {
            out.extend_from_slice(b"%!(NOVERB)");
            break;
        };
        at += 1;
        if verb == b'%' {
            out.push(b'%');
            continue;
        }
        match args.get(next) {
            // A time is given as its text, without fraction.
            Some(Value::Time(t)) => {
                next += 1;
                let seconds = crate::Time::from_second(t.as_second()).unwrap_or(*t);
                one(&spec, verb, &Value::from(crate::value::rfc3339(seconds)), &mut out);
            }
            Some(value) => {
                next += 1;
                one(&spec, verb, value, &mut out);
            }
            None => out.extend_from_slice(format!("%!{}(MISSING)", verb as char).as_bytes()),
        }
    }
    if let Some(extra) = args.get(next..).filter(|extra| !extra.is_empty()) {
        let shown: Vec<String> =
            extra.iter().map(|v| format!("{}={}", v.type_name(), v.go_text())).collect();
        out.extend_from_slice(format!("%!(EXTRA {})", shown.join(", ")).as_bytes());
    }
    out
}

fn flags(format: &[u8], mut at: usize, spec: &mut Spec) -> usize {
    loop {
        match format.get(at) {
            Some(b'-') => spec.minus = true,
            Some(b'+') => spec.plus = true,
            Some(b'#') => spec.sharp = true,
            Some(b' ') => spec.space = true,
            Some(b'0') => spec.zero = true,
            _ => return at,
        }
        at += 1;
    }
}

fn number(format: &[u8], at: &mut usize) -> Option<i64> {
    let digits = format[*at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let text = std::str::from_utf8(&format[*at..*at + digits]).ok()?;
    *at += digits;
    (digits > 0).then(|| text.parse().unwrap_or(MAX_WIDTH as i64))
}

fn one(spec: &Spec, verb: u8, value: &Value, out: &mut Vec<u8>) {
    if verb == b'T' {
        return pad(spec, value.type_name().into(), false, out);
    }
    match value {
        Value::List(items) if !matches!(verb, b'p') => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                one(spec, verb, item, out);
            }
            out.push(b']');
        }
        Value::Int(i) => integer(spec, verb, i128::from(*i), value, out),
        Value::UInt(u) => integer(spec, verb, i128::from(*u), value, out),
        Value::Float(f) => float(spec, verb, *f, value, out),
        Value::Bool(b) => match verb {
            b'v' | b't' => pad(spec, b.to_string().into_bytes(), false, out),
            _ => bad(verb, value, out),
        },
        Value::Str(s) => text(spec, verb, s.as_bytes(), value, out),
        Value::Bytes(b) if verb == b'v' => {
            let items: Vec<String> = b.iter().map(u8::to_string).collect();
            pad(spec, format!("[{}]", items.join(" ")).into_bytes(), false, out);
        }
        Value::Bytes(b) => text(spec, verb, b, value, out),
        Value::Null if verb == b'd' => pad(spec, b"{}".to_vec(), false, out),
        other => text(spec, verb, other.go_text().as_bytes(), value, out),
    }
}

fn bad(verb: u8, value: &Value, out: &mut Vec<u8>) {
    let text = format!("%!{}({}={})", verb as char, value.type_name(), value.go_text());
    out.extend_from_slice(text.as_bytes());
}

fn text(spec: &Spec, verb: u8, bytes: &[u8], value: &Value, out: &mut Vec<u8>) {
    let cut = |bytes: &[u8]| match spec.precision {
        Some(n) => crate::value::lossy(bytes).chars().take(n).collect::<String>().into_bytes(),
        None => bytes.to_vec(),
    };
    match verb {
        b'v' if spec.sharp => pad(spec, quote(bytes), false, out),
        b'v' | b's' => pad(spec, cut(bytes), spec.zero, out),
        b'q' => {
            let shown = cut(bytes);
            let plain = |c: char| c != '`' && c != '\u{7f}' && (c >= ' ' || c == '\t');
            let quoted = match std::str::from_utf8(&shown) {
                Ok(text) if spec.sharp && text.chars().all(plain) => format!("`{text}`").into(),
                _ if spec.plus => ascii(&quote(&shown)),
                _ => quote(&shown),
            };
            pad(spec, quoted, false, out);
        }
        b'x' | b'X' => {
            let shown = &bytes[..spec.precision.unwrap_or(bytes.len()).min(bytes.len())];
            let hex: Vec<String> = shown
                .iter()
                .map(|b| if verb == b'x' { format!("{b:02x}") } else { format!("{b:02X}") })
                .collect();
            let prefix = match spec.sharp && !hex.is_empty() {
                true => format!("0{}", verb as char),
                false => String::new(),
            };
            let digits = hex.join(if spec.space { " " } else { "" });
            pad(spec, format!("{prefix}{digits}").into_bytes(), false, out);
        }
        _ => bad(verb, value, out),
    }
}

/// What is not ASCII as the number of its character.
fn ascii(text: &[u8]) -> Vec<u8> {
    let shown = |c: char| match u32::from(c) {
        n if c.is_ascii() => char::from_u32(n).into_iter().collect(),
        n if n < 0x1_0000 => format!("\\u{n:04x}"),
        n => format!("\\U{n:08x}"),
    };
    crate::value::lossy(text).chars().map(shown).collect::<String>().into_bytes()
}

fn quote(bytes: &[u8]) -> Vec<u8> {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{7}' => out.push_str("\\a"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\u{b}' => out.push_str("\\v"),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                    out.push_str(&format!("\\x{:02x}", c as u32));
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out.push('"');
    out.into_bytes()
}

fn integer(spec: &Spec, verb: u8, i: i128, value: &Value, out: &mut Vec<u8>) {
    let abs = i.unsigned_abs();
    let (digits, prefix) = match verb {
        b'd' | b'v' => (abs.to_string(), ""),
        b'x' => (format!("{abs:x}"), if spec.sharp { "0x" } else { "" }),
        b'X' => (format!("{abs:X}"), if spec.sharp { "0X" } else { "" }),
        b'o' => (format!("{abs:o}"), if spec.sharp { "0" } else { "" }),
        b'O' => (format!("{abs:o}"), "0o"),
        b'b' => (format!("{abs:b}"), if spec.sharp { "0b" } else { "" }),
        b'c' | b'q' | b'U' => {
            let c = u32::try_from(i).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
            let shown = match verb {
                b'c' => c.to_string(),
                b'q' => format!("'{c}'"),
                _ => format!("U+{:04X}", i),
            };
            return pad(spec, shown.into_bytes(), false, out);
        }
        _ => return bad(verb, value, out),
    };
    let mut digits = format!("{digits:0>width$}", width = spec.precision.unwrap_or(1));
    let sign = sign(spec, i < 0);
    if spec.zero && !spec.minus && spec.precision.is_none() {
        // What tells the base does not count: the digits alone fill the width.
        let width = spec.width.unwrap_or(0).saturating_sub(sign.len());
        digits = format!("{digits:0>width$}");
    }
    pad(spec, format!("{sign}{prefix}{digits}").into_bytes(), false, out);
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    match () {
        () if negative => "-",
        () if spec.plus => "+",
        () if spec.space => " ",
        () => "",
    }
}

fn float(spec: &Spec, verb: u8, f: f64, value: &Value, out: &mut Vec<u8>) {
    let abs = f.abs();
    let body = match verb {
        _ if !f.is_finite() => {
            return pad(spec, go_float(f).into_bytes(), false, out);
        }
        b'f' | b'F' => format!("{abs:.*}", spec.precision.unwrap_or(6)),
        b'e' | b'E' => {
            let text = format!("{abs:.*e}", spec.precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let mark = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}{}{mark}{:02}", verb as char, exponent.unsigned_abs())
        }
        b'v' | b'g' | b'G' => {
            let text = match spec.precision {
                None => go_float(abs),
                Some(precision) => general(abs, precision.max(1)),
            };
            if verb == b'G' { text.to_uppercase() } else { text }
        }
        _ => return bad(verb, value, out),
    };
    let sign = sign(spec, f.is_sign_negative());
    let width = spec.width.unwrap_or(0).saturating_sub(sign.len());
    let body = match spec.zero && !spec.minus {
        true => format!("{body:0>width$}"),
        false => body,
    };
    pad(spec, format!("{sign}{body}").into_bytes(), false, out);
}

/// `%.Ng`: N significant digits, trailing zeros dropped.
fn general(abs: f64, precision: usize) -> String {
    let text = format!("{abs:.*e}", precision - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => s.to_string(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{mark}{:02}", trim(mantissa), exponent.unsigned_abs());
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{abs:.decimals$}"))
}

/// Fills up to the width, counted in characters.
fn pad(spec: &Spec, body: Vec<u8>, zeros: bool, out: &mut Vec<u8>) {
    let width = spec.width.unwrap_or(0);
    let missing = width.saturating_sub(crate::value::lossy(&body).chars().count());
    let fill = if zeros { b'0' } else { b' ' };
    if !spec.minus {
        out.extend(std::iter::repeat_n(fill, missing));
    }
    out.extend_from_slice(&body);
    if spec.minus {
        out.extend(std::iter::repeat_n(b' ', missing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs() {
        let list = Value::list(vec!["a".into(), "b".into()]);
        let cases: Vec<(&str, Vec<Value>, &str)> = vec![
            (
                "%05s|%#x|%#q|%G",
                vec!["a".into(), "a".into(), "a".into(), 1e20.into()],
                "0000a|0x61|`a`|1E+20",
            ),
            ("%+q", vec!["é\n".into()], r#""\u00e9\n""#),
            ("%v|%s", vec!["x".into(), "y".into()], "x|y"),
            (
                "%d %5d|%-5d|%05d",
                vec![1.into(), 2.into(), 3.into(), 4.into()],
                "1     2|3    |00004",
            ),
            ("%x %X %02x %#x", vec![255.into(), 255.into(), 5.into(), 16.into()], "ff FF 05 0x10"),
            ("%#02x %#06x %#2x", vec![0.into(), 255.into(), 0.into()], "0x00 0x0000ff 0x0"),
            ("%x", vec!["hi".into()], "6869"),
            ("%T", vec![list.clone()], "[]types.Any"),
            ("%v %q", vec![list.clone(), list], "[a b] [\"a\" \"b\"]"),
            ("%f %.2f %8.3f", vec![1.5.into(), 2.0.into(), 3.0.into()], "1.500000 2.00    3.000"),
            ("%v %v", vec![1e6.into(), 0.5.into()], "1e+06 0.5"),
            ("%e %.3g", vec![1500.0.into(), 1234.5.into()], "1.500000e+03 1.23e+03"),
            ("%d", vec!["x".into()], "%!d(string=x)"),
            ("%s", vec![5.into()], "%!s(int64=5)"),
            ("%v %v", vec![1.into()], "1 %!v(MISSING)"),
            ("a", vec![1.into()], "a%!(EXTRA int64=1)"),
            ("100%%", vec![], "100%"),
            ("%q", vec!["a\"\n\u{1}".into()], "\"a\\\"\\n\\x01\""),
            ("%+d % d %c", vec![5.into(), 5.into(), 65.into()], "+5  5 A"),
            ("%*d", vec![4.into(), 7.into()], "   7"),
            ("%t", vec![true.into()], "true"),
            ("%.1s", vec!["éa".into()], "é"),
            ("%", vec![], "%!(NOVERB)"),
        ];
        for (format, args, want) in cases {
            let got = sprintf(format.as_bytes(), &args);
            assert_eq!(String::from_utf8_lossy(&got), want, "{format}");
        }
    }
}
