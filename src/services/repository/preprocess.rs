//! The two textual rewrites artifact files get before they are YAML.
//!
//! Authors leave out the `|` after `query:` and `precondition:` and before
//! list items that are queries; a plain scalar could not hold most VQL. Knows
//! nothing of artifacts; remembers which source line each output line is from.

/// Rewritten text and where its lines came from.
pub(super) struct Prepared {
    /// What to parse as YAML.
    pub(super) yaml: String,
    /// Source line (from 1) of each line of `yaml`.
    lines: Vec<usize>,
}

impl Prepared {
    /// The source line of an output line (both from 1).
    pub(super) fn source_line(&self, line: usize) -> usize {
        let last = self.lines.last().copied().unwrap_or(1);
        line.checked_sub(1).and_then(|i| self.lines.get(i).copied()).unwrap_or(last)
    }
}

/// Rewrites `text`; line ends become `\n`.
pub(super) fn prepare(text: &str) -> Prepared {
    let mut out = Prepared { yaml: String::with_capacity(text.len() + 64), lines: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if opens_block(line) {
            out.push(number, &format!("{} |", line.trim_end()));
            out.push(number, "");
        } else if let Some((dash, query)) = query_item(line) {
            let indent = dash.find('-').unwrap_or(0) + 1;
            out.push(number, &format!("{dash}|"));
            out.push(number, &format!("{}{query}", " ".repeat(indent)));
        } else {
            out.push(number, line);
        }
    }
    out
}

impl Prepared {
    fn push(&mut self, source: usize, line: &str) {
        self.yaml.push_str(line);
        self.yaml.push('\n');
        self.lines.push(source);
    }
}

/// A line with nothing but `query:` or `precondition:`, perhaps after a dash.
fn opens_block(line: &str) -> bool {
    let key = line.trim_start_matches(|c: char| c.is_whitespace() || c == '-').trim_end();
    key.eq_ignore_ascii_case("query:") || key.eq_ignore_ascii_case("precondition:")
}

/// Splits `  - SELECT ...` after the dash.
fn query_item(line: &str) -> Option<(&str, &str)> {
    let dash = line.len() - line.trim_start_matches(' ').len();
    let rest = line[dash..].strip_prefix('-')?;
    let query = rest.trim_start_matches(' ');
    let starts = ["SELECT", "LET", "//"].iter().any(|k| query.starts_with(k));
    if dash == 0 || query.len() == rest.len() || !starts {
        return None;
    }
    Some(line.split_at(line.len() - query.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_open_where_authors_left_them_out() {
        let p = prepare("a: 1\r\n  - query:\r\n      SELECT 1: FROM x\r\nz: 2");
        assert_eq!(p.yaml, "a: 1\n  - query: |\n\n      SELECT 1: FROM x\nz: 2\n");
        assert_eq!([1, 2, 3, 4, 5].map(|l| p.source_line(l)), [1, 2, 2, 3, 4]);
        assert_eq!(p.source_line(99), 4);
        assert_eq!(prepare("query: SELECT\n").yaml, "query: SELECT\n");
        assert_eq!(prepare("PRECONDITION:  \n").yaml, "PRECONDITION: |\n\n");
    }

    #[test]
    fn query_items_become_blocks() {
        let p = prepare("queries:\n  - SELECT a: b\n    FROM x\n  - other\n");
        assert_eq!(p.yaml, "queries:\n  - |\n   SELECT a: b\n    FROM x\n  - other\n");
        assert_eq!(prepare("- SELECT\n").yaml, "- SELECT\n");
    }
}
