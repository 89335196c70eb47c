//! Queries laid out for people: a clause a line, long lists broken, comments kept. Only
//! the white space between tokens changes.

use std::fmt::Write as _;

use super::error::ParseError;
use super::lexer::{Token, TokenKind, tokenize};
use super::parser::parse;

/// Longest line that is not broken, in characters.
const WIDTH: usize = 80;

/// Lays out a text of statements. What it means stays the same, to the letter.
pub fn reformat(text: &str) -> Result<String, ParseError> {
    let meaning = parse(text)?.iter().map(ToString::to_string).collect::<Vec<_>>();
    let tokens = tokenize(text)?;
    let mut page = Page::new(text, &tokens);
    for i in 0..tokens.len() {
        page.token(i);
    }
    let out = format!("{}\n", page.out.trim_end());
    let same = parse(&out).is_ok_and(|s| s.iter().map(ToString::to_string).eq(meaning));
    // White space decides more than is thought here: better as it was.
    Ok(if same { out } else { text.to_owned() })
}

/// A bracket, or a statement.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Where its lines begin.
    indent: usize,
    /// Whether it takes several lines.
    broken: bool,
    /// Whether a comma in it parts arguments.
    bracket: bool,
    /// Of a list of columns, after which a line begins: where.
    columns: Option<usize>,
}

struct Page<'a> {
    text: &'a str,
    tokens: &'a [Token<'a>],
    /// The token that closes each bracket.
    closes: Vec<Option<usize>>,
    frames: Vec<Frame>,
    out: String,
    /// A line must begin before the next token.
    owed: Option<usize>,
}

impl<'a> Page<'a> {
    fn new(text: &'a str, tokens: &'a [Token<'a>]) -> Self {
        let mut closes = vec![None; tokens.len()];
        let mut open = Vec::new();
        for (i, t) in tokens.iter().enumerate() {
            match t.text {
                "(" | "[" | "{" if t.kind == TokenKind::Operator => open.push(i),
                ")" | "]" | "}" if t.kind == TokenKind::Operator => {
                    if let Some(slot) = open.pop().and_then(|o| closes.get_mut(o)) {
                        *slot = Some(i);
                    }
                }
                _ => {}
            }
        }
        Self { text, tokens, closes, frames: Vec::new(), out: String::new(), owed: None }
    }

    fn before(&self, i: usize) -> Option<&'a Token<'a>> {
        i.checked_sub(1).and_then(|p| self.tokens.get(p))
    }

    /// What is between a token and the one before it.
    fn gap(&self, i: usize) -> &'a str {
        let from = self.before(i).map_or(0, |p| p.offset + p.text.len());
        self.text.get(from..self.tokens[i].offset).unwrap_or_default()
    }

    /// Whether these tokens take one line that has this much room.
    fn fits(&self, from: usize, to: usize, room: usize) -> bool {
        let mut width = 0;
        for i in from..to {
            let comment = i > from && !self.gap(i).trim().is_empty();
            if comment || self.tokens[i].text.contains('\n') {
                return false;
            }
            let space = i > from && !self.gap(i).is_empty();
            width += self.tokens[i].text.chars().count() + usize::from(space);
            if width > room {
                return false;
            }
        }
        true
    }

    fn column(&self) -> usize {
        let line = self.out.rfind('\n').map_or(0, |n| n + 1);
        self.out[line..].chars().count()
    }

    fn frame(&self) -> Frame {
        self.frames.last().copied().unwrap_or(Frame {
            indent: 0,
            broken: true,
            bracket: false,
            columns: None,
        })
    }

    fn line(&mut self, indent: usize) {
        self.out.truncate(self.out.trim_end_matches(' ').len());
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        let _ = write!(self.out, "{:indent$}", "");
    }

