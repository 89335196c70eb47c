//! System calls on paths, made of server calls and the cache.

use std::future::Future;
use std::io::ErrorKind;

use velociraptor::env::Open;
use velociraptor::env::fs::parent;

use super::call::{Answer, Op};
use super::caller::{Caller, For};
use super::kernel::{Known, Listing};
use super::lock;
use crate::tree::{Attr, Done, Ino, check_rename};

impl Caller {
    pub(super) async fn open(&self, path: &str, how: Open, distrust: bool) -> Done<(Ino, bool)> {
        let (dir, name) = self.walk(path, distrust).await?;
        let v4 = self.v4();
        if how == Open::CreateNew {
            // What the cache says of the name does not count: the server decides.
            let reply = self.call(Op::Create { dir, name: name.to_owned(), open: v4 }).await;
            let a = match reply.answer {
                Ok(_) => reply.attr().ok_or(ErrorKind::Other)?,
                Err(e) => {
                    self.names(|h| h.unname(dir, name));
                    return Err(e);
                }
            };
            self.names(|h| h.name(dir, name, Some(a.ino)));
            // An exclusive create carries no mode; that comes after.
            self.call(Op::SetAttr { ino: a.ino }).await.answer?;
            return Ok((a.ino, v4));
        }
        if name.is_empty() {
            return Err(ErrorKind::IsADirectory);
        }
        if v4 {
            let (op, known) = match self.cached(dir, name, distrust).await? {
                Some(None) => return Err(ErrorKind::NotFound),
                // The file that had this name when it was looked up.
                Some(Some(ino)) => (Op::OpenKnown { ino }, Some(ino)),
                None => (Op::Open { dir, name: name.to_owned() }, None),
            };
            let reply = self.call(op).await;
            if let Err(ErrorKind::NotFound) = reply.answer {
                self.names(|h| h.name(dir, name, None));
            }
            reply.answer.as_ref().map_err(|e| *e)?;
            let a = match (reply.attr(), known) {
                (Some(a), _) => a,
                (None, Some(ino)) => {
                    self.names(|h| h.doubt(ino));
                    return Ok((ino, true));
                }
                (None, None) => return Err(ErrorKind::Other),
            };
            self.names(|h| h.name(dir, name, Some(a.ino)));
            return if a.is_dir { Err(ErrorKind::IsADirectory) } else { Ok((a.ino, true)) };
        }
        let ino = self.name(dir, name, For::Use, distrust).await?.ok_or(ErrorKind::NotFound)?;
        match self.ask(ino).await {
            Ok(a) if a.is_dir => Err(ErrorKind::IsADirectory),
            Ok(_) => Ok((ino, false)),
            Err(e) => {
                self.names(|h| h.unname(dir, name));
                Err(e)
            }
        }
    }

    /// What a name means, if the cache may say so: `Some(None)` is absent.
    async fn cached(&self, dir: Ino, name: &str, distrust: bool) -> Done<Option<Option<Ino>>> {
        if distrust {
            return Ok(None);
        }
        if let (Known::AskDir, _) = self.known(dir, name) {
            self.ask(dir).await?;
        }
        match self.known(dir, name).0 {
            Known::Is(target) => Ok(Some(target)),
            Known::AskDir | Known::AskName => Ok(None),
        }
    }

    pub(super) async fn make_dir(&self, path: &str) -> Done<()> {
        let (dir, name) = self.walk(path, false).await?;
        if name.is_empty() {
            return Err(ErrorKind::AlreadyExists);
        }
        let reply = self.call(Op::MakeDir { dir, name: name.to_owned() }).await;
        match (&reply.answer, reply.attr()) {
            (Ok(_), Some(a)) => self.names(|h| h.name(dir, name, Some(a.ino))),
            _ => self.names(|h| h.unname(dir, name)),
        }
        reply.answer.map(drop)
    }

    pub(super) async fn is_dir(&self, path: &str) -> bool {
        match self.resolve(path, false).await {
            Ok(ino) => self.attr(ino).await.is_ok_and(|a| a.is_dir),
            Err(_) => false,
        }
    }

    /// A directory and its parents, in the order of the standard library.
    pub(super) async fn make_dirs(&self, path: &str) -> Done<()> {
        let mut missing = vec![path];
        while let Some(at) = missing.pop() {
            match self.make_dir(at).await {
                Ok(()) => {}
                Err(ErrorKind::NotFound) if parent(at) != at => missing.extend([at, parent(at)]),
                Err(_) if self.is_dir(at).await => {}
                Err(e) => return Err(e),
            }
            if missing.len() > 64 {
                return Err(ErrorKind::NotFound);
            }
        }
        Ok(())
    }

    /// Runs `work`; if a parent of `path` was missing, makes it and tries again.
    pub(super) async fn with_parent<T, F>(&self, path: &str, work: impl Fn() -> F) -> Done<T>
    where
        F: Future<Output = Done<T>>,
    {
        match work().await {
            Err(ErrorKind::NotFound) => {
                self.make_dirs(parent(path)).await?;
                work().await
            }
            done => done,
        }
    }

