//! Rules about files in the language of magic(5), as far as it is of use here: numbers of
//! one to eight bytes, strings, searches and regular expressions, places that are found in
//! the file or follow what was found before, defaults, and further rules below a rule.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that a search or a regular expression looks at when it does not say.
const REGEX_RANGE: usize = 8192;
/// Most bytes of what comes out of one file's rules.
const LONGEST: usize = 4096;

/// Where a test looks.
#[derive(Debug)]
struct Place {
    /// Counted from behind the match above.
    relative: bool,
    at: i64,
    /// The number at that place says where: its width, byte order, and what is added.
    through: Option<(Width, i64)>,
}

#[derive(Clone, Copy, Debug)]
struct Width {
    bytes: usize,
    big: bool,
}

#[derive(Debug)]
enum Test {
    Number {
        width: Width,
        mask: Option<u64>,
        sign: char,
        value: Option<u64>,
    },
    /// A text at that place, or within so many bytes of it.
    Text {
        text: Vec<u8>,
        range: usize,
        any_case: bool,
        not: bool,
    },
    Regex {
        regex: Regex,
        range: usize,
        lines: bool,
    },
    /// Always, unless something else on its level was true.
    Default,
    Clear,
}

#[derive(Debug)]
struct Rule {
    level: usize,
    place: Place,
    test: Test,
    message: String,
    mime: Option<String>,
    extensions: Option<String>,
    /// Of text, to be asked only of text.
    of_text: bool,
}

/// Rules in their order.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

/// What rules say of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In words.
    pub message: String,
    /// As a type for mail and web.
    pub mime: Option<String>,
    /// Usual endings of names, with slashes between.
    pub extensions: Option<String>,
    /// Whether it was a rule about text.
    pub of_text: bool,
}

/// A value that a number's format is filled with.
enum Shown {
    Number(u64, usize),
    Text(Vec<u8>),
}

