//! A file's bytes: which of them are on stable storage, and which only written.

use bytes::Bytes;

use super::*;

/// What is between the end of a file and a write behind it.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// A write that power loss may undo.
#[derive(Clone, Debug)]
struct Pending {
    off: usize,
    new: Bytes,
    before: Vec<Bytes>,
    len_before: usize,
}

/// The bytes are kept as they were written, in pieces: nothing is copied.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Where each piece begins, and it. There are no gaps between, and none is empty.
    pieces: Vec<(usize, Bytes)>,
    len: usize,
    pending: Vec<Pending>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Lets no piece reach over `at`; gives the number of the first that begins there
    /// or later.
    fn cut(&mut self, at: usize) -> usize {
        let i = self.pieces.partition_point(|p| p.0 < at);
        if let Some((start, piece)) = i.checked_sub(1).and_then(|i| self.pieces.get_mut(i))
            && at - *start < piece.len()
        {
            let tail = piece.split_off(at - *start);
            self.pieces.insert(i, (at, tail));
        }
        i
    }

    /// Puts bytes in; gives those that were there. Between the end and `off` are zeros.
    fn put(&mut self, off: usize, new: Bytes) -> Vec<Bytes> {
        // Writes of one sync land in any order: the gap may be large, for a moment.
        while self.len < off {
            let zeros = &ZEROS[..ZEROS.len().min(off - self.len)];
            self.pieces.push((self.len, Bytes::from_static(zeros)));
            self.len += zeros.len();
        }
        let end = off + new.len();
        let (from, to) = (self.cut(off), self.cut(end));
        self.len = self.len.max(end);
        let new = (!new.is_empty()).then_some((off, new));
        self.pieces.splice(from..to, new).map(|p| p.1).collect()
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len {
            let end = self.cut(len);
            self.pieces.truncate(end);
            self.len = len;
        }
    }

    fn slice(&self, from: usize, to: usize) -> Bytes {
        if from >= to {
            return Bytes::new();
        }
        let first = self.pieces.partition_point(|p| p.0 <= from).saturating_sub(1);
        let clip = |(start, piece): &(usize, Bytes)| {
            piece.slice(from.saturating_sub(*start)..(to - start).min(piece.len()))
        };
        let mut within = self.pieces[first..].iter().take_while(|p| p.0 < to).map(clip);
        let head = within.next().unwrap_or_default();
        if head.len() == to - from {
            return head;
        }
        let mut all = Vec::with_capacity(to - from);
        all.extend_from_slice(&head);
        within.for_each(|piece| all.extend_from_slice(&piece));
        all.into()
    }

    fn write(&mut self, off: usize, new: Bytes, stable: bool) {
        let (len_before, end) = (self.len, off + new.len());
        let before = self.put(off, new.clone());
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
            let mut at = p.off;
            for piece in &p.before {
                self.put(at, piece.clone());
                at += piece.len();
            }
            self.put(at, vec![0; p.off + p.new.len() - at].into());
            self.truncate(p.len_before);
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
        let c = self.file(ino)?;
        let from = usize::try_from(off).unwrap_or(usize::MAX).min(c.len());
        let to = from.saturating_add(len).min(c.len());
        Ok((c.slice(from, to), to == c.len()))
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
        let grow = (at + data.len()).saturating_sub(c.len()) as u64;
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
