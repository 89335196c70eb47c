//! Where the blocks of a file are: in a list that goes on in blocks, or in a tree.

use std::io;

use super::inode::{EXTENTS, Inode};
use super::volume::{MOST, Volume, bad};
use crate::plugins::common::fields::Fields;

/// Blocks a small inode names itself.
const DIRECT: u64 = 12;
/// Levels of the tree that tells where the blocks of a file are.
const DEPTH: u16 = 5;

/// Blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First block of the content, and how many.
    pub(super) start: u64,
    pub(super) length: u64,
    /// First block on the disk; `None` where there is nothing but zeros.
    pub(super) at: Option<u64>,
}

impl Volume {
    /// Where the blocks of a file are, in order.
    pub(super) fn runs(&self, inode: &Inode) -> io::Result<Vec<Run>> {
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
