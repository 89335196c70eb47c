//! A store that can be stalled: every call below a directory waits as long as a
//! certain file is there, as with a file server that answers nobody.
//!
//! A hook in front of the real file system, in processes of a demo alone: nothing
//! that serves in production knows it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::env::{DirEntry, Env, File, FileSystem, Meta, Open, fs::Details};

/// How often the file is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The gate: open while the file is not there.
#[derive(Clone, Debug)]
struct Gate(watch::Receiver<bool>);

impl Gate {
    async fn pass(&self) {
        // The sender lives as long as the process.
        let _ = self.0.clone().wait_for(|open| *open).await;
    }
}

struct Stalling {
    inner: Arc<dyn FileSystem>,
    below: String,
    gate: Gate,
}

/// `env` with a store below `store` that waits while there is a file `path`.
pub fn stallable(env: &Env, store: &str, path: &str) -> Env {
    let (open, gate) = watch::channel(true);
    let (fs, path) = (env.fs.clone(), path.to_owned());
    env.spawn(async move {
        loop {
            let there = fs.stat(&path).await.is_ok();
            open.send_replace(!there);
            sleep(LOOK).await;
        }
    });
    let below = format!("{}/", store.trim_end_matches('/'));
    Env { fs: Arc::new(Stalling { inner: env.fs.clone(), below, gate: Gate(gate) }), ..env.clone() }
}

impl Stalling {
    async fn pass(&self, path: &str) {
        if path.starts_with(&self.below) || format!("{path}/") == self.below {
            self.gate.pass().await;
        }
    }
}

impl FileSystem for Stalling {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        Box::pin(async move {
            self.pass(path).await;
            let inner = self.inner.open(path, how).await?;
            let gated = path.starts_with(&self.below);
            let file = StallingFile { inner, gate: self.gate.clone() };
            Ok(if gated { Box::new(file) as Box<dyn File> } else { file.inner })
        })
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        Box::pin(async move {
            self.pass(dir).await;
            self.inner.list(dir).await
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        Box::pin(async move {
            self.pass(path).await;
            self.inner.stat(path).await
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.pass(from).await;
            self.inner.rename(from, to).await
        })
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.pass(from).await;
            self.inner.link(from, to).await
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.pass(path).await;
            self.inner.remove(path).await
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.pass(path).await;
            self.inner.remove_dir(path).await
        })
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.pass(path).await;
            self.inner.create_dir(path).await
        })
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.pass(dir).await;
            self.inner.sync_dir(dir).await
        })
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        Box::pin(async move {
            self.pass(path).await;
            self.inner.free_space(path).await
        })
    }

    fn details<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Details>> {
        Box::pin(async move {
            self.pass(path).await;
            self.inner.details(path).await
        })
    }
}

#[derive(Debug)]
struct StallingFile {
    inner: Box<dyn File>,
    gate: Gate,
}

impl File for StallingFile {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(async move {
            self.gate.pass().await;
            self.inner.read_at(off, len).await
        })
    }

    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.gate.pass().await;
            self.inner.write_at(off, data).await
        })
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        Box::pin(async move {
            self.gate.pass().await;
            self.inner.size().await
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.gate.pass().await;
            self.inner.sync().await
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            self.gate.pass().await;
            self.inner.close().await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::fs::replace;

    #[tokio::test]
    async fn calls_wait_while_the_file_is_there() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().display().to_string();
        let (store, mark) = (format!("{dir}/ds"), format!("{dir}/stall"));
        let real = crate::env::real::env();
        let env = stallable(&real, &store, &mark);
        let path = format!("{store}/a");
        replace(&*env.fs, &format!("{store}/a.new"), &path, b"1").await.unwrap();
        replace(&*real.fs, &format!("{mark}.new"), &mark, b"").await.unwrap();
        sleep(LOOK * 3).await;
        let (e, p) = (env.clone(), path.clone());
        let call = tokio::spawn(async move { e.fs.stat(&p).await.map(|m| m.len) });
        sleep(LOOK * 3).await;
        assert!(!call.is_finished());
        assert_eq!(env.fs.stat(&mark).await.unwrap().len, 0, "elsewhere nothing waits");
        real.fs.remove(&mark).await.unwrap();
        assert_eq!(call.await.unwrap().unwrap(), 1);
    }
}
