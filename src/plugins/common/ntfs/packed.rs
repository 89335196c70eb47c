//! Content that the file system packs (LZNT1): pieces of 4096 bytes, each by itself, in which
//! what came before is named by its distance and length.

/// Bytes of a piece.
const PIECE: usize = 4096;

/// Unpacks `packed` to `size` bytes; what is missing or damaged is zero.
pub fn unpack(packed: &[u8], size: usize) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(size), 0);
    while let Some([low, high]) = packed.get(at..at + 2).filter(|_| out.len() < size) {
        let head = u16::from_le_bytes([*low, *high]);
        if head == 0 {
            break;
        }
        let end = packed.len().min(at + 3 + usize::from(head & 0xfff));
        let body = packed.get(at + 2..end).unwrap_or_default();
        let start = out.len();
        match head & 0x8000 {
            0 => out.extend(&body[..body.len().min(PIECE)]),
            _ => piece(body, &mut out),
        }
        out.resize(start + PIECE, 0);
        at = end;
    }
    out.resize(size, 0);
    out
}

/// Adds a packed piece to `out`, as far as it makes sense.
fn piece(body: &[u8], out: &mut Vec<u8>) {
    let (start, mut at) = (out.len(), 0);
    while let Some(flags) = body.get(at) {
        at += 1;
        for bit in 0..8 {
            let known = out.len() - start;
            if known >= PIECE {
                return;
            }
            if flags & (1 << bit) == 0 {
                let Some(byte) = body.get(at) else { return };
                out.push(*byte);
                at += 1;
                continue;
            }
            let Some([low, high]) = body.get(at..at + 2) else { return };
            at += 2;
            let pair = usize::from(u16::from_le_bytes([*low, *high]));
            // The more there is already, the more bits tell how far back.
            let mut bits = 4;
            while 1 << bits < known {
                bits += 1;
            }
            let (length, back) = ((pair & (0xffff >> bits)) + 3, (pair >> (16 - bits)) + 1);
            if back > known {
                return;
            }
            for _ in 0..length.min(PIECE - known) {
                out.push(out[out.len() - back]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces() {
        // "abc", then three back for 12 bytes.
        let packed = [0x05, 0xb0, 0b1000, b'a', b'b', b'c', 9, 0x20];
        let mut expected = b"abcabcabcabcabc".to_vec();
        expected.resize(20, 0);
        assert_eq!(unpack(&packed, 20), expected);
        // A piece that is not packed, and one that is: each is 4096 bytes.
        let mut two = vec![0x01, 0x30, b'x', b'y'];
        two.extend(packed);
        let out = unpack(&two, 8192);
        assert_eq!((&out[..3], &out[4096..4100]), (&b"xy\0"[..], &b"abca"[..]));
        // A whole piece of one letter: its distance has four bits, its length twelve.
        let run = unpack(&[0x03, 0xb0, 0b10, b'z', 0xfc, 0x0f], 4096);
        assert!(run.iter().all(|b| *b == b'z'));
    }

    #[test]
    fn distances_have_more_bits_later() {
        // 17 letters, then one back as far as it goes: five bits of distance.
        let mut packed = vec![0, 0];
        for group in [&b"abcdefgh"[..], b"ijklmnop"] {
            packed.push(0);
            packed.extend(group);
        }
        let pair: u16 = 16 << 11;
        packed.extend([0b10, b'q', pair.to_le_bytes()[0], pair.to_le_bytes()[1]]);
        let head = 0xb000 | (packed.len() as u16 - 3);
        packed[..2].copy_from_slice(&head.to_le_bytes());
        assert_eq!(unpack(&packed, 20), b"abcdefghijklmnopqabc");
    }

    #[test]
    fn what_makes_no_sense_is_zero() {
        assert_eq!(unpack(&[], 3), [0; 3]);
        assert_eq!(unpack(&[0x05, 0xb0, 1, 9, 9], 2), [0; 2]);
        for a in 0..=255u8 {
            for b in [0, 1, 0x80, 0xb0, 0xff] {
                assert_eq!(unpack(&[a, b, a, b, a, b, a, b, a], 5000).len(), 5000);
            }
        }
    }
}