impl Rules {
    /// Reads rules; the second are the lines that are not understood. What is below such a
    /// line is left out too.
    pub fn read(text: &str) -> (Rules, Vec<String>) {
        let (mut out, mut bad) = (Vec::<Rule>::new(), Vec::new());
        let mut skipped = usize::MAX;
        for line in text.lines() {
            let line = line.trim_start_matches([' ', '\t']);
            if let Some(more) = line.strip_prefix("!:") {
                let (name, value) = more.split_once(char::is_whitespace).unwrap_or((more, ""));
                let value = Some(value.trim().to_owned());
                match (name, out.last_mut()) {
                    ("mime", Some(rule)) => rule.mime = value,
                    ("ext", Some(rule)) => rule.extensions = value,
                    _ => {}
                }
                continue;
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let level = line.bytes().take_while(|b| *b == b'>').count();
            if level > skipped {
                continue;
            }
            skipped = usize::MAX;
            match rule(&line[level..], level) {
                Some(rule) => out.push(rule),
                None => {
                    skipped = level;
                    bad.push(line.to_owned());
                }
            }
        }
        (Rules(out), bad)
    }

    /// What the first rule that has anything to say says.
    pub fn of(&self, data: &[u8], is_text: bool) -> Option<Found> {
        let mut at = 0;
        while at < self.0.len() {
            let end = self.0[at + 1..].iter().position(|r| r.level == 0);
            let end = end.map_or(self.0.len(), |n| at + 1 + n);
            let group = &self.0[at..end];
            if !group[0].of_text || is_text {
                let found = followed(group, data);
                if found.as_ref().is_some_and(|f| !f.message.is_empty()) {
                    return found;
                }
            }
            at = end;
        }
        None
    }
}

/// Follows a rule and those below it.
fn followed(group: &[Rule], data: &[u8]) -> Option<Found> {
    let mut found = Found { of_text: group[0].of_text, ..Found::default() };
    // For each level: where the match there ended, and whether one was true.
    let mut ends: Vec<i64> = vec![0];
    let mut hits: Vec<bool> = vec![false];
    let mut reached = 0;
    for rule in group {
        if rule.level > reached {
            continue;
        }
        let above = rule.level.checked_sub(1).and_then(|l| ends.get(l)).copied().unwrap_or(0);
        let tried = matches!(rule.test, Test::Default) && hits.get(rule.level) == Some(&true);
        let hit = if tried { None } else { rule.matches(data, above) };
        let Some((end, shown)) = hit else {
            reached = rule.level;
            if rule.level == 0 {
                return None;
            }
            continue;
        };
        ends.resize(rule.level + 2, 0);
        hits.resize(rule.level + 2, false);
        ends[rule.level] = end;
        hits[rule.level] = !matches!(rule.test, Test::Clear);
        hits[rule.level + 1] = false;
        reached = rule.level + 1;
        if !rule.message.is_empty() && found.message.len() < LONGEST {
            let text = filled(&rule.message, &shown);
            match text.strip_prefix("\\b") {
                Some(text) => found.message.push_str(text),
                None if found.message.is_empty() => found.message = text,
                None => {
                    found.message.push(' ');
                    found.message.push_str(&text);
                }
            }
        }
        found.mime = rule.mime.clone().or(found.mime);
        found.extensions = rule.extensions.clone().or(found.extensions);
    }
    Some(found)
}

impl Rule {
    /// Where the match ends and what was found, if it is true.
    fn matches(&self, data: &[u8], above: i64) -> Option<(i64, Shown)> {
        let base = if self.place.relative { above } else { 0 };
        let mut at = base.checked_add(self.place.at)?;
        if let Some((width, add)) = self.place.through {
            let number = width.read(data, usize::try_from(at).ok()?)?;
            at = i64::try_from(number).ok()?.checked_add(add)?;
        }
        let from = usize::try_from(at).ok()?;
        match &self.test {
            Test::Default | Test::Clear => Some((at, Shown::Number(0, 0))),
            Test::Number { width, mask, sign, value } => {
                let whole = width.read(data, from)?;
                let number = mask.map_or(whole, |m| whole & m);
                let signed = |n: u64| (n << (64 - width.bytes * 8)) as i64;
                let good = match (sign, value) {
                    (_, None) => true,
                    ('=', Some(v)) => number == *v,
                    ('!', Some(v)) => number != *v,
                    ('&', Some(v)) => number & v == *v,
                    ('^', Some(v)) => number & v != *v,
                    ('<', Some(v)) => signed(number) < signed(*v),
                    (_, Some(v)) => signed(number) > signed(*v),
                };
                let end = at.saturating_add(width.bytes as i64);
                good.then_some((end, Shown::Number(number, width.bytes)))
            }
            Test::Text { text, range, any_case, not } => {
                let rest = data.get(from..)?;
                let same = |part: &[u8]| match any_case {
                    true => part.eq_ignore_ascii_case(text),
                    false => part == text.as_slice(),
                };
                let last = rest.len().checked_sub(text.len()).map(|last| last.min(*range));
                let hit =
                    last.and_then(|last| (0..=last).find(|i| same(&rest[*i..*i + text.len()])));
                match (hit, not) {
                    (Some(i), false) => {
                        let end = at.saturating_add((i + text.len()) as i64);
                        Some((end, Shown::Text(text.clone())))
                    }
                    (None, true) => Some((at, Shown::Text(Vec::new()))),
                    _ => None,
                }
            }
            Test::Regex { regex, range, lines } => {
                let rest = data.get(from..)?;
                let end = match lines {
                    false => rest.len().min(*range),
                    true => {
                        let ends = rest.iter().enumerate().filter(|(_, b)| **b == b'\n');
                        ends.map(|(i, _)| i + 1).nth(range.saturating_sub(1)).unwrap_or(rest.len())
                    }
                };
                let hit = regex.find(&rest[..end.min(REGEX_RANGE)])?;
                let end = at.saturating_add(hit.end() as i64);
                Some((end, Shown::Text(hit.as_bytes().to_vec())))
            }
        }
    }
}

impl Width {
    fn read(self, data: &[u8], at: usize) -> Option<u64> {
        let bytes = data.get(at..at.checked_add(self.bytes)?)?;
        let join = |n: u64, b: &u8| n << 8 | u64::from(*b);
        Some(if self.big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
    }

    fn named(name: &str) -> Option<Width> {
        let name = name.strip_prefix('u').unwrap_or(name);
        let (big, name) = match name.split_at_checked(2) {
            Some(("le", rest)) => (false, rest),
            Some(("be", rest)) => (true, rest),
            _ => (false, name),
        };
        let bytes = match name {
            "byte" => 1,
            "short" => 2,
            "long" => 4,
            "quad" => 8,
            _ => return None,
        };
        Some(Width { bytes, big })
    }
}

fn number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.trim_end_matches(['L', 'l', 'U', 'u']);
    let value = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()? as i64,
        None if digits.len() > 1 && digits.starts_with('0') => {
            i64::from_str_radix(digits, 8).ok()?
        }
        None => digits.parse::<u64>().ok()? as i64,
    };
    Some(value.wrapping_mul(sign))
}

