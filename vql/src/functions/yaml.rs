//! Values as YAML, laid out as Go's yaml.v2 does: other programs compare such texts.

use crate::value::{Value, format_float, rfc3339};

/// A line is broken at the first space behind this column.
const WIDTH: usize = 80;

/// The document of a value.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    node(value, 0, Place::Top, &mut out);
    out
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the beginning of the document.
    Top,
    /// Behind `key:`.
    Member,
    /// Behind `-`.
    Item,
}

fn node(value: &Value, indent: usize, place: Place, out: &mut String) {
    match value {
        Value::List(items) if !items.is_empty() => {
            // Lists are not indented below their key.
            let first_on_line = place != Place::Member;
            for (i, item) in items.iter().enumerate() {
                start(out, indent, i == 0 && first_on_line);
                out.push('-');
                node(item, indent + 2, Place::Item, out);
            }
        }
        Value::Dict(d) if !d.is_empty() => {
            let indent = if place == Place::Member { indent + 2 } else { indent };
            for (i, (key, item)) in d.iter().enumerate() {
                start(out, indent, i == 0 && place != Place::Member);
                out.push_str(&scalar(key.as_str(), indent, out.len() - line_start(out)));
                out.push(':');
                node(item, indent, Place::Member, out);
            }
        }
        other => {
            let text = plain(other, indent, out);
            if place != Place::Top {
                out.push(' ');
            }
            out.push_str(&text);
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
    }
}

/// Begins an entry: on a line of its own, or behind the dash of the list it is in.
fn start(out: &mut String, indent: usize, goes_on: bool) {
    if goes_on {
        if out.ends_with('-') {
            out.push(' ');
        }
        return;
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(&" ".repeat(indent));
}

fn line_start(out: &str) -> usize {
    out.rfind('\n').map_or(0, |i| i + 1)
}

fn plain(value: &Value, indent: usize, out: &str) -> String {
    let column = out.len() - line_start(out) + 1;
    match value {
        Value::Null | Value::Query(_) | Value::Expr(_) | Value::Lambda(_) => "{}".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::UInt(u) => u.to_string(),
        Value::Float(f) => format_float(*f),
        Value::Time(t) => rfc3339(*t),
        Value::List(_) => "[]".into(),
        Value::Dict(_) => "{}".into(),
        Value::Object(o) => match o.to_plain() {
            Value::Object(_) => "{}".into(),
            // A path inside of another file: its JSON, laid out.
            Value::Str(text) if text.as_bytes().starts_with(b"{") => {
                let parsed = serde_json::from_slice(text.as_bytes()).map(Value::from_json_plain);
                match parsed {
                    Ok(value) => scalar(&spread(&value, 0), indent, column),
                    Err(_) => scalar(&text.to_text(), indent, column),
                }
            }
            other => {
                let mut text = String::new();
                node(&other, indent, Place::Top, &mut text);
                text.trim_end_matches('\n').to_owned()
            }
        },
        other => scalar(&other.to_text(), indent, column),
    }
}

/// JSON with each member on its line: one space, and two more for each level.
fn spread(value: &Value, depth: usize) -> String {
    let Value::Dict(d) = value else { return value.to_json() };
    let pad = " ".repeat(1 + 2 * (depth + 1));
    let member = |(k, v): (&crate::value::Key, &Value)| {
        format!("{pad}{}: {}", Value::from(k).to_json(), spread(v, depth + 1))
    };
    let members: Vec<String> = d.iter().map(member).collect();
    format!("{{\n{}\n{}}}", members.join(",\n"), " ".repeat(1 + 2 * depth))
}

/// A text in the style it needs.
fn scalar(text: &str, indent: usize, column: usize) -> String {
    let special = |c: char| (c < ' ' && c != '\n') || c == '\u{7f}' || c == '\u{feff}';
    if text.is_empty() || means_other(text) || text.contains(special) {
        return double_quoted(text);
    }
    if text.contains('\n') {
        return literal(text, indent + 2);
    }
    let first = text.chars().next().unwrap_or(' ');
    let indicator = "#,[]{}&*!|>'\"%@`".contains(first)
        || ("-?:".contains(first) && text[1..].chars().next().is_none_or(|c| c == ' '));
    let quoted = indicator
        || text.starts_with(' ')
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains(" #")
        || text.starts_with("---")
        || text.starts_with("...");
    match quoted {
        false => folded(text, indent + 2, column),
        true => format!("'{}'", folded(&text.replace('\'', "''"), indent + 2, column + 1)),
    }
}

/// Whether a plain text would be read as something else than a text.
fn means_other(text: &str) -> bool {
    const WORDS: [&str; 11] =
        ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "~", ".nan"];
    if WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return true;
    }
    let number = text.trim_start_matches(['+', '-']).replace('_', "");
    let digits = |t: &str, radix| !t.is_empty() && t.chars().all(|c| c.is_digit(radix));
    let lower = number.to_ascii_lowercase();
    let based = [("0x", 16), ("0b", 2), ("0o", 8)];
    if based.iter().any(|(p, r)| lower.strip_prefix(p).is_some_and(|t| digits(t, *r))) {
        return true;
    }
    let first = lower.chars().next().unwrap_or(' ');
    if (first.is_ascii_digit() || first == '.') && lower.parse::<f64>().is_ok() {
        return true;
    }
    // A date, alone or with a time.
    let date = text.get(..10).is_some_and(|d| d.parse::<jiff::civil::Date>().is_ok());
    lower == ".inf" || (date && (text.len() == 10 || text.as_bytes()[10] == b'T'))
}

