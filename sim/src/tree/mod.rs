//! A file tree as a file server or a local disk holds it.
//!
//! Every call is atomic. What was written and not committed is in memory only
//! and may vanish, whole or in part, when the power fails ([`power`]). Knows
//! nothing of hosts, caches or time.

mod content;
mod paths;
mod power;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::Duration;

use content::Content;
pub(crate) use paths::check_rename;
pub use power::Loss;

/// Identity of a file or directory; never reused.
pub type Ino = u64;
/// The top directory.
pub const ROOT: Ino = 1;
/// Why a call failed. An input/output error is `Other`.
pub type Fail = ErrorKind;
/// Result of a call.
pub type Done<T> = Result<T, Fail>;

/// Facts about a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which one.
    pub ino: Ino,
    /// Length in bytes, 0 for directories.
    pub size: u64,
    /// Grows with every change of the data or, for directories, of the names.
    pub change: u64,
    /// Last change, since the run began.
    pub modified: Duration,
    /// Whether it is a directory.
    pub is_dir: bool,
}

#[derive(Debug)]
enum Body {
    File(Content),
    Dir(BTreeMap<String, Ino>),
}

#[derive(Debug)]
struct Node {
    body: Body,
    change: u64,
    modified: Duration,
    /// Directory and name, once for each link.
    names: BTreeSet<(Ino, String)>,
    /// Open handles that keep it alive without a name.
    pins: u32,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<Ino, Node>,
    next: Ino,
    change: u64,
    used: u64,
    /// Bytes that fit; `None` is no limit.
    pub capacity: Option<u64>,
    /// Name changes since the last [`Tree::commit_names`], one entry a call;
    /// empty when names are durable at once.
    names: Vec<Vec<power::NameChange>>,
    volatile_names: bool,
}

impl Tree {
    /// An empty tree. With `volatile_names` a changed name survives power loss
    /// only after [`Tree::commit_names`], as on a local disk; otherwise at once.
    pub fn new(volatile_names: bool) -> Tree {
        let root = Node {
            body: Body::Dir(BTreeMap::new()),
            change: 1,
            modified: Duration::ZERO,
            names: BTreeSet::new(),
            pins: 1,
        };
        Tree {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT,
            change: 1,
            used: 0,
            capacity: None,
            names: Vec::new(),
            volatile_names,
        }
    }

    /// Bytes used by files.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes that still fit.
    pub fn free(&self) -> u64 {
        self.capacity.map_or(1 << 40, |c| c.saturating_sub(self.used))
    }

    fn node(&self, ino: Ino) -> Done<&Node> {
        self.nodes.get(&ino).ok_or(ErrorKind::StaleNetworkFileHandle)
    }

    fn dir(&self, ino: Ino) -> Done<&BTreeMap<String, Ino>> {
        match &self.node(ino)?.body {
            Body::Dir(d) => Ok(d),
            Body::File(_) => Err(ErrorKind::NotADirectory),
        }
    }

    fn file(&mut self, ino: Ino) -> Done<&mut Content> {
        match self.nodes.get_mut(&ino).map(|n| &mut n.body) {
            Some(Body::File(c)) => Ok(c),
            Some(Body::Dir(_)) => Err(ErrorKind::IsADirectory),
            None => Err(ErrorKind::StaleNetworkFileHandle),
        }
    }

    /// Facts by identity.
    pub fn attr(&self, ino: Ino) -> Done<Attr> {
        let n = self.node(ino)?;
        let (size, is_dir) = match &n.body {
            Body::File(c) => (c.len() as u64, false),
            Body::Dir(_) => (0, true),
        };
        Ok(Attr { ino, size, change: n.change, modified: n.modified, is_dir })
    }

    /// Facts by name.
    pub fn lookup(&self, dir: Ino, name: &str) -> Done<Attr> {
        let ino = self.dir(dir)?.get(name).ok_or(ErrorKind::NotFound)?;
        self.attr(*ino)
    }

    /// Names after `after` in a directory, at most `max`, and whether that is all.
    pub fn names_after(
        &self,
        dir: Ino,
        after: &str,
        max: usize,
    ) -> Done<(Vec<(String, bool)>, bool)> {
        use std::ops::Bound;
        let range = (Bound::Excluded(after.to_owned()), Bound::Unbounded);
        let mut rest = self.dir(dir)?.range(range);
        let page = rest.by_ref().take(max);
        let page = page.map(|(n, i)| (n.clone(), self.attr(*i).is_ok_and(|a| a.is_dir))).collect();
        Ok((page, rest.next().is_none()))
    }