    /// Comments before a token, each on its own line unless it follows what it is about.
    fn comments(&mut self, i: usize) {
        let mut rest = self.gap(i);
        let mut on_line = true;
        while !rest.trim_start().is_empty() {
            let start = rest.trim_start();
            on_line &= !rest[..rest.len() - start.len()].contains('\n');
            let block = start.starts_with("/*");
            let end = match block {
                true => start.find("*/").map_or(start.len(), |e| e + 2),
                false => start.find('\n').unwrap_or(start.len()),
            };
            if on_line && i > 0 && !self.out.is_empty() {
                self.out.truncate(self.out.trim_end_matches(' ').len());
                self.out.push(' ');
            } else {
                self.line(self.frame().indent);
            }
            self.out.push_str(start[..end].trim_end());
            self.owed = Some(self.frame().columns.unwrap_or(self.frame().indent));
            on_line = block;
            rest = &start[end..];
        }
    }

    fn token(&mut self, i: usize) {
        let t = self.tokens[i];
        if i == 0 || t.kind == TokenKind::End || (self.frames.len() <= 1 && self.begins(i)) {
            let first = self.frames.is_empty();
            self.frames.clear();
            if !first && t.kind != TokenKind::End {
                self.out.truncate(self.out.trim_end().len());
                self.out.push_str("\n\n");
            }
            self.comments(i);
            if t.kind == TokenKind::End {
                return;
            }
            self.owed = Some(0).filter(|_| !self.out.is_empty());
            let ends = |e: usize| self.tokens[e].kind == TokenKind::End || self.begins(e);
            let end = self.level(i, ends);
            let broken = !self.fits(i, end.unwrap_or(self.tokens.len()), WIDTH);
            let indent = if t.kind == TokenKind::Let { 2 } else { 0 };
            self.frames.push(Frame { indent, broken, bracket: false, columns: None });
        } else {
            self.comments(i);
        }
        let frame = self.frame();
        use TokenKind::{From, GroupBy, Limit, OrderBy, Where};
        if matches!(t.kind, From | Where | GroupBy | OrderBy | Limit) && frame.broken {
            self.owed = Some(frame.indent);
            if let Some(f) = self.frames.last_mut() {
                f.columns = None;
            }
        }
        let closing = matches!(t.text, ")" | "]" | "}") && t.kind == TokenKind::Operator;
        if closing && let Some(f) = self.frames.pop() {
            self.owed = f.broken.then_some(f.indent.saturating_sub(2)).or(self.owed);
        }
        match self.owed.take() {
            Some(indent) => self.line(indent),
            None if i > 0 && !self.gap(i).is_empty() && !self.out.ends_with([' ', '\n']) => {
                self.out.push(' ');
            }
            None => {}
        }
        self.out.push_str(t.text);
        self.after(i);
    }

    /// The first token after `from` that is as `is` wants it, brackets skipped.
    fn level(&self, from: usize, is: impl Fn(usize) -> bool) -> Option<usize> {
        let mut i = from + 1;
        while i < self.tokens.len() {
            if is(i) {
                return Some(i);
            }
            i = self.closes[i].map_or(i, |c| c.max(i)) + 1;
        }
        None
    }

    /// Whether a token begins a statement, if it is in no bracket.
    fn begins(&self, i: usize) -> bool {
        let goes_on = |p: &Token<'_>| p.kind == TokenKind::Explain || matches!(p.text, "=" | "<=");
        let starts = [TokenKind::Let, TokenKind::Select, TokenKind::Explain];
        starts.contains(&self.tokens[i].kind) && !self.before(i).is_some_and(goes_on)
    }

