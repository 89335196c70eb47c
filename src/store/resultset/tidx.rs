//! The time index: 24 bytes per row, little-endian. Pure.

/// Bytes per entry.
pub const ENTRY: usize = 24;

/// When a row happened and where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeEntry {
    /// Unix time in nanoseconds.
    pub nanos: i64,
    /// Byte offset of the line.
    pub offset: u64,
    /// Offset of an annotation; 0 everywhere seen.
    pub annotation: i64,
}

impl TimeEntry {
    /// The stored entry.
    pub fn encode(&self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        out[..8].copy_from_slice(&self.nanos.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..].copy_from_slice(&self.annotation.to_le_bytes());
        out
    }

    fn decode(b: &[u8; ENTRY]) -> TimeEntry {
        let word = |i: usize| {
            let mut w = [0; 8];
            w.copy_from_slice(&b[i * 8..i * 8 + 8]);
            i64::from_le_bytes(w)
        };
        TimeEntry { nanos: word(0), offset: word(1).max(0) as u64, annotation: word(2) }
    }
}

/// The entries that belong to lines, in order of their offsets.
///
/// Stock servers append the index before the data, so a crash leaves entries
/// whose line was never written; the next append uses those offsets again and
/// is the one that counts. A torn last entry is ignored.
pub fn parse(bytes: &[u8]) -> Vec<TimeEntry> {
    let mut out: Vec<TimeEntry> = Vec::with_capacity(bytes.len() / ENTRY);
    for b in bytes.as_chunks::<ENTRY>().0 {
        let e = TimeEntry::decode(b);
        while out.last().is_some_and(|l| l.offset >= e.offset) {
            out.pop();
        }
        out.push(e);
    }
    out
}

/// Whether `entry` is the one of the line that starts at `line`. Stock servers
/// point one byte early, at the newline before, for later rows of one blob.
pub fn points_at(entry: &TimeEntry, line: u64) -> bool {
    entry.offset == line || entry.offset.saturating_add(1) == line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn e(nanos: i64, offset: u64) -> TimeEntry {
        TimeEntry { nanos, offset, annotation: 0 }
    }

    #[test]
    fn orphans_are_dropped() {
        let all = [e(1, 0), e(2, 99), e(3, 198), e(4, 99), e(5, 150)];
        let bytes: Vec<u8> = all.iter().flat_map(TimeEntry::encode).collect();
        assert_eq!(parse(&bytes), [e(1, 0), e(4, 99), e(5, 150)]);
        assert_eq!(parse(&bytes[..bytes.len() - 1]), [e(1, 0), e(4, 99)]);
        assert!(points_at(&e(1, 98), 99) && points_at(&e(1, 99), 99) && !points_at(&e(1, 97), 99));
    }

    proptest! {
        #[test]
        fn random_bytes_parse(b in prop::collection::vec(any::<u8>(), 0..240)) {
            let list = parse(&b);
            prop_assert!(list.len() <= b.len() / 24);
            prop_assert!(list.is_sorted_by(|a, b| a.offset < b.offset));
        }

        #[test]
        fn round_trip(nanos in any::<i64>(), offset in 0..i64::MAX as u64) {
            prop_assert_eq!(parse(&e(nanos, offset).encode()), [e(nanos, offset)]);
        }
    }
}
