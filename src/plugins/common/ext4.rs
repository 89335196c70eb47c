//! The accessor `raw_ext4`: files of an ext2, ext3 or ext4 file system in an image. Reads only,
//! and what is written in the journal alone is not seen.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use vql::{Dict, Str};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek, sought};
use super::fields::Fields;
use super::last::Last;
use super::path::OsPath;

/// Number of the inode of the root.
const ROOT: u32 = 2;
/// Where the file system describes itself, and in how many bytes.
const SUPER: (u64, usize) = (1024, 1024);
/// Blocks a small inode names itself, and bytes of that list.
const DIRECT: u64 = 12;
const LIST: (usize, usize) = (40, 60);
/// Largest directory, in bytes, and most entries of it.
const LARGEST: u64 = 64 << 20;
const MOST: usize = 1 << 20;
/// Levels of the tree that tells where the blocks of a file are.
const DEPTH: u16 = 5;
/// Types of an inode by its mode.
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
/// Flags of an inode: its blocks are in a tree; its content is in itself.
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
/// A feature: descriptions of groups may be of 64 bytes.
const WIDE: u32 = 0x80;

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// See the module.
pub struct Ext4Images {
    /// What images are read with.
    below: Accessors,
    /// The volume used last.
    last: Last<Arc<Volume>>,
}

impl Ext4Images {
    /// Images are read with `below`.
    pub fn new(below: Accessors) -> Ext4Images {
        Ext4Images { below, last: Last::default() }
    }

    /// The volume a path is in, and the inode of the path.
    fn find(&self, path: &OsPath) -> io::Result<(Arc<Volume>, Inode)> {
        let of = path.delegate.as_deref();
        let of = of.ok_or_else(|| io::Error::other("a path in no image"))?;
        let open = || Ok(Arc::new(Volume::open(self.below.open_outer(path)?)?));
        let volume = self.last.or_open(of, open)?;
        let mut found = volume.inode(ROOT)?;
        for part in &path.components {
            let entries = volume.entries(&found)?;
            let exact = entries.iter().find(|(name, _)| name == part);
            // Who asks may know the name from a system without cases.
            let same = |(name, _): &&(Str, u32)| {
                name.to_text().to_lowercase() == part.to_text().to_lowercase()
            };
            let entry = exact.or_else(|| entries.iter().find(same));
            found = volume.inode(entry.ok_or(io::ErrorKind::NotFound)?.1)?;
        }
        Ok((volume, found))
    }
}

/// A file, by its inode.
#[derive(Clone, Debug)]
struct Inode {
    number: u32,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    flags: u32,
    /// Modified, accessed, changed, born, in nanoseconds.
    times: [i64; 4],
    /// Its blocks, the tree that tells them, or its content.
    list: Vec<u8>,
}

impl Inode {
    fn info(&self, path: OsPath) -> FileInfo {
        let mut info = FileInfo::plain(path, self.size);
        info.mode = self.mode;
        info.times = self.times;
        info.data = Dict::new()
            .with("Inode", self.number)
            .with("Uid", self.owner.0)
            .with("Gid", self.owner.1);
        info
    }
}

/// Blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// First block of the content, and how many.
    start: u64,
    length: u64,
    /// First block on the disk; `None` where there is nothing but zeros.
    at: Option<u64>,
}

/// A volume, by what it says of itself.
struct Volume {
    disk: Mutex<Box<dyn ReadSeek>>,
    block: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: usize,
    /// Where the descriptions of groups are, and how many bytes each.
    groups: (u64, u64),
}

