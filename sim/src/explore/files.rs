//! A file server that serves one call at a time, when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Done,
    /// It is carried out and the answer lost: the client sends it again, and is
    /// told what the second try finds.
    Repeated,
    /// It is carried out, and the caller told that it failed.
    Doubtful,
    /// The caller is told that it failed; it is carried out later.
    Late,
}

/// A call that waits to be served.
pub(super) struct Waiting {
    pub(super) process: usize,
    /// Whether a repeat finds something else than the first try.
    pub(super) changes: bool,
    pub(super) go: oneshot::Sender<Fate>,
}

/// A call of which nobody awaits the answer any more.
pub(super) type Orphan = Box<dyn FnOnce(&mut Server) + Send>;

#[derive(Default)]
pub(super) struct Server {
    files: BTreeMap<String, (u64, Vec<u8>)>,
    next: u64,
    pub(super) waiting: Vec<Waiting>,
    pub(super) orphans: Vec<Orphan>,
    /// Processes that were killed: their calls are never answered.
    pub(super) dead: BTreeSet<usize>,
    pub(super) log: Vec<String>,
}

pub(super) type Shared = Arc<Mutex<Server>>;

pub(super) fn lock(s: &Shared) -> MutexGuard<'_, Server> {
    s.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server as one process sees it; `None` is served at once.
pub(super) struct Mount {
    pub(super) shared: Shared,
    pub(super) process: Option<usize>,
}

type Names = BTreeMap<String, (u64, Vec<u8>)>;

fn fail<T>(kind: ErrorKind, path: &str) -> io::Result<T> {
    Err(io::Error::new(kind, format!("{path}: {kind}")))
}

impl Mount {
    fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        path: String,
        changes: bool,
        f: impl Fn(&mut Server) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let (shared, process) = (self.shared.clone(), self.process);
        async move {
            let Some(p) = process else { return f(&mut lock(&shared)) };
            let (go, told) = oneshot::channel();
            lock(&shared).waiting.push(Waiting { process: p, changes, go });
            let Ok(fate) = told.await else { return std::future::pending().await };
            let mut s = lock(&shared);
            let done = match fate {
                Fate::Done => f(&mut s),
                Fate::Repeated => {
                    let _ = f(&mut s);
                    f(&mut s)
                }
                Fate::Doubtful => {
                    let _ = f(&mut s);
                    fail(ErrorKind::TimedOut, &path)
                }
                Fate::Late => {
                    let late = path.clone();
                    s.orphans.push(Box::new(move |s| {
                        let how = f(s).err().map(|e| e.kind());
                        s.log.push(format!("{p} {what} {late} lands: {how:?}"));
                    }));
                    fail(ErrorKind::TimedOut, &path)
                }
            };
            let how = done.as_ref().err().map(|e| e.kind());
            s.log.push(format!("{p} {what} {path} {fate:?} {how:?}"));
            done
        }
        .boxed()
    }
}

impl FileSystem for Mount {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let changes = how == Open::CreateNew;
        let (p, shared) = (path.to_owned(), self.shared.clone());
        self.call("open", path.to_owned(), changes, move |s| {
            let path = p.as_str();
            match (how, s.files.contains_key(path)) {
                (Open::CreateNew, true) => return fail(ErrorKind::AlreadyExists, path),
                (Open::CreateNew, false) => {
                    s.next += 1;
                    let ino = s.next;
                    s.files.insert(path.to_owned(), (ino, Vec::new()));
                }
                (_, true) => {}
                (_, false) => return fail(ErrorKind::NotFound, path),
            }
            let ino = s.files.get(path).map_or(0, |f| f.0);
            Ok(Box::new(Handle { shared: shared.clone(), ino }) as Box<dyn File>)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        let at = format!("{}/", dir.trim_end_matches('/'));
        self.call("list", dir.to_owned(), false, move |s| {
            let below = s.files.keys().filter_map(|n| n.strip_prefix(&at));
            let out: BTreeSet<DirEntry> = below
                .map(|rest| match rest.split_once('/') {
                    Some((d, _)) => DirEntry { name: d.to_owned(), is_dir: true },
                    None => DirEntry { name: rest.to_owned(), is_dir: false },
                })
                .collect();
            Ok(out.into_iter().collect())
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        let p = path.to_owned();
        self.call("stat", path.to_owned(), false, move |s| match s.files.get(&p) {
            Some((inode, data)) => Ok(Meta {
                len: data.len() as u64,
                is_dir: false,
                modified: UNIX_EPOCH,
                inode: *inode,
            }),
            None => fail(ErrorKind::NotFound, &p),
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let (f, t) = (from.to_owned(), to.to_owned());
        self.call("rename", format!("{from} {to}"), true, move |s| match s.files.remove(&f) {
            Some(file) => {
                s.files.insert(t.clone(), file);
                Ok(())
            }
            None => fail(ErrorKind::NotFound, &f),
        })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let (f, t) = (from.to_owned(), to.to_owned());
        self.call("link", format!("{from} {to}"), true, move |s| {
            if s.files.contains_key(&t) {
                return fail(ErrorKind::AlreadyExists, &t);
            }
            match s.files.get(&f).cloned() {
                Some(file) => {
                    s.files.insert(t.clone(), file);
                    Ok(())
                }
                None => fail(ErrorKind::NotFound, &f),
            }
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let p = path.to_owned();
        self.call("remove", path.to_owned(), true, move |s| match s.files.remove(&p) {
            Some(_) => Ok(()),
            None => fail(ErrorKind::NotFound, &p),
        })
    }

    fn remove_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let at = format!("{}/", dir.trim_end_matches('/'));
        self.call("rmdir", dir.to_owned(), false, move |s| {
            match s.files.keys().any(|n| n.starts_with(&at)) {
                true => fail(ErrorKind::DirectoryNotEmpty, &at),
                false => Ok(()),
            }
        })
    }

    fn create_dir<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn sync_dir<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn free_space<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        futures::future::ready(Ok(1 << 40)).boxed()
    }
}

/// Calls on an open file are served at once: what matters here are names.
struct Handle {
    shared: Shared,
    ino: u64,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("ino", &self.ino).finish_non_exhaustive()
    }
}

impl Handle {
    fn with<T>(&self, f: impl Fn(&mut Vec<u8>) -> T) -> io::Result<T> {
        let files: &mut Names = &mut lock(&self.shared).files;
        let mut out = None;
        // A file has the same bytes under all its names.
        for (_, data) in files.values_mut().filter(|(ino, _)| *ino == self.ino) {
            out = Some(f(data));
        }
        out.ok_or_else(|| ErrorKind::StaleNetworkFileHandle.into())
    }
}

impl File for Handle {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let read = self.with(|data| {
            let from = (off as usize).min(data.len());
            data[from..from.saturating_add(len).min(data.len())].to_vec()
        });
        futures::future::ready(read).boxed()
    }

    fn write_at(&self, off: u64, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let end = off as usize + bytes.len();
        let written = self.with(|data| {
            if data.len() < end {
                data.resize(end, 0);
            }
            data[off as usize..end].copy_from_slice(&bytes);
        });
        futures::future::ready(written).boxed()
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        futures::future::ready(self.with(|data| data.len() as u64)).boxed()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }
}

impl Server {
    pub(super) fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }
}
