//! Glob patterns: `{a,b}` is expanded first, then `*`, `?` and `[..]` match
//! within a name and `**` or `**N` any directories down to N levels (30).
//! Names are compared without regard to case. Knows no files.

use regex::bytes::{Regex, RegexBuilder};

use super::path::OsPath;

/// Levels of a `**` without a number.
const DEPTH: usize = 30;
/// Most patterns one brace expression may stand for.
const MAX_ALTERNATIVES: usize = 10_000;

/// All patterns of one search.
#[derive(Debug)]
pub struct Globs(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    text: String,
    /// The text of each part.
    names: Vec<String>,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Name(Vec<u8>),
    Match(Regex),
    Below(usize),
}

/// A place in a pattern: which one, the next part, levels used of a `**`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State(usize, usize, usize);

/// What a name in a directory leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Patterns that match the name itself.
    pub hits: Vec<String>,
    /// Where matching goes on inside it, if it is a directory.
    pub inside: Vec<State>,
}

impl Globs {
    /// Compiles patterns; `parse` reads the text of a path.
    pub fn new(patterns: &[String], parse: impl Fn(&str) -> OsPath) -> Result<Globs, regex::Error> {
        let mut all = Vec::new();
        for text in patterns {
            for one in braces(text) {
                let mut parts = Vec::new();
                let path = parse(&one);
                for c in &path.components {
                    parts.push(part(c.as_bytes())?);
                }
                if !parts.is_empty() {
                    let text = vql::lossy(&path.inner_bytes()).into_owned();
                    let names = path.texts();
                    all.push(Pattern { text, names, parts });
                }
            }
        }
        Ok(Globs(all))
    }

    /// States by the part of the search they belong to. What patterns have in common is
    /// searched once; where they part, so do the searches, and a file that two of them
    /// come to is found twice.
    pub fn branches(&self, states: Vec<State>) -> Vec<Vec<State>> {
        let mut out: Vec<(Vec<&str>, Vec<State>)> = Vec::new();
        for s in states {
            let Some(pattern) = self.0.get(s.0) else { continue };
            // `**` takes all that follows with it.
            let below = pattern.parts.iter().position(|p| matches!(p, Part::Below(_)));
            let shared = match below {
                Some(at) if s.1 >= at => pattern.names.len(),
                _ => s.1,
            };
            let key: Vec<&str> = pattern.names.iter().take(shared).map(String::as_str).collect();
            match out.iter_mut().find(|(k, _)| *k == key) {
                Some((_, states)) => states.push(s),
                None => out.push((key, vec![s])),
            }
        }
        out.into_iter().map(|(_, states)| states).collect()
    }

    /// Where matching begins, in the root directory.
    pub fn start(&self) -> Vec<State> {
        (0..self.0.len()).map(|p| State(p, 0, 0)).collect()
    }

    /// Matches a name in a directory reached with `states`.
    pub fn step(&self, states: &[State], name: &[u8]) -> Step {
        let mut out = Step::default();
        for s in states {
            self.consume(*s, name, &mut out);
        }
        out.inside.sort_unstable();
        out.inside.dedup();
        out
    }

    fn consume(&self, State(p, at, used): State, name: &[u8], out: &mut Step) {
        let Some(pattern) = self.0.get(p) else { return };
        let matched = match pattern.parts.get(at) {
            None => return,
            Some(Part::Name(n)) => same(n, name),
            Some(Part::Match(re)) => re.is_match(name),
            Some(Part::Below(depth)) => {
                // No directory at all is fine too when something follows.
                if at + 1 < pattern.parts.len() {
                    self.consume(State(p, at + 1, 0), name, out);
                }
                if used < *depth {
                    out.inside.push(State(p, at, used + 1));
                    if at + 1 == pattern.parts.len() {
                        hit(out, &pattern.text);
                    }
                }
                return;
            }
        };
        if matched && at + 1 == pattern.parts.len() {
            hit(out, &pattern.text);
        } else if matched {
            out.inside.push(State(p, at + 1, 0));
        }
    }
}

fn hit(out: &mut Step, text: &str) {
    if !out.hits.iter().any(|h| h == text) {
        out.hits.push(text.to_owned());
    }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
        || vql::lossy(a).to_lowercase() == vql::lossy(b).to_lowercase()
            && std::str::from_utf8(a).is_ok()
            && std::str::from_utf8(b).is_ok()
}

fn part(text: &[u8]) -> Result<Part, regex::Error> {
    if let Some(rest) = text.strip_prefix(b"**") {
        let digits: String =
            rest.iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
        return Ok(Part::Below(digits.parse().unwrap_or(DEPTH)));
    }
    if !text.iter().any(|b| b"*?[".contains(b)) {
        return Ok(Part::Name(text.to_vec()));
    }
    let pattern = translate(&vql::lossy(text));
    let re = RegexBuilder::new(&pattern)
        .case_insensitive(true)
        .dot_matches_new_line(true)
        .unicode(true)
        .build()?;
    Ok(Part::Match(re))
}

