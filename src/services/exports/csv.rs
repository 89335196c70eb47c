//! Rows as separated values, the way stock archives hold them. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value};

/// The columns of rows, in the order in which they first come.
#[derive(Debug, Default)]
pub(super) struct Columns {
    names: Vec<String>,
    seen: BTreeSet<String>,
}

impl Columns {
    /// Takes those of a row.
    pub fn see(&mut self, row: &[u8]) {
        for name in crate::services::tables::columns(row) {
            if self.seen.insert(name.clone()) {
                self.names.push(name);
            }
        }
    }

    /// Their line; nothing when there are none.
    pub fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.names.is_empty() {
            line(&mut out, self.names.iter().cloned());
        }
        out
    }

    /// The lines of rows.
    pub fn lines(&self, rows: &[Bytes]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.names.is_empty() {
            return out;
        }
        for row in rows {
            let row: Map<String, Value> = serde_json::from_slice(row).unwrap_or_default();
            line(&mut out, self.names.iter().map(|n| cell(row.get(n))));
        }
        out
    }
}

/// Text as it is, nothing for null, JSON for the rest.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => harmless(s),
        Some(v) => v.to_string(),
    }
}

/// Spreadsheets take text that begins like this for a formula and run it.
fn harmless(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@', '\t', '\r', '\n']);
    if formula { format!("\t{text}") } else { text.to_owned() }
}

fn line(out: &mut Vec<u8>, cells: impl Iterator<Item = String>) {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let quoted = cell.contains(['"', ',', '\n', '\r']) || cell.starts_with([' ', '\t']);
        if quoted {
            out.push(b'"');
            out.extend(cell.replace('"', "\"\"").into_bytes());
            out.push(b'"');
        } else {
            out.extend(cell.into_bytes());
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_come_later_are_there_too() {
        let rows = [
            Bytes::from_static(br#"{"A":"x","B":{"c":1}}"#),
            Bytes::from_static(br#"{"B":null,"C":"=1+1","A":"a,\"b\""}"#),
        ];
        let mut columns = Columns::default();
        rows.iter().for_each(|r| columns.see(r));
        let text = [columns.head(), columns.lines(&rows)].concat();
        let want = "A,B,C\nx,\"{\"\"c\"\":1}\",\n\"a,\"\"b\"\"\",,\"\t=1+1\"\n";
        assert_eq!(String::from_utf8(text).unwrap(), want);
        assert!(Columns::default().head().is_empty());
    }
}
