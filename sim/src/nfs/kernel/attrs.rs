//! The attribute cache, and when it makes cached data invalid.

use std::time::Duration;

use super::*;

/// Who changed a file, when its change number moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nfs) enum Changed {
    /// Nobody knows: cached data is dropped, unless this host is writing.
    Unknown,
    /// This host, if nothing came between (the number before is given) or if it
    /// has the file open for writing and so does not look.
    Here(u64),
    /// This host, as far as a version 4 client can tell.
    Assumed,
}

impl Cached {
    fn new(attr: Attr, now: Duration, timeo: Duration) -> Cached {
        Cached {
            attr,
            fetched: now,
            read_since: false,
            timeo,
            size: attr.size,
            pages: BTreeMap::new(),
            dirty: BTreeSet::new(),
            opens: 0,
            writers: 0,
            wb: WriteBack::default(),
        }
    }

    fn fresh(&self, now: Duration) -> bool {
        now < self.fetched + self.timeo
    }

    fn has_writebacks(&self) -> bool {
        !self.wb_idle()
    }
}

impl Host {
    /// Attributes that need not be asked for.
    pub(in crate::nfs) fn believed(&self, ino: Ino, now: Duration) -> Option<Attr> {
        let c = self.inodes.get(&ino).filter(|c| c.fresh(now))?;
        Some(Attr { size: c.size, ..c.attr })
    }

    /// Attributes with the access time, which stat(2) gives.
    pub(in crate::nfs) fn believed_with_times(&self, ino: Ino, now: Duration) -> Option<Attr> {
        self.inodes.get(&ino).filter(|c| !c.read_since)?;
        self.believed(ino, now)
    }

    /// Takes in attributes the server gave.
    pub(in crate::nfs) fn learn(&mut self, a: Attr, by: Changed, now: Duration) {
        let ac = if a.is_dir { &self.opts.acdir } else { &self.opts.acreg };
        let (least, most) = (ac.start, ac.end);
        let c = self.inodes.entry(a.ino).or_insert_with(|| Cached::new(a, now, least));
        if a.change < c.attr.change {
            return; // overtaken by a newer reply
        }
        let changed = a.change != c.attr.change;
        let here = match by {
            Changed::Unknown => c.writers > 0,
            Changed::Here(before) => before == c.attr.change || c.writers > 0,
            Changed::Assumed => true,
        };
        if changed && !here {
            c.drop_clean_pages();
        }
        if !c.has_writebacks() || a.size > c.size {
            c.size = a.size;
        }
        if changed {
            c.timeo = least;
        } else if now >= c.fetched + c.timeo {
            c.timeo = (c.timeo * 2).clamp(least, most);
        }
        c.attr = a;
        c.fetched = now;
        c.read_since = false;
    }

    /// Forgets how old the attributes are: the next look asks.
    pub(in crate::nfs) fn doubt(&mut self, ino: Ino) {
        if let Some(c) = self.inodes.get_mut(&ino) {
            c.timeo = Duration::ZERO;
        }
    }

    /// Forgets a file that nobody has open here and that has nothing to send.
    pub(in crate::nfs) fn forget(&mut self, ino: Ino) {
        if self.inodes.get(&ino).is_some_and(|c| c.opens == 0 && c.wb_idle()) {
            self.inodes.remove(&ino);
        }
    }
}
