//! A disk of one host: no caches between, but power loss.
//!
//! Bytes are durable once their file is synced; names once their directory or
//! any file is, as on a journaling file system. A killed process takes nothing
//! with it; a host that loses power loses the rest.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor::env::fs::parent;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

use crate::oracle::{Oracle, Process};
use crate::tree::{Done, Ino, Loss, Tree, check_rename};

struct State {
    tree: Tree,
    oracle: Oracle,
    boot: u64,
    processes: u64,
}

/// The disk. Clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Default for Disk {
    fn default() -> Self {
        let (tree, oracle) = (Tree::new(true), Oracle::default());
        Disk(Arc::new(Mutex::new(State { tree, oracle, boot: 0, processes: 0 })))
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as a new process of `host` sees it; each call takes `latency`.
    pub fn mount(&self, host: &str, latency: Duration) -> Arc<dyn FileSystem> {
        let mut s = self.lock();
        s.processes += 1;
        let (process, boot) = ((host.into(), s.processes), s.boot);
        Arc::new(Mount(Arc::new(Caller { disk: self.clone(), process, boot, latency })))
    }

    /// The host loses power: what was not synced is gone. Must come before its
    /// processes are dropped.
    pub fn crash(&self, host: &str) {
        let mut s = self.lock();
        s.boot += 1;
        s.oracle.host_gone(host);
        s.tree.power_loss(Loss::All);
    }

    /// Bytes that fit, from now on; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().tree.capacity = bytes;
    }

    /// What no correct program does; empty if all is well.
    pub fn faults(&self) -> Vec<String> {
        self.lock().oracle.faults.iter().cloned().collect()
    }

    /// Puts a file there before the run.
    pub fn put(&self, path: &str, data: &[u8]) {
        self.lock().tree.put(path, data);
    }

    /// The bytes of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.lock().tree.get(path)
    }

    /// All files' paths, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().tree.files()
    }
}

