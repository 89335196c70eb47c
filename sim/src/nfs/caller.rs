//! A process of a host: sends calls, looks in its host's cache, walks paths.

use std::future::Future;
use std::io::ErrorKind;

use super::call::{Answer, Op, Reply};
use super::kernel::{Cached, Changed, Host, Known};
use super::machine::Origin;
use super::options::Version;
use super::{Name, Shared, lock};
use crate::tree::{Attr, Done, Ino, ROOT};

/// What a system call needs to know of its process.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) shared: Shared,
    pub(super) host: Name,
    pub(super) boot: u64,
    pub(super) process: u64,
}

/// Drops a call whose process has gone.
struct Pending<'a>(&'a Caller, u64);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        lock(&self.0.shared).abandon(self.1);
    }
}

/// What the last name of a path is looked up for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// It should be there.
    Use,
    /// It should not: a remembered absence needs no second look.
    Make,
}

impl Caller {
    pub(super) fn v4(&self) -> bool {
        lock(&self.shared).hosts.get(&self.host).is_some_and(|h| h.opts.vers == Version::V4)
    }

    /// Whether this process's host is still the one it was started on.
    pub(super) fn lives(&self) -> bool {
        lock(&self.shared).hosts.get(&self.host).is_some_and(|h| h.boot == self.boot)
    }

    /// Sends a call and waits for its reply, for ever if need be (hard mount).
    pub(super) async fn call(&self, op: Op) -> Reply {
        if !self.lives() {
            return std::future::pending().await;
        }
        let id = {
            let mut m = lock(&self.shared);
            m.tick();
            m.submit(&self.host, op, Origin::Process)
        };
        let _pending = Pending(self, id);
        loop {
            let got = lock(&self.shared).reply(id);
            match got {
                Ok(reply) => {
                    self.learn(&reply);
                    return *reply;
                }
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    pub(super) fn learn(&self, reply: &Reply) {
        let mut m = lock(&self.shared);
        let now = m.now;
        let Some(h) = m.hosts.get_mut(&self.host) else { return };
        for d in &reply.dirs {
            h.learn(d.attr, Changed::Assumed, now);
        }
        // A version 4 READ brings no attributes.
        let silent = matches!(reply.answer, Ok(Answer::Data { .. })) && h.opts.vers == Version::V4;
        if let Ok(Answer::Data { attr, .. }) = &reply.answer
            && silent
            && let Some(c) = h.inodes.get_mut(&attr.ino)
        {
            c.read_since = true;
        }
        if let Some(a) = reply.attr()
            && !silent
        {
            h.learn(a, Changed::Unknown, now);
        }
    }

    /// Attributes, from the cache if they are young enough.
    pub(super) async fn attr(&self, ino: Ino) -> Done<Attr> {
        let known = {
            let mut m = lock(&self.shared);
            m.tick();
            let now = m.now;
            m.hosts.get(&self.host).and_then(|h| h.believed_with_times(ino, now))
        };
        match known {
            Some(a) => Ok(a),
            None => self.ask(ino).await,
        }
    }

    /// Attributes from the server.
    pub(super) async fn ask(&self, ino: Ino) -> Done<Attr> {
        let a = match self.call(Op::GetAttr { ino }).await.answer? {
            Answer::Attr(a) => a,
            _ => return Err(ErrorKind::Other),
        };
        let m = lock(&self.shared);
        let known = m.hosts.get(&self.host).and_then(|h| h.inodes.get(&ino));
        Ok(Attr { size: known.map_or(a.size, |c| c.size), ..a })
    }

    pub(super) fn names(&self, work: impl FnOnce(&mut Host)) {
        if let Some(h) = lock(&self.shared).hosts.get_mut(&self.host) {
            work(h);
        }
    }

    pub(super) async fn look_up(&self, dir: Ino, name: &str) -> Done<Option<Ino>> {
        let op = Op::Lookup { dir, name: name.to_owned() };
        let target = match self.call(op).await.answer {
            Ok(Answer::Attr(a)) => Some(a.ino),
            Err(ErrorKind::NotFound) => None,
            Ok(_) => return Err(ErrorKind::Other),
            Err(e) => return Err(e),
        };
        self.names(|h| h.name(dir, name, target));
        Ok(target)
    }

    /// What a name means, by the cache where that may be believed.
    pub(super) async fn name(
        &self,
        dir: Ino,
        name: &str,
        why: For,
        distrust: bool,
    ) -> Done<Option<Ino>> {
        if distrust {
            return self.look_up(dir, name).await;
        }
        let mut asked = false;
        loop {
            let (known, last) = self.known(dir, name);
            match known {
                Known::Is(target) => return Ok(target),
                _ if why == For::Make && last == Some(None) => return Ok(None),
                // With no attribute cache the answer just had is of no use.
                Known::AskDir if !asked => {
                    self.ask(dir).await?;
                    asked = true;
                }
                Known::AskDir | Known::AskName => return self.look_up(dir, name).await,
            }
        }
    }

    /// What the cache says of a name, and what the name last meant.
    pub(super) fn known(&self, dir: Ino, name: &str) -> (Known, Option<Option<Ino>>) {
        let mut m = lock(&self.shared);
        m.tick();
        match m.hosts.get(&self.host) {
            Some(h) => (h.known(dir, name, m.now), h.last_known(dir, name)),
            None => (Known::AskName, None),
        }
    }

    /// The directory of a path's last name, and that name.
    pub(super) async fn walk<'p>(&self, path: &'p str, distrust: bool) -> Done<(Ino, &'p str)> {
        let path = path.trim_matches('/');
        let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in parents.split('/').filter(|p| !p.is_empty()) {
            dir = self.name(dir, part, For::Use, distrust).await?.ok_or(ErrorKind::NotFound)?;
            let m = lock(&self.shared);
            let known = m.hosts.get(&self.host).and_then(|h| h.inodes.get(&dir));
            if known.is_some_and(|c| !c.attr.is_dir) {
                return Err(ErrorKind::NotADirectory);
            }
        }
        Ok((dir, last))
    }

    pub(super) async fn resolve(&self, path: &str, distrust: bool) -> Done<Ino> {
        let (dir, last) = self.walk(path, distrust).await?;
        if last.is_empty() {
            return Ok(ROOT);
        }
        self.name(dir, last, For::Use, distrust).await?.ok_or(ErrorKind::NotFound)
    }

    pub(super) fn open_here(&self, ino: Ino) -> bool {
        let m = lock(&self.shared);
        m.hosts.get(&self.host).and_then(|h| h.inodes.get(&ino)).is_some_and(|c| c.opens > 0)
    }

    /// Runs a call on a path; a stale handle on the way is tried once more
    /// without the cache, as the kernel does.
    pub(super) async fn patiently<T, F>(&self, work: impl Fn(bool) -> F) -> Done<T>
    where
        F: Future<Output = Done<T>>,
    {
        match work(false).await {
            Err(ErrorKind::StaleNetworkFileHandle) => work(true).await,
            done => done,
        }
    }

    /// Sends what this host has written to a file and waits for it.
    pub(super) async fn flush(&self, ino: Ino) {
        loop {
            let wait = {
                let mut m = lock(&self.shared);
                m.tick();
                let Some(h) = m.hosts.get(&self.host).filter(|h| h.boot == self.boot) else {
                    return;
                };
                if h.inodes.get(&ino).is_none_or(Cached::wb_idle) {
                    return;
                }
                if !h.paused {
                    m.write_back(&self.host, ino, true);
                }
                m.write_back_wait(&self.host, ino)
            };
            tokio::time::sleep(wait).await;
        }
    }
}
