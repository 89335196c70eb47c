//! The chunk index of a compressed file: back-to-back zlib streams. Pure.

use std::io::Read;

/// Bytes per record.
pub const RECORD: usize = 40;
/// Largest inflated chunk accepted, in bytes (clients send at most a few MiB).
pub const MAX_CHUNK: u64 = 256 << 20;
/// Largest logical offset accepted, in bytes.
pub const MAX_LOGICAL: u64 = 1 << 50;

/// One zlib stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Logical offset of its first byte, as the client claimed.
    pub file_offset: u64,
    /// Where the stream starts in the data file.
    pub at: u64,
    /// Length of the stream in bytes.
    pub compressed: u64,
    /// Length of what it inflates to, in bytes.
    pub uncompressed: u64,
}

impl Chunk {
    /// Logical offset behind its last byte.
    pub fn end(&self) -> u64 {
        self.file_offset.saturating_add(self.uncompressed)
    }

    /// The record; the initialisation vector is always 0.
    pub fn encode(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        for (i, v) in
            [self.file_offset, self.at, self.compressed, self.uncompressed].into_iter().enumerate()
        {
            out[i * 8..i * 8 + 8].copy_from_slice(&v.to_le_bytes());
        }
        out
    }
}

fn word(record: &[u8; RECORD], i: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&record[i * 8..i * 8 + 8]);
    u64::from_le_bytes(b)
}

/// The usable records of a chunk index beside a data file of `data_len` bytes,
/// in their order.
///
/// A record is written before its data, so a crash leaves records that point
/// past the end, or at bytes that a later record claims too: both are dropped,
/// as are empty chunks, impossible numbers and a torn last record.
pub fn parse(bytes: &[u8], data_len: u64) -> Vec<Chunk> {
    let mut out = Vec::new();
    let mut claimed_from = data_len;
    for r in bytes.as_chunks::<RECORD>().0.iter().rev() {
        let c = Chunk {
            file_offset: word(r, 0),
            at: word(r, 1),
            compressed: word(r, 2),
            uncompressed: word(r, 3),
        };
        let possible = c.file_offset <= MAX_LOGICAL && (1..=MAX_CHUNK).contains(&c.uncompressed);
        let end = c.at.checked_add(c.compressed);
        if possible && end.is_some_and(|e| e <= claimed_from) {
            claimed_from = c.at;
            out.push(c);
        }
    }
    out.reverse();
    out
}

/// The record that holds logical offset `at`, or the nearest one behind it;
/// its end is behind `at`, so that reading goes forward whatever a client
/// claimed. The length of the list when there is none.
pub fn locate(chunks: &[Chunk], at: u64) -> usize {
    let ordered = |a: &Chunk, b: &Chunk| a.file_offset <= b.file_offset && a.end() <= b.end();
    if chunks.is_sorted_by(ordered) {
        return chunks.partition_point(|c| c.end() <= at);
    }
    let holds = chunks.iter().position(|c| c.file_offset <= at && at < c.end());
    let behind = || {
        let later = chunks.iter().enumerate().filter(|c| c.1.file_offset > at);
        later.min_by_key(|c| c.1.file_offset).map(|c| c.0)
    };
    holds.or_else(behind).unwrap_or(chunks.len())
}

/// Inflates one chunk; fails unless the stream is whole and of the size told.
pub fn inflate(chunk: &Chunk, stream: &[u8]) -> Result<Vec<u8>, String> {
    let want = usize::try_from(chunk.uncompressed).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(want.min(1 << 20));
    flate2::read::ZlibDecoder::new(stream)
        .take(chunk.uncompressed.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|e| format!("chunk at {}: {e}", chunk.at))?;
    if out.len() != want {
        return Err(format!("chunk at {}: {} bytes instead of {want}", chunk.at, out.len()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn c(file_offset: u64, at: u64, compressed: u64, uncompressed: u64) -> Chunk {
        Chunk { file_offset, at, compressed, uncompressed }
    }

    fn bytes(chunks: &[Chunk]) -> Vec<u8> {
        chunks.iter().flat_map(Chunk::encode).collect()
    }

    #[test]
    fn keeps_whole_chunks_only() {
        let good = [c(0, 0, 10, 100), c(100, 10, 5, 50)];
        assert_eq!(parse(&bytes(&good), 15), good);
        assert_eq!(parse(&bytes(&good), 14), good[..1]);
        let mut torn = bytes(&good);
        torn.truncate(79);
        assert_eq!(parse(&torn, 15), good[..1]);
        // The middle one was never written: its place was used again.
        let voided = [c(0, 0, 10, 100), c(100, 10, 7, 70), c(100, 10, 5, 50)];
        assert_eq!(parse(&bytes(&voided), 15), good);
        assert!(parse(&bytes(&[c(u64::MAX, 0, 1, 1)]), 100).is_empty());
        assert!(parse(&bytes(&[c(0, u64::MAX, 2, 1)]), 100).is_empty());
    }

    #[test]
    fn locates() {
        let list = [c(0, 0, 1, 10), c(10, 1, 1, 10), c(30, 2, 1, 5)];
        assert_eq!(locate(&list, 0), 0);
        assert_eq!(locate(&list, 10), 1);
        assert_eq!(locate(&list, 25), 2, "a gap leads to the next chunk");
        assert_eq!(locate(&list, 35), 3);
        let back = [c(0, 0, 1, 10), c(20, 1, 1, 5), c(10, 2, 1, 10)];
        assert_eq!(locate(&back, 12), 2);
        assert_eq!(locate(&[c(40, 0, 1, 5), c(0, 1, 1, 10)], 15), 0);
        // One chunk inside another.
        let nested = [c(0, 0, 1, 30), c(10, 1, 1, 5), c(30, 2, 1, 5)];
        assert_eq!((locate(&nested, 16), locate(&nested, 31)), (0, 2));
    }

    proptest! {
        #[test]
        fn random_bytes_parse(b in prop::collection::vec(any::<u8>(), 0..400), len in any::<u64>(), at in any::<u64>()) {
            let list = parse(&b, len);
            prop_assert!(list.iter().all(|c| c.at + c.compressed <= len));
            prop_assert!(list.get(locate(&list, at)).is_none_or(|c| c.end() > at));
            for k in &list {
                let _ = inflate(&Chunk { uncompressed: k.uncompressed.min(100), ..*k }, &b);
            }
        }
    }
}
