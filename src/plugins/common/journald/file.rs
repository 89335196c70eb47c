//! Reading a journal file of systemd, as its published format says: entries in
//! the order of the chain of entry arrays, data compressed by LZ4 or Zstandard,
//! regular and compact layouts.

use std::io::{self, Read, SeekFrom};

use super::super::accessor::ReadSeek;
use super::lz4;

const SIGNATURE: &[u8] = b"LPKSHHRH";
/// Incompatible flag: offsets of four bytes.
const COMPACT: u32 = 16;
/// Object types.
const DATA: u8 = 1;
const ENTRY: u8 = 3;
const ENTRY_ARRAY: u8 = 6;
/// Flags of compressed data.
const XZ: u8 = 1;
const LZ4: u8 = 2;
const ZSTD: u8 = 4;
/// Largest object read, and largest data after decompression, in bytes.
const LIMIT: u64 = 64 << 20;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Number in the journal.
    pub(super) seq: u64,
    /// Microseconds since 1970.
    pub(super) realtime: u64,
    /// `NAME=value`, each.
    pub(super) items: Vec<Vec<u8>>,
}

/// An open journal, and where its reading stands.
pub(super) struct Journal {
    file: Box<dyn ReadSeek>,
    compact: bool,
    /// Entries of the array being read, from the last.
    waiting: Vec<u64>,
    /// The next array; zero at the end.
    next_array: u64,
    /// Arrays visited; a chain that goes round must end.
    arrays: u64,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn u32_at(data: &[u8], at: usize) -> io::Result<u32> {
    let bytes = data.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or_else(|| broken("an object is too short"))
}

fn u64_at(data: &[u8], at: usize) -> io::Result<u64> {
    let bytes = data.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or_else(|| broken("an object is too short"))
}

impl Journal {
    /// Reads the header.
    pub(super) fn open(mut file: Box<dyn ReadSeek>) -> io::Result<Journal> {
        let mut head = vec![0; 184];
        file.read_exact(&mut head).map_err(|_| broken("is no journal: too short"))?;
        if !head.starts_with(SIGNATURE) {
            return Err(broken("is no journal"));
        }
        Ok(Journal {
            file,
            compact: u32_at(&head, 12)? & COMPACT != 0,
            waiting: Vec::new(),
            next_array: u64_at(&head, 176)?,
            arrays: 0,
        })
    }

    /// The next entry that can be read; damaged ones are passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        loop {
            while let Some(at) = self.waiting.pop() {
                if let Ok(entry) = self.entry(at) {
                    return Ok(Some(entry));
                }
            }
            if self.next_array == 0 || self.arrays > 1 << 20 {
                return Ok(None);
            }
            self.arrays += 1;
            let array = self.object(self.next_array, ENTRY_ARRAY)?.1;
            self.next_array = u64_at(&array, 8)?;
            let items = array.get(16..).unwrap_or_default();
            let mut offsets: Vec<u64> = match self.compact {
                true => {
                    items.chunks_exact(4).filter_map(|c| u32_at(c, 0).ok()).map(u64::from).collect()
                }
                false => items.chunks_exact(8).filter_map(|c| u64_at(c, 0).ok()).collect(),
            };
            // What is not used yet is zero.
            offsets.retain(|o| *o != 0);
            offsets.reverse();
            self.waiting = offsets;
        }
    }

    /// Flags and content of an object, from its size on.
    fn object(&mut self, at: u64, kind: u8) -> io::Result<(u8, Vec<u8>)> {
        self.file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        self.file.read_exact(&mut head)?;
        let size = u64_at(&head, 8)?;
        if head[0] != kind || !(16..LIMIT).contains(&size) {
            return Err(broken("an object is damaged"));
        }
        let mut body = head[8..16].to_vec();
        (&mut self.file).take(size - 16).read_to_end(&mut body)?;
        if body.len() as u64 != size - 8 {
            return Err(broken("an object is cut off"));
        }
        Ok((head[1], body))
    }

    fn entry(&mut self, at: u64) -> io::Result<Entry> {
        let body = self.object(at, ENTRY)?.1;
        let (seq, realtime) = (u64_at(&body, 8)?, u64_at(&body, 16)?);
        let items = body.get(56..).unwrap_or_default();
        let offsets: Vec<u64> = match self.compact {
            true => {
                items.chunks_exact(4).filter_map(|c| u32_at(c, 0).ok()).map(u64::from).collect()
            }
            false => items.chunks_exact(16).filter_map(|c| u64_at(c, 0).ok()).collect(),
        };
        let mut out = Vec::with_capacity(offsets.len());
        for offset in offsets.into_iter().filter(|o| *o != 0) {
            out.push(self.data(offset)?);
        }
        Ok(Entry { seq, realtime, items: out })
    }

    fn data(&mut self, at: u64) -> io::Result<Vec<u8>> {
        let compact = self.compact;
        let (flags, body) = self.object(at, DATA)?;
        let payload = body.get(if compact { 64 } else { 56 }..);
        let payload = payload.ok_or_else(|| broken("an object is too short"))?;
        if flags & ZSTD != 0 {
            let mut out = Vec::new();
            let stream = ruzstd::decoding::StreamingDecoder::new(payload);
            let stream = stream.map_err(|e| broken(&e.to_string()))?;
            stream.take(LIMIT).read_to_end(&mut out)?;
            return Ok(out);
        }
        if flags & LZ4 != 0 {
            let size = u64_at(payload, 0)?;
            if size > LIMIT {
                return Err(broken("data are too large"));
            }
            let out = lz4::block(&payload[8..], size as usize);
            return out.ok_or_else(|| broken("compressed data are damaged"));
        }
        match flags & XZ {
            0 => Ok(payload.to_vec()),
            _ => Err(broken("data are compressed by XZ, which cannot be read")),
        }
    }
}
