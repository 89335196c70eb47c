//! What a cell shows, in order: texts, and the rows of its queries. Of a query the
//! comments between slashes and stars are text; so people write reports.

use serde::Serialize;

use super::markdown::{self, Block};

/// A part of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Text.
    Text(Vec<Block>),
    /// Rows of the query of this number, from 1.
    Rows(u32),
}

/// Kinds of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Queries.
    Vql,
    /// Text, with queries in double braces.
    Markdown,
    /// Nothing is evaluated.
    Other,
}

impl Kind {
    /// By the name in a record; an empty one is markdown, as stock has it.
    pub fn of(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "vql" => Self::Vql,
            "markdown" | "md" | "" => Self::Markdown,
            _ => Self::Other,
        }
    }
}

/// A piece of what somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Markdown.
    Text(String),
    /// A SELECT: in a text with its words, in a query with none.
    Query(String),
}

/// The pieces of a cell.
pub fn pieces(kind: Kind, input: &str) -> Vec<Piece> {
    match kind {
        Kind::Vql => of_query(input),
        Kind::Markdown => of_text(input),
        Kind::Other => Vec::new(),
    }
}

/// The parts of a cell whose queries of these numbers left rows. Rows that nothing
/// in the input stands for come last.
pub fn parts(kind: Kind, input: &str, tables: &[u32]) -> Vec<Part> {
    let mut out = Vec::new();
    let mut left = tables.to_vec();
    let mut number = 0;
    for piece in pieces(kind, input) {
        match piece {
            Piece::Text(text) => {
                let blocks = markdown::parse(&text);
                if !blocks.is_empty() {
                    out.push(Part::Text(blocks));
                }
            }
            Piece::Query(_) => {
                number += 1;
                if let Some(at) = left.iter().position(|n| *n == number) {
                    out.push(Part::Rows(left.remove(at)));
                }
            }
        }
    }
    out.extend(left.into_iter().map(Part::Rows));
    out
}

