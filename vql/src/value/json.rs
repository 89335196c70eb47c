//! JSON output: one exact text for every value.

use super::text::{format_float, rfc3339};
use super::{Dict, Value};

/// Deeper nesting is cut off with `null` so that no value can exhaust the stack.
const MAX_DEPTH: usize = 256;

impl Value {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    /// The JSON text over several lines, one space of indent per level.
    pub fn to_json_indented(&self) -> String {
        let compact = self.to_json();
        let mut out = String::with_capacity(compact.len() * 2);
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        let mut chars = compact.chars().peekable();
        let newline = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth));
        };
        while let Some(c) = chars.next() {
            if quoted {
                out.push(c);
                quoted = escaped || c != '"';
                escaped = !escaped && c == '\\';
                continue;
            }
            match c {
                '{' | '[' => {
                    out.push(c);
                    if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                        out.push(close);
                    } else {
                        depth += 1;
                        newline(&mut out, depth);
                    }
                }
                '}' | ']' => {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                    out.push(c);
                }
                ',' => {
                    out.push(c);
                    newline(&mut out, depth);
                }
                ':' => out.push_str(": "),
                c => {
                    quoted = c == '"';
                    out.push(c);
                }
            }
        }
        out
    }

    /// Appends the JSON text. Queries which were not materialised give `null`.
    pub fn write_json(&self, out: &mut String) {
        write_value(self, out, 0);
    }
}

impl Dict {
    /// The JSON text: one object in member order.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    /// Appends the JSON text.
    pub fn write_json(&self, out: &mut String) {
        write_dict(self, out, 0);
    }
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(self.to_json())?.serialize(serializer)
    }
}

impl serde::Serialize for Dict {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(self.to_json())?.serialize(serializer)
    }
}

fn raw<E: serde::ser::Error>(json: String) -> Result<Box<serde_json::value::RawValue>, E> {
    serde_json::value::RawValue::from_string(json).map_err(E::custom)
}

fn write_value(value: &Value, out: &mut String, depth: usize) {
    if depth > MAX_DEPTH {
        return out.push_str("null");
    }
    match value {
        Value::Null | Value::Query(_) | Value::Expr(_) | Value::Lambda(_) => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => out.push_str(itoa(*i, &mut [0; 24])),
        Value::UInt(u) => out.push_str(&u.to_string()),
        Value::Float(f) if f.is_finite() => out.push_str(&format_float(*f)),
        Value::Float(_) => out.push_str("null"),
        Value::Str(s) => write_string(s.as_bytes(), out),
        Value::Bytes(b) => {
            out.push('"');
            out.push_str(&crate::codec::base64_encode(b));
            out.push('"');
        }
        Value::Time(t) => {
            out.push('"');
            out.push_str(&rfc3339(*t));
            out.push('"');
        }
        Value::List(_) if value.is_nil_list() => out.push_str("null"),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(item, out, depth + 1);
            }
            out.push(']');
        }
        Value::Dict(d) => write_dict(d, out, depth),
        Value::Object(o) => match o.to_plain() {
            Value::Object(_) => out.push_str("null"),
            plain => write_value(&plain, out, depth + 1),
        },
    }
}

fn write_dict(dict: &Dict, out: &mut String, depth: usize) {
    out.push('{');
    for (i, (key, value)) in dict.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_string(key.as_bytes(), out);
        out.push(':');
        write_value(value, out, depth + 1);
    }
    out.push('}');
}

fn itoa(value: i64, buffer: &mut [u8; 24]) -> &str {
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or("0")
}

/// Appends a quoted JSON string. `<`, `>`, `&`, U+2028 and U+2029 are escaped,
/// every invalid byte becomes `\ufffd`.
pub(crate) fn write_string(bytes: &[u8], out: &mut String) {
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let mut start = 0;
        for (at, c) in valid.char_indices() {
            let escape = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '<' => "\\u003c",
                '>' => "\\u003e",
                '&' => "\\u0026",
                '\u{2028}' => "\\u2028",
                '\u{2029}' => "\\u2029",
                c if (c as u32) < 0x20 => "",
                _ => continue,
            };
            out.push_str(&valid[start..at]);
            if escape.is_empty() {
                out.push_str(&format!("\\u{:04x}", c as u32));
            } else {
                out.push_str(escape);
            }
            start = at + c.len_utf8();
        }
        out.push_str(&valid[start..]);
        for _ in chunk.invalid() {
            out.push_str("\\ufffd");
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        let text = Value::from("<a>&\"\\\n\u{8}\u{2028}é".as_bytes()).to_json();
        assert_eq!(text, "\"\\u003ca\\u003e\\u0026\\\"\\\\\\n\\u0008\\u2028é\"");
        assert_eq!(Value::from(&b"a\xff\xfe"[..]).to_json(), "\"a\\ufffd\\ufffd\"");
    }

    #[test]
    fn numbers() {
        for (value, text) in [
            (2.0, "2"),
            (0.5, "0.5"),
            (1e-7, "1e-7"),
            (1e20, "100000000000000000000"),
            (1e21, "1e21"),
            (1.5e-6, "0.0000015"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(Value::from(value).to_json(), text);
        }
        for i in [i64::MIN, -1, 0, 7, i64::MAX] {
            assert_eq!(Value::from(i).to_json(), i.to_string());
        }
        assert_eq!(Value::from(u64::MAX).to_json(), "18446744073709551615");
    }

    #[test]
    fn containers() {
        assert_eq!(Value::list(vec![]).to_json(), "[]");
        assert_eq!(Value::nil_list().to_json(), "null");
        let d = Dict::new().with("b", 1).with("a", Value::list(vec![true.into(), Value::Null]));
        assert_eq!(d.to_json(), "{\"b\":1,\"a\":[true,null]}");
        assert_eq!(serde_json::to_string(&d).unwrap(), d.to_json());
        assert_eq!(Value::Bytes(b"ab".as_slice().into()).to_json(), "\"YWI=\"");
    }

    #[test]
    fn indented() {
        let d = Dict::new().with("a", Value::list(vec![1.into(), "x,\\\"{".into()]));
        let d = Value::from(d.with("b", Value::list(vec![])));
        assert_eq!(
            d.to_json_indented(),
            "{\n \"a\": [\n  1,\n  \"x,\\\\\\\"{\"\n ],\n \"b\": []\n}"
        );
    }

    #[test]
    fn deep_nesting_is_cut() {
        let mut v = Value::Null;
        for _ in 0..1000 {
            v = Value::list(vec![v]);
        }
        assert!(v.to_json().len() < 1000);
    }

    #[test]
    fn times() {
        let t: crate::Time = "2020-05-31T14:28:05.00000001Z".parse().unwrap();
        assert_eq!(Value::from(t).to_json(), "\"2020-05-31T14:28:05.00000001Z\"");
    }
}
