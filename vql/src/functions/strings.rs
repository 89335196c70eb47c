//! str, lowcase, upcase, substr, strip, commandline_split: working on text.

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let str_ = Signature::new("str", "The text of any value.").refused(false);
    registry.function_sync(str_.required("str", ArgType::Any, "The value."), |_, args| {
        Ok(match args.any("str") {
            Value::Null => "Null".into(),
            list @ Value::List(_) => list.go_text().into(),
            other => other.to_str().into(),
        })
    });

    let text = |name, doc| Signature::new(name, doc).required("string", ArgType::String, "Text.");
    registry.function_sync(text("lowcase", "Lower case."), |_, args| {
        Ok(args.string("string")?.to_lowercase().into())
    });
    registry.function_sync(text("upcase", "Upper case."), |_, args| {
        Ok(args.string("string")?.to_uppercase().into())
    });

    let substr = Signature::new("substr", "Characters from start up to, not including, end.")
        .required("str", ArgType::String, "The text.")
        .arg("start", ArgType::Int, "First character.")
        .arg("end", ArgType::Int, "Character after the last.");
    registry.function_sync(substr, |_, args| {
        let text = args.bytes("str")?;
        let ends = character_ends(text.as_bytes());
        let count = ends.len() as i64;
        let (start, end) = (args.int("start")?, args.int("end")?);
        if start < 0 || end < 0 {
            return Err(Error::failed("start and end must not be negative"));
        }
        if end != 0 && end < start {
            return Err(Error::failed("end must not be before start"));
        }
        let start = start.min(count);
        let end = if end == 0 { count } else { end.min(count) };
        // Where so many characters end.
        let place = |n: i64| match usize::try_from(n - 1) {
            Ok(last) => ends.get(last).copied().unwrap_or(text.len()),
            Err(_) => 0,
        };
        Ok(Value::Str(text.as_bytes()[place(start)..place(end)].into()))
    });

    let strip = text("strip", "Removes a prefix and a suffix, or white space at both ends.")
        .refused(false)
        .arg("prefix", ArgType::String, "The prefix.")
        .arg("suffix", ArgType::String, "The suffix.");
    registry.function_sync(strip, |_, args| {
        let (text, prefix, suffix) =
            (args.bytes("string")?, args.bytes("prefix")?, args.bytes("suffix")?);
        let bytes = text.as_bytes();
        if prefix.is_empty() && suffix.is_empty() {
            return Ok(bytes.trim_ascii().into());
        }
        let bytes = bytes.strip_prefix(prefix.as_bytes()).unwrap_or(bytes);
        Ok(bytes.strip_suffix(suffix.as_bytes()).unwrap_or(bytes).into())
    });

    let split = Signature::new("commandline_split", "Splits a command line into arguments.")
        .refused(Vec::<Value>::new())
        .required("command", ArgType::String, "The command line.")
        .arg("bash_style", ArgType::Bool, "By the rules of a Unix shell.");
    registry.function_sync(split, |_, args| {
        let command = args.string("command")?;
        let parts = match args.bool("bash_style")? {
            true => split_shell(&command),
            false => split_windows(&command),
        };
        Ok(if parts.is_empty() { Value::nil_list() } else { Value::from(parts) })
    });
}

/// Backslashes escape only before a quote; a doubled quote inside quotes is one.
fn split_windows(command: &str) -> Vec<String> {
    let (mut parts, mut part, mut started, mut quoted) = (vec![], String::new(), false, false);
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let mut slashes = 1;
                while chars.next_if_eq(&'\\').is_some() {
                    slashes += 1;
                }
                started = true;
                if chars.peek() == Some(&'"') {
                    part.push_str(&"\\".repeat(slashes / 2));
                    if slashes % 2 == 1 {
                        chars.next();
                        part.push('"');
                    }
                } else {
                    part.push_str(&"\\".repeat(slashes));
                }
            }
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => {
                quoted = !quoted;
                started = true;
            }
            ' ' | '\t' if !quoted => {
                if started {
                    parts.push(std::mem::take(&mut part));
                }
                started = false;
            }
            c => {
                part.push(c);
                started = true;
            }
        }
    }
    if started {
        parts.push(part);
    }
    parts
}

fn split_shell(command: &str) -> Vec<String> {
    let (mut parts, mut part, mut started) = (vec![], String::new(), false);
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                started = true;
            }
            (Some(q), c) if q == c => quote = None,
            (Some('\''), c) => part.push(c),
            (_, '\\') => {
                part.extend(chars.next());
                started = true;
            }
            (None, c) if c.is_whitespace() => {
                if started {
                    parts.push(std::mem::take(&mut part));
                }
                started = false;
            }
            (_, c) => {
                part.push(c);
                started = true;
            }
        }
    }
    if started {
        parts.push(part);
    }
    parts
}

/// Where each character ends; a byte that belongs to none is one by itself.
fn character_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut out, mut at) = (Vec::new(), 0);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            at += c.len_utf8();
            out.push(at);
        }
        for _ in chunk.invalid() {
            at += 1;
            out.push(at);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters() {
        assert_eq!(character_ends("aä€".as_bytes()), [1, 3, 6]);
        assert_eq!(character_ends(b"\xff\xe2\x82b"), [1, 2, 3, 4]);
        assert_eq!(character_ends(b""), [0; 0]);
    }

    #[test]
    fn command_lines() {
        assert_eq!(split_windows(r#"a "b c" d\e "f\"g""#), ["a", "b c", "d\\e", "f\"g"]);
        assert_eq!(split_windows(r#""C:\x y\\" z"#), ["C:\\x y\\", "z"]);
        assert_eq!(split_shell(r#"a 'b c' "d\"e" f\ g"#), ["a", "b c", "d\"e", "f g"]);
    }
}
