//! A file server shared by every simulated host.
//!
//! Bytes are durable once synced; what was written and not synced is lost when
//! the host that wrote it crashes. Names change atomically and are durable at
//! the reply, as with a synchronous export. The server is also the oracle: it
//! knows who has a file open for writing and reports two writers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor::env::fs::parent;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

type Ino = u64;

#[derive(Clone, Debug, Default)]
struct Inode {
    data: Vec<u8>,
    durable: Vec<u8>,
    modified: Option<SystemTime>,
    writers: BTreeSet<String>,
    last_writer: String,
}

#[derive(Debug, Default)]
struct Server {
    names: BTreeMap<String, Ino>,
    dirs: BTreeSet<String>,
    inodes: BTreeMap<Ino, Inode>,
    next: Ino,
    faults: Vec<String>,
}

/// The file server.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Server>>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as `host` sees it; each call takes `latency`.
    pub fn mount(&self, host: &str, latency: Duration) -> Arc<dyn FileSystem> {
        Arc::new(Mount { disk: self.clone(), host: host.to_owned(), latency })
    }

    /// The host dies: what it did not sync is gone.
    pub fn crash(&self, host: &str) {
        for i in self.lock().inodes.values_mut() {
            i.writers.remove(host);
            if i.last_writer == host {
                i.data = i.durable.clone();
            }
        }
    }

    /// What no correct program does; empty if all is well.
    pub fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    /// Puts a file there before the run.
    pub fn put(&self, path: &str, data: &[u8]) {
        let mut s = self.lock();
        let ino = s.new_inode();
        if let Some(i) = s.inodes.get_mut(&ino) {
            i.data = data.to_vec();
            i.durable = data.to_vec();
        }
        s.add_name(path, ino);
    }

    /// The durable bytes of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let s = self.lock();
        Some(s.inodes.get(s.names.get(path)?)?.durable.clone())
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }
}

impl Server {
    fn new_inode(&mut self) -> Ino {
        self.next += 1;
        self.inodes.insert(self.next, Inode::default());
        self.next
    }

    fn add_name(&mut self, path: &str, ino: Ino) {
        self.names.insert(path.to_owned(), ino);
        let mut d = parent(path);
        while self.dirs.insert(d.to_owned()) && d != "/" {
            d = parent(d);
        }
    }

    fn find(&self, path: &str) -> io::Result<Ino> {
        self.names.get(path).copied().ok_or_else(|| error(ErrorKind::NotFound, path))
    }
}

fn error(kind: ErrorKind, path: &str) -> io::Error {
    io::Error::new(kind, format!("{path}: {kind}"))
}

struct Mount {
    disk: Disk,
    host: String,
    latency: Duration,
}

impl Mount {
    fn call<'a, T: Send + 'a>(
        &'a self,
        f: impl FnOnce(&mut Server) -> io::Result<T> + Send + 'a,
    ) -> BoxFuture<'a, io::Result<T>> {
        async move {
            tokio::time::sleep(self.latency).await;
            f(&mut self.disk.lock())
        }
        .boxed()
    }
}

