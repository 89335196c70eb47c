//! Reads the encoding of certificates and signatures, DER and as much of BER as is met.
//! Nothing is copied until it is asked for; every length may be wrong.

use vql::{Time, Value};

/// Elements in elements.
const DEPTH: usize = 32;

/// Universal types.
pub const INTEGER: u8 = 0x02;
/// A string of bits.
pub const BITS: u8 = 0x03;
/// A string of bytes.
pub const OCTETS: u8 = 0x04;
/// An object identifier.
pub const OID: u8 = 0x06;
/// A sequence.
pub const SEQUENCE: u8 = 0x30;
/// A set.
pub const SET: u8 = 0x31;

/// An element: its type with class and form, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The first byte.
    pub tag: u8,
    /// Its content.
    pub content: &'a [u8],
}

/// The first element, and what follows it.
pub fn first(data: &[u8]) -> Option<(Element<'_>, &[u8])> {
    element(data, 0)
}

fn element(data: &[u8], depth: usize) -> Option<(Element<'_>, &[u8])> {
    let tag = *data.first()?;
    // Types with numbers of several bytes are not used in what is read here.
    if tag & 0x1f == 0x1f || depth > DEPTH {
        return None;
    }
    let (length, rest) = (*data.get(1)?, data.get(2..)?);
    let length = match length {
        0..0x80 => usize::from(length),
        0x80 => {
            // It ends where an empty element of type zero is.
            let mut left = rest;
            while left.get(..2)? != [0, 0] {
                left = element(left, depth + 1)?.1;
            }
            let content = rest.get(..rest.len() - left.len())?;
            return Some((Element { tag, content }, &left[2..]));
        }
        _ => {
            let count = usize::from(length & 0x7f);
            let (bytes, content) = rest.split_at_checked(count).filter(|_| count <= 4)?;
            let length = bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
            let (content, behind) = content.split_at_checked(length)?;
            return Some((Element { tag, content }, behind));
        }
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((Element { tag, content }, behind))
}

/// Elements one after the other, as far as they can be read.
pub fn elements(mut data: &[u8]) -> impl Iterator<Item = Element<'_>> {
    std::iter::from_fn(move || {
        let (element, rest) = first(data)?;
        data = rest;
        Some(element)
    })
}

impl<'a> Element<'a> {
    /// What it holds as elements.
    pub fn parts(&self) -> Vec<Element<'a>> {
        elements(self.content).collect()
    }

    /// The first element in it.
    pub fn inner(&self) -> Option<Element<'a>> {
        first(self.content).map(|(e, _)| e)
    }

    /// The numbers of an object identifier with dots between; empty for anything else.
    pub fn oid(&self) -> String {
        if self.tag != OID {
            return String::new();
        }
        let (mut numbers, mut number) = (Vec::new(), 0u64);
        for byte in self.content {
            number = number.wrapping_shl(7) | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                if numbers.is_empty() {
                    let top = (number / 40).min(2);
                    numbers.extend([top.to_string(), (number - top * 40).to_string()]);
                } else {
                    numbers.push(number.to_string());
                }
                number = 0;
            }
        }
        numbers.join(".")
    }

    /// A string of bytes, which may be in pieces.
    pub fn octets(&self) -> Vec<u8> {
        match self.tag {
            OCTETS => self.content.to_vec(),
            0x24 => self
                .parts()
                .iter()
                .filter(|p| p.tag == OCTETS)
                .flat_map(|p| p.content)
                .copied()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A number in hexadecimal without zeros before it.
    pub fn hex(&self) -> String {
        let bytes = self.unsigned();
        if self.content.first().is_some_and(|b| b & 0x80 != 0) {
            // Below zero: the distance from it.
            let mut bytes: Vec<u8> = self.content.iter().map(|b| !b).collect();
            for b in bytes.iter_mut().rev() {
                let (sum, carry) = b.overflowing_add(1);
                *b = sum;
                if !carry {
                    break;
                }
            }
            return format!("-{}", shortest(&hex::encode(bytes)));
        }
        shortest(&hex::encode(bytes))
    }

    /// The bytes of a number without zeros before them.
    pub fn unsigned(&self) -> &'a [u8] {
        let start = self.content.iter().position(|b| *b != 0).unwrap_or(self.content.len());
        &self.content[start..]
    }

    /// A text, by its type.
    pub fn text(&self) -> String {
        match self.tag {
            0x1e => {
                let units = self.content.chunks_exact(2).map(|p| u16::from_be_bytes([p[0], p[1]]));
                char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
            }
            _ => vql::lossy(self.content).into_owned(),
        }
    }

    /// A time; null for what is none.
    pub fn time(&self) -> Value {
        let text = std::str::from_utf8(self.content).unwrap_or_default().trim_end_matches('Z');
        let whole = match (self.tag, text.get(..2).and_then(|y| y.parse::<u8>().ok())) {
            // Two digits of the year: up to 49 they are of this century.
            (0x17, Some(year)) => format!("{}{text}", if year < 50 { "20" } else { "19" }),
            (0x18, _) => text.to_owned(),
            _ => return Value::Null,
        };
        let digits = whole.len() >= 12 && whole.bytes().all(|b| b.is_ascii_digit());
        let part = |range: std::ops::Range<usize>| whole.get(range).unwrap_or("00");
        let text = format!(
            "{}-{}-{}T{}:{}:{}Z",
            part(0..4),
            part(4..6),
            part(6..8),
            part(8..10),
            part(10..12),
            part(12..14)
        );
        let time = digits.then(|| text.parse::<Time>().ok()).flatten();
        time.map_or(Value::Null, Value::Time)
    }
}

fn shortest(digits: &str) -> String {
    match digits.trim_start_matches('0') {
        "" => "0".into(),
        some => some.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_values() {
        let data = [0x30, 0x80, 0x02, 1, 5, 0x24, 0x80, 4, 1, 7, 4, 1, 8, 0, 0, 0, 0, 0x05, 0];
        let all: Vec<Element> = elements(&data).collect();
        assert_eq!((all.len(), all[0].tag, all[1].tag), (2, SEQUENCE, 5));
        let parts = all[0].parts();
        assert_eq!((parts[0].hex(), parts[1].octets()), ("5".into(), vec![7, 8]));
        let of = |tag, content| Element { tag, content };
        assert_eq!(of(OID, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]).oid(), "1.2.840.113549");
        assert_eq!(of(OID, &[0x88, 0x37]).oid(), "2.999");
        assert_eq!(of(INTEGER, &[0, 0xab, 1]).hex(), "ab01");
        assert_eq!(
            (of(INTEGER, &[0xff, 0]).hex(), of(INTEGER, &[0]).hex()),
            ("-100".into(), "0".into())
        );
        assert_eq!(of(0x1e, b"\0a\0b").text(), "ab");
        assert_eq!(of(0x17, b"700102030405Z").time().to_json(), "\"1970-01-02T03:04:05Z\"");
        assert_eq!(of(0x18, b"20500102030405Z").time().to_json(), "\"2050-01-02T03:04:05Z\"");
        assert!(
            of(0x17, b"notatimeatall").time().is_null()
                && of(0x17, "é1".as_bytes()).time().is_null()
        );
        // Endless beginnings, and lengths that lie.
        assert!(first(&[0x30, 0x80].repeat(5000)).is_none());
        assert!(first(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).is_none());
        assert!(first(&[0x30, 5, 1]).is_none());
    }
}
