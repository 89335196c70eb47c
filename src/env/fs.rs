//! Files as one host sees them: what a shared NFS mount can actually promise.
//!
//! Paths are absolute, `/`-separated strings. There is no append mode and no
//! locking: a writer knows its own offset, because every file has one writer.
//! A call that times out may still take effect later.

use std::fmt::Debug;
use std::io;
use std::time::SystemTime;

use futures::future::BoxFuture;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Existing file, for reading.
    Read,
    /// New file, read and write; `AlreadyExists` if the name is taken. Missing
    /// parent directories are made. The only open the file server arbitrates.
    CreateNew,
    /// Existing file, read and write. For private files of this process only.
    Write,
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Length in bytes (0 for directories).
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Last modification.
    pub modified: SystemTime,
    /// Identity within the file system: tells whether two names are one file.
    pub inode: u64,
}

/// What only `config check` asks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Details {
    /// Numeric id of the owner, as this host sees it.
    pub uid: u32,
    /// Major and minor number of the file system it is on.
    pub device: (u32, u32),
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name as stored; names that are not UTF-8 are shown lossily.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// File operations. Errors carry the path in their message.
pub trait FileSystem: Send + Sync {
    /// Opens or creates a file.
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>>;
    /// Names in a directory, sorted; a missing directory is empty. May be stale.
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>>;
    /// Facts about a name. `NotFound` may be a cached answer.
    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>>;
    /// Replaces `to` atomically; missing parents of `to` are made.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Gives the file a second name; never replaces (`AlreadyExists`). Missing
    /// parents of `to` are made.
    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Removes a file.
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Removes an empty directory.
    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Makes a directory and its parents.
    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Makes names created or renamed in `dir` survive power loss.
    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Bytes available to this process on the file system of `path`.
    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>>;
    /// Owner and device of a file; `Unsupported` where there are none.
    fn details<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Details>> {
        let text = format!("{path}: has no owner here");
        Box::pin(async { Err(io::Error::new(io::ErrorKind::Unsupported, text)) })
    }
}

/// An open file. Dropping it without [`File::close`] models a crash: bytes not
/// synced may vanish.
pub trait File: Send + Sync + Debug {
    /// Up to `len` bytes at `off`; shorter only at the end of the file.
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>>;
    /// Writes all of `data` at `off`.
    fn write_at(&self, off: u64, data: bytes::Bytes) -> BoxFuture<'_, io::Result<()>>;
    /// Current length in bytes.
    fn size(&self) -> BoxFuture<'_, io::Result<u64>>;
    /// Everything written is on stable storage when this returns `Ok`. After an
    /// error this file must not be synced again: its pages may be gone.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
    /// Flushes (close-to-open); deferred errors surface here.
    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// The parent of an absolute path (`/` for top-level names).
pub fn parent(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(i) => &path[..i],
    }
}

/// Reads a whole file of at most `limit` bytes; longer is `InvalidData`.
pub async fn read_limited(fs: &dyn FileSystem, path: &str, limit: usize) -> io::Result<Vec<u8>> {
    let f = fs.open(path, Open::Read).await?;
    let data = f.read_at(0, limit.saturating_add(1)).await?;
    if data.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path}: larger than the limit of {limit} bytes"),
        ));
    }
    Ok(data)
}

/// Creates `path`, which must not exist, with `data` on stable storage. What a
/// failure leaves is removed: on a full disk it would take what room there is.
pub async fn create_synced(fs: &dyn FileSystem, path: &str, data: &[u8]) -> io::Result<()> {
    let f = fs.open(path, Open::CreateNew).await?;
    let data = bytes::Bytes::copy_from_slice(data);
    let done = async {
        f.write_at(0, data).await?;
        f.sync().await?;
        f.close().await
    };
    let done = done.await;
    if done.is_err() {
        let _ = fs.remove(path).await;
    }
    done
}

/// Makes `path`, a name that this process alone makes, with `data` on stable
/// storage. If it is there already, it is this process's own, of an earlier call
/// whose reply was lost, and may be without its data.
pub async fn create_own(fs: &dyn FileSystem, path: &str, data: &[u8]) -> io::Result<()> {
    let f = match fs.open(path, Open::CreateNew).await {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs.open(path, Open::Write).await?,
        r => r?,
    };
    f.write_at(0, bytes::Bytes::copy_from_slice(data)).await?;
    f.sync().await?;
    f.close().await
}

/// Replaces `path` so that readers see the old or the new bytes, never a mix,
/// and the new ones survive power loss. `tmp` must be a name nobody else uses.
pub async fn replace(fs: &dyn FileSystem, tmp: &str, path: &str, data: &[u8]) -> io::Result<()> {
    create_synced(fs, tmp, data).await?;
    if let Err(e) = fs.rename(tmp, path).await {
        let _ = fs.remove(tmp).await;
        return Err(e);
    }
    fs.sync_dir(parent(path)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        assert_eq!(parent("/a/b/c"), "/a/b");
        assert_eq!(parent("/a"), "/");
        assert_eq!(parent("/a/b/"), "/a");
    }

    #[tokio::test]
    async fn replace_is_whole_and_create_new_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let fs = crate::env::real::env().fs;
        let p = format!("{root}/x/y.db");
        replace(&*fs, &format!("{root}/t/1"), &p, b"one").await.unwrap();
        replace(&*fs, &format!("{root}/t/2"), &p, b"two").await.unwrap();
        assert_eq!(read_limited(&*fs, &p, 10).await.unwrap(), b"two");
        let e = read_limited(&*fs, &p, 2).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        let e = create_synced(&*fs, &p, b"three").await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
        assert!(e.to_string().contains("y.db"), "{e}");
        let w = format!("{root}/z/w");
        fs.link(&p, &w).await.unwrap();
        assert_eq!(fs.stat(&p).await.unwrap().inode, fs.stat(&w).await.unwrap().inode);
        let e = fs.link(&p, &w).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::AlreadyExists);
        let names = fs.list(&format!("{root}/x")).await.unwrap();
        assert_eq!(names, [DirEntry { name: "y.db".into(), is_dir: false }]);
        assert!(fs.list(&format!("{root}/none")).await.unwrap().is_empty());
    }
}
