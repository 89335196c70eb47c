//! The name cache, absent names included, and cached listings.
//!
//! A name is believed while its directory has not changed, as far as this host
//! knows; the directory's own attributes are believed for `acdir`.

use std::time::Duration;

use super::*;
use crate::nfs::options::LookupCache;

#[derive(Clone, Copy, Debug)]
pub(in crate::nfs) struct Dentry {
    /// `None`: no such name.
    target: Option<Ino>,
    /// Change number of the directory when it was looked up.
    change: u64,
}

#[derive(Clone, Debug)]
pub(in crate::nfs) struct Listing {
    pub(in crate::nfs) change: u64,
    pub(in crate::nfs) names: Vec<(String, bool)>,
}

/// What the cache says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nfs) enum Known {
    /// This file, or none of that name.
    Is(Option<Ino>),
    /// The directory's attributes are too old to tell.
    AskDir,
    /// Look it up.
    AskName,
}

impl Host {
    pub(in crate::nfs) fn known(&self, dir: Ino, name: &str, now: Duration) -> Known {
        let Some(d) = self.dentry(dir, name) else { return Known::AskName };
        let believed = match self.opts.lookupcache {
            LookupCache::All => true,
            LookupCache::Positive => d.target.is_some(),
            LookupCache::None => false,
        };
        if !believed {
            return Known::AskName;
        }
        match self.believed(dir, now) {
            None => Known::AskDir,
            Some(a) if a.change == d.change => Known::Is(d.target),
            Some(_) => Known::AskName,
        }
    }

    fn dentry(&self, dir: Ino, name: &str) -> Option<&Dentry> {
        self.names.get(&dir)?.get(name)
    }

    /// What a name meant when last heard of, however long ago.
    pub(in crate::nfs) fn last_known(&self, dir: Ino, name: &str) -> Option<Option<Ino>> {
        self.dentry(dir, name).map(|d| d.target)
    }

    /// Remembers what a name means. An unknown directory makes it worthless.
    pub(in crate::nfs) fn name(&mut self, dir: Ino, name: &str, target: Option<Ino>) {
        let change = self.inodes.get(&dir).map_or(0, |c| c.attr.change);
        if let Some(ino) = target
            && self.inodes.get(&ino).is_some_and(|c| c.attr.is_dir)
            && self.last_known(dir, name) != Some(target)
        {
            // A directory has one name: it was moved.
            self.names.values_mut().for_each(|all| all.retain(|_, d| d.target != target));
        }
        let all = self.names.entry(dir).or_default();
        match all.get_mut(name) {
            Some(d) => *d = Dentry { target, change },
            None => drop(all.insert(name.to_owned(), Dentry { target, change })),
        }
    }

    pub(in crate::nfs) fn unname(&mut self, dir: Ino, name: &str) {
        if let Some(all) = self.names.get_mut(&dir) {
            all.remove(name);
        }
    }
}
