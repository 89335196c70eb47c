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
    CsvRows::new(text, options).collect()
}

/// The rows of a CSV text, one after another.
pub struct CsvRows<'a> {
    lines: Lines<'a>,
    /// Names and how many cells a row has; known from the first line on.
    columns: Option<Vec<Key>>,
    given: Vec<Key>,
}

impl<'a> CsvRows<'a> {
    /// See [`parse_csv`].
    pub fn new(text: &'a [u8], options: &'a CsvOptions) -> CsvRows<'a> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut lines = Lines { rest: text, options };
        let (mut columns, mut given) = (None, Vec::new());
        match &options.header {
            CsvHeader::FirstLine => {
                let header = lines.next().unwrap_or_default();
                columns = Some(header.iter().map(|cell| Key::new(&lossy(cell))).collect());
            }
            CsvHeader::Given(names) => given = names.iter().map(|name| Key::new(name)).collect(),
            CsvHeader::Numbered => {}
        }
        CsvRows { lines, columns, given }
    }

    /// The names of the first line, when they come from there.
    pub fn header(&self) -> Option<&[Key]> {
        match self.lines.options.header {
            CsvHeader::FirstLine => self.columns.as_deref(),
            _ => None,
        }
    }
}

impl Iterator for CsvRows<'_> {
    type Item = Dict;

    fn next(&mut self) -> Option<Dict> {
        let cells = self.lines.next()?;
        let name =
            |i: usize| self.given.get(i).cloned().unwrap_or_else(|| format!("Col{i}").into());
        let columns = self.columns.get_or_insert_with(|| (0..cells.len()).map(name).collect());
        let mut row = Dict::with_capacity(columns.len());
        for (i, name) in columns.iter().enumerate() {
            row.set(name, cells.get(i).map_or_else(|| Value::from(""), |cell| convert(cell)));
        }
        Some(row)
    }
}

/// A cell that [`parse_csv`] reads back as the value: what could be taken for a number or the
/// like begins with a space, and what is no plain value is JSON.
pub fn csv_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(b) => b.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bytes(bytes) => format!("base64:{}", crate::codec::base64_encode(bytes)),
        Value::Time(t) => crate::value::rfc3339(*t),
        Value::Str(text) => {
            let text = text.to_text();
            let lower = text.to_ascii_lowercase();
            let unsigned = lower.trim_start_matches(['+', '-']);
            let special = [" ", "{", "[", "true", "false", "base64:"];
            let taken = special.iter().any(|p| lower.starts_with(p))
                || (lower.len() - unsigned.len() < 2 && unsigned.starts_with("inf"));
            let plain = ungrouped(&text);
            let number = plain.bytes().all(|b| is_numeric(&b)) && plain.parse::<f64>().is_ok();
            if taken || number && !text.ends_with('.') { format!(" {text}") } else { text.into() }
        }
        Value::Int(_) | Value::UInt(_) => value.to_text(),
        other => {
            let json = other.to_json_indented();
            match json.as_bytes().first() {
                Some(b'{' | b'[') => json,
                Some(b'"') => other.to_text(),
                _ => String::new(),
            }
        }
    }
}

/// A line of cells with its end; those that need it are put in quotes.
pub fn csv_line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let quoted = |c: &str| match c.contains(['"', ',', '\n', '\r']) || c.starts_with([' ', '\t']) {
        true => format!("\"{}\"", c.replace('"', "\"\"")),
        false => c.to_owned(),
    };
    cells.map(quoted).collect::<Vec<_>>().join(",") + "\n"
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
                // Lines inside of quotes end in one way.
                b'\r' if quoted && bytes.get(at) == Some(&b'\n') => {}
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
        // What begins so is text in any case.
        [b' ', rest @ ..] => return rest.into(),
        [b'{' | b'[', ..] => {
            return serde_json::from_str(text).map_or_else(|_| text.into(), Value::from_json_plain);
        }
        _ => {}
    }
    if let Some(bytes) =
        text.strip_prefix("base64:").and_then(|t| crate::codec::base64_decode(t.as_bytes()))
    {
        return Value::Bytes(bytes.into());
    }
    let plain = ungrouped(text);
    if let Ok(i) = plain.parse::<i64>() {
        return i.into();
    }
    plain.parse::<f64>().map_or_else(|_| text.into(), Value::from)
}

/// A number without the single underscores that may stand between its digits (`1_000`);
/// any other text as it is.
fn ungrouped(text: &str) -> std::borrow::Cow<'_, str> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let between = |at: usize| at > 0 && digit(at - 1) && digit(at + 1);
    let grouped = bytes.contains(&b'_')
        && bytes.iter().enumerate().all(|(at, b)| match b {
            b'_' => between(at),
            b => is_numeric(b),
        });
    if grouped { text.replace('_', "").into() } else { text.into() }
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
    fn lines_in_quotes_end_in_one_way() {
        let text = "a,b\r\n1,\"x\r\ny\rz\"\r\n";
        assert_eq!(json(text, &CsvOptions::default()), r#"[{"a":1,"b":"x\ny\rz"}]"#);
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
    fn digits_may_be_grouped() {
        let text = "a,b,c,d,e,f\n1_000,_1,1_,1__0,0x1_0,1_0.5\n";
        let want = r#"[{"a":1000,"b":"_1","c":"1_","d":"1__0","e":"0x1_0","f":10.5}]"#;
        assert_eq!(json(text, &CsvOptions::default()), want);
        // What is text is written so that it is read as text.
        assert_eq!(csv_cell(&"1_000".into()), " 1_000");
        assert_eq!(csv_cell(&"a_b".into()), "a_b");
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
    fn what_is_written_is_read_back() {
        let row = Dict::new()
            .with("a", "12")
            .with("b", " x")
            .with("c", 1.5)
            .with("d", "true")
            .with("e", Value::list(vec![1.into(), "y".into()]))
            .with("f", Dict::new().with("k", Value::Null))
            .with("g", "-")
            .with("h", "a\"b,\nc")
            .with("i", Value::Bytes([1, 2][..].into()))
            .with("j", false);
        let names: Vec<String> = row.keys().map(|k| k.to_string()).collect();
        let cells: Vec<String> = row.values().map(csv_cell).collect();
        assert_eq!(cells[..3], [" 12", "  x", "1.5"]);
        assert_eq!(cells[6], "-");
        let line = |cells: &[String]| csv_line(cells.iter().map(String::as_str));
        let text = line(&names) + &line(&cells);
        let back = parse_csv(text.as_bytes(), &CsvOptions::default());
        assert_eq!(Value::from(back[0].clone()).to_json(), Value::from(row).to_json());
    }

    #[test]
    fn spaces_and_signs() {
        let text = "a,b\n 1 , 2\n+5,\" 7\"\n";
        let want = r#"[{"a":"1 ","b":2},{"a":5,"b":"7"}]"#;
        assert_eq!(json(text, &CsvOptions::default()), want);
        let given =
            CsvOptions { header: CsvHeader::Given(vec!["x".into()]), ..CsvOptions::default() };
        assert_eq!(json("1,2\n3\n", &given), r#"[{"x":1,"Col1":2},{"x":3,"Col1":""}]"#);
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
