//! A volume by what it says of itself: inodes, and entries of directories.

use std::io::{self, Read, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use vql::Str;

use super::inode::{DIRECTORY, INLINE, Inode, LIST, TYPE};
use super::open::Open;
use crate::plugins::common::accessor::ReadSeek;
use crate::plugins::common::fields::Fields;

/// Where the file system describes itself, and in how many bytes.
const SUPER: (u64, usize) = (1024, 1024);
/// Largest directory, in bytes, and most entries of it.
const LARGEST: u64 = 64 << 20;
/// Also most pieces of a file.
pub(super) const MOST: usize = 1 << 20;
/// A feature: descriptions of groups may be of 64 bytes.
const WIDE: u32 = 0x80;

/// Something on the disk that cannot be.
pub(super) fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// A volume, by what it says of itself.
pub(super) struct Volume {
    disk: Mutex<Box<dyn ReadSeek>>,
    pub(super) block: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: usize,
    /// Where the descriptions of groups are, and how many bytes each.
    groups: (u64, u64),
}

impl Volume {
    /// The file system that begins at the start of `disk`.
    pub(super) fn open(disk: Box<dyn ReadSeek>) -> io::Result<Volume> {
        let disk = Mutex::new(disk);
        let mut volume = Volume {
            disk,
            block: 0,
            inodes: 0,
            inodes_per_group: 0,
            inode_size: 0,
            groups: (0, 0),
        };
        let b = volume.read_at(SUPER.0, SUPER.1)?;
        let (short, long) = (|at| b.u16(at).unwrap_or(0), |at| b.u32(at).unwrap_or(0));
        if short(56) != 0xef53 {
            return Err(bad("this is no ext4 file system"));
        }
        let shift = long(24);
        volume.inodes = long(0);
        volume.inodes_per_group = long(40);
        volume.inode_size = if long(76) == 0 { 128 } else { short(88).into() };
        if shift > 6 || volume.inodes_per_group == 0 || !(128..=4096).contains(&volume.inode_size) {
            return Err(bad("the super block of the file system is damaged"));
        }
        volume.block = 1024 << shift;
        let wide = long(96) & WIDE != 0 && short(254) >= 64;
        let size = if wide { short(254).into() } else { 32 };
        volume.groups = ((u64::from(long(20)) + 1) * volume.block, size);
        Ok(volume)
    }

    /// Bytes at a place.
    pub(super) fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; length];
        self.read_into(at, &mut out)?;
        Ok(out)
    }

    /// Fills a buffer from a place.
    pub(super) fn read_into(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.seek(SeekFrom::Start(at))?;
        disk.read_exact(into)
    }

    /// Where a block is.
    pub(super) fn place(&self, block: u64) -> io::Result<u64> {
        block.checked_mul(self.block).ok_or_else(|| bad("a block is outside of the disk"))
    }

    /// The inode of that number.
    pub(super) fn inode(&self, number: u32) -> io::Result<Inode> {
        if number == 0 || number > self.inodes {
            return Err(bad("an entry names no inode"));
        }
        let (group, inside) =
            ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let (first, size) = self.groups;
        let group = self.read_at(first + u64::from(group) * size, size as usize)?;
        let high = group.u32(40).unwrap_or(0);
        let table = u64::from(high) << 32 | u64::from(group.u32(8).unwrap_or(0));
        let at = self.place(table)?.checked_add(u64::from(inside) * self.inode_size as u64);
        let at = at.ok_or_else(|| bad("a block is outside of the disk"))?;
        Ok(Inode::read(number, &self.read_at(at, self.inode_size)?))
    }

    /// What the inode holds.
    pub(super) fn open_file(self: &Arc<Volume>, inode: &Inode) -> io::Result<Box<dyn ReadSeek>> {
        let link = inode.mode & TYPE == 0o120_000 && inode.size < LIST.1 as u64;
        if inode.flags & INLINE != 0 || link {
            let length = inode.size.min(inode.list.len() as u64) as usize;
            return Ok(Box::new(io::Cursor::new(inode.list[..length].to_vec())));
        }
        let runs = self.runs(inode)?;
        Ok(Box::new(Open { volume: self.clone(), runs, size: inode.size, at: 0 }))
    }

    /// Names in a directory and their inodes.
    pub(super) fn entries(self: &Arc<Volume>, of: &Inode) -> io::Result<Vec<(Str, u32)>> {
        if of.mode & TYPE != DIRECTORY {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut data = Vec::new();
        self.open_file(of)?.take(LARGEST).read_to_end(&mut data)?;
        // In an inode stands the directory above before the entries.
        let begin = if of.flags & INLINE != 0 { 4 } else { 0 };
        let mut out = Vec::new();
        for block in data.get(begin..).unwrap_or_default().chunks(self.block as usize) {
            let mut rest = block;
            while let (Some(number), Some(length)) = (rest.u32(0), rest.u16(4)) {
                let length = usize::from(length);
                let name = rest.get(6).and_then(|n| rest.get(8..8 + usize::from(*n)));
                if let Some(name) = name.filter(|n| number != 0 && !n.is_empty())
                    && name != b"."
                    && name != b".."
                {
                    out.push((Str::from(name), number));
                }
                match rest.get(length..).filter(|_| length >= 8 && out.len() < MOST) {
                    Some(next) => rest = next,
                    None => break,
                }
            }
        }
        Ok(out)
    }
}
