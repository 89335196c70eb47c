//! How one path component becomes a file name and back. Pure; knows nothing of
//! directories, types or extensions.
//!
//! The scheme is the stock datastore's: byte-wise percent escapes with a few
//! protections for names the store itself uses. Names ending in `_` or `.db`
//! followed by dots do not survive the round trip; that is how the format is.

use sha1::{Digest, Sha1};

/// An escaped component of this many bytes or more is stored under its hash.
pub const LONG_NAME: usize = 250;

fn kept(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b'~' | b' ' | b'$')
}

/// The file name of a component (bytes, need not be UTF-8); empty for empty.
pub fn encode(component: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(component.len() + 8);
    let mut rest = component;
    while let Some(&c @ (b'.' | b'#')) = rest.first() {
        out.push_str(if c == b'.' { "%2E" } else { "%23" });
        rest = &rest[1..];
    }
    let body_len = rest.iter().rposition(|&c| c != b'.').map_or(0, |i| i + 1);
    let (body, dots) = rest.split_at(body_len);
    for &c in body {
        if kept(c) {
            out.push(char::from(c));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(c >> 4)]));
            out.push(char::from(HEX[usize::from(c & 15)]));
        }
    }
    if body.ends_with(b".db") || body.ends_with(b"_") {
        out.push('_');
    }
    for _ in dots {
        out.push_str("%2E");
    }
    out
}

fn unhex(c: u8) -> u8 {
    char::from(c).to_digit(16).map_or(0, |d| d as u8)
}

/// The component a file name stands for. Bad hex digits count as 0, a `%`
/// without two bytes after it is dropped, one trailing `_` is stripped.
pub fn decode(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut i = 0;
    while let Some(&c) = name.get(i) {
        match (c, name.get(i + 1), name.get(i + 2)) {
            (b'%', Some(&hi), Some(&lo)) => {
                out.push(unhex(hi) << 4 | unhex(lo));
                i += 3;
            }
            (b'%', ..) => i += 1,
            _ => {
                out.push(c);
                i += 1;
            }
        }
    }
    if out.last() == Some(&b'_') {
        out.pop();
    }
    out
}

/// [`decode`] as text; bytes that are not UTF-8 become U+FFFD.
pub fn decode_text(name: &str) -> String {
    String::from_utf8(decode(name.as_bytes()))
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Lower-case hex SHA-1 of a raw component: its name when it is too long.
pub fn long_hash(component: &[u8]) -> String {
    hex::encode(Sha1::digest(component))
}

/// A component as stored: the escaped name, or `#` and the hash when that is
/// too long for a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The escaped name.
    Name(String),
    /// The hash (without `#`); needs a long-name record beside it.
    Hash(String),
}

/// Chooses between name and hash.
pub fn stored(component: &[u8]) -> Stored {
    // Anything this long cannot shrink: skip the escaping.
    let name = if component.len() < LONG_NAME { encode(component) } else { String::new() };
    if component.len() >= LONG_NAME || name.len() >= LONG_NAME {
        Stored::Hash(long_hash(component))
    } else {
        Stored::Name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors() {
        let cases: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"Simple string", "Simple string"),
            ("你好".as_bytes(), "%E4%BD%A0%E5%A5%BD"),
            (b"Word \"With\" quotes", "Word %22With%22 quotes"),
            (b"../../../", "%2E%2E%2F..%2F..%2F"),
            (b"foo.db", "foo.db_"),
            (b"bar.json.db", "bar.json.db_"),
            (b"filename:with:col.db", "filename%3Awith%3Acol.db_"),
            (b"\x00\x01\xf0\xf2\xff\xc3(", "%00%01%F0%F2%FF%C3%28"),
            (b"x_", "x__"),
            (b"foo.", "foo%2E"),
            (b"../../foo.", "%2E%2E%2F..%2Ffoo%2E"),
            (b"C:", "C%3A"),
            (b"\\\\.\\C:", "%5C%5C.%5CC%3A"),
            (b".", "%2E"),
            (b"..", "%2E%2E"),
            (b"#tag", "%23tag"),
            (b".#.x", "%2E%23%2Ex"),
            (b"a#b", "a%23b"),
            (b".db", "%2Edb"),
            (b"mic@x.org", "mic%40x.org"),
            (b"A (b)", "A %28b%29"),
        ];
        for (raw, disk) in cases {
            assert_eq!(encode(raw), *disk);
            assert_eq!(decode(disk.as_bytes()), *raw, "{disk}");
        }
    }

    #[test]
    fn names_that_do_not_survive() {
        assert_eq!(encode(b"foo.db."), "foo.db_%2E");
        assert_eq!(decode(b"foo.db_%2E"), b"foo.db_.");
        assert_eq!(encode(b"a_."), "a__%2E");
    }

    #[test]
    fn odd_escapes_decode() {
        assert_eq!(decode(b"a%zz"), b"a\0");
        assert_eq!(decode(b"foo.%"), b"foo.");
        assert_eq!(decode(b"a%4"), b"a4");
        assert_eq!(decode(b"a%41"), b"aA");
        assert_eq!(decode(b"a__"), b"a_");
    }

    #[test]
    fn long_names_are_hashed() {
        assert_eq!(stored(&[b'a'; 249]), Stored::Name("a".repeat(249)));
        assert_eq!(stored(&[b'a'; 250]), Stored::Hash(long_hash(&[b'a'; 250])));
        // 84 escaped bytes are 252 on disk.
        assert_eq!(stored(&[b'!'; 84]), Stored::Hash(long_hash(&[b'!'; 84])));
        assert_eq!(stored(&[b'!'; 83]), Stored::Name("%21".repeat(83)));
        assert!(matches!(stored(&[b'!'; 5000]), Stored::Hash(_)));
        assert_eq!(long_hash(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    /// The stated exceptions: `_` or `.db`, then dots, at the end.
    fn lossy(raw: &[u8]) -> bool {
        let start = raw.iter().position(|c| !matches!(c, b'.' | b'#')).unwrap_or(raw.len());
        let rest = &raw[start..];
        let end = rest.iter().rposition(|&c| c != b'.').map_or(0, |i| i + 1);
        let body = &rest[..end];
        end < rest.len() && (body.ends_with(b"_") || body.ends_with(b".db"))
    }

    proptest! {
        #[test]
        fn round_trip(raw in prop::collection::vec(prop_oneof![
            any::<u8>(), Just(b'.'), Just(b'_'), Just(b'#'), Just(b'd'), Just(b'b'), Just(b'%')], 0..40)) {
            let disk = encode(&raw);
            prop_assert!(disk.bytes().all(|c| kept(c) || c == b'%'));
            prop_assert!(!disk.starts_with('.') && !disk.ends_with('.') && !disk.ends_with(".db"));
            prop_assert_eq!(decode(disk.as_bytes()) == raw, !lossy(&raw));
        }

        #[test]
        fn decode_takes_anything(name in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(decode(&name).len() <= name.len());
        }
    }
}