    /// Gives a file that is open here another name instead of removing it.
    pub(super) async fn silly_rename(&self, dir: Ino, name: &str, ino: Ino) -> Done<()> {
        let hidden = format!(".nfs{ino:016x}{:08x}", self.boot);
        let to = (dir, hidden.clone());
        let reply = self.call(Op::Rename { from: (dir, name.to_owned()), to }).await;
        reply.answer?;
        self.names(|h| {
            h.name(dir, name, None);
            h.silly.insert(ino, (dir, hidden));
        });
        let mut m = lock(&self.shared);
        m.note("open file renamed instead of removed");
        Ok(())
    }

    pub(super) async fn remove(&self, path: &str, distrust: bool) -> Done<()> {
        let (dir, name) = self.walk(path, distrust).await?;
        let ino = self.name(dir, name, For::Use, distrust).await?.ok_or(ErrorKind::NotFound)?;
        if self.open_here(ino) {
            return self.silly_rename(dir, name, ino).await;
        }
        let reply = self.call(Op::Remove { dir, name: name.to_owned() }).await;
        match reply.answer {
            Ok(_) | Err(ErrorKind::NotFound) => self.names(|h| {
                h.name(dir, name, None);
                h.forget(ino);
            }),
            Err(_) => {}
        }
        reply.answer.map(drop)
    }

    pub(super) async fn remove_dir(&self, path: &str) -> Done<()> {
        let (dir, name) = self.walk(path, false).await?;
        let reply = self.call(Op::RemoveDir { dir, name: name.to_owned() }).await;
        if reply.answer.is_ok() {
            self.names(|h| h.name(dir, name, None));
        }
        reply.answer.map(drop)
    }

    pub(super) async fn rename(&self, from: &str, to: &str, distrust: bool) -> Done<()> {
        let (fd, fname) = self.walk(from, distrust).await?;
        let (td, tname) = self.walk(to, distrust).await?;
        let ino = self.name(fd, fname, For::Use, distrust).await?.ok_or(ErrorKind::NotFound)?;
        check_rename(from, to)?;
        let old = self.name(td, tname, For::Make, distrust).await?;
        if let Some(old) = old
            && old != ino
            && self.open_here(old)
        {
            self.silly_rename(td, tname, old).await?;
        }
        let op = Op::Rename { from: (fd, fname.to_owned()), to: (td, tname.to_owned()) };
        match self.call(op).await.answer {
            Ok(_) if old == Some(ino) => Ok(()),
            Ok(_) => {
                self.names(|h| {
                    h.name(fd, fname, None);
                    h.name(td, tname, Some(ino));
                    if let Some(old) = old {
                        h.forget(old);
                    }
                });
                Ok(())
            }
            Err(e) => {
                self.names(|h| {
                    h.unname(fd, fname);
                    h.unname(td, tname);
                });
                Err(e)
            }
        }
    }

    pub(super) async fn link(&self, from: &str, to: &str, distrust: bool) -> Done<()> {
        let ino = self.resolve(from, distrust).await?;
        let (dir, name) = self.walk(to, distrust).await?;
        let reply = self.call(Op::Link { ino, dir, name: name.to_owned() }).await;
        match reply.answer {
            Ok(_) => self.names(|h| h.name(dir, name, Some(ino))),
            Err(_) => self.names(|h| h.unname(dir, name)),
        }
        reply.answer.map(drop)
    }

    pub(super) async fn stat(&self, path: &str, distrust: bool) -> Done<Attr> {
        let ino = self.resolve(path, distrust).await?;
        self.flush(ino).await;
        if distrust { self.ask(ino).await } else { self.attr(ino).await }
    }

    pub(super) async fn list(&self, path: &str, distrust: bool) -> Done<Vec<(String, bool)>> {
        let ino = self.resolve(path, distrust).await?;
        // Opening a directory asks for its attributes, whatever their age.
        let a = self.ask(ino).await?;
        if !a.is_dir {
            return Err(ErrorKind::NotADirectory);
        }
        let (cached, page) = {
            let m = lock(&self.shared);
            let Some(h) = m.hosts.get(&self.host) else { return Err(ErrorKind::Other) };
            (h.listings.get(&ino).filter(|l| l.change == a.change).cloned(), h.opts.dir_page)
        };
        if let Some(l) = cached {
            return Ok(l.names);
        }
        let mut names: Vec<(String, bool)> = Vec::new();
        loop {
            let after = names.last().map(|n| n.0.clone()).unwrap_or_default();
            match self.call(Op::ReadDir { dir: ino, after, max: page }).await.answer? {
                Answer::Names { names: more, all } => {
                    names.extend(more);
                    if all {
                        break;
                    }
                }
                _ => return Err(ErrorKind::Other),
            }
        }
        let change = a.change;
        self.names(|h| drop(h.listings.insert(ino, Listing { change, names: names.clone() })));
        Ok(names)
    }
}
