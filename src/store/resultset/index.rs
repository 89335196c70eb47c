//! The row index: one little-endian u64 per row. Pure.

/// Largest offset an entry can hold, in bytes (exclusive).
pub const MAX_OFFSET: u64 = 1 << 40;
/// Most rows of one blob an entry can count (exclusive).
pub const MAX_SKIP: u32 = 1 << 24;
/// Bytes per entry.
pub const ENTRY: usize = 8;

/// Where a row is: a byte offset into the logical data file, and how many
/// lines to skip from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowPos {
    /// Low 40 bits: start of the blob the row was written in.
    pub offset: u64,
    /// High 24 bits: lines of that blob before the row.
    pub skip: u32,
}

impl RowPos {
    /// Reads an entry.
    pub fn decode(raw: u64) -> RowPos {
        RowPos { offset: raw & (MAX_OFFSET - 1), skip: (raw >> 40) as u32 }
    }

    /// The entry; `None` when the offset or the count does not fit.
    pub fn encode(self) -> Option<u64> {
        (self.offset < MAX_OFFSET && self.skip < MAX_SKIP)
            .then_some(self.offset | u64::from(self.skip) << 40)
    }
}

/// All entries; a torn last one is ignored.
pub fn parse(bytes: &[u8]) -> Vec<RowPos> {
    bytes.as_chunks::<ENTRY>().0.iter().map(|b| RowPos::decode(u64::from_le_bytes(*b))).collect()
}

/// Rows a file of `len` bytes indexes.
pub fn rows(len: u64) -> u64 {
    len / ENTRY as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves() {
        let p = RowPos::decode(3 << 40 | 0x55);
        assert_eq!(p, RowPos { offset: 0x55, skip: 3 });
        assert_eq!(RowPos { offset: MAX_OFFSET, skip: 0 }.encode(), None);
        assert_eq!(RowPos { offset: 0, skip: MAX_SKIP }.encode(), None);
        assert_eq!(parse(&[0x55, 0, 0, 0, 0, 2, 0, 0, 9]), [RowPos { offset: 0x55, skip: 2 }]);
        assert_eq!(rows(17), 2);
    }

    proptest! {
        #[test]
        fn entries_round_trip(raw in any::<u64>()) {
            prop_assert_eq!(RowPos::decode(raw).encode(), Some(raw));
        }

        #[test]
        fn random_bytes_parse(b in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(parse(&b).len(), b.len() / 8);
        }
    }
}