/// The regular expression of a pattern within one name. Dots stand for single
/// bytes when a name is not UTF-8.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = String::from("^");
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        i += 1;
        match c {
            '*' => out.push_str("(?s-u:.*)"),
            '?' => out.push('.'),
            '[' => {
                let mut end = i;
                if chars.get(end) == Some(&'!') {
                    end += 1;
                }
                if chars.get(end) == Some(&']') {
                    end += 1;
                }
                match chars[end.min(chars.len())..].iter().position(|c| *c == ']') {
                    None => out.push_str("\\["),
                    Some(n) => {
                        let (negated, body) = match chars[i] {
                            '!' => (true, &chars[i + 1..end + n]),
                            _ => (false, &chars[i..end + n]),
                        };
                        i = end + n + 1;
                        out.push_str(if negated { "[^" } else { "[" });
                        for c in body {
                            if matches!(c, '\\' | '[' | ']' | '^' | '&' | '~') {
                                out.push('\\');
                            }
                            out.push(*c);
                        }
                        out.push(']');
                    }
                }
            }
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out.push('$');
    out
}

/// The alternatives of `{a,b}` groups, which may nest. A group that is not
/// closed, and one at the very start (a path in JSON form), stand for themselves.
fn braces(text: &str) -> Vec<String> {
    let mut todo = vec![text.to_owned()];
    let mut done = Vec::new();
    while let Some(one) = todo.pop() {
        match group(&one) {
            Some((before, options, after)) if todo.len() + done.len() < MAX_ALTERNATIVES => {
                for o in options.iter().rev() {
                    todo.push(format!("{before}{o}{after}"));
                }
            }
            _ => done.push(one),
        }
    }
    done
}

fn group(text: &str) -> Option<(&str, Vec<&str>, &str)> {
    let open = text.find('{').filter(|at| *at > 0)?;
    let mut depth = 0;
    let mut options = Vec::new();
    let mut start = open + 1;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                options.push(&text[start..at]);
                start = at + 1;
            }
            '}' if depth == 1 => {
                options.push(&text[start..at]);
                return Some((&text[..open], options, &text[at + 1..]));
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a path is hit.
    fn hits(pattern: &str, path: &str) -> bool {
        let globs = Globs::new(&[pattern.into()], |t| OsPath::linux(t.as_bytes())).unwrap();
        let mut states = globs.start();
        let names: Vec<_> = path.trim_start_matches('/').split('/').collect();
        for (i, name) in names.iter().enumerate() {
            let step = globs.step(&states, name.as_bytes());
            if i + 1 == names.len() {
                return !step.hits.is_empty();
            }
            states = step.inside;
        }
        false
    }

    /// How many searches find a path.
    fn found(patterns: &[&str], path: &str) -> usize {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let globs = Globs::new(&patterns, |t| OsPath::linux(t.as_bytes())).unwrap();
        let mut searches = globs.branches(globs.start());
        let names: Vec<_> = path.trim_start_matches('/').split('/').collect();
        for name in &names[..names.len() - 1] {
            let steps = searches.iter().map(|s| globs.step(s, name.as_bytes()).inside);
            searches = steps.flat_map(|inside| globs.branches(inside)).collect();
        }
        let last = names[names.len() - 1].as_bytes();
        searches.iter().filter(|s| !globs.step(s, last).hits.is_empty()).count()
    }

    #[test]
    fn searches_part_where_patterns_do() {
        assert_eq!(found(&["/a/e", "/a/*"], "/a/e"), 1);
        assert_eq!(found(&["/a/**", "/a/b/**"], "/a/b/f"), 2);
        assert_eq!(found(&["/*/e", "/a/e", "/?/b"], "/a/e"), 2);
        assert_eq!(found(&["/**/f", "/**"], "/a/b/f"), 2);
        assert_eq!(found(&["/**/f"], "/a/b/f"), 1);
        assert_eq!(found(&["/**/{b,c}/f"], "/a/b/f"), 1);
        assert_eq!(found(&["/x", "/y"], "/a"), 0);
    }

    #[test]
    fn names() {
        for (pattern, path, want) in [
            ("/etc/passwd", "/etc/passwd", true),
            ("/etc/PASS*", "/etc/passwd", true),
            ("/etc/p?sswd", "/etc/passwd", true),
            ("/etc/p[a-c]sswd", "/etc/passwd", true),
            ("/etc/p[!a-c]sswd", "/etc/passwd", false),
            ("/etc/*.d", "/etc/rc.d", true),
            ("/etc/*.d", "/etc/rcxd", false),
            ("/etc/*", "/etc/a/b", false),
            ("/{etc,usr}/{a,b{1,2}}", "/usr/b2", true),
            ("/{etc,usr}/{a,b{1,2}}", "/usr/b3", false),
            ("/x/[", "/x/[", true),
        ] {
            assert_eq!(hits(pattern, path), want, "{pattern} {path}");
        }
    }

    #[test]
    fn levels() {
        for (pattern, path, want) in [
            ("/a/**", "/a", false),
            ("/a/**", "/a/b", true),
            ("/a/**", "/a/b/c/d/e/f", true),
            ("/a/**2", "/a/b/c", true),
            ("/a/**2", "/a/b/c/d", false),
            ("/a/**/z", "/a/z", true),
            ("/a/**/z", "/a/b/c/z", true),
            ("/a/**1/z", "/a/b/z", true),
            ("/a/**1/z", "/a/b/c/z", false),
        ] {
            assert_eq!(hits(pattern, path), want, "{pattern} {path}");
        }
    }
}
