//! What an inode says of its file.

use vql::Dict;

use crate::plugins::common::accessor::FileInfo;
use crate::plugins::common::fields::Fields;
use crate::plugins::common::path::OsPath;

/// Bytes of the list of blocks in an inode: where it is, and how long.
pub(super) const LIST: (usize, usize) = (40, 60);
/// Types of an inode by its mode.
pub(super) const TYPE: u32 = 0o170_000;
/// See [`TYPE`].
pub(super) const DIRECTORY: u32 = 0o040_000;
/// Flags of an inode: its blocks are in a tree; its content is in itself.
pub(super) const EXTENTS: u32 = 0x8_0000;
/// See [`EXTENTS`].
pub(super) const INLINE: u32 = 0x1000_0000;

/// A file, by its inode.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) size: u64,
    pub(super) flags: u32,
    /// Modified, accessed, changed, born, in nanoseconds.
    pub(super) times: [i64; 4],
    /// Its blocks, the tree that tells them, or its content.
    pub(super) list: Vec<u8>,
}

impl Inode {
    /// The row's facts of a file.
    pub(super) fn info(&self, path: OsPath) -> FileInfo {
        let mut info = FileInfo::plain(path, self.size);
        info.mode = self.mode;
        info.times = self.times;
        info.data = Dict::new()
            .with("Inode", self.number)
            .with("Uid", self.owner.0)
            .with("Gid", self.owner.1);
        info
    }

    /// The inode of that number in its bytes.
    pub(super) fn read(number: u32, b: &[u8]) -> Inode {
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
}
