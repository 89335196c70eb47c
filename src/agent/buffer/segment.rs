//! One file of the on-disk queue: a header that says how much was consumed,
//! then framed records. Knows nothing of queues.
//!
//! Layout: 8 bytes magic; two slots of (u64 offset, u32 CRC of it), of which the
//! greater valid one counts, written in turn so that a torn write spoils one;
//! then records of u32 length, u32 CRC-32 over length and payload, payload. All
//! little endian. The writer never returns to a file after a restart.

use std::io;

use bytes::Bytes;

use crate::env::File;

const MAGIC: &[u8; 8] = b"vrfbuf1\n";
/// Bytes of one consumed-up-to slot.
const SLOT: u64 = 12;
/// Where records begin.
pub const HEADER: u64 = 8 + 2 * SLOT;
/// Bytes of framing in front of every payload.
pub const FRAME: u64 = 8;
/// Largest payload in bytes; a longer length is damage.
pub const MAX_RECORD: usize = 256 << 20;
/// Bytes read ahead.
const CHUNK: usize = 256 << 10;

/// The first bytes of a new file.
pub fn header() -> Bytes {
    let mut out = Vec::with_capacity(HEADER as usize);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&slot(HEADER));
    out.extend_from_slice(&slot(HEADER));
    out.into()
}

fn slot(offset: u64) -> [u8; SLOT as usize] {
    let mut out = [0; SLOT as usize];
    let bytes = offset.to_le_bytes();
    out[..8].copy_from_slice(&bytes);
    out[8..].copy_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    out
}

/// A record ready to be written.
pub fn frame(payload: &[u8]) -> Bytes {
    let len = (payload.len() as u32).to_le_bytes();
    let mut out = Vec::with_capacity(payload.len() + FRAME as usize);
    out.extend_from_slice(&len);
    out.extend_from_slice(&crc(len, payload).to_le_bytes());
    out.extend_from_slice(payload);
    out.into()
}

fn crc(len: [u8; 4], payload: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&len);
    h.update(payload);
    h.finalize()
}

/// Records that `offset` and everything before it is consumed. `turn` alternates.
pub async fn write_consumed(file: &dyn File, turn: bool, offset: u64) -> io::Result<()> {
    let at = if turn { 8 + SLOT } else { 8 };
    file.write_at(at, Bytes::copy_from_slice(&slot(offset))).await
}

/// Where unread records begin; `None` if this is no file of ours.
pub async fn read_consumed(file: &dyn File) -> io::Result<Option<u64>> {
    let head = file.read_at(0, HEADER as usize).await?;
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let slots = [8, 8 + SLOT as usize].into_iter().filter_map(|at| {
        let s = head.get(at..at + SLOT as usize)?;
        let offset = u64::from_le_bytes(s[..8].try_into().ok()?);
        let sum = u32::from_le_bytes(s[8..].try_into().ok()?);
        (crc32fast::hash(&s[..8]) == sum && offset >= HEADER).then_some(offset)
    });
    // Without a valid slot everything is unread: twice is better than never.
    Ok(Some(slots.max().unwrap_or(HEADER)))
}

/// Reads records one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    start: u64,
}

impl Reader {
    /// The record at `offset`, or `None` at the end, at a torn tail and at damage.
    pub async fn record(&mut self, file: &dyn File, offset: u64) -> io::Result<Option<Bytes>> {
        let Some(head) = self.bytes(file, offset, FRAME as usize).await? else { return Ok(None) };
        let mut len = [0; 4];
        let mut sum = [0; 4];
        len.copy_from_slice(&head[..4]);
        sum.copy_from_slice(&head[4..]);
        let size = u32::from_le_bytes(len) as usize;
        if size == 0 || size > MAX_RECORD {
            return Ok(None);
        }
        let Some(data) = self.bytes(file, offset + FRAME, size).await? else { return Ok(None) };
        let good = crc(len, data) == u32::from_le_bytes(sum);
        Ok(good.then(|| Bytes::copy_from_slice(data)))
    }

    async fn bytes(&mut self, file: &dyn File, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let have = |b: &Vec<u8>, s: u64| at >= s && at + len as u64 <= s + b.len() as u64;
        if !have(&self.buffer, self.start) {
            self.buffer = file.read_at(at, len.max(CHUNK)).await?;
            self.start = at;
        }
        if !have(&self.buffer, self.start) {
            return Ok(None);
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.buffer[from..from + len]))
    }

    /// Forgets what was read ahead, so that later writes are seen.
    pub fn reset(&mut self) {
        self.buffer.clear();
    }
}