/// Comments and SELECTs of a query, in order. A SELECT counts where a statement can
/// begin: outside of brackets, and not as the value of a LET.
fn of_query(text: &str) -> Vec<Piece> {
    let b = text.as_bytes();
    let (mut out, mut at, mut depth) = (Vec::new(), 0, 0usize);
    let mut before = b' ';
    while at < b.len() {
        let rest = &text[at..];
        let skip_to = |sign: &str, from: usize| {
            rest.get(from..)
                .and_then(|r| r.find(sign))
                .map_or(rest.len(), |n| from + n + sign.len())
        };
        let used = match b[at] {
            b'/' if rest.starts_with("/*") => {
                let used = skip_to("*/", 2);
                let words = rest[2..used].strip_suffix("*/").unwrap_or(&rest[2..used]);
                out.push(Piece::Text(words.to_owned()));
                used
            }
            b'/' if rest.starts_with("//") => skip_to("\n", 0),
            b'-' if rest.starts_with("--") => skip_to("\n", 0),
            b'#' => skip_to("\n", 0),
            b'\'' if rest.starts_with("'''") => skip_to("'''", 3),
            quote @ (b'\'' | b'"' | b'`') => quoted(rest.as_bytes(), quote),
            c if c.is_ascii_alphanumeric() || c == b'_' => {
                let word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
                let used = rest.bytes().take_while(|c| word(c)).count();
                if depth == 0 && before != b'=' && rest[..used].eq_ignore_ascii_case("select") {
                    out.push(Piece::Query(String::new()));
                }
                used
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        match b[at] {
            b'(' | b'{' | b'[' => depth += 1,
            b')' | b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let comment = rest.starts_with("/*") || rest.starts_with("//") || rest.starts_with("--");
        if !b[at].is_ascii_whitespace() && !comment && b[at] != b'#' {
            before = b[at + used - 1];
        }
        at += used;
    }
    out
}

/// Length of a quoted text with its quotes.
fn quoted(b: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < b.len() {
        match b[at] {
            b'\\' if quote != b'`' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    b.len()
}

/// A text with what stands in double braces: `Query "..." | Table` is a query,
/// `define "name"` to `end` keeps one for later by its name. What else stands in
/// braces is not known here, and shown as it is.
fn of_text(text: &str) -> Vec<Piece> {
    let mut named: Vec<(String, String)> = Vec::new();
    let (mut out, mut plain) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let Some(close) = rest[open..].find("}}").map(|n| open + n) else { break };
        plain.push_str(&rest[..open]);
        let inside = rest[open + 2..close].trim().trim_matches('-').trim();
        let after = &rest[close + 2..];
        if let Some(name) = argument(inside, "define")
            && let Some(end) = end_of(after)
        {
            named.push((name, after[..end.0].trim().to_owned()));
            rest = &after[end.1..];
            continue;
        }
        match argument(inside, "Query") {
            Some(query) => {
                let found = named.iter().find(|(n, _)| *n == query).map(|(_, q)| q.clone());
                let before = std::mem::take(&mut plain);
                if !before.trim().is_empty() {
                    out.push(Piece::Text(before));
                }
                out.push(Piece::Query(found.unwrap_or(query)));
            }
            None => plain.push_str(&rest[open..close + 2]),
        }
        rest = after;
    }
    plain.push_str(rest);
    if !plain.trim().is_empty() {
        out.push(Piece::Text(plain));
    }
    out
}

/// Where `{{ end }}` begins and what comes after it.
fn end_of(text: &str) -> Option<(usize, usize)> {
    let mut at = 0;
    loop {
        let open = text[at..].find("{{")? + at;
        let close = text[open..].find("}}")? + open;
        if text[open + 2..close].trim().trim_matches('-').trim() == "end" {
            return Some((open, close + 2));
        }
        at = close + 2;
    }
}

/// The quoted text after a word.
fn argument(text: &str, word: &str) -> Option<String> {
    let rest = text.strip_prefix(word)?.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '`'))?;
    let rest = &rest[1..];
    if quote == '`' {
        return Some(rest[..rest.find('`')?].to_owned());
    }
    let (mut out, mut chars) = (String::new(), rest.chars());
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> Piece {
        Piece::Text(t.into())
    }

    #[test]
    fn comments_and_selects_of_a_query_keep_their_order() {
        let q = Piece::Query(String::new());
        let vql = "/* # One */ LET X = SELECT * FROM scope()\nLET y <= { SELECT 1 FROM z }\n\
                   SELECT *, { SELECT 1 FROM q } AS A, \"SELECT\" FROM X -- SELECT\n/*two*/\n\
                   SELECT 'it\\'s /* no */' FROM foreach(row={ SELECT 2 FROM r })\n# SELECT";
        assert_eq!(of_query(vql), [text(" # One "), q.clone(), text("two"), q.clone()]);
        let odd = "/* open SELECT '";
        assert_eq!(of_query(odd), [text(" open SELECT '")]);
        assert_eq!(of_query("SELECT 'ä\\"), [q]);
        assert_eq!(of_query("LET selected = 1"), []);
    }

    #[test]
    fn queries_of_a_text_are_found_by_words_and_by_name() {
        let md = "a {{ define \"Q\" }} SELECT 1 FROM scope() {{ end }} b\n\
                  {{ Query \"Q\" | Table }} c {{ Query `SELECT \"x\" FROM s` | Table }}\n\
                  {{- Query \"SELECT \\\"y\\\" FROM t\" | LineChart -}} {{ Scope \"X\" }} {{ open";
        let query = |t: &str| Piece::Query(t.into());
        assert_eq!(
            of_text(md),
            [
                text("a  b\n"),
                query("SELECT 1 FROM scope()"),
                text(" c "),
                query("SELECT \"x\" FROM s"),
                query("SELECT \"y\" FROM t"),
                text(" {{ Scope \"X\" }} {{ open"),
            ]
        );
    }

    #[test]
    fn rows_stand_where_their_query_is() {
        let parts = parts(Kind::of("VQL"), "SELECT 1 FROM a /* # T */ SELECT 2 FROM b", &[2, 7]);
        let title = markdown::parse("# T");
        assert_eq!(parts, [Part::Text(title), Part::Rows(2), Part::Rows(7)]);
    }
}
