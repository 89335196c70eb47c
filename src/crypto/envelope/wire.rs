//! Reading protobuf without copying or building messages: fields as they come.

use std::ops::Range;

/// One field's value.
pub(super) enum Value {
    /// Varint.
    Number(u64),
    /// Where a length-delimited value lies in the input.
    Span(Range<usize>),
    /// Fixed 32 or 64 bits, which this protocol does not use.
    Fixed,
}

/// Walks the fields of a message. Yields `None` as an item on malformed input,
/// after which it ends.
pub(super) struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

pub(super) fn fields(data: &[u8]) -> Fields<'_> {
    Fields { data, at: 0 }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for i in 0..10 {
            let b = *self.data.get(self.at)?;
            self.at += 1;
            if i == 9 && b > 1 {
                return None;
            }
            n |= u64::from(b & 0x7f) << (7 * i);
            if b & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn skip(&mut self, n: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.data.len())?;
        let span = self.at..end;
        self.at = end;
        Some(span)
    }

    fn field(&mut self) -> Option<(u32, Value)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|n| (1..1 << 29).contains(n))?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Span(self.skip(len)?)
            }
            5 => self.skip(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((number, value))
    }
}

impl Iterator for Fields<'_> {
    type Item = Option<(u32, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.data.len() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.at = self.data.len();
        }
        Some(field)
    }
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A varint field; zero is left out.
pub(super) fn put_number(out: &mut Vec<u8>, field: u32, n: u64) {
    if n != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, n);
    }
}

/// A bytes or string field, present even when empty.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u32, data: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, data.len() as u64);
    out.extend_from_slice(data);
}
