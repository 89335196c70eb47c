//! Rules written the way they are usually laid out.

use std::borrow::Cow;

use super::split::Rule;

impl Rule<'_> {
    /// The rule anew; `clean` without what is only for people.
    pub(super) fn layout(&self, clean: bool) -> String {
        let mut modifiers = self.modifiers.clone();
        modifiers.sort_unstable();
        let mut out: String = modifiers.iter().map(|m| format!("{m} ")).collect();
        out += &format!("rule {}", self.name);
        if !self.tags.is_empty() && !clean {
            out += &format!(" : {}", self.tags.join(" "));
        }
        out += " {\n";
        if !self.meta.is_empty() && !clean {
            out += "  meta:\n";
            self.meta.iter().for_each(|line| out += &format!("    {}\n", spaced(line)));
        }
        if !self.strings.is_empty() {
            out += "  strings:\n";
            self.strings.iter().for_each(|line| out += &format!("    {}\n", text_line(line)));
        }
        let condition: Vec<Cow<'_, str>> = self.condition.iter().map(|t| number(t)).collect();
        let condition: Vec<&str> = condition.iter().map(AsRef::as_ref).collect();
        out + &format!("  condition:\n    {}\n}}\n", spaced(&condition))
    }
}

/// What a string of a rule can be, in the order it is written.
const MODIFIERS: [&str; 8] =
    ["ascii", "wide", "nocase", "fullword", "private", "xor", "base64", "base64wide"];

/// The line of a string: its name, what it is, and its modifiers.
fn text_line(line: &[&str]) -> String {
    let (head, tail) = line.split_at(line.len().min(3));
    let mut out: Vec<Cow<'_, str>> = head.iter().map(|t| hex(t)).collect();
    // A modifier and what stands in brackets behind it.
    let mut modifiers: Vec<String> = Vec::new();
    let mut depth = 0;
    for token in tail {
        depth += i32::from(*token == "(");
        match modifiers.last_mut().filter(|_| depth > 0) {
            Some(last) => *last += token,
            None => modifiers.push((*token).to_owned()),
        }
        depth -= i32::from(*token == ")");
    }
    let place = |m: &String| {
        let word = m.split('(').next().unwrap_or_default();
        MODIFIERS.iter().position(|known| *known == word).unwrap_or(MODIFIERS.len())
    };
    modifiers.sort_by_key(place);
    out.extend(modifiers.into_iter().map(Cow::Owned));
    out.join(" ")
}

/// A hex string with its bytes apart; anything else as it is.
fn hex(token: &str) -> Cow<'_, str> {
    let Some(inner) = token.strip_prefix('{').and_then(|t| t.strip_suffix('}')) else {
        return token.into();
    };
    let mut parts: Vec<String> = Vec::new();
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        let comment = |end: &str| rest.find(end).map_or(rest.len(), |n| n + end.len());
        let length = match c {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                continue;
            }
            '/' => {
                rest = &rest[if rest.starts_with("/*") { comment("*/") } else { comment("\n") }..];
                continue;
            }
            '[' => comment("]"),
            '~' => 3,
            '(' | ')' | '|' => 1,
            _ => 2,
        };
        let end = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        let part: String = rest[..end].chars().filter(|c| !c.is_whitespace()).collect();
        parts.push(part.to_ascii_uppercase());
        rest = &rest[end..];
    }
    format!("{{ {} }}", parts.join(" ")).into()
}

/// A number as it is usually written; anything else as it is.
fn number(token: &str) -> Cow<'_, str> {
    if !token.starts_with(|c: char| c.is_ascii_digit()) {
        return token.into();
    }
    if let Some(digits) = token.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).map_or(token.into(), |n| format!("{n:#x}").into());
    }
    if token.contains('.') {
        return token.parse::<f64>().map_or(token.into(), |n| format!("{n:.6}").into());
    }
    let units = [("KB", 1 << 10), ("MB", 1 << 20)];
    let (digits, unit) = units
        .iter()
        .find_map(|(name, unit)| token.strip_suffix(name).map(|digits| (digits, *unit)))
        .unwrap_or((token, 1));
    let n = digits.parse::<i64>().ok().and_then(|n| n.checked_mul(unit));
    n.map_or(token.into(), |n| n.to_string().into())
}

/// Whether it begins like a name.
pub(super) fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Tokens with blanks where they are usual.
fn spaced(tokens: &[&str]) -> String {
    let mut out = String::new();
    for (i, token) in tokens.iter().enumerate() {
        let before = if i == 0 { "" } else { tokens[i - 1] };
        let sign = before == "-" && !tokens[..i - 1].last().is_some_and(|t| is_operand(t));
        let tight_after = sign || matches!(before, "" | "." | "(" | "[" | ".." | "~");
        let call = matches!(*token, "(" | "[") && is_name(before);
        // `A*` names many, `50% of` is no remainder.
        let next = tokens.get(i + 1).copied().unwrap_or_default();
        let many = *token == "*" && matches!(next, ")" | ",") || *token == "%" && next == "of";
        let pair = before == "," && binds_two(tokens, i);
        let tight = matches!(*token, "." | ")" | "]" | "," | "..") || call || many || pair;
        if !tight_after && !tight {
            out.push(' ');
        }
        out += token;
    }
    out
}

/// Whether the name there is the second of a loop's pair: `for any k,v in`.
fn binds_two(tokens: &[&str], at: usize) -> bool {
    let quantity = at.checked_sub(3).map(|i| tokens[i]);
    tokens.get(at + 1) == Some(&"in") && quantity.is_some_and(|t| t != "(" && t != ",")
}

/// What a minus behind it takes something from.
fn is_operand(token: &str) -> bool {
    let value = |c: char| c.is_ascii_digit() || matches!(c, ')' | ']' | '"' | '#' | '@' | '!');
    is_name(token) || token.starts_with(value)
}

/// Names of what can be called or indexed; words of the language are none.
fn is_name(token: &str) -> bool {
    const WORDS: [&str; 21] = [
        "all",
        "and",
        "any",
        "at",
        "for",
        "in",
        "matches",
        "none",
        "not",
        "of",
        "or",
        "them",
        "true",
        "false",
        "contains",
        "icontains",
        "startswith",
        "endswith",
        "iequals",
        "xor",
        "base64",
    ];
    let counted = token.starts_with(['@', '!']) && token.len() > 1;
    (is_word(token) && !WORDS.contains(&token)) || counted
}