/// Breaks a text at spaces. `column` is where it begins.
fn folded(text: &str, indent: usize, mut column: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let near = |j: Option<&char>| j.is_none_or(|c| *c == ' ');
        let alone = *c == ' ' && i > 0 && !near(chars.get(i + 1)) && chars[i - 1] != ' ';
        if alone && column > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            out.push(*c);
            column += 1;
        }
    }
    out
}

fn literal(text: &str, indent: usize) -> String {
    let mut out = String::from("|");
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    match text.strip_suffix('\n') {
        None => out.push('-'),
        Some(rest) if rest.is_empty() || rest.ends_with('\n') => out.push('+'),
        Some(_) => {}
    }
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
    }
    out
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            '\u{feff}' => out.push_str("\\uFEFF"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Dict;

    fn list(items: impl IntoIterator<Item = Value>) -> Value {
        Value::list(items.into_iter().collect())
    }

    #[test]
    fn layout() {
        let inner = Dict::new().with("Port", 22).with("Open", true);
        let value = Dict::new()
            .with("Host", "db1")
            .with("Ports", list([inner.into(), Dict::new().with("Tags", list([1.into()])).into()]))
            .with("Deep", list([list(["a".into(), list(["b".into()])])]))
            .with("Of", Dict::new().with("Text", "one\ntwo\n").with("None", Value::Null))
            .with("Empty", list([]));
        let expected = "Host: db1\nPorts:\n- Port: 22\n  Open: true\n- Tags:\n  - 1\nDeep:\n- - a\n  - - b\n\
            Of:\n  Text: |\n    one\n    two\n  None: {}\nEmpty: []\n";
        assert_eq!(document(&value.into()), expected);
        assert_eq!(document(&"x".into()), "x\n");
        assert_eq!(document(&list([1.into(), 2.5.into()])), "- 1\n- 2.5\n");
    }

    #[test]
    fn styles() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("17", "\"17\""),
            ("0x1F", "\"0x1F\""),
            ("1e5", "\"1e5\""),
            ("No", "\"No\""),
            ("2024-02-29", "\"2024-02-29\""),
            ("", "\"\""),
            ("a: b", "'a: b'"),
            ("it's # 1", "'it''s # 1'"),
            ("@home", "'@home'"),
            ("- x", "'- x'"),
            ("-x", "-x"),
            ("end ", "'end '"),
            ("a\tb", "\"a\\tb\""),
            ("a\nb", "|-\n  a\n  b"),
            (" a\n\nb\n\n", "|2+\n   a\n\n  b\n"),
        ] {
            assert_eq!(scalar(text, 0, 0), expected, "{text:?}");
        }
        let long = "word ".repeat(40);
        let lines = scalar(long.trim_end(), 0, 3);
        assert!(lines.lines().count() == 3 && lines.lines().all(|l| l.len() < 90), "{lines}");
        assert_eq!(lines.replace("\n  ", " "), long.trim_end());
    }
}
