//! A file system for tests that gets full, or ends with its process at some write,
//! and notices who goes on using a file after an error.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use crate::env::{DirEntry, Env, File, FileSystem, Meta, Open};

#[derive(Debug, Default)]
struct State {
    /// Bytes there may be; `None` is no limit.
    limit: Option<u64>,
    /// Length of each file, by inode.
    sizes: BTreeMap<u64, u64>,
    faults: Vec<String>,
    /// Calls that change something until the process is dead; `None` for any number.
    life: Option<u64>,
    read_only: bool,
    /// The next sync of a file with this in its path waits for the signal and fails.
    doomed: Option<(String, Arc<Notify>)>,
}

impl State {
    fn used(&self) -> u64 {
        self.sizes.values().sum()
    }
}

/// See the module.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn FileSystem>,
    state: Arc<Mutex<State>>,
}

fn inode(path: &str) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.ino(), m.nlink()))
}

impl Faulty {
    /// Wraps the file system of `env`; returns the world with it inside.
    pub fn wrap(env: &Env) -> (Env, Faulty) {
        let fs = Faulty { inner: env.fs.clone(), state: Arc::default() };
        (Env { fs: Arc::new(fs.clone()), ..env.clone() }, fs)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves room for `n` bytes more; `None` for any number.
    pub fn leave(&self, n: Option<u64>) {
        let mut s = self.state();
        s.limit = n.map(|n| s.used() + n);
    }

    /// Whether the store is mounted read-only from now on, as far as asking tells.
    pub fn set_read_only(&self, on: bool) {
        self.state().read_only = on;
    }

    /// The process is killed after `n` more calls that change something: nothing it
    /// asks for after that happens.
    pub fn die_after(&self, n: u64) {
        self.state().life = Some(n);
    }

    /// The next sync of a file whose path has `part` in it waits until it is told to go
    /// on, and fails then.
    pub fn fail_next_sync(&self, part: &str) -> Arc<Notify> {
        let go_on = Arc::new(Notify::new());
        self.state().doomed = Some((part.to_owned(), go_on.clone()));
        go_on
    }

    /// Whether that sync has been called.
    pub fn sync_has_begun(&self) -> bool {
        self.state().doomed.is_none()
    }

    /// Whether it is dead.
    pub fn is_dead(&self) -> bool {
        self.state().life == Some(0)
    }

    /// What no correct program does.
    pub fn faults(&self) -> Vec<String> {
        self.state().faults.clone()
    }

    /// The name at `path` goes; counts its bytes as free if it is the last.
    fn free(&self, path: &str) {
        if let Some((ino, 1)) = inode(path) {
            self.state().sizes.remove(&ino);
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("this process is dead")
}

/// One more call; `change`: it changes something.
fn live(state: &Mutex<State>, change: bool) -> io::Result<()> {
    let mut s = state.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut s.life {
        Some(0) => Err(dead()),
        Some(n) if change => {
            *n -= 1;
            if *n == 0 { Err(dead()) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

impl FileSystem for Faulty {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let open = async move {
            live(&self.state, how != Open::Read)?;
            let inner = self.inner.open(path, how).await?;
            let ino = inode(path).map_or(0, |i| i.0);
            let state = self.state.clone();
            let file = FaultyFile { inner, ino, state, path: path.into(), failed: false.into() };
            Ok(Box::new(file) as Box<dyn File>)
        };
        open.boxed()
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        async move {
            live(&self.state, false)?;
            self.inner.list(dir).await
        }
        .boxed()
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        async move {
            live(&self.state, false)?;
            self.inner.stat(path).await
        }
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let call = async move {
            live(&self.state, true)?;
            self.free(to);
            self.inner.rename(from, to).await
        };
        call.boxed()
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            live(&self.state, true)?;
            self.inner.link(from, to).await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let call = async move {
            live(&self.state, true)?;
            self.free(path);
            self.inner.remove(path).await
        };
        call.boxed()
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            live(&self.state, true)?;
            self.inner.remove_dir(path).await
        }
        .boxed()
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            live(&self.state, true)?;
            self.inner.create_dir(path).await
        }
        .boxed()
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            live(&self.state, true)?;
            self.inner.sync_dir(dir).await
        }
        .boxed()
    }

    fn free_space<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        let s = self.state();
        let free = match s.read_only {
            true => Err(ErrorKind::ReadOnlyFilesystem.into()),
            false => Ok(s.limit.map_or(1 << 40, |l| l.saturating_sub(s.used()))),
        };
        async move { free }.boxed()
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn File>,
    ino: u64,
    path: Box<str>,
    state: Arc<Mutex<State>>,
    failed: AtomicBool,
}

impl FaultyFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the use of a file that has failed.
    fn used(&self, what: &str) {
        if self.failed.load(Ordering::Relaxed) {
            let fault = format!("{}: {what} after an error", self.path);
            self.state().faults.push(fault);
        }
    }

    fn grow(&self, end: u64) -> io::Result<()> {
        let mut s = self.state();
        let (used, size) = (s.used(), s.sizes.get(&self.ino).copied().unwrap_or(0));
        if s.limit.is_some_and(|l| used + end.saturating_sub(size) > l) {
            return Err(io::Error::new(ErrorKind::StorageFull, format!("{}: full", self.path)));
        }
        s.sizes.insert(self.ino, size.max(end));
        Ok(())
    }

    async fn write(&self, off: u64, data: Bytes) -> io::Result<()> {
        live(&self.state, true)?;
        self.grow(off + data.len() as u64)?;
        self.inner.write_at(off, data).await
    }
}

impl File for FaultyFile {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.inner.read_at(off, len)
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.used("written");
        let failed = |r: &io::Result<()>| {
            self.failed.fetch_or(r.is_err(), Ordering::Relaxed);
        };
        self.write(off, data).inspect(failed).boxed()
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.inner.size()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.used("synced");
        let doomed = {
            let mut s = self.state();
            let mine = s.doomed.as_ref().is_some_and(|(part, _)| self.path.contains(part));
            if mine { s.doomed.take() } else { None }
        };
        async {
            live(&self.state, true)?;
            if let Some((_, go_on)) = doomed {
                go_on.notified().await;
                self.failed.store(true, Ordering::Relaxed);
                return Err(io::Error::other(format!("{}: pages are gone", self.path)));
            }
            self.inner.sync().await
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        self.inner.close()
    }
}
