//! Go's RE2 flavour on top of the `regex` crate.

use regex::bytes::{Captures, Regex, RegexBuilder};
use std::sync::OnceLock;

/// A pattern compiled twice: for text, and (when first needed) for bytes which
/// are not UTF-8, where `.` must match any byte.
pub(crate) struct GoRegex {
    text: Regex,
    pattern: String,
    ignore_case: bool,
    bytes: OnceLock<Option<Regex>>,
}

impl GoRegex {
    /// The variant fit for `target`.
    pub(crate) fn on(&self, target: &[u8]) -> &Regex {
        if std::str::from_utf8(target).is_ok() {
            return &self.text;
        }
        let bytes = self.bytes.get_or_init(|| build(&self.pattern, self.ignore_case, false).ok());
        bytes.as_ref().unwrap_or(&self.text)
    }

    /// True when the pattern occurs in `target`.
    pub(crate) fn is_match(&self, target: &[u8]) -> bool {
        self.on(target).is_match(target)
    }

    /// Replaces all matches; `$1` and `${name}` expand in `template`.
    pub(crate) fn replace_all(&self, target: &[u8], template: &[u8]) -> Vec<u8> {
        self.on(target).replace_all(target, |c: &Captures<'_>| expand(c, template)).into_owned()
    }
}

/// Compiles a Go pattern.
pub(crate) fn compile(pattern: &str, ignore_case: bool) -> Result<GoRegex, String> {
    let pattern = translate(pattern);
    let text = build(&pattern, ignore_case, true)?;
    Ok(GoRegex { text, pattern, ignore_case, bytes: OnceLock::new() })
}

fn build(pattern: &str, ignore_case: bool, unicode: bool) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .case_insensitive(ignore_case)
        .unicode(unicode)
        .octal(true)
        .build()
        .map_err(|e| {
            // The last line says what is wrong; the others show the pattern, which
            // may hold anything. The word which fails collections is left out.
            let text = e.to_string();
            let reason = text.lines().next_back().unwrap_or("not a pattern");
            reason.trim_start_matches("error: ").to_string()
        })
}

/// Expands `$1`, `$name`, `${name}` and `$$`. A name is the longest run of
/// word characters; unknown names are empty.
fn expand(captures: &Captures<'_>, template: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len());
    let mut at = 0;
    while let Some(&byte) = template.get(at) {
        at += 1;
        if byte != b'$' {
            out.push(byte);
            continue;
        }
        let rest = &template[at..];
        let word = |from: &[u8]| {
            from.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count()
        };
        let (name, used) = match rest.first() {
            Some(b'$') => {
                out.push(b'$');
                at += 1;
                continue;
            }
            Some(b'{') => {
                let len = word(&rest[1..]);
                match rest.get(1 + len) {
                    Some(b'}') if len > 0 => (&rest[1..=len], len + 2),
                    _ => (&rest[..0], 0),
                }
            }
            _ => {
                let len = word(rest);
                (&rest[..len], len)
            }
        };
        if used == 0 {
            out.push(b'$');
            continue;
        }
        at += used;
        let name = std::str::from_utf8(name).unwrap_or("");
        let group = match name.parse::<usize>() {
            Ok(index) => captures.get(index),
            Err(_) => captures.name(name),
        };
        out.extend_from_slice(group.map_or(&[][..], |m| m.as_bytes()));
    }
    out
}

/// Rewrites what means something else in the `regex` crate.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            '\\' => at = escape(&chars, at, &mut out),
            '[' => at = class(&chars, at, &mut out),
            '{' if !is_repetition(&chars[at..]) => {
                out.push_str("\\{");
                at += 1;
            }
            c => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// `{n}`, `{n,}` or `{n,m}`; anything else in braces is literal.
