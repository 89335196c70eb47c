//! Sending what was written: WRITEs, COMMIT, and again if the server lost it.
//!
//! Belongs to the host, not to a process: once begun it goes on alone.

use std::time::Duration;

use super::*;
use crate::nfs::Name;
use crate::nfs::call::{Answer, Op};
use crate::nfs::machine::{Machine, Origin};
use crate::nfs::options::Version;

#[derive(Debug, Default)]
pub(in crate::nfs) struct WriteBack {
    flying: usize,
    committing: bool,
    /// Received by the server, perhaps in its memory only: offset, length, and
    /// the verifier that came with the reply.
    unstable: Vec<(u64, usize, u64)>,
    /// Somebody waits until nothing is left.
    wanted: bool,
    timer: bool,
    pub(in crate::nfs) failure: Failure,
}

impl Cached {
    /// Nothing to send and nothing under way.
    pub(in crate::nfs) fn wb_idle(&self) -> bool {
        self.wb.flying == 0
            && !self.wb.committing
            && self.wb.unstable.is_empty()
            && !self.any_dirty()
    }
}

impl Machine {
    fn cached(&mut self, host: &Name, ino: Ino) -> Option<&mut Cached> {
        self.hosts.get_mut(host)?.inodes.get_mut(&ino)
    }

    /// Something was written: sees to it that it leaves the host some time.
    pub(in crate::nfs) fn dirtied(&mut self, host: &Name, ino: Ino) {
        let Some(h) = self.hosts.get(host) else { return };
        let (boot, late, early) = (h.boot, h.opts.dirty_expire, h.opts.early_write_back);
        if self.coin(early) {
            let after = self.within(&(Duration::ZERO..Duration::from_millis(200)));
            self.note("written back early");
            self.write_back_at(after, host, boot, ino);
        }
        if let Some(c) = self.cached(host, ino)
            && !c.wb.timer
        {
            c.wb.timer = true;
            self.write_back_at(late, host, boot, ino);
        }
    }

    pub(in crate::nfs) fn write_back_due(&mut self, host: &Name, ino: Ino) {
        if let Some(c) = self.cached(host, ino) {
            c.wb.timer = false;
            self.write_back(host, ino, false);
        }
    }

    /// Begins to send; with `wanted` goes on until nothing is left.
    pub(in crate::nfs) fn write_back(&mut self, host: &Name, ino: Ino, wanted: bool) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        let wsize = h.opts.wsize;
        let Some(c) = h.inodes.get_mut(&ino) else { return };
        c.wb.wanted |= wanted;
        if c.wb.flying > 0 || c.wb.committing {
            return;
        }
        let writes = c.take_dirty(wsize);
        if writes.is_empty() {
            return self.commit(host, ino);
        }
        // One WRITE can ask for stable storage itself and save the COMMIT.
        let stable = writes.len() == 1 && c.wb.unstable.is_empty();
        c.wb.flying = writes.len();
        for (off, data) in writes {
            self.submit(host, Op::Write { ino, off, data, stable }, Origin::WriteBack(ino));
        }
    }

    fn commit(&mut self, host: &Name, ino: Ino) {
        let Some(c) = self.cached(host, ino) else { return };
        if c.wb.unstable.is_empty() {
            c.wb.wanted = false;
            return;
        }
        c.wb.committing = true;
        self.submit(host, Op::Commit { ino }, Origin::WriteBack(ino));
    }

    /// The server answered a WRITE or COMMIT.
    pub(in crate::nfs) fn written(&mut self, host: &Name, ino: Ino, op: &Op, reply: Reply) {
        let now = self.now;
        let mut again = false;
        let Some(h) = self.hosts.get_mut(host) else { return };
        let v3 = h.opts.vers == Version::V3;
        let Some(c) = h.inodes.get_mut(&ino) else { return };
        match op {
            Op::Write { off, data, stable, .. } => {
                c.wb.flying -= 1;
                match &reply.answer {
                    Ok(_) if !stable => c.wb.unstable.push((*off, data.len(), reply.verifier)),
                    _ => c.release(*off, data.len()),
                }
            }
            _ => {
                c.wb.committing = false;
                for (off, len, verifier) in std::mem::take(&mut c.wb.unstable) {
                    if reply.answer.is_ok() && verifier != reply.verifier {
                        c.redirty(off, len);
                        again = true;
                    }
                    c.release(off, len);
                }
            }
        }
        match &reply.answer {
            Ok(answer) => {
                let by = match answer {
                    Answer::Written { before, .. } if v3 => Changed::Here(*before),
                    _ => Changed::Assumed,
                };
                if let Some(a) = reply.attr() {
                    h.learn(a, by, now);
                }
            }
            Err(why) => {
                // The data is dropped and the failure told once.
                c.wb.failure.add(*why);
                c.drop_clean_pages();
                h.doubt(ino);
                self.note("write-back failed");
            }
        }
        if again {
            self.note("written again after a server restart");
        }
        self.next_step(host, ino, again);
    }

    fn next_step(&mut self, host: &Name, ino: Ino, again: bool) {
        let Some(c) = self.cached(host, ino) else { return };
        if c.wb.flying > 0 || c.wb.committing {
            return;
        }
        if (c.wb.wanted || again) && c.any_dirty() {
            self.write_back(host, ino, false);
        } else {
            self.commit(host, ino);
        }
    }
}
