//! What is looked for in a row, and how: without JSON where the text alone can tell.

use regex::bytes;

use super::cells::{Key, cell_text, pick_into};
use super::{Filter, View};

/// What is taken from a row that passes.
#[derive(Clone, Debug)]
pub(super) enum Take {
    /// That it does.
    Nothing,
    /// Its place in the order of this column.
    Key(String),
    /// The text of its cell in this column.
    Text(String),
}

/// What was taken.
#[derive(Debug)]
pub(super) enum Taken {
    Nothing,
    Key(Key),
    Text(String),
}

/// Looks at rows for one view.
#[derive(Debug)]
pub(super) struct Looker {
    filters: Vec<Filter>,
    /// Columns that are read: those of the filters, and last the one that is taken.
    columns: Vec<String>,
    take: Take,
}

impl Looker {
    pub(super) fn new(view: &View, take: Take) -> Self {
        let mut columns: Vec<String> = Vec::new();
        let named = view.filters.iter().map(|f| &f.column).filter(|c| !c.is_empty());
        let taken = match &take {
            Take::Nothing => None,
            Take::Key(c) | Take::Text(c) => Some(c),
        };
        for column in named.chain(taken) {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        Self { filters: view.filters.clone(), columns, take }
    }

    fn cell<'a>(&self, cells: &[Option<&'a str>], column: &str) -> Option<&'a str> {
        let at = self.columns.iter().position(|c| c == column)?;
        cells.get(at).copied().flatten()
    }

    /// Whether what is in the row's text is enough to say that it does not pass: what is
    /// written without escapes stands there as it is.
    fn is_out(&self, row: &[u8]) -> bool {
        let mut plain = None;
        self.filters.iter().filter_map(|f| f.needs.as_ref()).any(|needs| {
            !needs.is_match(row)
                && *plain.get_or_insert_with(|| row.is_ascii() && !row.contains(&b'\\'))
        })
    }

    /// What this row has, if it passes. A line that is no row passes only if `broken`.
    /// `cells` is room that is used again.
    fn look<'a>(
        &self,
        row: &'a [u8],
        broken: bool,
        cells: &mut Vec<Option<&'a str>>,
    ) -> Option<Taken> {
        if self.is_out(row) || (!pick_into(row, &self.columns, cells) && !broken) {
            return None;
        }
        let passes = self.filters.iter().all(|f| {
            let found = match f.column.as_str() {
                "" => std::str::from_utf8(row).is_ok_and(|t| f.pattern.is_match(t)),
                c => match self.cell(cells, c) {
                    None => f.pattern.is_match(""),
                    Some(raw) => match plain_text(raw) {
                        Some(text) => f.pattern.is_match(text),
                        None => f.pattern.is_match(&cell_text(raw)),
                    },
                },
            };
            found != f.exclude
        });
        passes.then(|| match &self.take {
            Take::Nothing => Taken::Nothing,
            Take::Key(c) => Taken::Key(Key::of(self.cell(cells, c))),
            Take::Text(c) => Taken::Text(self.cell(cells, c).map_or_else(String::new, cell_text)),
        })
    }

    /// The same for rows of which the first has this number.
    pub(super) fn look_at<'a>(
        &self,
        first: u32,
        rows: impl Iterator<Item = &'a [u8]>,
        broken: bool,
    ) -> Vec<(u32, Taken)> {
        let mut cells = Vec::new();
        let numbered = (first..).zip(rows);
        numbered
            .filter_map(|(n, row)| Some((n, self.look(row.trim_ascii(), broken, &mut cells)?)))
            .collect()
    }
}

/// The text of a cell that needs no decoding.
fn plain_text(raw: &str) -> Option<&str> {
    match raw.strip_prefix('"') {
        None => Some(raw),
        Some(rest) => rest.strip_suffix('"').filter(|t| !t.contains('\\')),
    }
}

/// What any text has, in whatever case, in which `pattern` is found: where that can be
/// seen at once. Longer than one character, or it says too little.
pub(super) fn literal(pattern: &str) -> Option<bytes::Regex> {
    let inside = pattern.strip_prefix('^').unwrap_or(pattern);
    let inside = inside.strip_suffix('$').unwrap_or(inside);
    // A quote would be written with an escape.
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-/:;,%@#=<>!&~'".contains(c);
    if inside.len() < 2 || !inside.chars().all(plain) {
        return None;
    }
    let exact = bytes::RegexBuilder::new(&regex::escape(inside))
        .case_insensitive(true)
        .unicode(false)
        .build();
    exact.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(filter: (&str, &str), row: &str) -> bool {
        let filters = vec![Filter::new(filter.0, filter.1).unwrap()];
        let looker = Looker::new(&View { filters, sort: None }, Take::Nothing);
        !looker.look_at(0, std::iter::once(row.as_bytes()), false).is_empty()
    }

    #[test]
    fn the_text_alone_says_no_only_where_it_can() {
        for (filter, row) in [
            (("A", "^ssh$"), r#"{"A":"SSH"}"#),
            (("A", "ssh"), "{\"A\":\"\\u0073shd\"}"),
            (("A", "key"), "{\"A\":\"\u{212a}EY\"}"),
            (("A", "say"), "{\"A\":\"\u{17f}ay\"}"),
            (("", "b/c"), r#"{"A":"a","B":"b/c"}"#),
            (("A", "a/b"), r#"{"A":"a\/b"}"#),
            (("N", "^12$"), r#"{"N":12}"#),
            (("A", "^$"), r#"{"B":1}"#),
        ] {
            assert!(found(filter, row), "{filter:?} {row}");
        }
        for (filter, row) in [
            (("A", "^ssh$"), r#"{"A":"sshd","B":"ssh"}"#),
            (("A", "ssh"), r#"{"A":"x"}"#),
            (("A", "ssh"), r#"{"A":"ssh""#),
            (("A", "ssh"), r#"{"A":"ssh"} {}"#),
        ] {
            assert!(!found(filter, row), "{filter:?} {row}");
        }
        for pattern in ["a", "a|b", "a.c", "\\bab", "é1", "a\"b", "[ab]", "ab*", "(ab)"] {
            assert!(literal(pattern).is_none(), "{pattern}");
        }
        assert!(literal("^svchost$").unwrap().is_match(b"{\"N\":\"SvcHost\"}"));
    }
}
