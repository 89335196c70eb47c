//! CSV text to rows. Cells which look like numbers, booleans or JSON become such.

use crate::value::{Dict, Key, Value, lossy};

/// How to read a CSV text.
#[derive(Clone, Debug)]
pub struct CsvOptions {
    /// Between cells.
    pub separator: u8,
    /// Lines which start with it are skipped.
    pub comment: Option<u8>,
    /// Where the column names come from.
    pub header: CsvHeader,
}

/// Where column names come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsvHeader {
    /// The first line.
    FirstLine,
    /// `Col0`, `Col1`, ...
    Numbered,
    /// These.
    Given(Vec<String>),
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions { separator: b',', comment: None, header: CsvHeader::FirstLine }
    }
}

/// The rows of a CSV text. Short lines are filled with empty cells, cells
/// beyond the header are dropped. Unbalanced quotes are taken as they are.
pub fn parse_csv(text: &[u8], options: &CsvOptions) -> Vec<Dict> {
    let mut lines = Lines { rest: text, options };
    let header: Option<Vec<Key>> = match &options.header {
        CsvHeader::FirstLine => {
            lines.next().map(|cells| cells.iter().map(|cell| Key::new(&lossy(cell))).collect())
        }
        CsvHeader::Given(names) => Some(names.iter().map(|name| Key::new(name)).collect()),
        CsvHeader::Numbered => None,
    };
    let numbered = |n: usize| (0..n).map(|i| Key::from(format!("Col{i}"))).collect::<Vec<_>>();
    let mut rows = Vec::new();
    for cells in lines {
        let own;
        let names = match &header {
            Some(names) => names,
            None => {
                own = numbered(cells.len());
                &own
            }
        };
        let mut row = Dict::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            row.set(name, cells.get(i).map_or_else(|| Value::from(""), |cell| convert(cell)));
        }
        rows.push(row);
    }
    rows
}

/// Splits a text into the cells of its lines.
struct Lines<'a> {
    rest: &'a [u8],
    options: &'a CsvOptions,
}

impl Iterator for Lines<'_> {
    type Item = Vec<Vec<u8>>;

    fn next(&mut self) -> Option<Vec<Vec<u8>>> {
        loop {
            let end = self.rest.iter().position(|b| *b == b'\n');
            let line = &self.rest[..end.unwrap_or(self.rest.len())];
            let comment = self.options.comment.is_some_and(|c| line.first() == Some(&c));
            if !comment && !line.trim_ascii().is_empty() {
                return Some(self.cells());
            }
            self.rest = &self.rest[end? + 1..];
        }
    }
}

impl Lines<'_> {
    /// Consumes one record, which may span lines inside quotes.
    fn cells(&mut self) -> Vec<Vec<u8>> {
        let (mut cells, mut cell) = (Vec::new(), Vec::new());
        let (mut quoted, mut start) = (false, true);
        let bytes = self.rest;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' if quoted && bytes.get(at) == Some(&b'"') => {
                    cell.push(b'"');
                    at += 1;
                }
                b'"' if quoted => {
                    let next = bytes.get(at).copied().unwrap_or(b'\n');
                    quoted = next != self.options.separator && !matches!(next, b'\n' | b'\r');
                    if quoted {
                        cell.push(b'"');
                    }
                }
                _ if quoted => cell.push(byte),
                b'"' if start => {
                    quoted = true;
                    start = false;
                }
                b' ' | b'\t' if start && byte != self.options.separator => {}
                b'\n' => break,
                b'\r' if bytes.get(at) == Some(&b'\n') => {}
                _ if byte == self.options.separator => {
                    cells.push(std::mem::take(&mut cell));
                    start = true;
                }
                _ => {
                    cell.push(byte);
                    start = false;
                }
            }
        }
        self.rest = &bytes[at..];
        cells.push(cell);
        cells
    }
}

/// A cell as a number, boolean or JSON value when it is one.
fn convert(cell: &[u8]) -> Value {
    let Ok(text) = std::str::from_utf8(cell) else { return Value::from(cell) };
    match text.as_bytes() {
        b"true" => return true.into(),
        b"false" => return false.into(),
        [b'{', .., b'}'] | [b'[', .., b']'] => {
            if let Ok(json) = serde_json::from_str(text) {
                return Value::from_json_plain(json);
            }
        }
        [b'0'..=b'9' | b'-' | b'+' | b'.', rest @ ..] if rest.iter().all(is_numeric) => {
            if let Ok(i) = text.parse::<i64>() {
                return i.into();
            }
            if let Ok(f) = text.parse::<f64>() {
                return f.into();
            }
        }
        _ => {}
    }
    text.into()
}

fn is_numeric(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, options: &CsvOptions) -> String {
        Value::from(parse_csv(text.as_bytes(), options)).to_json()
    }

    #[test]
    fn cells_are_converted() {
        let text = "a,b,c\n1,2.5,x\n\"q,\"\"z\",,true\n";
        let want = r#"[{"a":1,"b":2.5,"c":"x"},{"a":"q,\"z","b":"","c":true}]"#;
        assert_eq!(json(text, &CsvOptions::default()), want);
        let text = "a,b\n0x10,1e3\n-5,007\nTRUE,{\"a\":1}\n[1],2020-01-01T00:00:00Z\n";
        let want = r#"[{"a":"0x10","b":1000},{"a":-5,"b":7},{"a":"TRUE","b":{"a":1}},{"a":[1],"b":"2020-01-01T00:00:00Z"}]"#;
        assert_eq!(json(text, &CsvOptions::default()), want);
    }

    #[test]
    fn ragged_and_faulty_lines() {
        let text = "a,b\r\n1\r\n1,2,3\n\n 4, 5\nx\"y,2\n";
        let want = r#"[{"a":1,"b":""},{"a":1,"b":2},{"a":4,"b":5},{"a":"x\"y","b":2}]"#;
        assert_eq!(json(text, &CsvOptions::default()), want);
        let want = r#"[{"a":"unterminated\n","b":""}]"#;
        assert_eq!(json("a,b\n\"unterminated\n", &CsvOptions::default()), want);
        assert_eq!(json("", &CsvOptions::default()), "[]");
        assert_eq!(json("a,a\n1,2", &CsvOptions::default()), r#"[{"a":2}]"#);
    }

    #[test]
    fn headers() {
        let numbered = CsvOptions { header: CsvHeader::Numbered, ..CsvOptions::default() };
        assert_eq!(json("1,2\n", &numbered), r#"[{"Col0":1,"Col1":2}]"#);
        let given = CsvOptions {
            separator: b';',
            comment: Some(b'#'),
            header: CsvHeader::Given(vec!["x".into(), "y".into()]),
        };
        assert_eq!(json("1;2\n#x\n3;4\n", &given), r#"[{"x":1,"y":2},{"x":3,"y":4}]"#);
    }
}
