//! The mount table of a process: which file system a path is on.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor::env::{DirEntry, File, FileSystem, Meta, Open};

/// Several file systems as one. Paths are cut at the mount point, so a file
/// server knows `/a` for what its clients call `/store/a`.
pub struct Mounts {
    /// Mount point without a closing slash (empty is the top), longest first.
    table: Vec<(String, Arc<dyn FileSystem>)>,
}

impl Mounts {
    /// A table of mount points (`/` is the top) and file systems.
    pub fn new(table: impl IntoIterator<Item = (String, Arc<dyn FileSystem>)>) -> Mounts {
        let cut = |(at, fs): (String, _)| (at.trim_end_matches('/').to_owned(), fs);
        let mut table: Vec<_> = table.into_iter().map(cut).collect();
        table.sort_by_key(|(at, _)| std::cmp::Reverse(at.len()));
        Mounts { table }
    }

    /// Number of the file system, it, and the path on it.
    fn on<'a>(&'a self, path: &'a str) -> io::Result<(usize, &'a dyn FileSystem, &'a str)> {
        let find = |(n, (at, fs)): (usize, &'a (String, Arc<dyn FileSystem>))| {
            let rest = path.strip_prefix(at.as_str())?;
            match rest {
                "" => Some((n, &**fs, "/")),
                rest => rest.starts_with('/').then_some((n, &**fs, rest)),
            }
        };
        let found = self.table.iter().enumerate().find_map(find);
        found.ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("{path}: not mounted")))
    }

    fn pair<'a>(
        &'a self,
        from: &'a str,
        to: &'a str,
    ) -> io::Result<(&'a dyn FileSystem, &'a str, &'a str)> {
        let ((m, fs, from), (n, _, at)) = (self.on(from)?, self.on(to)?);
        if m != n {
            let text = format!("{to}: on another file system than {from}");
            return Err(io::Error::new(ErrorKind::CrossesDevices, text));
        }
        Ok((fs, from, at))
    }
}

fn failed<'a, T: Send + 'a>(e: io::Error) -> BoxFuture<'a, io::Result<T>> {
    futures::future::ready(Err(e)).boxed()
}

macro_rules! on {
    ($self:ident, $path:ident, $fs:ident => $call:expr) => {
        match $self.on($path) {
            Ok((_, $fs, $path)) => $call,
            Err(e) => failed(e),
        }
    };
}

impl FileSystem for Mounts {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        on!(self, path, fs => fs.open(path, how))
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        on!(self, dir, fs => fs.list(dir))
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        on!(self, path, fs => fs.stat(path))
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        match self.pair(from, to) {
            Ok((fs, from, to)) => fs.rename(from, to),
            Err(e) => failed(e),
        }
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        match self.pair(from, to) {
            Ok((fs, from, to)) => fs.link(from, to),
            Err(e) => failed(e),
        }
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        on!(self, path, fs => fs.remove(path))
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        on!(self, path, fs => fs.remove_dir(path))
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        on!(self, path, fs => fs.create_dir(path))
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        on!(self, dir, fs => fs.sync_dir(dir))
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        on!(self, path, fs => fs.free_space(path))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::disk::Disk;

    #[tokio::test]
    async fn paths_go_to_the_longest_mount_point() {
        let (top, store) = (Disk::default(), Disk::default());
        let mount = |d: &Disk| d.mount("a", Duration::ZERO);
        let m = Mounts::new([("/".to_owned(), mount(&top)), ("/store".to_owned(), mount(&store))]);
        for path in ["/store/a/b", "/storeroom", "/etc/x"] {
            m.open(path, Open::CreateNew).await.unwrap();
        }
        assert_eq!(store.names(), ["/a/b"]);
        assert_eq!(top.names(), ["/etc/x", "/storeroom"]);
        assert_eq!(m.list("/store").await.unwrap().len(), 1);
        let e = m.rename("/etc/x", "/store/x").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::CrossesDevices);
        m.link("/store/a/b", "/store/c").await.unwrap();
    }
}