    fn touch(&mut self, ino: Ino, now: Duration) {
        self.change += 1;
        let change = self.change;
        if let Some(n) = self.nodes.get_mut(&ino) {
            n.change = change;
            n.modified = now;
        }
    }

    fn add(&mut self, dir: Ino, name: &str, body: Body, now: Duration) -> Done<Attr> {
        if self.dir(dir)?.contains_key(name) {
            return Err(ErrorKind::AlreadyExists);
        }
        self.next += 1;
        self.change += 1;
        let node =
            Node { body, change: self.change, modified: now, names: BTreeSet::new(), pins: 0 };
        self.nodes.insert(self.next, node);
        self.point(dir, name, Some(self.next), now);
        self.attr(self.next)
    }

    /// A new, empty file.
    pub fn create(&mut self, dir: Ino, name: &str, now: Duration) -> Done<Attr> {
        self.add(dir, name, Body::File(Content::default()), now)
    }

    /// A new directory.
    pub fn mkdir(&mut self, dir: Ino, name: &str, now: Duration) -> Done<Attr> {
        self.add(dir, name, Body::Dir(BTreeMap::new()), now)
    }

    /// A further name for a file.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &str, now: Duration) -> Done<()> {
        if self.dir(dir)?.contains_key(name) {
            return Err(ErrorKind::AlreadyExists);
        }
        if self.attr(ino)?.is_dir {
            return Err(ErrorKind::PermissionDenied);
        }
        self.point(dir, name, Some(ino), now);
        Ok(())
    }

    /// Removes a file's name; the file goes with its last name and handle.
    pub fn remove(&mut self, dir: Ino, name: &str, now: Duration) -> Done<()> {
        if self.lookup(dir, name)?.is_dir {
            return Err(ErrorKind::IsADirectory);
        }
        self.point(dir, name, None, now);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, dir: Ino, name: &str, now: Duration) -> Done<()> {
        let a = self.lookup(dir, name)?;
        if !self.dir(a.ino)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        self.point(dir, name, None, now);
        Ok(())
    }

    /// Moves a name, replacing what is at the other.
    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), now: Duration) -> Done<()> {
        let what = self.lookup(from.0, from.1)?;
        match self.lookup(to.0, to.1) {
            Ok(old) if old.ino == what.ino => return Ok(()),
            Ok(old) => match (what.is_dir, old.is_dir) {
                (false, true) => return Err(ErrorKind::IsADirectory),
                (true, false) => return Err(ErrorKind::NotADirectory),
                (true, true) if !self.dir(old.ino)?.is_empty() => {
                    return Err(ErrorKind::DirectoryNotEmpty);
                }
                _ => {}
            },
            Err(ErrorKind::NotFound) => {}
            Err(e) => return Err(e),
        }
        if what.is_dir && self.is_within(to.0, what.ino) {
            return Err(ErrorKind::InvalidInput);
        }
        self.point(to.0, to.1, Some(what.ino), now);
        self.point(from.0, from.1, None, now);
        self.join_last_two();
        Ok(())
    }

    fn is_within(&self, mut dir: Ino, above: Ino) -> bool {
        loop {
            if dir == above {
                return true;
            }
            match self.nodes.get(&dir).and_then(|n| n.names.first()) {
                Some((up, _)) => dir = *up,
                None => return false,
            }
        }
    }

    /// Whether a file lives by its handles alone.
    pub fn is_nameless(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|n| n.names.is_empty() && ino != ROOT)
    }

    /// Keeps a file alive without a name, once for each open handle.
    pub fn pin(&mut self, ino: Ino) {
        if let Some(n) = self.nodes.get_mut(&ino) {
            n.pins += 1;
        }
    }

    /// Undoes one [`Tree::pin`].
    pub fn unpin(&mut self, ino: Ino) {
        if let Some(n) = self.nodes.get_mut(&ino) {
            n.pins = n.pins.saturating_sub(1);
        }
        self.reap(ino);
    }

    fn reap(&mut self, ino: Ino) {
        let gone = |n: &Node| n.names.is_empty() && n.pins == 0;
        if !self.nodes.get(&ino).is_some_and(gone) || self.owed(ino) {
            return;
        }
        if let Some(Node { body: Body::File(c), .. }) = self.nodes.remove(&ino) {
            self.used -= c.len() as u64;
        }
    }
}
