//! Printing rows as they come.

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::print;

/// How rows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON array.
    #[default]
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values; the first row decides the columns.
    Csv,
    /// Columns aligned for reading; printed when all rows are there.
    Table,
}

/// Rows of one result on their way to standard output.
pub struct Printer {
    format: Format,
    columns: Vec<String>,
    count: usize,
    held: Vec<Vec<String>>,
}

impl Printer {
    /// Starts a result.
    pub fn new(format: Format) -> Printer {
        Printer { format, columns: Vec::new(), count: 0, held: Vec::new() }
    }

    /// Prints one row, or keeps it for the table.
    pub fn row(&mut self, row: &Map<String, Value>) -> anyhow::Result<()> {
        if self.count == 0 {
            self.columns = row.keys().cloned().collect();
        }
        let first = self.count == 0;
        self.count += 1;
        match self.format {
            Format::Json => {
                let text = serde_json::to_string_pretty(row)?;
                let indented: Vec<_> = text.lines().map(|l| format!(" {l}")).collect();
                let before = if first { "[\n" } else { ",\n" };
                print(&format!("{before}{}", indented.join("\n")))
            }
            Format::Jsonl => print(&format!("{}\n", Value::Object(row.clone()))),
            Format::Csv => {
                let mut text = String::new();
                if first {
                    text += &csv_line(self.columns.iter().map(String::as_str));
                }
                let cells = self.cells(row);
                text += &csv_line(cells.iter().map(String::as_str));
                print(&text)
            }
            Format::Table => {
                self.held.push(self.cells(row));
                Ok(())
            }
        }
    }

    fn cells(&self, row: &Map<String, Value>) -> Vec<String> {
        let cell = |c: &String| match row.get(c) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => s.clone(),
            Some(v) => v.to_string(),
        };
        self.columns.iter().map(cell).collect()
    }

    /// Ends the result.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.format {
            Format::Json if self.count == 0 => print("[]\n"),
            Format::Json => print("\n]\n"),
            Format::Jsonl | Format::Csv => Ok(()),
            Format::Table => print(&table(&self.columns, &self.held)),
        }
    }
}

fn csv_line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let quote = |c: &str| {
        if c.contains(['"', ',', '\n', '\r']) || c.starts_with(' ') {
            format!("\"{}\"", c.replace('"', "\"\""))
        } else {
            c.to_owned()
        }
    };
    let cells: Vec<_> = cells.map(quote).collect();
    format!("{}\n", cells.join(","))
}

/// Columns as wide as their widest cell; line breaks in cells are shown as `\n`.
pub(super) fn table(columns: &[String], rows: &[Vec<String>]) -> String {
    let flat = |c: &String| c.replace('\n', "\\n");
    let rows: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(flat).collect()).collect();
    let width = |i: usize, name: &String| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([name.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = columns.iter().enumerate().map(|(i, c)| width(i, c)).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let rule: Vec<_> = widths.iter().map(|w| "-".repeat(*w)).collect();
    let mut out = line(columns) + &line(&rule);
    rows.iter().for_each(|r| out += &line(r));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            csv_line(["a", "b,c", "d\"e", "f\ng"].into_iter()),
            "a,\"b,c\",\"d\"\"e\",\"f\ng\"\n"
        );
    }

    #[test]
    fn tables_are_aligned() {
        let columns = ["A".to_owned(), "Long".to_owned()];
        let rows =
            [vec!["xyz".to_owned(), "1".to_owned()], vec!["é".to_owned(), "a\nb".to_owned()]];
        assert_eq!(table(&columns, &rows), "A    Long\n---  ----\nxyz  1\né    a\\nb\n");
    }
}
