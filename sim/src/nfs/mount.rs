//! The export as one process sees it: production's file system trait.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

use super::call::{Answer, Op};
use super::caller::Caller;
use super::handle::Handle;
use super::{Name, Shared};
use crate::tree::Done;

pub(super) struct Mount {
    caller: Caller,
    slots: Arc<Semaphore>,
}

impl Mount {
    pub(super) fn new(shared: Shared, host: Name, boot: u64, process: u64, slots: usize) -> Mount {
        let caller = Caller { shared, host, boot, process };
        Mount { caller, slots: Arc::new(Semaphore::new(slots)) }
    }

    fn run<'a, T, F>(
        &'a self,
        path: &'a str,
        work: impl FnOnce(Caller, String) -> F,
    ) -> BoxFuture<'a, io::Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = Done<T>> + Send + 'static,
    {
        syscall(&self.slots, path, work(self.caller.clone(), path.to_owned()))
    }
}

/// Runs a system call on a task of its own, as production does on a thread: a
/// caller that gives up does not end it, and its slot stays taken.
pub(super) fn syscall<'a, T: Send + 'static>(
    slots: &'a Arc<Semaphore>,
    path: &'a str,
    work: impl Future<Output = Done<T>> + Send + 'static,
) -> BoxFuture<'a, io::Result<T>> {
    async move {
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let task = tokio::spawn(async move {
            let done = work.await;
            drop(slot);
            done
        });
        match task.await {
            Ok(done) => done.map_err(|kind| error(kind, path)),
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => std::future::pending().await,
        }
    }
    .boxed()
}

fn error(kind: ErrorKind, path: &str) -> io::Error {
    match kind {
        ErrorKind::Other => io::Error::other(format!("{path}: input/output error")),
        kind => io::Error::new(kind, format!("{path}: {kind}")),
    }
}

impl FileSystem for Mount {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let slots = self.slots.clone();
        self.run(path, |c, path| async move {
            let open = || c.patiently(|distrust| c.open(&path, how, distrust));
            let (ino, told) = match how {
                Open::CreateNew => c.with_parent(&path, open).await?,
                _ => open().await?,
            };
            Ok(Box::new(Handle::new(c.clone(), slots, ino, path.clone(), how, told))
                as Box<dyn File>)
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.run(dir, |c, path| async move {
            match c.patiently(|distrust| c.list(&path, distrust)).await {
                Err(ErrorKind::NotFound) => Ok(Vec::new()),
                Err(e) => Err(e),
                Ok(names) => {
                    let entry = |(name, is_dir)| DirEntry { name, is_dir };
                    let mut all: Vec<DirEntry> = names.into_iter().map(entry).collect();
                    all.sort();
                    Ok(all)
                }
            }
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        self.run(path, |c, path| async move {
            let a = c.patiently(|distrust| c.stat(&path, distrust)).await?;
            let modified = std::time::UNIX_EPOCH + crate::net::EPOCH + a.modified;
            Ok(Meta { len: a.size, is_dir: a.is_dir, modified, inode: a.ino })
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let from = from.to_owned();
        self.run(to, |c, to| async move {
            c.with_parent(&to, || c.patiently(|distrust| c.rename(&from, &to, distrust))).await
        })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let from = from.to_owned();
        self.run(to, |c, to| async move {
            c.with_parent(&to, || c.patiently(|distrust| c.link(&from, &to, distrust))).await
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.run(
            path,
            |c, path| async move { c.patiently(|distrust| c.remove(&path, distrust)).await },
        )
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.run(path, |c, path| async move { c.remove_dir(&path).await })
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.run(path, |c, path| async move { c.make_dirs(&path).await })
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        // Names are durable at the server's reply; only the open costs a call.
        self.run(dir, |c, path| async move {
            let ino = c.patiently(|distrust| c.resolve(&path, distrust)).await?;
            c.ask(ino).await.map(drop)
        })
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.run(path, |c, _| async move {
            match c.call(Op::FsStat).await.answer? {
                Answer::Space(n) => Ok(n),
                _ => Err(ErrorKind::Other),
            }
        })
    }
}
