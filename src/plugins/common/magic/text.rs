//! Whether something is text, and what kind of.

/// Bytes that are looked at to tell an encoding.
const LOOKED_AT: usize = 64 << 10;
/// Characters of a line that is long.
const LONG: usize = 300;

/// A text: how it is called, its character set, and what is said of its lines.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// As in `ASCII`.
    pub name: &'static str,
    /// As in `us-ascii`.
    pub charset: &'static str,
    /// As in `, with CRLF line terminators`.
    pub lines: String,
}

/// Whether a byte is one of text, whatever its encoding.
fn is_text(b: u8) -> bool {
    matches!(b, 7..=13 | 27 | 32..=126 | 0x85)
}

/// The text that `data` is; `None` when it is none.
pub fn text(data: &[u8]) -> Option<Text> {
    let data = &data[..data.len().min(LOOKED_AT)];
    let of = |name, charset, units: &[u32]| Some(Text { name, charset, lines: lines(units) });
    let wide: Vec<u32> = data.iter().map(|b| u32::from(*b)).collect();
    if data.iter().all(|b| is_text(*b) && *b < 0x80) {
        return of("ASCII", "us-ascii", &wide);
    }
    let marked = data.strip_prefix(b"\xef\xbb\xbf");
    if let Some(chars) = utf8(marked.unwrap_or(data)) {
        let name = match marked {
            Some(_) => "Unicode text, UTF-8 (with BOM)",
            None => "Unicode text, UTF-8",
        };
        return of(name, "utf-8", &chars);
    }
    let order = match data {
        [0xff, 0xfe, ..] => Some((false, "Unicode text, UTF-16, little-endian", "utf-16le")),
        [0xfe, 0xff, ..] => Some((true, "Unicode text, UTF-16, big-endian", "utf-16be")),
        _ => None,
    };
    if let Some((big, name, charset)) = order {
        let units = data[2..].chunks_exact(2).map(|p| match big {
            true => u16::from_be_bytes([p[0], p[1]]),
            false => u16::from_le_bytes([p[0], p[1]]),
        });
        let units: Vec<u32> = units.map(u32::from).collect();
        let good = |u: &u32| *u != 0xfffe && (*u > 127 || is_text(*u as u8));
        return if units.iter().all(good) { of(name, charset, &units) } else { None };
    }
    if data.iter().all(|b| is_text(*b) || *b >= 0xa0) {
        return of("ISO-8859", "iso-8859-1", &wide);
    }
    if data.iter().all(|b| is_text(*b) || *b >= 0x80) {
        return of("Non-ISO extended-ASCII", "unknown-8bit", &wide);
    }
    None
}

/// The characters, if it is UTF-8; the last may be cut off.
fn utf8(data: &[u8]) -> Option<Vec<u32>> {
    let text = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&data[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let good = |c: char| !c.is_ascii() || is_text(c as u8);
    text.chars().all(good).then(|| text.chars().map(u32::from).collect())
}

fn lines(units: &[u32]) -> String {
    let (mut both, mut feeds, mut returns, mut longest, mut length) = (0, 0, 0, 0, 0);
    let mut last = 0;
    for (i, unit) in units.iter().enumerate() {
        match unit {
            10 if last == 13 => both += 1,
            10 => feeds += 1,
            13 if units.get(i + 1) != Some(&10) => returns += 1,
            13 => {}
            _ => length += 1,
        }
        if matches!(unit, 10 | 13) {
            longest = longest.max(length);
            length = 0;
        }
        last = *unit;
    }
    longest = longest.max(length);
    let mut out = String::new();
    if longest > LONG {
        out.push_str(&format!(", with very long lines ({longest})"));
    }
    let kinds = [(both, "CRLF"), (returns, "CR"), (feeds, "LF")];
    let kinds: Vec<&str> = kinds.into_iter().filter(|(n, _)| *n > 0).map(|(_, k)| k).collect();
    match kinds.as_slice() {
        ["LF"] => {}
        [] => out.push_str(", with no line terminators"),
        some => out.push_str(&format!(", with {} line terminators", some.join(", "))),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_and_lines() {
        let shown = |data: &[u8]| text(data).map(|t| format!("{} text{}", t.name, t.lines));
        assert_eq!(shown(b"a\nb\n").unwrap(), "ASCII text");
        assert_eq!(shown(b"a\r\nb\n").unwrap(), "ASCII text, with CRLF, LF line terminators");
        assert_eq!(shown(b"abc").unwrap(), "ASCII text, with no line terminators");
        assert_eq!(shown("é\n".as_bytes()).unwrap(), "Unicode text, UTF-8 text");
        assert_eq!(shown(b"\xe9\n").unwrap(), "ISO-8859 text");
        assert_eq!(shown(b"\xff\xfea\0\n\0").unwrap(), "Unicode text, UTF-16, little-endian text");
        let long = [vec![b'a'; 301], vec![b'\n']].concat();
        assert_eq!(shown(&long).unwrap(), "ASCII text, with very long lines (301)");
        assert!(text(b"a\0b").is_none() && text(b"\x01").is_none());
    }
}
