//! The page cache.

use bytes::Bytes;

use super::*;

/// Bytes of a page.
pub(in crate::nfs) const PAGE: usize = 4096;

/// The bytes of a page. What comes as a whole page is not copied, nor is a run of such
/// pages that goes out as it came.
#[derive(Debug)]
enum Data {
    Own(Box<[u8]>),
    /// A page from there on.
    Shared(Bytes, usize),
}

impl Data {
    /// `len` bytes of `all` from `at` on, and zeros.
    fn of(all: &Bytes, at: usize, len: usize) -> Data {
        if len == PAGE {
            return Data::Shared(all.clone(), at);
        }
        let mut own = vec![0; PAGE];
        own[..len].copy_from_slice(&all[at..at + len]);
        Data::Own(own.into())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Data::Own(data) => data,
            Data::Shared(all, at) => &all[*at..*at + PAGE],
        }
    }

    fn put(&mut self, at: usize, new: &[u8]) {
        if let Data::Shared(..) = self {
            *self = Data::Own(self.bytes().into());
        }
        if let Data::Own(data) = self {
            data[at..at + new.len()].copy_from_slice(new);
        }
    }
}

/// Bytes of neighbouring pages, gathered.
enum Run {
    /// As somebody else holds them, from here to there.
    Shared(Bytes, usize, usize),
    Own(Vec<u8>),
}

impl Run {
    /// Bytes of a page, with room for as much as may follow.
    fn of(data: &Data, a: usize, b: usize, room: usize) -> Run {
        match data {
            Data::Shared(all, at) => Run::Shared(all.clone(), at + a, at + b),
            Data::Own(data) => {
                let mut own = Vec::with_capacity(room.max(b - a));
                own.extend_from_slice(&data[a..b]);
                Run::Own(own)
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Run::Shared(_, from, to) => to - from,
            Run::Own(data) => data.len(),
        }
    }

    fn add(&mut self, data: &Data, a: usize, b: usize, room: usize) {
        match (&mut *self, data) {
            (Run::Shared(all, _, to), Data::Shared(of, at))
                if all.as_ptr() == of.as_ptr() && all.len() == of.len() && *to == at + a =>
            {
                *to = at + b;
            }
            (Run::Shared(all, from, to), _) => {
                let mut own = Vec::with_capacity((*to - *from + room).max(*to - *from + b - a));
                own.extend_from_slice(&all[*from..*to]);
                own.extend_from_slice(&data.bytes()[a..b]);
                *self = Run::Own(own);
            }
            (Run::Own(own), _) => own.extend_from_slice(&data.bytes()[a..b]),
        }
    }

    fn done(self) -> Bytes {
        match self {
            Run::Shared(all, from, to) => all.slice(from..to),
            Run::Own(data) => data.into(),
        }
    }
}

#[derive(Debug)]
pub(in crate::nfs) struct Page {
    data: Data,
    /// All of it is known; otherwise only what is dirty.
    uptodate: bool,
    dirty: Option<(usize, usize)>,
    /// WRITEs that hold some of it and are not yet durable.
    pub(super) held: u32,
}

impl Page {
    fn empty() -> Page {
        static ZEROS: &[u8] = &[0; PAGE];
        let data = Data::Shared(Bytes::from_static(ZEROS), 0);
        Page { data, uptodate: false, dirty: None, held: 0 }
    }
}

/// Part of a page: page number, first byte, end.
fn spans(off: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = off + len as u64;
    let pages = off / PAGE as u64..end.div_ceil(PAGE as u64).max(off / PAGE as u64);
    pages.map(move |p| {
        let base = p * PAGE as u64;
        (p, off.saturating_sub(base) as usize, (end - base).min(PAGE as u64) as usize)
    })
}

impl Cached {
    fn page_len(&self, page: u64) -> usize {
        self.size.saturating_sub(page * PAGE as u64).min(PAGE as u64) as usize
    }

    pub(super) fn any_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Drops cached data; unsent data stays, without what surrounds it.
    pub(super) fn drop_clean_pages(&mut self) {
        self.pages.retain(|_, p| p.dirty.is_some() || p.held > 0);
        for p in self.pages.values_mut().filter(|p| p.dirty.is_some()) {
            p.uptodate = false;
        }
    }

    /// The page that must be fetched before these bytes are put in, since they
    /// cover only part of what is known to be there.
    pub(in crate::nfs) fn fetch_first(&self, off: u64, len: usize) -> Option<u64> {
        let partial = |(p, from, to): &(u64, usize, usize)| {
            let there = self.page_len(*p);
            let whole = there == 0 || (*from == 0 && *to >= there);
            let page = self.pages.get(p);
            !whole && page.is_none_or(|p| !p.uptodate && p.dirty.is_none() && p.held == 0)
        };
        spans(off, len).find(partial).map(|s| s.0 * PAGE as u64)
    }

