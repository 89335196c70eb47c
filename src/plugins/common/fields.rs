//! Fields of binary structures, read by their place. Every one may lie outside of what
//! there is.

/// Bytes of a structure; numbers begin with the lowest byte.
pub trait Fields {
    /// Two bytes.
    fn u16(&self, at: usize) -> Option<u16>;
    /// Four bytes.
    fn u32(&self, at: usize) -> Option<u32>;
    /// Eight bytes.
    fn u64(&self, at: usize) -> Option<u64>;
}

impl Fields for [u8] {
    fn u16(&self, at: usize) -> Option<u16> {
        field(self, at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        field(self, at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        field(self, at).map(u64::from_le_bytes)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Text of two bytes a character, UTF-16; what is none is replaced.
pub fn wide(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|p| u16::from_le_bytes([p[0], p[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_inside_or_not_there() {
        let b: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(b.u16(7), Some(0x0908));
        assert_eq!((b.u32(5), b.u32(6)), (Some(0x0908_0706), None));
        assert_eq!((b.u64(1), b.u64(2)), (Some(0x0908_0706_0504_0302), None));
        assert_eq!(b.u16(usize::MAX), None);
        assert_eq!(wide(b"a\0\x00\xd8b\0c"), "a\u{fffd}b");
    }
}
