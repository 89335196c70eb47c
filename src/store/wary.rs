//! A file that nobody uses again after an error. Knows nothing of what is in it.
//!
//! When a sync fails, the kernel may have dropped the pages it could not write, and has
//! told so once: the next sync of that descriptor succeeds although data is missing. So
//! whoever shares a file with others must hear of the error of any of them: here all
//! writes and syncs after the first that failed fail too.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::env::File;

/// See the module.
#[derive(Debug)]
pub struct Wary {
    file: Box<dyn File>,
    path: Box<str>,
    failed: AtomicBool,
}

/// A call of which nobody heard how it ended has failed.
struct UnderWay<'a> {
    failed: &'a AtomicBool,
    done: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Wary {
    /// `file`, opened at `path`.
    pub fn new(file: Box<dyn File>, path: &str) -> Self {
        Self { file, path: path.into(), failed: AtomicBool::new(false) }
    }

    /// Whether something failed: nothing more is to be written to it.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn refuse(&self) -> io::Result<()> {
        match self.has_failed() {
            true => Err(io::Error::other(format!(
                "{}: a write or sync of it failed before; it is not used again",
                self.path
            ))),
            false => Ok(()),
        }
    }

    async fn watch<'a>(
        &'a self,
        call: impl FnOnce() -> BoxFuture<'a, io::Result<()>>,
    ) -> io::Result<()> {
        self.refuse()?;
        let mut under_way = UnderWay { failed: &self.failed, done: false };
        call().await?;
        // What another call met meanwhile may be of what this one wrote.
        self.refuse()?;
        under_way.done = true;
        Ok(())
    }
}

impl File for Wary {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.file.read_at(off, len)
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        async move { self.watch(|| self.file.write_at(off, data)).await }.boxed()
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.file.size()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        async move { self.watch(|| self.file.sync()).await }.boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        self.file.close()
    }
}