    /// Puts written bytes in the cache; false when some must be sent first.
    pub(in crate::nfs) fn store(&mut self, off: u64, data: &Bytes) -> bool {
        for (p, from, to) in spans(off, data.len()) {
            if let Some(page) = self.pages.get(&p)
                && let Some((a, b)) = page.dirty
                && !page.uptodate
                && (to < a || from > b)
            {
                return false;
            }
        }
        let mut at = 0;
        for (p, from, to) in spans(off, data.len()) {
            let len_before = self.page_len(p);
            self.size = self.size.max(p * PAGE as u64 + to as u64);
            let len = self.page_len(p);
            let n = to - from;
            let page = self.pages.entry(p).or_insert_with(Page::empty);
            if n == PAGE {
                page.data = Data::of(data, at, PAGE);
            } else {
                page.data.put(from, &data[at..at + n]);
            }
            at += n;
            if len_before == 0 || (from == 0 && to >= len_before) {
                page.uptodate = true;
            }
            let (a, b) = page.dirty.unwrap_or((from, to));
            // A page that is wholly known goes out whole, and with it whatever
            // this host believes to stand beside the new bytes.
            page.dirty = Some(if page.uptodate { (0, len) } else { (a.min(from), b.max(to)) });
            self.dirty.insert(p);
        }
        true
    }

    /// The first run of pages of a range that must be fetched; `Err` if one of
    /// them has unsent data, which must go first.
    pub(in crate::nfs) fn missing(
        &self,
        off: u64,
        len: usize,
        most: usize,
    ) -> Result<Option<(u64, usize)>, ()> {
        let lacks = |p: u64| self.pages.get(&p).is_none_or(|p| !p.uptodate);
        let mut pages = spans(off, len).map(|s| s.0).skip_while(|p| !lacks(*p));
        let Some(first) = pages.next() else { return Ok(None) };
        let n = 1 + pages.take_while(|p| lacks(*p)).take((most / PAGE).max(1) - 1).count();
        if (first..first + n as u64)
            .any(|p| self.pages.get(&p).is_some_and(|p| p.dirty.is_some() || p.held > 0))
        {
            return Err(());
        }
        Ok(Some((first * PAGE as u64, n * PAGE)))
    }

    /// Takes in fetched bytes; beyond the end of the file are zeros.
    pub(in crate::nfs) fn fill(&mut self, off: u64, len: usize, data: &Bytes) {
        for (p, _, _) in spans(off, len) {
            let at = ((p * PAGE as u64 - off) as usize).min(data.len());
            let page = self.pages.entry(p).or_insert_with(Page::empty);
            if page.dirty.is_none() && page.held == 0 {
                page.data = Data::of(data, at, PAGE.min(data.len() - at));
                page.uptodate = true;
            }
        }
    }

    /// Bytes of a range that is all there, up to the believed end of the file.
    pub(in crate::nfs) fn bytes(&self, off: u64, len: usize) -> Vec<u8> {
        let len = self.size.saturating_sub(off).min(len as u64) as usize;
        let mut out = Vec::with_capacity(len);
        for (p, from, to) in spans(off, len) {
            match self.pages.get(&p) {
                Some(page) => out.extend_from_slice(&page.data.bytes()[from..to]),
                None => out.resize(out.len() + to - from, 0),
            }
        }
        out
    }

    /// Takes what is unsent as WRITEs of at most `most` bytes; the pages are
    /// held until [`Cached::release`].
    pub(super) fn take_dirty(&mut self, most: usize) -> Vec<(u64, Bytes)> {
        let mut room = self.dirty.len() * PAGE;
        let mut out: Vec<(u64, Run)> = Vec::new();
        for n in std::mem::take(&mut self.dirty) {
            let Some(page) = self.pages.get_mut(&n) else { continue };
            let Some((a, b)) = page.dirty.take() else { continue };
            let at = n * PAGE as u64 + a as u64;
            match out.last_mut() {
                Some((off, run)) if *off + run.len() as u64 == at && run.len() + b - a <= most => {
                    run.add(&page.data, a, b, room.min(most - run.len()));
                }
                _ => out.push((at, Run::of(&page.data, a, b, room.min(most)))),
            }
            room -= PAGE;
        }
        for (off, run) in &out {
            for (p, _, _) in spans(*off, run.len()) {
                if let Some(page) = self.pages.get_mut(&p) {
                    page.held += 1;
                }
            }
        }
        out.into_iter().map(|(off, run)| (off, run.done())).collect()
    }

    pub(super) fn release(&mut self, off: u64, len: usize) {
        for (p, _, _) in spans(off, len) {
            if let Some(page) = self.pages.get_mut(&p) {
                page.held = page.held.saturating_sub(1);
            }
        }
    }

    /// What was sent is gone at the server: it must be sent again.
    pub(super) fn redirty(&mut self, off: u64, len: usize) {
        for (p, from, to) in spans(off, len) {
            if let Some(page) = self.pages.get_mut(&p) {
                let (a, b) = page.dirty.unwrap_or((from, to));
                page.dirty = Some((a.min(from), b.max(to)));
                self.dirty.insert(p);
            }
        }
    }
}