fn error(kind: ErrorKind, path: &str) -> io::Error {
    io::Error::new(kind, format!("{path}: {kind}"))
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

struct Caller {
    disk: Disk,
    process: Process,
    boot: u64,
    latency: Duration,
}

struct Mount(Arc<Caller>);

impl Caller {
    fn call<'a, T: Send + 'a>(
        &'a self,
        path: &'a str,
        f: impl FnOnce(&mut Tree, &mut Oracle) -> Done<T> + Send + 'a,
    ) -> BoxFuture<'a, io::Result<T>> {
        async move {
            if !self.latency.is_zero() {
                tokio::time::sleep(self.latency).await;
            }
            let done = {
                let mut s = self.disk.lock();
                let State { tree, oracle, boot, .. } = &mut *s;
                (*boot == self.boot).then(|| f(tree, oracle))
            };
            match done {
                Some(done) => done.map_err(|kind| error(kind, path)),
                // The host of this process has lost power.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// A directory and its parents, in the order of the standard library.
fn make_dirs(t: &mut Tree, path: &str) -> Done<()> {
    let made = t.walk_to(path).and_then(|(dir, name)| match name {
        "" => Err(ErrorKind::AlreadyExists),
        name => t.mkdir(dir, name, now()),
    });
    match made {
        Ok(_) => Ok(()),
        Err(ErrorKind::NotFound) if parent(path) != path => {
            make_dirs(t, parent(path))?;
            make_dirs(t, path)
        }
        Err(e) => {
            let there = t.walk(path).and_then(|i| t.attr(i)).is_ok_and(|a| a.is_dir);
            if there { Ok(()) } else { Err(e) }
        }
    }
}

/// Runs `f`; if a parent of `path` was missing, makes it and tries again.
fn with_parent<T>(t: &mut Tree, path: &str, f: impl Fn(&mut Tree) -> Done<T>) -> Done<T> {
    match f(t) {
        Err(ErrorKind::NotFound) => {
            make_dirs(t, parent(path))?;
            f(t)
        }
        done => done,
    }
}

impl FileSystem for Mount {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let caller = self.0.clone();
        self.0.call(path, move |t, oracle| {
            let a = match how {
                Open::CreateNew => with_parent(t, path, |t| {
                    let (dir, name) = t.walk_to(path)?;
                    t.create(dir, name, now())
                })?,
                Open::Read | Open::Write => t.attr(t.walk(path)?)?,
            };
            if a.is_dir {
                return Err(ErrorKind::IsADirectory);
            }
            t.pin(a.ino);
            let writes = how != Open::Read;
            if writes {
                oracle.opened(a.ino, caller.process.clone(), path);
            }
            Ok(Box::new(Handle { caller, ino: a.ino, path: path.to_owned(), writes })
                as Box<dyn File>)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.0.call(dir, move |t, _| {
            let ino = match t.walk(dir) {
                Err(ErrorKind::NotFound) => return Ok(Vec::new()),
                ino => ino?,
            };
            let names = t.names_after(ino, "", usize::MAX)?.0;
            let all: BTreeSet<DirEntry> =
                names.into_iter().map(|(name, is_dir)| DirEntry { name, is_dir }).collect();
            Ok(all.into_iter().collect())
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        self.0.call(path, move |t, _| {
            let a = t.attr(t.walk(path)?)?;
            let modified = std::time::UNIX_EPOCH + crate::net::EPOCH + a.modified;
            Ok(Meta { len: a.size, is_dir: a.is_dir, modified, inode: a.ino })
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.call(to, move |t, _| {
            with_parent(t, to, |t| {
                let (fd, fname) = t.walk_to(from)?;
                let (td, tname) = t.walk_to(to)?;
                t.lookup(fd, fname)?;
                check_rename(from, to)?;
                t.rename((fd, fname), (td, tname), now())
            })
        })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.call(to, move |t, _| {
            with_parent(t, to, |t| {
                let ino = t.walk(from)?;
                let (dir, name) = t.walk_to(to)?;
                t.link(ino, dir, name, now())
            })
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.call(path, move |t, _| {
            let (dir, name) = t.walk_to(path)?;
            t.remove(dir, name, now())
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.call(path, move |t, _| {
            let (dir, name) = t.walk_to(path)?;
            t.rmdir(dir, name, now())
        })
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.call(path, move |t, _| make_dirs(t, path))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.call(dir, move |t, _| {
            t.walk(dir)?;
            t.commit_names();
            Ok(())
        })
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.0.call(path, |t, _| Ok(t.free()))
    }
}

struct Handle {
    caller: Arc<Caller>,
    ino: Ino,
    path: String,
    writes: bool,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut s = self.caller.disk.lock();
        if s.boot == self.caller.boot {
            s.tree.unpin(self.ino);
            if self.writes {
                s.oracle.closed(self.ino, &self.caller.process);
            }
        }
    }
}

impl File for Handle {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.caller.call(&self.path, move |t, _| Ok(t.read(self.ino, off, len)?.0.to_vec()))
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.caller.call(&self.path, move |t, _| {
            if !self.writes {
                return Err(ErrorKind::PermissionDenied);
            }
            t.write(self.ino, off, data, false, now()).map(drop)
        })
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.caller.call(&self.path, |t, _| Ok(t.attr(self.ino)?.size))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.caller.call(&self.path, |t, _| {
            t.commit(self.ino)?;
            t.commit_names();
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crash_keeps_what_was_synced_and_two_writers_are_reported() {
        let disk = Disk::default();
        let a = disk.mount("a", Duration::ZERO);
        let f = a.open("/x/y", Open::CreateNew).await.unwrap();
        f.write_at(0, Bytes::from_static(b"one")).await.unwrap();
        f.sync().await.unwrap();
        f.write_at(3, Bytes::from_static(b"two")).await.unwrap();
        disk.crash("a");
        drop(f);
        assert_eq!(disk.read("/x/y").unwrap(), b"one");
        assert!(disk.faults().is_empty());
        let a = disk.mount("a", Duration::ZERO);
        let _f = a.open("/x/y", Open::Write).await.unwrap();
        let _g = disk.mount("b", Duration::ZERO).open("/x/y", Open::Write).await.unwrap();
        assert_eq!(disk.faults().len(), 1);
    }

    #[tokio::test]
    async fn a_name_is_durable_once_its_directory_is_synced() {
        let disk = Disk::default();
        disk.put("/d/old", b"old");
        let a = disk.mount("a", Duration::ZERO);
        a.rename("/d/old", "/d/new").await.unwrap();
        disk.crash("a");
        assert_eq!(disk.names(), ["/d/old"]);
        let a = disk.mount("a", Duration::ZERO);
        a.rename("/d/old", "/d/new").await.unwrap();
        a.sync_dir("/d").await.unwrap();
        disk.crash("a");
        assert_eq!(disk.names(), ["/d/new"]);
    }
}
