//! Wrappers around a file system: one counts what is asked of it, one gives
//! every call a deadline. Neither changes what a call does.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::env::{Details, DirEntry, Env, File, FileSystem, Meta, Open};

/// How long a file operation may take before its caller is told that it
/// failed; it may still take effect.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// `env` with a deadline on every file operation, and the counters of what is
/// asked through it; operations that run out of time count as failed.
pub fn guard(env: &Env, limit: Duration) -> (Env, Arc<CountingFs>) {
    let counting = Arc::new(CountingFs::new(Arc::new(DeadlineFs::new(env.fs.clone(), limit))));
    (Env { fs: counting.clone(), ..env.clone() }, counting)
}

macro_rules! counters {
    ($($name:ident: $doc:literal,)*) => {
        /// File operations asked for since the start, by kind.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct OpCounts {
            $(#[doc = $doc] pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            fn snapshot(&self) -> OpCounts {
                OpCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl OpCounts {
            /// Name and value of each, for metrics.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// What was asked between two readings.
            pub fn since(&self, earlier: &OpCounts) -> OpCounts {
                OpCounts { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    open: "Existing files opened.",
    create: "New files created.",
    read: "Reads.",
    write: "Writes.",
    size: "Lengths asked of open files.",
    sync: "Files made durable.",
    sync_dir: "Directories made durable.",
    close: "Files closed.",
    rename: "Renames.",
    link: "Links.",
    list: "Directory listings.",
    stat: "Questions about names, free space included.",
    remove: "Files and directories removed.",
    mkdir: "Directories made.",
    failed: "Operations of any kind that failed, `NotFound` and `AlreadyExists` excepted.",
    bytes_read: "Bytes read.",
    bytes_written: "Bytes written.",
}

impl OpCounts {
    /// Operations that wait for the file server.
    pub fn total(&self) -> u64 {
        self.named()
            .iter()
            .filter(|n| !n.0.starts_with("bytes_") && n.0 != "failed")
            .map(|n| n.1)
            .sum()
    }
}

/// Counts operations.
pub struct CountingFs {
    inner: Arc<dyn FileSystem>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for CountingFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CountingFs").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl CountingFs {
    /// Counts what goes to `inner` from now on.
    pub fn new(inner: Arc<dyn FileSystem>) -> CountingFs {
        CountingFs { inner, counters: Arc::default() }
    }

    /// The counts so far.
    pub fn counts(&self) -> OpCounts {
        self.counters.snapshot()
    }

    fn track<'a, T: 'a>(
        &'a self,
        counter: &AtomicU64,
        call: BoxFuture<'a, io::Result<T>>,
    ) -> BoxFuture<'a, io::Result<T>> {
        counter.fetch_add(1, Ordering::Relaxed);
        noting(&self.counters, call)
    }
}

/// Counts the failure of a call, if it fails.
fn noting<'a, T: 'a>(
    counters: &'a Counters,
    call: BoxFuture<'a, io::Result<T>>,
) -> BoxFuture<'a, io::Result<T>> {
    call.inspect(|r| {
        if let Err(e) = r
            && !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
        {
            counters.failed.fetch_add(1, Ordering::Relaxed);
        }
    })
    .boxed()
}

impl FileSystem for CountingFs {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let c = &self.counters;
        let counter = if how == Open::CreateNew { &c.create } else { &c.open };
        let call = self.track(counter, self.inner.open(path, how));
        async move {
            let inner = call.await?;
            Ok(Box::new(CountingFile { inner, counters: c.clone() }) as Box<dyn File>)
        }
        .boxed()
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.track(&self.counters.list, self.inner.list(dir))
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        self.track(&self.counters.stat, self.inner.stat(path))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.track(&self.counters.rename, self.inner.rename(from, to))
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.track(&self.counters.link, self.inner.link(from, to))
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.track(&self.counters.remove, self.inner.remove(path))
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.track(&self.counters.remove, self.inner.remove_dir(path))
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.track(&self.counters.mkdir, self.inner.create_dir(path))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.track(&self.counters.sync_dir, self.inner.sync_dir(dir))
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.track(&self.counters.stat, self.inner.free_space(path))
    }

    fn details<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Details>> {
        self.track(&self.counters.stat, self.inner.details(path))
    }
}

#[derive(Debug)]
struct CountingFile {
    inner: Box<dyn File>,
    counters: Arc<Counters>,
}

impl CountingFile {
    fn track<'a, T: 'a>(
        &'a self,
        counter: &AtomicU64,
        call: BoxFuture<'a, io::Result<T>>,
    ) -> BoxFuture<'a, io::Result<T>> {
        counter.fetch_add(1, Ordering::Relaxed);
        noting(&self.counters, call)
    }
}

impl File for CountingFile {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let c = &self.counters;
        self.track(&c.read, self.inner.read_at(off, len))
            .inspect(|r| {
                let n = r.as_ref().map_or(0, Vec::len) as u64;
                c.bytes_read.fetch_add(n, Ordering::Relaxed);
            })
            .boxed()
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let c = &self.counters;
        c.bytes_written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.track(&c.write, self.inner.write_at(off, data))
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.track(&self.counters.size, self.inner.size())
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.track(&self.counters.sync, self.inner.sync())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        self.counters.close.fetch_add(1, Ordering::Relaxed);
        self.inner.close()
    }
}

/// Gives every operation a deadline: past it the caller gets `TimedOut`. The
/// operation may still take effect, so a timed-out write is "unknown", never
/// "not done".
pub struct DeadlineFs {
    inner: Arc<dyn FileSystem>,
    limit: Duration,
}

impl std::fmt::Debug for DeadlineFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadlineFs").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl DeadlineFs {
    /// Calls to `inner` may take `limit` each; [`DEADLINE`] in production.
    pub fn new(inner: Arc<dyn FileSystem>, limit: Duration) -> DeadlineFs {
        DeadlineFs { inner, limit }
    }

    fn within<'a, T: Send + 'a>(
        &self,
        path: &'a str,
        call: BoxFuture<'a, io::Result<T>>,
    ) -> BoxFuture<'a, io::Result<T>> {
        within(self.limit, path, call).boxed()
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let text = format!("{what}: no answer within {limit:?}; it may still take effect");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

impl FileSystem for DeadlineFs {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let limit = self.limit;
        async move {
            let inner = within(limit, path, self.inner.open(path, how)).await?;
            Ok(Box::new(DeadlineFile { inner, path: path.into(), limit }) as Box<dyn File>)
        }
        .boxed()
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.within(dir, self.inner.list(dir))
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        self.within(path, self.inner.stat(path))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.within(to, self.inner.rename(from, to))
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.within(to, self.inner.link(from, to))
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.within(path, self.inner.remove(path))
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.within(path, self.inner.remove_dir(path))
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.within(path, self.inner.create_dir(path))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.within(dir, self.inner.sync_dir(dir))
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.within(path, self.inner.free_space(path))
    }

    fn details<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Details>> {
        self.within(path, self.inner.details(path))
    }
}

#[derive(Debug)]
struct DeadlineFile {
    inner: Box<dyn File>,
    path: Box<str>,
    limit: Duration,
}

impl File for DeadlineFile {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        within(self.limit, &self.path, self.inner.read_at(off, len)).boxed()
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        within(self.limit, &self.path, self.inner.write_at(off, data)).boxed()
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        within(self.limit, &self.path, self.inner.size()).boxed()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        within(self.limit, &self.path, self.inner.sync()).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        let DeadlineFile { inner, path, limit } = *self;
        async move { within(limit, &path, inner.close()).await }.boxed()
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
