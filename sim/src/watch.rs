//! Stands between every process and its file system and knows who writes what:
//! no two processes have one file open for writing, nothing is written once it
//! has a stock name, and an index is never there without its data.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

use crate::ledger::{Books, Written, now};

#[derive(Debug, Default)]
struct State {
    /// Our own number of the file behind each name.
    names: BTreeMap<String, u64>,
    /// Processes that have a file open for writing, and how often.
    writers: BTreeMap<u64, BTreeMap<String, usize>>,
    /// Files that have, or had, a stock name.
    stock: BTreeSet<u64>,
    next: u64,
}

impl State {
    fn file(&mut self, path: &str) -> u64 {
        if let Some(n) = self.names.get(path) {
            return *n;
        }
        self.next += 1;
        self.names.insert(path.to_owned(), self.next);
        self.next
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Watch {
    state: Arc<Mutex<State>>,
    books: Books,
}

/// Whether a name belongs to the stock tree, where others read.
pub fn is_stock(path: &str) -> bool {
    let path = path.strip_prefix(crate::cluster::STORE).unwrap_or(path);
    !(path.starts_with("/fleet/") || path.starts_with("/temp/") || path.starts_with("/etc/"))
}

impl Watch {
    /// Complaints go into the books.
    pub fn new(books: Books) -> Self {
        Self { state: Arc::default(), books }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file system as `process` sees it, watched.
    pub fn mount(&self, process: &str, inner: Arc<dyn FileSystem>) -> Arc<dyn FileSystem> {
        Arc::new(Mount { watch: self.clone(), process: process.to_owned(), inner })
    }

    /// The process is gone, and with it what it had open.
    pub fn crash(&self, process: &str) {
        let mut s = self.lock();
        for w in s.writers.values_mut() {
            w.remove(process);
        }
    }

    fn complain(&self, invariant: &'static str, story: String) {
        self.books.lock().complain(invariant, story);
    }

    fn opened(&self, process: &str, path: &str) -> u64 {
        let (file, writers, stock) = {
            let mut s = self.lock();
            let file = s.file(path);
            let all = s.writers.entry(file).or_default();
            *all.entry(process.to_owned()).or_default() += 1;
            let writers: Vec<String> = all.keys().cloned().collect();
            (file, writers, s.stock.contains(&file) || is_stock(path))
        };
        if writers.len() > 1 {
            let story = format!("{path} is open for writing in {}", writers.join(" and "));
            self.complain("ONE_WRITER", story);
        }
        if stock {
            self.complain("ONE_WRITER", format!("{process} writes {path}, a stock name, in place"));
        }
        file
    }

    fn closed(&self, process: &str, file: u64) {
        let mut s = self.lock();
        if let Some(all) = s.writers.get_mut(&file)
            && let Some(n) = all.get_mut(process)
        {
            *n -= 1;
            if *n == 0 {
                all.remove(process);
            }
        }
    }

    /// Somebody gave a file this name.
    fn exists(&self, path: &str) {
        self.lock().file(path);
    }

    fn named(&self, from: &str, to: &str, keep: bool) {
        let early = {
            let mut s = self.lock();
            let file = s.file(from);
            if !keep {
                s.names.remove(from);
            }
            s.names.insert(to.to_owned(), file);
            if is_stock(to) {
                s.stock.insert(file);
            }
            // A result set's index points into its data.
            let data = to.strip_suffix(".index");
            data.is_some_and(|d| is_stock(to) && !s.names.contains_key(d))
        };
        if early {
            self.complain("NO_TORN_READ", format!("{to} has its name before its data"));
        }
    }
}

struct Mount {
    watch: Watch,
    process: String,
    inner: Arc<dyn FileSystem>,
}

impl FileSystem for Mount {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        async move {
            let inner = self.inner.open(path, how).await?;
            if how == Open::Read {
                return Ok(inner);
            }
            let file = self.watch.opened(&self.process, path);
            let watch = self.watch.clone();
            let process = self.process.clone();
            let path = path.to_owned();
            let handle = Handle { watch, process, path, file, inner: Some(inner) };
            Ok(Box::new(handle) as Box<dyn File>)
        }
        .boxed()
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.inner.list(dir)
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        self.inner.stat(path)
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            self.inner.rename(from, to).await?;
            self.watch.named(from, to, false);
            Ok(())
        }
        .boxed()
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            let done = self.inner.link(from, to).await;
            match &done {
                Ok(()) => self.watch.named(from, to, true),
                // Perhaps by a call of ours whose reply was lost.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.watch.exists(to),
                Err(_) => {}
            }
            done
        }
        .boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            self.inner.remove(path).await?;
            self.watch.lock().names.remove(path);
            Ok(())
        }
        .boxed()
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.inner.remove_dir(path)
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.inner.create_dir(path)
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.inner.sync_dir(dir)
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.inner.free_space(path)
    }
}

#[derive(Debug)]
struct Handle {
    watch: Watch,
    process: String,
    path: String,
    file: u64,
    inner: Option<Box<dyn File>>,
}

impl Handle {
    fn inner(&self) -> &dyn File {
        // Taken by `close` alone, which consumes the handle.
        self.inner.as_deref().unwrap_or_else(|| unreachable!("a closed file is used"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.watch.closed(&self.process, self.file);
    }
}

impl File for Handle {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.inner().read_at(off, len)
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        if self.watch.lock().stock.contains(&self.file) {
            let story = format!("{} writes to {}, which has a stock name", self.process, self.path);
            self.watch.complain("ONE_WRITER", story);
        }
        if self.path.ends_with(".journal") {
            let w = Written { at: now(), offset: off, data: data.clone() };
            self.watch.books.lock().journals.entry(self.path.clone()).or_default().push(w);
        }
        self.inner().write_at(off, data)
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.inner().size()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.inner().sync()
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        match self.inner.take() {
            Some(f) => f.close(),
            None => futures::future::ready(Ok(())).boxed(),
        }
    }
}
