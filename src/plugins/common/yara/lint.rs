//! `yara_lint`: rules of which only those stay that can be used here. Knows how rules
//! are laid out; what they mean is asked of the compiler, one rule at a time.

use std::collections::BTreeSet;

use boreal::Compiler;
use boreal::compiler::CompilerParams;
use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use crate::plugins::common::blocking;

/// Adds `yara_lint`.
pub(super) fn register(registry: &mut Registry) {
    let doc = "YARA rules without those that cannot be used here, and with the imports they need.";
    let signature = Signature::new("yara_lint", doc)
        .required("rules", ArgType::String, "YARA rules.")
        .arg("clean", ArgType::Bool, "Leave out the metadata of rules too.");
    registry.function_async(signature, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (text, clean) = (args.string("rules")?, args.bool("clean")?);
    let (kept, faults) = blocking(scope, move || lint(&text, clean)).await?;
    for fault in faults {
        scope.log(Level::Default, format!("yara_lint: {fault}"));
    }
    Ok(kept.into())
}

/// The rules that compile, laid out anew, and what was wrong with the others.
fn lint(text: &str, clean: bool) -> (String, Vec<String>) {
    let (mut imports, mut rules, mut faults) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut compiler = Compiler::new();
    compiler.set_params(CompilerParams::default().disable_includes(true));
    for rule in split(text, &mut faults) {
        let needed: Vec<&str> = rule.modules().into_iter().filter(|m| is_module(m)).collect();
        let head: String = needed.iter().map(|m| format!("import \"{m}\"\n")).collect();
        match compiler.add_rules_str(format!("{head}{}", rule.layout(false))) {
            Ok(_) => {
                imports.extend(needed.into_iter().map(str::to_owned));
                rules.push(rule.layout(clean));
            }
            Err(e) => {
                let why = e.to_string();
                let why = why.lines().next().unwrap_or_default();
                faults.push(format!("rule {} is left out: {why}", rule.name));
            }
        }
    }
    let mut out: Vec<String> = Vec::new();
    if !imports.is_empty() {
        out.push(imports.iter().map(|m| format!("import \"{m}\"\n")).collect());
    }
    out.extend(rules);
    (out.join("\n"), faults)
}

/// Modules that stock agents have.
const MODULES: [&str; 3] = ["elf", "math", "pe"];

/// Whether rules can import it, here and on agents that get them.
fn is_module(name: &str) -> bool {
    if !MODULES.contains(&name) {
        return false;
    }
    let rule = format!("import \"{name}\"\nrule r {{ condition: true }}");
    Compiler::new().add_rules_str(rule).is_ok()
}

/// A rule taken apart. Parts are tokens.
#[derive(Default)]
struct Rule<'a> {
    /// `private`, `global`.
    modifiers: Vec<&'a str>,
    name: &'a str,
    tags: Vec<&'a str>,
    /// One line each.
    meta: Vec<Vec<&'a str>>,
    strings: Vec<Vec<&'a str>>,
    condition: Vec<&'a str>,
}

impl<'a> Rule<'a> {
    /// Names with a point behind them that are not variables of the condition.
    fn modules(&self) -> BTreeSet<&'a str> {
        let tokens = &self.condition;
        let named = (0..tokens.len()).filter(|i| {
            let first = *i == 0 || tokens[i - 1] != ".";
            first && is_word(tokens[*i]) && tokens.get(i + 1) == Some(&".")
        });
        named.map(|i| tokens[i]).collect()
    }

    fn layout(&self, clean: bool) -> String {
        let mut out: String = self.modifiers.iter().map(|m| format!("{m} ")).collect();
        out += &format!("rule {}", self.name);
        if !self.tags.is_empty() {
            out += &format!(" : {}", self.tags.join(" "));
        }
        out += " {\n";
        let meta = if clean { &[] } else { self.meta.as_slice() };
        for (title, lines) in [("meta", meta), ("strings", self.strings.as_slice())] {
            if !lines.is_empty() {
                out += &format!("  {title}:\n");
            }
            for line in lines {
                out += &format!("    {}\n", spaced(line));
            }
        }
        out + &format!("  condition:\n    {}\n}}\n", spaced(&self.condition))
    }
}

fn is_word(token: &str) -> bool {
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
        let tight = matches!(*token, "." | ")" | "]" | "," | "..") || call;
        if !tight_after && !tight {
            out.push(' ');
        }
        out += token;
    }
    out
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

/// The rules of a text in their order. What is no rule is told and passed over.
fn split<'a>(text: &'a str, faults: &mut Vec<String>) -> Vec<Rule<'a>> {
    let tokens = tokens(text);
    let (mut out, mut at) = (Vec::new(), 0);
    let mut modifiers = Vec::new();
    while let Some(token) = tokens.get(at) {
        match *token {
            "import" | "include" => at += 2,
            "private" | "global" => {
                modifiers.push(*token);
                at += 1;
            }
            "rule" => {
                let (mut rule, next) = rule(&tokens, at + 1);
                rule.modifiers = std::mem::take(&mut modifiers);
                out.push(rule);
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

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        include "other.yar"  // never read
        import "elf" /* not used */
        private rule Small : tiny
          { meta: author = "a \" // b" score = -3
            strings: $a = "x" wide ascii  $h = { 4d [2-3] ( 5a | 5b ) ~0? }
                     $r = /a\/b{2}/i fullword
            condition: any of ($a*) and $h and #r > 1*2 and @a[1] < filesize - 1 and
              for all i in (1..3) : ( uint8(i) != 0x00 ) }
        rule Uses { condition: Small and math.entropy(0, filesize) >= 7.5 }
        what = is this
        rule Bad { condition: nowhere.sum(0) == 1 }
        rule After { condition: Bad or true }
        rule Twice { condition: not pe.is_pe }
        rule Twice { condition: true }"#;

    #[test]
    fn only_rules_that_compile_stay() {
        let (kept, faults) = lint(RULES, true);
        let expected = r#"import "math"
import "pe"

private rule Small : tiny {
  strings:
    $a = "x" wide ascii
    $h = { 4d [2-3] ( 5a | 5b ) ~0? }
    $r = /a\/b{2}/i fullword
  condition:
    any of ($a*) and $h and #r > 1 * 2 and @a[1] < filesize - 1 and for all i in (1..3) : (uint8(i) != 0x00)
}

rule Uses {
  condition:
    Small and math.entropy(0, filesize) >= 7.5
}

rule Twice {
  condition:
    not pe.is_pe
}
"#;
        assert_eq!(kept, expected);
        assert_eq!(faults.len(), 4, "{faults:?}");
        // What was written means the same: nothing more is left out, and nothing changes.
        assert_eq!(lint(&kept, false), (kept, vec![]));
        let (kept, _) = lint(RULES, false);
        assert!(kept.contains("  meta:\n    author = \"a \\\" // b\"\n    score = -3\n"), "{kept}");
    }

    #[test]
    fn texts_that_are_cut_anywhere() {
        for (end, _) in RULES.char_indices() {
            lint(&RULES[..end], false);
        }
        assert_eq!(lint("", false), (String::new(), vec![]));
        assert!(lint("rule ö { condition: \"", false).1.len() == 1);
    }
}