impl FileSystem for Mount {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        self.call(move |s| {
            let ino = match (how, s.names.get(path).copied()) {
                (Open::CreateNew, Some(_)) => return Err(error(ErrorKind::AlreadyExists, path)),
                (Open::CreateNew, None) => {
                    let ino = s.new_inode();
                    s.add_name(path, ino);
                    ino
                }
                (_, Some(ino)) => ino,
                (_, None) => return Err(error(ErrorKind::NotFound, path)),
            };
            if how != Open::Read
                && let Some(i) = s.inodes.get_mut(&ino)
            {
                i.writers.insert(self.host.clone());
                if i.writers.len() > 1 {
                    let fault = format!("{path}: open for writing on {:?}", i.writers);
                    s.faults.push(fault);
                }
            }
            let handle = Handle {
                disk: self.disk.clone(),
                host: self.host.clone(),
                latency: self.latency,
                ino,
                path: path.to_owned(),
                writes: how != Open::Read,
            };
            Ok(Box::new(handle) as Box<dyn File>)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.call(move |s| {
            let at = format!("{}/", dir.trim_end_matches('/'));
            let mut out = BTreeSet::new();
            for name in s.names.range(at.clone()..).map(|n| n.0) {
                let Some(rest) = name.strip_prefix(&at) else { break };
                out.insert(match rest.split_once('/') {
                    Some((d, _)) => DirEntry { name: d.to_owned(), is_dir: true },
                    None => DirEntry { name: rest.to_owned(), is_dir: false },
                });
            }
            for name in s.dirs.range(at.clone()..) {
                let Some(rest) = name.strip_prefix(&at) else { break };
                let d = rest.split('/').next().unwrap_or(rest);
                out.insert(DirEntry { name: d.to_owned(), is_dir: true });
            }
            Ok(out.into_iter().collect())
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        self.call(move |s| {
            let modified = std::time::UNIX_EPOCH + crate::net::EPOCH;
            if s.dirs.contains(path) && !s.names.contains_key(path) {
                return Ok(Meta { len: 0, is_dir: true, modified, inode: 0 });
            }
            let ino = s.find(path)?;
            let i = s.inodes.get(&ino).cloned().unwrap_or_default();
            Ok(Meta {
                len: i.data.len() as u64,
                is_dir: false,
                modified: i.modified.unwrap_or(modified),
                inode: ino,
            })
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.call(move |s| {
            let ino = s.find(from)?;
            s.names.remove(from);
            s.add_name(to, ino);
            Ok(())
        })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.call(move |s| {
            let ino = s.find(from)?;
            if s.names.contains_key(to) {
                return Err(error(ErrorKind::AlreadyExists, to));
            }
            s.add_name(to, ino);
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.call(move |s| {
            s.find(path)?;
            s.names.remove(path);
            Ok(())
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.call(move |s| {
            let at = format!("{}/", path.trim_end_matches('/'));
            if s.names.range(at.clone()..).next().is_some_and(|n| n.0.starts_with(&at)) {
                return Err(error(ErrorKind::DirectoryNotEmpty, path));
            }
            s.dirs.remove(path);
            Ok(())
        })
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.call(move |s| {
            s.dirs.insert(path.to_owned());
            Ok(())
        })
    }

    fn sync_dir<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.call(|_| Ok(()))
    }

    fn free_space<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.call(|_| Ok(1 << 40))
    }
}

struct Handle {
    disk: Disk,
    host: String,
    latency: Duration,
    ino: Ino,
    path: String,
    writes: bool,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Handle {
    fn call<'a, T: Send + 'a>(
        &'a self,
        f: impl FnOnce(&mut Inode) -> T + Send + 'a,
    ) -> BoxFuture<'a, io::Result<T>> {
        async move {
            tokio::time::sleep(self.latency).await;
            let mut s = self.disk.lock();
            let i = s.inodes.get_mut(&self.ino);
            i.map(f).ok_or_else(|| error(ErrorKind::StaleNetworkFileHandle, &self.path))
        }
        .boxed()
    }

    fn release(&self) {
        if self.writes
            && let Some(i) = self.disk.lock().inodes.get_mut(&self.ino)
        {
            i.writers.remove(&self.host);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.release();
    }
}

impl File for Handle {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.call(move |i| {
            let from = usize::try_from(off).unwrap_or(usize::MAX).min(i.data.len());
            let to = from.saturating_add(len).min(i.data.len());
            i.data[from..to].to_vec()
        })
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.call(move |i| {
            let off = off as usize;
            if i.data.len() < off + data.len() {
                i.data.resize(off + data.len(), 0);
            }
            i.data[off..off + data.len()].copy_from_slice(&data);
            i.last_writer.clone_from(&self.host);
        })
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.call(|i| i.data.len() as u64)
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.call(|i| i.durable = i.data.clone())
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
        assert_eq!(disk.read("/x/y").unwrap(), b"one");
        assert!(disk.faults().is_empty());
        let _f = a.open("/x/y", Open::Write).await.unwrap();
        let _g = disk.mount("b", Duration::ZERO).open("/x/y", Open::Write).await.unwrap();
        assert_eq!(disk.faults().len(), 1);
    }
}
