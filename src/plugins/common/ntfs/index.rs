//! Directories: a tree of records, of which only what it leads to is used.

use std::collections::BTreeSet;
use std::io;

use super::attribute::{Attribute, INDEX_ALLOCATION, INDEX_ROOT, wide_at};
use super::volume::{Volume, mended};
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
    /// Record changed and content read, in the same unit.
    pub further: [u64; 2],
    /// The directory it is in, and which use of that record was meant.
    pub parent: (u64, u16),
    /// Bytes that are taken and that are used, as of the last change of the name.
    pub sizes: [u64; 2],
}

impl FileName {
    /// Reads the content of such an attribute.
    pub fn read(b: &[u8]) -> Option<FileName> {
        let length = usize::from(*b.get(64)?);
        let times = [b.u64(8)?, b.u64(16)?];
        let further = [b.u64(24)?, b.u64(32)?];
        let parent = (b.u64(0)? & 0xffff_ffff_ffff, b.u16(6)?);
        let sizes = [b.u64(40)?, b.u64(48)?];
        let (name, space) = (wide_at(b, 66, length)?, *b.get(65)?);
        Some(FileName { name, space, times, further, parent, sizes })
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

/// Times that an entry in unused space must have to be taken for one: 2001 to 2033.
const LIKELY: std::ops::RangeInclusive<i64> = 1_000_000_000..=2_000_000_000;
/// Bytes of the smallest entry with a name.
const SMALLEST: usize = 0x52;
/// Bytes of a record of a directory that other agents look at.
const RECORD: usize = 4096;

/// All entries of a directory as they lie there, short names too; with those in unused
/// space comes where in their record they begin.
pub fn every_entry(volume: &Volume, attributes: &[Attribute]) -> Vec<(Entry, Option<u64>)> {
    let mut out = Vec::new();
    // Other indexes hold no names.
    for attribute in attributes.iter().filter(|a| a.name == "$I30") {
        let Ok(content) = volume.content(attribute, LIMIT) else { continue };
        match attribute.kind {
            INDEX_ROOT => {
                let node = content.get(16..).unwrap_or_default();
                out.extend(in_use(node).unwrap_or_default().into_iter().map(|e| (e, None)));
            }
            INDEX_ALLOCATION => {
                for record in content.chunks(RECORD) {
                    let Ok(record) = mended(record.to_vec(), b"INDX") else { continue };
                    let node = record.get(24..).unwrap_or_default();
                    let used = in_use(node).unwrap_or_default();
                    let likely = used.into_iter().filter(|e| is_likely(&e.name));
                    out.extend(likely.map(|e| (e, None)));
                    unused(&record, node, &mut out);
                }
            }
            _ => {}
        }
        out.truncate(MOST);
    }
    out
}

fn in_use(node: &[u8]) -> Option<Vec<Entry>> {
    let (mut at, end) = (node.u32(0)? as usize, node.u32(4)? as usize);
    let mut out = Vec::new();
    while at.saturating_add(66) < end.min(node.len()) {
        let name = node.get(at + 16..).and_then(FileName::read);
        let record = node.u64(at)? & 0xffff_ffff_ffff;
        out.extend(name.map(|name| Entry { record, name }));
        match node.u16(at + 8)? {
            0 => break,
            length => at += usize::from(length),
        }
    }
    Some(out)
}

/// Entries behind the end of a record's used part.
fn unused(record: &[u8], node: &[u8], out: &mut Vec<(Entry, Option<u64>)>) {
    let (Some(start), Some(end)) = (node.u32(4), node.u32(8)) else { return };
    let end = (end as usize).min(record.len()).saturating_sub(SMALLEST);
    for at in start as usize..end {
        let Some(name) = record.get(at + 16..).and_then(FileName::read) else { continue };
        if is_likely(&name) && out.len() < MOST {
            let number = record.u64(at).unwrap_or(0) & 0xffff_ffff_ffff;
            out.push((Entry { record: number, name }, Some(at as u64)));
        }
    }
}

fn is_likely(name: &FileName) -> bool {
    let ticks = name.times.iter().chain(&name.further);
    ticks.into_iter().all(|t| LIKELY.contains(&super::nanoseconds(*t).div_euclid(1_000_000_000)))
}