fn place(text: &str) -> Option<Place> {
    let (relative, text) = match text.strip_prefix('&') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let Some(inside) = text.strip_prefix('(') else {
        return Some(Place { relative, at: number(text)?, through: None });
    };
    let (at, kind) = inside.strip_suffix(')')?.split_once('.')?;
    let (kind, add) = kind.split_at_checked(1)?;
    let add = if add.is_empty() { 0 } else { number(add)? };
    let width = match kind {
        "b" | "c" | "B" | "C" => Width { bytes: 1, big: false },
        "s" | "h" => Width { bytes: 2, big: false },
        "S" | "H" => Width { bytes: 2, big: true },
        "l" => Width { bytes: 4, big: false },
        "L" => Width { bytes: 4, big: true },
        "q" => Width { bytes: 8, big: false },
        "Q" => Width { bytes: 8, big: true },
        _ => return None,
    };
    Some(Place { relative, at: number(at)?, through: Some((width, add)) })
}

/// The next word, in which a backslash may come before a space, and what follows.
fn word(text: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = text.find(|c: char| {
        let stop = c.is_whitespace() && !escaped;
        escaped = c == '\\' && !escaped;
        stop
    });
    let (word, rest) = text.split_at(end.unwrap_or(text.len()));
    (word, rest.trim_start())
}

/// Bytes of a text with escapes.
fn bytes(text: &str) -> Vec<u8> {
    let (text, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < text.len() {
        let c = text[at];
        at += 1;
        if c != b'\\' || at >= text.len() {
            out.push(c);
            continue;
        }
        let c = text[at];
        at += 1;
        let digits = |radix: u32, most: usize, at: &mut usize, first: u32| {
            let (mut n, mut count) = (first, 0);
            while let Some(d) = text.get(*at).and_then(|c| (*c as char).to_digit(radix)) {
                if count == most {
                    break;
                }
                (n, count, *at) = (n * radix + d, count + 1, *at + 1);
            }
            n as u8
        };
        out.push(match c {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'x' => digits(16, 2, &mut at, 0),
            b'0'..=b'7' => digits(8, 2, &mut at, u32::from(c - b'0')),
            other => other,
        });
    }
    out
}

fn rule(line: &str, level: usize) -> Option<Rule> {
    let (at, rest) = word(line);
    let (kind, rest) = word(rest);
    // After these there is no test but a letter.
    let kind = if at == "default" || at == "clear" { at } else { kind };
    let (at, rest) = match at {
        "default" | "clear" => ("0", line[at.len()..].trim_start()),
        at => (at, rest),
    };
    let (wanted, message) = word(rest);
    let place = place(at)?;
    let (kind, mask) = match kind.split_once('&') {
        Some((kind, mask)) => (kind, Some(number(mask)? as u64)),
        None => (kind, None),
    };
    let mut parts = kind.split('/');
    let name = parts.next().unwrap_or_default();
    let options: Vec<&str> = parts.collect();
    let range = options.iter().find_map(|o| number(o)).and_then(|n| usize::try_from(n).ok());
    let flag = |c: char| options.iter().any(|o| number(o).is_none() && o.contains(c));
    let mut of_text = false;
    let test = match name {
        "default" => Test::Default,
        "clear" => Test::Clear,
        "string" | "search" => {
            let (not, text) = match wanted.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, wanted.strip_prefix('=').unwrap_or(wanted)),
            };
            let text = bytes(text);
            if text.is_empty() || (name == "search" && range.is_none()) {
                return None;
            }
            let printable = text.iter().all(|b| matches!(b, 9..=13 | 27 | 32..=126));
            of_text = level == 0 && (flag('t') || name == "search" && printable && !flag('b'));
            let range = if name == "search" { range.unwrap_or(0) } else { 0 };
            Test::Text { text, range, any_case: flag('c') || flag('C'), not }
        }
        "regex" => {
            of_text = level == 0 && !flag('b');
            let regex = RegexBuilder::new(wanted.strip_prefix('=').unwrap_or(wanted))
                .case_insensitive(flag('c'))
                .multi_line(true)
                .unicode(false)
                .size_limit(1 << 20)
                .build()
                .ok()?;
            let lines = flag('l') && range.is_some();
            Test::Regex { regex, range: range.unwrap_or(REGEX_RANGE), lines }
        }
        name => {
            let width = Width::named(name)?;
            let sign = wanted.chars().next().filter(|c| "=!<>&^".contains(*c));
            let digits = &wanted[sign.map_or(0, char::len_utf8)..];
            let value = match wanted {
                "x" => None,
                _ => {
                    let all = u64::MAX >> (64 - width.bytes * 8);
                    Some(number(digits.trim())? as u64 & all)
                }
            };
            Test::Number { width, mask, sign: sign.unwrap_or('='), value }
        }
    };
    let (mime, extensions) = (None, None);
    Some(Rule { level, place, test, message: message.to_owned(), mime, extensions, of_text })
}

