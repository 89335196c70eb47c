//! One host's NFS client: what its kernel believes, and what it has not sent.
//!
//! Shared by all processes of the host; survives them, not the host.

mod attrs;
mod names;
mod pages;
mod write_back;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::call::Reply;
use super::options::MountOptions;
use crate::tree::{Attr, Fail, Ino};
pub(super) use attrs::Changed;
use names::Dentry;
pub(super) use names::{Known, Listing};
pub(super) use pages::PAGE;
use pages::Page;
use write_back::WriteBack;

/// What is known of a file or directory.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) attr: Attr,
    fetched: Duration,
    /// The file was read since: its access time must be asked for.
    pub(super) read_since: bool,
    timeo: Duration,
    /// The length as this host believes it, unsent data included.
    pub(super) size: u64,
    pub(super) pages: BTreeMap<u64, Page>,
    /// Pages with something unsent.
    dirty: BTreeSet<u64>,
    /// Handles of this host, and those among them that may write.
    pub(super) opens: u32,
    pub(super) writers: u32,
    pub(super) wb: WriteBack,
}

/// A failed write-back, told once to every handle that was open then, and to
/// later ones while nobody has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) count: u64,
    pub(super) why: Option<Fail>,
    told: bool,
}

impl Failure {
    fn add(&mut self, why: Fail) {
        *self = Failure { count: self.count + 1, why: Some(why), told: false };
    }

    /// The count that a handle opened now has not to be told of.
    pub(super) fn before(&self) -> u64 {
        if self.told { self.count } else { self.count.saturating_sub(1) }
    }

    /// Tells a handle that knows of `seen` failures.
    pub(super) fn tell(&mut self, seen: u64) -> Failure {
        self.told |= self.count > seen;
        *self
    }
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) boot: u64,
    pub(super) opts: MountOptions,
    pub(super) paused: bool,
    /// Replies that came while it stood still.
    pub(super) waiting: Vec<(u64, Box<Reply>)>,
    pub(super) inodes: BTreeMap<Ino, Cached>,
    /// By directory and name.
    names: BTreeMap<Ino, BTreeMap<String, Dentry>>,
    pub(super) listings: BTreeMap<Ino, Listing>,
    /// Files removed while open here: the name they got instead.
    pub(super) silly: BTreeMap<Ino, (Ino, String)>,
}

impl Host {
    pub(super) fn new(opts: MountOptions) -> Host {
        Host {
            boot: 1,
            opts,
            paused: false,
            waiting: Vec::new(),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            listings: BTreeMap::new(),
            silly: BTreeMap::new(),
        }
    }

    /// Starts anew with empty caches; returns how many files had unsent data.
    pub(super) fn lose_power(&mut self) -> usize {
        let lost = self.inodes.values().filter(|c| !c.wb_idle()).count();
        let (boot, opts) = (self.boot + 1, self.opts.clone());
        *self = Host { boot, ..Host::new(opts) };
        lost
    }
}