fn is_repetition(rest: &[char]) -> bool {
    let body: String = rest[1..].iter().take_while(|c| **c != '}').collect();
    if rest.len() < body.chars().count() + 2 {
        return false;
    }
    let (low, high) = body.split_once(',').unwrap_or((&body, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// An escape outside a class; returns where it ends.
fn escape(chars: &[char], at: usize, out: &mut String) -> usize {
    let Some(&c) = chars.get(at + 1) else {
        out.push('\\');
        return at + 1;
    };
    match c {
        'Q' => {
            let mut end = at + 2;
            while end < chars.len() && !(chars[end] == '\\' && chars.get(end + 1) == Some(&'E')) {
                out.push_str(&regex::escape(&chars[end].to_string()));
                end += 1;
            }
            return (end + 2).min(chars.len().max(end));
        }
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        's' => out.push_str("[\\t\\n\\f\\r ]"),
        'S' => out.push_str("[^\\t\\n\\f\\r ]"),
        'b' => out.push_str("(?-u:\\b)"),
        'B' => out.push_str("(?-u:\\B)"),
        '<' | '>' => out.push(c),
        c => {
            out.push('\\');
            out.push(c);
        }
    }
    at + 2
}

/// A bracketed class; returns where it ends.
fn class(chars: &[char], start: usize, out: &mut String) -> usize {
    let mut at = start + 1;
    out.push('[');
    if chars.get(at) == Some(&'^') {
        out.push('^');
        at += 1;
    }
    let mut first = true;
    while at < chars.len() {
        let c = chars[at];
        match c {
            ']' if !first => {
                out.push(']');
                return at + 1;
            }
            '[' if chars.get(at + 1) == Some(&':') => {
                let end = (at + 2..chars.len()).find(|i| chars[*i] == ':');
                match end.filter(|end| chars.get(end + 1) == Some(&']')) {
                    Some(end) => {
                        out.extend(&chars[at..end + 2]);
                        at = end + 1;
                    }
                    None => out.push_str("\\["),
                }
            }
            '\\' => {
                match chars.get(at + 1) {
                    Some('w') => out.push_str("0-9A-Za-z_"),
                    Some('W') => out.push_str("[^0-9A-Za-z_]"),
                    Some('d') => out.push_str("0-9"),
                    Some('D') => out.push_str("[^0-9]"),
                    Some('s') => out.push_str("\\t\\n\\f\\r "),
                    Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                    Some(c @ ('<' | '>')) => out.push(*c),
                    Some(c) => {
                        out.push('\\');
                        out.push(*c);
                    }
                    None => out.push('\\'),
                }
                at += 1;
            }
            '[' | '&' | '~' | ']' => {
                out.push('\\');
                out.push(c);
            }
            '-' if chars.get(at + 1) == Some(&'-') || (!first && chars[at - 1] == '-') => {
                out.push_str("\\-");
            }
            c => out.push(c),
        }
        first = false;
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, target: &[u8]) -> bool {
        compile(pattern, true).unwrap().is_match(target)
    }

    #[test]
    fn go_flavour() {
        for (pattern, target, want) in [
            (r"\Qa.b\E$", "xa.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"^\d+$", "١", false),
            (r"^\w$", "é", false),
            (r"{[0-9a-f-]+}", "{12-ab}", true),
            (r"a{2}", "aa", true),
            (r"[[]x", "[x", true),
            (r"[[:digit:]]x", "1x", true),
            (r"[a&&b]", "&", true),
            (r"[\w.-]+$", "a-b.c", true),
            (r"[^\d]", "5", false),
            (r"\<a\>", "<A>", true),
            (r"(?-i)A", "a", false),
            (r"\bfoo\b", "a foo b", true),
            (r"[]a]", "]", true),
            (r"\x41\101", "AA", true),
        ] {
            assert_eq!(is_match(pattern, target.as_bytes()), want, "{pattern} on {target}");
        }
        assert!(is_match("a.b", b"a\xffb"), "a bad byte is one character");
        assert!(compile("(", true).is_err());
        assert!(compile("(?=a)", true).is_err());
    }

    #[test]
    fn replacement_templates() {
        let re = compile(r"(?P<x>b)(c)", false).unwrap();
        for (template, want) in
            [("$1", "abd"), ("<${x}$2>", "a<bc>d"), ("$1x", "ad"), ("$$", "a$d"), ("$", "a$d")]
        {
            assert_eq!(re.replace_all(b"abcd", template.as_bytes()), want.as_bytes(), "{template}");
        }
    }
}