    fn after(&mut self, i: usize) {
        let t = self.tokens[i];
        let frame = self.frame();
        if let Some(close) = self.closes[i] {
            let room = (WIDTH + 10).saturating_sub(self.column());
            let broken = !self.fits(i + 1, close + 1, room);
            // What stands in a broken bracket is further in than the line it is on.
            let line = self.out.rfind('\n').map_or(0, |n| n + 1);
            let here = self.out[line..].len() - self.out[line..].trim_start().len();
            let bracket = t.text != "{";
            self.frames.push(Frame { indent: here + 2, broken, bracket, columns: None });
            self.owed = broken.then_some(here + 2);
        } else if t.kind == TokenKind::Select && frame.broken {
            let at = self.column() + 1;
            let from = self.level(i, |e| self.tokens[e].kind == TokenKind::From);
            let room = (WIDTH + 10).saturating_sub(at);
            if let Some(f) = self.frames.last_mut() {
                f.columns = Some(at);
            }
            if from.is_some_and(|from| self.fits(i + 1, from, room))
                && let Some(f) = self.frames.last_mut()
            {
                f.columns = None;
            }
        } else if t.text == "," && t.kind == TokenKind::Operator {
            let list = frame.columns.is_some();
            let bracket = frame.broken && !list && frame.bracket;
            self.owed = match () {
                () if list => frame.columns,
                () if bracket => Some(frame.indent),
                () => None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_statements_take_a_line_and_long_ones_a_line_a_clause() {
        let text = "select  *\nfrom info()   LET X = 1\n SELECT Name, CommandLine AS Command FROM pslist() WHERE Name =~ 'ssh' AND Pid > 1 ORDER BY Pid DESC LIMIT 5";
        let want = "select * from info()\n\nLET X = 1\n\nSELECT Name, CommandLine AS Command\nFROM pslist()\nWHERE Name =~ 'ssh' AND Pid > 1\nORDER BY Pid DESC\nLIMIT 5\n";
        assert_eq!(reformat(text).unwrap(), want);
        assert_eq!(reformat(want).unwrap(), want);
    }

    #[test]
    fn long_lists_are_broken() {
        let text = "LET Files = SELECT OSPath, Size, Mtime AS Modified, hash(path=OSPath, accessor='auto', hashselect='SHA256') AS Hash FROM glob(globs=['/etc/*.conf', '/usr/local/etc/**/*.conf', '/opt/*/etc/*.conf'], accessor='auto')";
        let want = "LET Files = SELECT OSPath,
                   Size,
                   Mtime AS Modified,
                   hash(path=OSPath, accessor='auto', hashselect='SHA256') AS Hash
  FROM glob(
    globs=['/etc/*.conf', '/usr/local/etc/**/*.conf', '/opt/*/etc/*.conf'],
    accessor='auto'
  )
";
        assert_eq!(reformat(text).unwrap(), want);
        assert_eq!(reformat(want).unwrap(), want);
    }

    #[test]
    fn queries_in_queries_go_further_in() {
        let text = "SELECT * FROM foreach(row={ SELECT Pid, Name FROM pslist() WHERE Name =~ 'svchost' }, query={ SELECT Pid, Path FROM handles(pid=Pid) })";
        let want = "SELECT *
FROM foreach(
  row={ SELECT Pid, Name FROM pslist() WHERE Name =~ 'svchost' },
  query={ SELECT Pid, Path FROM handles(pid=Pid) }
)
";
        assert_eq!(reformat(text).unwrap(), want);
    }

    #[test]
    fn comments_stay() {
        let text = "-- What runs\nSELECT Name, -- the name\n  Pid FROM pslist()\n/* and\n   then */\nSELECT 1 FROM scope()\n// the end";
        let out = reformat(text).unwrap();
        let want = "-- What runs
SELECT Name, -- the name
       Pid
FROM pslist()

/* and
   then */
SELECT 1 FROM scope()
// the end
";
        assert_eq!(out, want);
        assert_eq!(reformat(&out).unwrap(), out);
    }

    #[test]
    fn raw_text_is_not_touched_and_what_is_no_query_is_said() {
        let text = "SELECT '''a\n   b''' AS A FROM scope()";
        assert!(reformat(text).unwrap().contains("'''a\n   b'''"));
        let e = reformat("SELECT * FORM info()").unwrap_err();
        assert_eq!(e.line, 1);
    }
}
