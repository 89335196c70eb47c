//! A file's bytes: which of them are on stable storage, and which only written.

use bytes::Bytes;

use super::*;

/// A write that power loss may undo.
#[derive(Clone, Debug)]
struct Pending {
    off: usize,
    new: Bytes,
    before: Vec<u8>,
    len_before: usize,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) data: Vec<u8>,
    pending: Vec<Pending>,
}

impl Content {
    fn write(&mut self, off: usize, new: Bytes, stable: bool) {
        let (len_before, end) = (self.data.len(), off + new.len());
        let before = self.data[off.min(len_before)..end.min(len_before)].to_vec();
        if end > len_before {
            self.data.resize(end, 0);
        }
        self.data[off..end].copy_from_slice(&new);
        if !stable {
            self.pending.push(Pending { off, new, before, len_before });
        } else if self.pending.iter().any(|p| p.off < end && off < p.off + p.new.len()) {
            // Order among overlapping writes matters; what is below goes along.
            self.pending.clear();
        } else {
            for p in &mut self.pending {
                p.len_before = p.len_before.max(end);
            }
        }
    }

    /// Power fails; each write in turn is asked for. Returns whether any is gone.
    pub(super) fn lose(&mut self, keep: &mut dyn FnMut() -> bool) -> bool {
        let pending = std::mem::take(&mut self.pending);
        let verdicts: Vec<bool> = pending.iter().map(|_| keep()).collect();
        if verdicts.iter().all(|k| *k) {
            return false;
        }
        for p in pending.iter().rev() {
            let (mid, end) = (p.off + p.before.len(), p.off + p.new.len());
            self.data[p.off..mid].copy_from_slice(&p.before);
            self.data[mid..end].fill(0);
            self.data.truncate(p.len_before);
        }
        for (p, _) in pending.into_iter().zip(verdicts).filter(|(_, k)| *k) {
            self.write(p.off, p.new, true);
        }
        true
    }
}

impl Tree {
    /// Up to `len` bytes at `off`, and whether the file ends there.
    pub fn read(&mut self, ino: Ino, off: u64, len: usize) -> Done<(Bytes, bool)> {
        let data = &self.file(ino)?.data;
        let from = usize::try_from(off).unwrap_or(usize::MAX).min(data.len());
        let to = from.saturating_add(len).min(data.len());
        Ok((Bytes::copy_from_slice(&data[from..to]), to == data.len()))
    }

    /// Writes; what is not `stable` may vanish until [`Tree::commit`].
    pub fn write(
        &mut self,
        ino: Ino,
        off: u64,
        data: Bytes,
        stable: bool,
        now: Duration,
    ) -> Done<Attr> {
        let (used, capacity) = (self.used, self.capacity);
        let c = self.file(ino)?;
        let at = usize::try_from(off).map_err(|_| ErrorKind::FileTooLarge)?;
        let grow = (at + data.len()).saturating_sub(c.data.len()) as u64;
        if grow > 0 && capacity.is_some_and(|cap| used + grow > cap) {
            return Err(ErrorKind::StorageFull);
        }
        c.write(at, data, stable);
        self.used += grow;
        self.touch(ino, now);
        self.attr(ino)
    }

    /// Makes everything written to a file durable.
    pub fn commit(&mut self, ino: Ino) -> Done<()> {
        self.file(ino)?.pending.clear();
        Ok(())
    }
}
