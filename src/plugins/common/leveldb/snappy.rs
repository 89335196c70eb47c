//! Decompression of Snappy, by its published format.

/// The data, or `None` when they are damaged or larger than `limit` bytes.
pub(super) fn decompress(mut from: &[u8], limit: usize) -> Option<Vec<u8>> {
    let size = usize::try_from(super::table::varint(&mut from)?).ok().filter(|n| *n <= limit)?;
    let mut out = Vec::with_capacity(size.min(1 << 20));
    while let Some((tag, rest)) = from.split_first() {
        from = rest;
        let (length, back) = match tag & 3 {
            0 => {
                let mut length = usize::from(tag >> 2);
                if length >= 60 {
                    length = number(&mut from, length - 59)?;
                }
                let (copied, rest) = from.split_at_checked(length.checked_add(1)?)?;
                out.extend_from_slice(copied);
                from = rest;
                if out.len() > size {
                    return None;
                }
                continue;
            }
            1 => {
                let low = number(&mut from, 1)?;
                (usize::from(tag >> 2 & 7) + 4, usize::from(tag >> 5) << 8 | low)
            }
            2 => (usize::from(tag >> 2) + 1, number(&mut from, 2)?),
            _ => (usize::from(tag >> 2) + 1, number(&mut from, 4)?),
        };
        let start = out.len().checked_sub(back).filter(|_| back > 0)?;
        if out.len() + length > size {
            return None;
        }
        for i in 0..length {
            out.push(out[start + i]);
        }
    }
    (out.len() == size).then_some(out)
}

/// A little-endian number of so many bytes.
fn number(from: &mut &[u8], bytes: usize) -> Option<usize> {
    let (number, rest) = from.split_at_checked(bytes)?;
    *from = rest;
    Some(number.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::decompress;

    #[test]
    fn literals_and_copies() {
        // "abc", then six bytes from three before.
        let data = [9, 2 << 2, b'a', b'b', b'c', 5 << 2 | 2, 3, 0];
        assert_eq!(decompress(&data, 100).unwrap(), b"abcabcabc");
        // A copy with a short offset: seven bytes from one before, and one more.
        let short = [9, 0, b'a', 3 << 2 | 1, 1, 0, b'z'];
        assert_eq!(decompress(&short, 100).unwrap(), b"aaaaaaaaz");
    }

    #[test]
    fn damage() {
        assert!(decompress(&[9, 2 << 2, b'a'], 100).is_none());
        assert!(decompress(&[9, 0, b'a', 5 << 2 | 2, 9, 0], 100).is_none());
        assert!(decompress(&[9, 2 << 2, b'a', b'b', b'c', 5 << 2 | 2, 3, 0], 8).is_none());
        assert!(decompress(&[], 100).is_none());
    }
}