impl Volume {
    fn open(disk: Box<dyn ReadSeek>) -> io::Result<Volume> {
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

    fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; length];
        self.read_into(at, &mut out)?;
        Ok(out)
    }

    fn read_into(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.seek(SeekFrom::Start(at))?;
        disk.read_exact(into)
    }

    fn place(&self, block: u64) -> io::Result<u64> {
        block.checked_mul(self.block).ok_or_else(|| bad("a block is outside of the disk"))
    }

    fn inode(&self, number: u32) -> io::Result<Inode> {
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
        Ok(inode(number, &self.read_at(at, self.inode_size)?))
    }

    /// Where the blocks of a file are, in order.
    fn runs(&self, inode: &Inode) -> io::Result<Vec<Run>> {
        let mut out = Vec::new();
        if inode.flags & EXTENTS != 0 {
            self.extents(&inode.list, DEPTH, &mut out)?;
            out.sort_by_key(|r| r.start);
            return Ok(out);
        }
        let blocks = inode.size.div_ceil(self.block);
        let direct = inode.list.chunks_exact(4).take(DIRECT as usize);
        for (start, b) in (0..blocks).zip(direct) {
            push(&mut out, start, b.u32(0).unwrap_or(0));
        }
        let mut start = DIRECT;
        for level in 1..=3 {
            let block = inode.list.u32((DIRECT as usize + level - 1) * 4).unwrap_or(0);
            self.listed(block, level as u32, &mut start, blocks, &mut out)?;
        }
        Ok(out)
    }

    /// Blocks that a block names, at so many removes.
    fn listed(
        &self,
        block: u32,
        level: u32,
        start: &mut u64,
        blocks: u64,
        out: &mut Vec<Run>,
    ) -> io::Result<()> {
        if *start >= blocks || out.len() > MOST {
            return Ok(());
        }
        let each = self.block / 4;
        if block == 0 {
            *start = start.saturating_add(each.saturating_pow(level));
            return Ok(());
        }
        let list = self.read_at(self.place(block.into())?, self.block as usize)?;
        for b in list.chunks_exact(4) {
            let next = b.u32(0).unwrap_or(0);
            match level {
                1 if *start < blocks => {
                    push(out, *start, next);
                    *start += 1;
                }
                1 => break,
                _ => self.listed(next, level - 1, start, blocks, out)?,
            }
        }
        Ok(())
    }

    /// Leaves of the tree with the node `b`.
    fn extents(&self, b: &[u8], most: u16, out: &mut Vec<Run>) -> io::Result<()> {
        if b.u16(0) != Some(0xf30a) {
            return Err(bad("the blocks of the file are not told"));
        }
        let (count, depth) = (b.u16(2).unwrap_or(0), b.u16(6).unwrap_or(0));
        // Deeper than what leads to it: it goes round.
        if depth > most {
            return Err(bad("the tree of blocks is too deep"));
        }
        for e in b.chunks_exact(12).skip(1).take(count.into()) {
            let (short, long) =
                (|at| e.u16(at).map_or(0, u64::from), |at| e.u32(at).map_or(0, u64::from));
            if out.len() > MOST {
                return Err(bad("the file is in too many pieces"));
            }
            if depth > 0 {
                let node = self.place(short(8) << 32 | long(4))?;
                self.extents(&self.read_at(node, self.block as usize)?, depth - 1, out)?;
                continue;
            }
            // From 32768 on the blocks are kept for it and not written.
            let (length, written) = match short(4) {
                n @ 0..=0x8000 => (n, true),
                n => (n - 0x8000, false),
            };
            let at = written.then_some(short(6) << 32 | long(8));
            out.push(Run { start: long(0), length, at });
        }
        Ok(())
    }

    fn open_file(self: &Arc<Volume>, inode: &Inode) -> io::Result<Box<dyn ReadSeek>> {
        let link = inode.mode & TYPE == 0o120_000 && inode.size < LIST.1 as u64;
        if inode.flags & INLINE != 0 || link {
            let length = inode.size.min(inode.list.len() as u64) as usize;
            return Ok(Box::new(io::Cursor::new(inode.list[..length].to_vec())));
        }
        let runs = self.runs(inode)?;
        Ok(Box::new(Open { volume: self.clone(), runs, size: inode.size, at: 0 }))
    }

    /// Names in a directory and their inodes.
    fn entries(self: &Arc<Volume>, of: &Inode) -> io::Result<Vec<(Str, u32)>> {
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

/// Adds a block, to the run before it where it follows that.
fn push(out: &mut Vec<Run>, start: u64, block: u32) {
    let at = (block != 0).then_some(u64::from(block));
    if let Some(last) = out.last_mut()
        && last.start + last.length == start
        && last.at.map(|b| b + last.length) == at
    {
        last.length += 1;
        return;
    }
    out.push(Run { start, length: 1, at });
}

fn inode(number: u32, b: &[u8]) -> Inode {
    let (short, long) = (|at| b.u16(at).map_or(0, u32::from), |at| b.u32(at).unwrap_or(0));
    // What follows the first 128 bytes is there as far as the inode says: not in small ones.
    let more = 128 + short(128) as usize;
    let further = |at: usize| if at + 4 <= more { long(at) } else { 0 };
    let time = |at: usize, beside: usize| {
        let beside = further(beside);
        let seconds = i64::from(long(at).cast_signed()) + (i64::from(beside & 3) << 32);
        seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(beside >> 2))
    };
    let born = if further(144) == 0 { 0 } else { time(144, 148) };
    let mode = short(0);
    // Of others the upper half is something else in old file systems.
    let wide = matches!(mode & TYPE, 0o100_000 | DIRECTORY);
    Inode {
        number,
        mode,
        owner: (short(120) << 16 | short(2), short(122) << 16 | short(24)),
        size: u64::from(if wide { long(108) } else { 0 }) << 32 | u64::from(long(4)),
        flags: long(32),
        times: [time(16, 136), time(8, 140), time(12, 132), born],
        list: b.get(LIST.0..LIST.0 + LIST.1).unwrap_or_default().to_vec(),
    }
}