/// A message with what was found in it.
fn filled(message: &str, shown: &Shown) -> String {
    let Some(start) = message.find('%') else { return message.to_owned() };
    let rest = &message[start + 1..];
    let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic() && !"lhqL".contains(c)) else {
        return message.to_owned();
    };
    let (flags, letter) =
        (rest[..end].trim_end_matches(['l', 'h', 'q', 'L']), rest.as_bytes()[end]);
    let zeros = flags.contains('0') && flags.starts_with(['0', '.', '#']);
    let width: usize = flags.trim_start_matches(['#', '-', '.', '0']).parse().unwrap_or(0);
    let width = width.min(32);
    let sharp = flags.contains('#');
    let text = match (shown, letter) {
        (Shown::Text(text), _) => vql::lossy(text).into_owned(),
        (Shown::Number(n, _), b'c') => char::from(*n as u8).to_string(),
        (Shown::Number(n, _), b'x' | b'X') if sharp => format!("{n:#x}"),
        (Shown::Number(n, _), b'x' | b'X') if zeros => format!("{n:0width$x}"),
        (Shown::Number(n, _), b'x' | b'X') => format!("{n:x}"),
        (Shown::Number(n, _), b'o') => format!("{n:o}"),
        (Shown::Number(n, bytes), b'd' | b'i') => {
            let shift = 64 - bytes.clamp(&1, &8) * 8;
            let n = ((n << shift) as i64) >> shift;
            if zeros { format!("{n:0width$}") } else { format!("{n:width$}") }
        }
        (Shown::Number(n, _), _) if zeros => format!("{n:0width$}"),
        (Shown::Number(n, _), _) => n.to_string(),
    };
    format!("{}{text}{}", &message[..start], &rest[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rules: &str, data: &[u8]) -> Option<String> {
        let (rules, bad) = Rules::read(rules);
        assert_eq!(bad, Vec::<String>::new());
        rules.of(data, true).map(|f| f.message)
    }

    #[test]
    fn rules_are_followed() {
        let rules = "# comment\n0 string AB Thing\n>2 byte x version %d\n>3 leshort&0x0fff >5 \\b, big %#x\n\
            >5 byte 7\n>>6 byte 8 deep\n>default x other\n0 string !AB not";
        assert_eq!(
            said(rules, b"AB\xff\x10\x20\x07\x08").unwrap(),
            "Thing version -1, big 0x10 deep"
        );
        assert_eq!(said(rules, b"AB\x02\x01\x20\x07\x09").unwrap(), "Thing version 2");
        assert_eq!(said("0 belong 0xcafe0001 Coffee", b"\xca\xfe\0\x01").unwrap(), "Coffee");
        assert_eq!(said(rules, b"zz").unwrap(), "not");
        assert!(said("0 byte 1 One", b"zz").is_none());
        let rules = "0 string M\\x5a\n>(4.l+1) string ok\\ then Found\n>>&1 string tail behind\n>default x Nothing";
        assert_eq!(said(rules, b"MZ..\x08\0\0\0.ok then tail").unwrap(), "Found behind");
        assert_eq!(said(rules, b"MZ..\xff\xff\xff\xff").unwrap(), "Nothing");
        let rules = "0 search/10/c get\\040 Found %s\n0 regex ^v[0-9]+ Version %s";
        assert_eq!(said(rules, b"...GET x").unwrap(), "Found get ");
        assert_eq!(said(rules, b"v12 x").unwrap(), "Version v12");
    }

    #[test]
    fn lines_that_are_not_understood() {
        let (rules, bad) = Rules::read("0 use other\n>1 byte 1 below\nx byte 1\n0 byte 1 Good");
        assert_eq!(
            (rules.0.len(), bad),
            (1, vec!["0 use other".to_owned(), "x byte 1".to_owned()])
        );
        assert!(Rules::read("0 string\n0 byte\n(((\n&\n0 regex [\n0 byte &zz").0.0.is_empty());
    }
}
