//! Rules taken apart without understanding them: names, lines and tokens.

use super::layout::is_word;

/// A text taken apart.
#[derive(Default)]
pub(super) struct Parts<'a> {
    /// Modules it says it needs.
    pub(super) imports: Vec<&'a str>,
    pub(super) rules: Vec<Rule<'a>>,
}

/// A rule taken apart. Parts are tokens.
#[derive(Default)]
pub(super) struct Rule<'a> {
    /// `private`, `global`.
    pub(super) modifiers: Vec<&'a str>,
    pub(super) name: &'a str,
    pub(super) tags: Vec<&'a str>,
    /// One line each.
    pub(super) meta: Vec<Vec<&'a str>>,
    pub(super) strings: Vec<Vec<&'a str>>,
    pub(super) condition: Vec<&'a str>,
}

impl<'a> Rule<'a> {
    /// Names with a point behind them that are not variables of the condition, in the order they come in.
    pub(super) fn modules(&self) -> Vec<&'a str> {
        let tokens = &self.condition;
        let named = (0..tokens.len()).filter(|i| {
            let first = *i == 0 || tokens[i - 1] != ".";
            first && is_word(tokens[*i]) && tokens.get(i + 1) == Some(&".")
        });
        let mut modules: Vec<&str> = Vec::new();
        for name in named.map(|i| tokens[i]) {
            if !modules.contains(&name) {
                modules.push(name);
            }
        }
        modules
    }
}

/// The rules of a text in their order. What is no rule is told and passed over.
pub(super) fn split<'a>(text: &'a str, faults: &mut Vec<String>) -> Parts<'a> {
    let tokens = tokens(text);
    let (mut out, mut at) = (Parts::default(), 0);
    let mut modifiers = Vec::new();
    while let Some(token) = tokens.get(at) {
        match *token {
            "import" => {
                let name = tokens.get(at + 1).map(|name| name.trim_matches('"'));
                out.imports.extend(name);
                at += 2;
            }
            "include" => at += 2,
            "private" | "global" => {
                modifiers.push(*token);
                at += 1;
            }
            "rule" => {
                let (mut rule, next) = rule(&tokens, at + 1);
                rule.modifiers = std::mem::take(&mut modifiers);
                out.rules.push(rule);
                at = next;
            }
            other => {
                faults.push(format!("{other} stands where a rule should begin"));
                // What follows up to the next rule belongs to it.
                at += 1;
                while tokens.get(at).is_some_and(|t| !matches!(*t, "rule" | "private" | "global")) {
                    at += 1;
                }
            }
        }
    }
    out
}

/// The rule whose name is at `at`, and where the text goes on.
fn rule<'a>(tokens: &[&'a str], mut at: usize) -> (Rule<'a>, usize) {
    let mut rule = Rule { name: tokens.get(at).copied().unwrap_or_default(), ..Rule::default() };
    at += 1;
    if tokens.get(at) == Some(&":") {
        at += 1;
        while let Some(tag) = tokens.get(at).filter(|t| **t != "{") {
            rule.tags.push(tag);
            at += 1;
        }
    }
    at += 1;
    let mut section = "";
    while let Some(token) = tokens.get(at).copied().filter(|t| *t != "}") {
        let next = tokens.get(at + 1).copied().unwrap_or_default();
        if matches!(token, "meta" | "strings" | "condition") && next == ":" {
            section = token;
            at += 2;
            continue;
        }
        match section {
            "meta" if next == "=" => rule.meta.push(vec![token]),
            "strings" if token.starts_with('$') => rule.strings.push(vec![token]),
            "meta" => rule.meta.last_mut().into_iter().for_each(|line| line.push(token)),
            "strings" => rule.strings.last_mut().into_iter().for_each(|line| line.push(token)),
            _ => rule.condition.push(token),
        }
        at += 1;
    }
    (rule, at + 1)
}

/// The text without blanks and comments, cut into names, numbers, strings, patterns, hex
/// strings and signs.
fn tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut out, mut at): (Vec<&str>, usize) = (Vec::new(), 0);
    while let Some(c) = bytes.get(at) {
        let rest = &text[at..];
        let before = out.last().copied().unwrap_or_default();
        let length = if c.is_ascii_whitespace() {
            at += 1;
            continue;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |n| n + 2);
            continue;
        } else if *c == b'"' {
            closed(rest, b'"')
        } else if *c == b'/' && matches!(before, "=" | "matches" | "(" | ",") {
            // Letters behind it belong to a pattern.
            let end = closed(rest, b'/');
            let flags = rest.as_bytes()[end..].iter().take_while(|b| matches!(b, b'i' | b's'));
            end + flags.count()
        } else if *c == b'{' && before == "=" {
            rest.find('}').map_or(rest.len(), |n| n + 1)
        } else if ["..", "==", "!=", "<=", ">=", "<<", ">>"].iter().any(|s| rest.starts_with(s)) {
            2
        } else {
            let word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'*');
            match c {
                b'$' | b'#' | b'@' | b'!' => {
                    1 + rest.as_bytes()[1..].iter().take_while(|b| word(b)).count()
                }
                // A number with a point, which `1..2` is not.
                c if c.is_ascii_digit() && fraction(rest).is_some() => fraction(rest).unwrap_or(1),
                c if c.is_ascii_alphanumeric() || *c == b'_' => {
                    let name = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_';
                    rest.as_bytes().iter().take_while(name).count()
                }
                _ => rest.chars().next().map_or(1, char::len_utf8),
            }
        };
        let length = length.min(rest.len());
        out.push(&rest[..length]);
        at += length;
    }
    out
}

/// The length of a number with a point.
fn fraction(text: &str) -> Option<usize> {
    let whole = text.find(|c: char| !c.is_ascii_digit())?;
    let rest = text[whole..].strip_prefix('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (digits > 0).then_some(whole + 1 + digits)
}

/// The length up to the sign that closes it, which a backslash hides.
fn closed(text: &str, sign: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b if b == sign => return at + 1,
            b'\n' => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}
