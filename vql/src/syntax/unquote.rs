//! Escapes in string literals and back-quoted names.

/// The bytes meant by the inside of a quoted string. A backslash before an
/// unknown character is dropped; a truncated escape drops the rest.
pub(crate) fn unquote(inner: &str) -> Vec<u8> {
    let bytes = inner.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some(&escaped) = bytes.get(at) else { break };
        at += 1;
        match escaped {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'x' | b'X' => {
                let Some(pair) = bytes.get(at..at + 2) else { break };
                match (hex(pair[0]), hex(pair[1])) {
                    (Some(high), Some(low)) => out.push(high << 4 | low),
                    _ => {
                        out.extend_from_slice(&[b'\\', escaped]);
                        out.extend_from_slice(pair);
                    }
                }
                at += 2;
            }
            other => out.push(other),
        }
    }
    out
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|d| d as u8)
}

/// The name inside back-quotes, with Go character escapes processed.
pub(crate) fn unescape_name(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('v') => out.push('\u{b}'),
            Some('x') => push_code(&mut out, &mut chars, 2),
            Some('u') => push_code(&mut out, &mut chars, 4),
            Some('U') => push_code(&mut out, &mut chars, 8),
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

fn push_code(out: &mut String, chars: &mut std::str::Chars<'_>, digits: usize) {
    let code: String = chars.by_ref().take(digits).collect();
    let c = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
    out.push(c.unwrap_or('\u{fffd}'));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, want) in [
            (r"a\nb", &b"a\nb"[..]),
            (r"\d+", b"d+"),
            (r"\\d", b"\\d"),
            (r"\x41\X42", b"AB"),
            (r"\xff", b"\xff"),
            (r"\xZZ", b"\\xZZ"),
            (r"a\x4", b"a"),
            (r#"\"\'"#, b"\"'"),
        ] {
            assert_eq!(unquote(text), want, "{text}");
        }
        assert_eq!(unescape_name(r"a\tb\x41"), "a\tbA");
    }
}
