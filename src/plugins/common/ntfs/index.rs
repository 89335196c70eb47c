//! Directories: a tree of records, of which only what it leads to is used.

use std::collections::BTreeSet;
use std::io;

use super::volume::{Attribute, INDEX_ALLOCATION, INDEX_ROOT, Volume, mended, wide_at};
use crate::plugins::common::fields::Fields;

/// Most entries of a directory.
const MOST: usize = 1 << 22;
/// Deepest tree.
const DEPTH: usize = 32;
/// Largest directory, in bytes; it is held in memory.
const LIMIT: u64 = 1 << 30;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The record of the file.
    pub record: u64,
    /// Its name.
    pub name: FileName,
}

/// A name of a file, and what was known when it got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The name.
    pub name: String,
    /// What kind of name: 0 POSIX, 1 Win32, 2 DOS, 3 the last two.
    pub space: u8,
    /// Born and modified, in 100 ns since 1601.
    pub times: [u64; 2],
}

impl FileName {
    /// Reads the content of such an attribute.
    pub fn read(b: &[u8]) -> Option<FileName> {
        let length = usize::from(*b.get(64)?);
        let times = [b.u64(8)?, b.u64(16)?];
        Some(FileName { name: wide_at(b, 66, length)?, space: *b.get(65)?, times })
    }

    /// The kind of name as other programs call it.
    pub fn space_name(&self) -> &'static str {
        match self.space {
            0 => "POSIX",
            1 => "Win32",
            2 => "DOS",
            3 => "DOS+Win32",
            _ => "Unknown",
        }
    }
}

/// The entries of a directory in their order; short names of DOS are left out.
pub fn entries(volume: &Volume, attributes: &[Attribute]) -> io::Result<Vec<Entry>> {
    let index = |kind| attributes.iter().find(|a| a.kind == kind && a.name == "$I30");
    let root = index(INDEX_ROOT).ok_or(io::ErrorKind::NotADirectory)?;
    let root = volume.content(root, LIMIT)?;
    let rest = match index(INDEX_ALLOCATION) {
        Some(a) => volume.content(a, LIMIT)?,
        None => Vec::new(),
    };
    let (size, unit) = (volume.index, volume.index_unit());
    let mut walk = Walk { rest, size, unit, seen: BTreeSet::new(), out: Vec::new() };
    walk.node(root.get(16..).unwrap_or_default(), 0);
    walk.out.retain(|e| e.name.space != 2);
    Ok(walk.out)
}

struct Walk {
    rest: Vec<u8>,
    /// Bytes of a record, and of the unit they are numbered by.
    size: usize,
    unit: usize,
    seen: BTreeSet<u64>,
    out: Vec<Entry>,
}

impl Walk {
    /// Entries of a node, which begins with its own head.
    fn node(&mut self, node: &[u8], depth: usize) -> Option<()> {
        let (mut at, end) = (node.u32(0)? as usize, node.u32(4)? as usize);
        let end = end.min(node.len());
        while at + 16 <= end && self.out.len() < MOST {
            let length = usize::from(node.u16(at + 8)?);
            let flags = node.u16(at + 12)?;
            let entry = node.get(at..at + length)?;
            if flags & 1 != 0 {
                let below = entry.u64(length.checked_sub(8)?)?;
                self.record(below, depth + 1);
            }
            if flags & 2 != 0 {
                break;
            }
            let record = entry.u64(0)? & 0xffff_ffff_ffff;
            if let Some(name) = entry.get(16..).and_then(FileName::read) {
                self.out.push(Entry { record, name });
            }
            at += length.max(16);
        }
        Some(())
    }

    /// A record of the tree; each is used once, so that nothing goes round.
    fn record(&mut self, number: u64, depth: usize) -> Option<()> {
        if depth > DEPTH || !self.seen.insert(number) {
            return None;
        }
        let at = usize::try_from(number).ok()?.checked_mul(self.unit)?;
        let record = self.rest.get(at..at.checked_add(self.size)?)?.to_vec();
        let record = mended(record, b"INDX").ok()?;
        self.node(record.get(24..)?, depth)
    }
}
