//! File operations through a gate.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

use super::Gate;

pub(super) struct GatedFs {
    inner: Arc<dyn FileSystem>,
    gate: Gate,
}

impl GatedFs {
    pub(super) fn new(inner: Arc<dyn FileSystem>, gate: Gate) -> GatedFs {
        GatedFs { inner, gate }
    }
}

macro_rules! through {
    ($self:ident, $call:expr) => {{
        let call = $self.gate.through($call);
        async move { $self.gate.met(call.await) }.boxed()
    }};
}

impl FileSystem for GatedFs {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let open = self.gate.through(self.inner.open(path, how));
        let wrap = |inner| Box::new(GatedFile { inner, gate: self.gate.clone() }) as Box<dyn File>;
        async move { Ok(wrap(self.gate.met(open.await)?)) }.boxed()
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        through!(self, self.inner.list(dir))
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        through!(self, self.inner.stat(path))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        through!(self, self.inner.rename(from, to))
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        through!(self, self.inner.link(from, to))
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        through!(self, self.inner.remove(path))
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        through!(self, self.inner.remove_dir(path))
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        through!(self, self.inner.create_dir(path))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        through!(self, self.inner.sync_dir(dir))
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        through!(self, self.inner.free_space(path))
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Box<dyn File>,
    gate: Gate,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

impl File for GatedFile {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        through!(self, self.inner.read_at(off, len))
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        through!(self, self.inner.write_at(off, data))
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        through!(self, self.inner.size())
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        through!(self, self.inner.sync())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        let GatedFile { inner, gate } = *self;
        async move { gate.met(gate.through(inner.close()).await) }.boxed()
    }
}
