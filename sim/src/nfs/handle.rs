//! An open file of one process.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use velociraptor::env::{File, Open};

use super::call::{Answer, Op};
use super::caller::Caller;
use super::kernel::{Cached, PAGE};
use super::lock;
use super::machine::Origin;
use super::mount::syscall;
use crate::tree::{Done, Ino};

/// The descriptor: closed when the last call on it has ended.
struct Descriptor {
    caller: Caller,
    ino: Ino,
    path: String,
    writes: bool,
    /// The server knows that it is open (version 4).
    told: bool,
    failures: std::sync::atomic::AtomicU64,
}

pub(super) struct Handle {
    file: Arc<Descriptor>,
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("path", &self.file.path).finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(
        caller: Caller,
        slots: Arc<Semaphore>,
        ino: Ino,
        path: String,
        how: Open,
        told: bool,
    ) -> Handle {
        let writes = how != Open::Read;
        let mut m = lock(&caller.shared);
        let mut failures = 0;
        if let Some(c) = m.hosts.get_mut(&caller.host).and_then(|h| h.inodes.get_mut(&ino)) {
            c.opens += 1;
            c.writers += u32::from(writes);
            failures = c.wb.failure.before();
        }
        if writes {
            m.oracle.opened(ino, (caller.host.clone(), caller.process), &path);
        }
        drop(m);
        let failures = failures.into();
        let file = Arc::new(Descriptor { caller, ino, path, writes, told, failures });
        Handle { file, slots }
    }

    fn run<T, F>(&self, work: impl FnOnce(Arc<Descriptor>) -> F) -> BoxFuture<'_, io::Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = Done<T>> + Send + 'static,
    {
        syscall(&self.slots, &self.file.path, work(self.file.clone()))
    }
}

impl Drop for Descriptor {
    /// The kernel closes what a process leaves open: what was written is sent.
    fn drop(&mut self) {
        let (host, ino) = (&self.caller.host, self.ino);
        let mut m = lock(&self.caller.shared);
        let Some(h) = m.hosts.get_mut(host).filter(|h| h.boot == self.caller.boot) else { return };
        let mut last = false;
        if let Some(c) = h.inodes.get_mut(&ino) {
            c.opens = c.opens.saturating_sub(1);
            c.writers = c.writers.saturating_sub(u32::from(self.writes));
            last = c.opens == 0;
        }
        let silly = if last { h.silly.remove(&ino) } else { None };
        if self.writes {
            m.oracle.closed(ino, &(host.clone(), self.caller.process));
            m.write_back(host, ino, true);
        }
        if self.told {
            m.submit(host, Op::Close { ino }, Origin::Nobody);
        }
        if let Some((dir, name)) = silly {
            m.submit(host, Op::Remove { dir, name }, Origin::Nobody);
        }
    }
}

impl Descriptor {
    fn cached<T>(&self, work: impl FnOnce(&mut Cached) -> T) -> Done<T> {
        let mut m = lock(&self.caller.shared);
        let h = m.hosts.get_mut(&self.caller.host).filter(|h| h.boot == self.caller.boot);
        let c = h.and_then(|h| h.inodes.get_mut(&self.ino));
        c.map(work).ok_or(ErrorKind::StaleNetworkFileHandle)
    }

    /// A write-back failure this descriptor has not been told of.
    fn failure(&self) -> Done<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let seen = self.failures.load(Relaxed);
        let now = self.cached(|c| c.wb.failure.tell(seen))?;
        self.failures.store(now.count, Relaxed);
        match now.why {
            Some(why) if now.count > seen => Err(why),
            _ => Ok(()),
        }
    }

    async fn size(&self) -> Done<u64> {
        // fstat(2) sends what was written, to learn the server's times.
        self.caller.flush(self.ino).await;
        Ok(self.caller.attr(self.ino).await?.size)
    }

    async fn read(&self, off: u64, len: usize) -> Done<Vec<u8>> {
        // Production asks for the length first.
        self.size().await?;
        loop {
            let most = lock(&self.caller.shared)
                .hosts
                .get(&self.caller.host)
                .map_or(4096, |h| h.opts.rsize);
            let missing = self.cached(|c| {
                let len = len.min(c.size.saturating_sub(off) as usize);
                (len, c.missing(off, len, most))
            })?;
            let (at, want) = match missing {
                (len, Ok(None)) => return self.cached(|c| c.bytes(off, len)),
                (_, Ok(Some(run))) => run,
                (_, Err(())) => {
                    self.caller.flush(self.ino).await;
                    continue;
                }
            };
            self.fetch(at, want).await?;
        }
    }

    async fn fetch(&self, off: u64, len: usize) -> Done<()> {
        let op = Op::Read { ino: self.ino, off, len };
        match self.caller.call(op).await.answer? {
            Answer::Data { bytes, .. } => self.cached(|c| c.fill(off, len, &bytes)),
            _ => Err(ErrorKind::Other),
        }
    }

    async fn write(&self, off: u64, data: Bytes) -> Done<()> {
        if !self.writes {
            return Err(ErrorKind::PermissionDenied);
        }
        if !self.caller.lives() {
            return std::future::pending().await;
        }
        {
            let mut m = lock(&self.caller.shared);
            if m.oracle.watches_names() {
                let paths = m.server.tree.paths(self.ino);
                m.oracle.writes(&paths, &(self.caller.host.clone(), self.caller.process));
            }
        }
        while let Some(page) = self.cached(|c| c.fetch_first(off, data.len()))? {
            self.fetch(page, PAGE).await?;
        }
        while !self.cached(|c| c.store(off, &data))? {
            self.caller.flush(self.ino).await;
        }
        let through = {
            let mut m = lock(&self.caller.shared);
            m.dirtied(&self.caller.host, self.ino);
            m.hosts.get(&self.caller.host).is_some_and(|h| h.opts.sync)
        };
        if through { self.sync().await } else { Ok(()) }
    }

    async fn sync(&self) -> Done<()> {
        self.caller.flush(self.ino).await;
        if !self.caller.lives() {
            return std::future::pending().await;
        }
        self.failure()
    }
}

impl File for Handle {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.run(|f| async move { f.read(off, len).await })
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.run(|f| async move { f.write(off, data).await })
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.run(|f| async move { f.size().await })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.run(|f| async move { f.sync().await })
    }

    /// Sends what was written. Failures are swallowed, as production's close
    /// swallows them: only [`File::sync`] tells.
    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        async move {
            let Handle { file, slots } = *self;
            let path = file.path.clone();
            let work = async move {
                if file.writes {
                    file.caller.flush(file.ino).await;
                }
                Ok(())
            };
            syscall(&slots, &path, work).await
        }
        .boxed()
    }
}