/// A file that is open.
struct Open {
    volume: Arc<Volume>,
    runs: Vec<Run>,
    size: u64,
    at: u64,
}

impl Read for Open {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let block = self.volume.block;
        let mut length = self.size.saturating_sub(self.at).min(into.len() as u64);
        if length == 0 {
            return Ok(0);
        }
        let (now, inside) = (self.at / block, self.at % block);
        let next = self.runs.partition_point(|r| r.start.saturating_add(r.length) <= now);
        let run = self.runs.get(next);
        let here = run.filter(|r| r.start <= now);
        // Blocks between runs were never written.
        let end = match (here, run) {
            (Some(r), _) => r.start + r.length,
            (None, Some(r)) => r.start,
            (None, None) => u64::MAX,
        };
        // In a damaged tree runs may overlap.
        length = length.min(end.saturating_sub(now).max(1).saturating_mul(block) - inside);
        let into = &mut into[..length as usize];
        match here.and_then(|r| r.at.map(|at| at + (now - r.start))) {
            Some(at) => {
                let at = self.volume.place(at)?.saturating_add(inside);
                self.volume.read_into(at, into)?;
            }
            None => into.fill(0),
        }
        self.at += length;
        Ok(length as usize)
    }
}

impl Seek for Open {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}

impl Accessor for Ext4Images {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let (volume, inode) = self.find(path)?;
        match inode.mode & TYPE {
            DIRECTORY => Err(io::ErrorKind::IsADirectory.into()),
            _ => volume.open_file(&inode),
        }
    }

    fn device(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        self.below.open_outer(path)
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        Ok(self.find(path)?.1.info(path.clone()))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let (volume, inode) = self.find(path)?;
        let mut out = Vec::new();
        for (name, number) in volume.entries(&inode)? {
            let below = path.join(name);
            out.push(match volume.inode(number) {
                Ok(inode) => inode.info(below),
                // The name is there, whatever became of the file.
                Err(e) => {
                    let mut info = FileInfo::plain(below, 0);
                    info.data.set("error", e.to_string());
                    info
                }
            });
        }
        out.sort_by(|a, b| a.path.components.last().cmp(&b.path.components.last()));
        Ok(out)
    }
}

#[cfg(test)]
#[path = "ext4_tests.rs"]
#[allow(clippy::disallowed_methods)]
mod tests;
