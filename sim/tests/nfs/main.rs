//! What the simulated NFS promises and what it takes away, one rule a test.
//!
//! The rules are those of real kernels; docs/NFS.md says where each was
//! measured.
#![allow(missing_docs)]

mod caches;
mod data;
mod late;
mod measured;
mod posix;
mod server;
mod store;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sim::nfs::{FileServer, Kind, MountOptions, ServerOptions};
use velociraptor::env::{File, FileSystem, Open};

type Fs = Arc<dyn FileSystem>;

fn nas() -> FileServer {
    FileServer::on_tokio(1, ServerOptions::default())
}

/// Two hosts with the same options.
fn two(options: MountOptions) -> (FileServer, Fs, Fs) {
    let nas = nas();
    let (a, b) = (nas.mount("a", options.clone()), nas.mount("b", options));
    (nas, a, b)
}

async fn secs(n: f64) {
    tokio::time::sleep(Duration::from_secs_f64(n)).await;
}

async fn write(f: &dyn File, off: u64, data: &str) {
    f.write_at(off, Bytes::copy_from_slice(data.as_bytes())).await.unwrap();
}

/// A new file, closed: its bytes are at the server.
async fn create(fs: &Fs, path: &str, data: &str) {
    let f = fs.open(path, Open::CreateNew).await.unwrap();
    write(&*f, 0, data).await;
    f.sync().await.unwrap();
    f.close().await.unwrap();
}

async fn text(fs: &Fs, path: &str) -> io::Result<String> {
    let f = fs.open(path, Open::Read).await?;
    contents(&*f).await
}

async fn contents(f: &dyn File) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&f.read_at(0, 1 << 20).await?).into_owned())
}

async fn exists(fs: &Fs, path: &str) -> bool {
    match fs.stat(path).await {
        Ok(_) => true,
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => panic!("{e}"),
    }
}

async fn names(fs: &Fs, dir: &str) -> Vec<String> {
    fs.list(dir).await.unwrap().into_iter().map(|e| e.name).collect()
}

/// How long until `path` is there, in seconds.
async fn appears_after(fs: &Fs, path: &str) -> f64 {
    let start = tokio::time::Instant::now();
    while !exists(fs, path).await {
        assert!(start.elapsed() < Duration::from_secs(100), "{path} never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    start.elapsed().as_secs_f64()
}

fn count(nas: &FileServer, host: &str, kind: Kind) -> u64 {
    nas.counts().get(&(host.to_owned(), kind)).copied().unwrap_or(0)
}
