//! Decompression of one LZ4 block.

/// Exactly `size` bytes, or `None` when the block is damaged.
pub(super) fn block(mut from: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(size.min(1 << 20));
    loop {
        let token = byte(&mut from)?;
        let literals = length(&mut from, token >> 4)?;
        let (copied, rest) = from.split_at_checked(literals)?;
        out.extend_from_slice(copied);
        from = rest;
        if out.len() > size {
            return None;
        }
        // The last sequence has literals alone.
        if from.is_empty() {
            return (out.len() == size).then_some(out);
        }
        let back = usize::from(byte(&mut from)?) | usize::from(byte(&mut from)?) << 8;
        let count = length(&mut from, token & 15)? + 4;
        let start = out.len().checked_sub(back).filter(|_| back > 0)?;
        if out.len() + count > size {
            return None;
        }
        // Source and target may overlap: what was just written repeats.
        for i in 0..count {
            out.push(out[start + i]);
        }
    }
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    let (first, rest) = from.split_first()?;
    *from = rest;
    Some(*first)
}

fn length(from: &mut &[u8], nibble: u8) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = byte(from)?;
            length = length.checked_add(usize::from(more))?;
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::block;

    #[test]
    fn literals_and_repetitions() {
        assert_eq!(block(&[0x30, b'a', b'b', b'c'], 3).unwrap(), b"abc");
        // "ab", then eight bytes from two before, then "z".
        let data = [0x24, b'a', b'b', 2, 0, 0x10, b'z'];
        assert_eq!(block(&data, 11).unwrap(), b"ababababab\x7a");
        assert!(block(&data, 10).is_none());
        assert!(block(&[0x24, b'a', b'b', 9, 0, 0x10, b'z'], 11).is_none());
        assert!(block(&[0xf0, 255], 9).is_none() && block(&[], 0).is_none());
    }
}
