//! The accessor `raw_file`: devices and files of this host by the path as it is written.
//! Disks can be read with it, which `file` refuses.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // reads the real host

use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use vql::Dict;

use super::accessor::{Accessor, FileInfo, ReadSeek};
use super::path::{Kind, OsPath};

/// See the module.
pub struct RawFiles {
    /// What `/` stands for.
    pub root: PathBuf,
}

impl RawFiles {
    fn native(&self, path: &OsPath) -> PathBuf {
        OsPath::linux(&path.inner_bytes()).native(&self.root)
    }
}

impl Accessor for RawFiles {
    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let native = self.native(path);
        // A pipe or a terminal could block for ever.
        let kind = std::fs::metadata(&native)?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::other("neither a file nor a disk"));
        }
        Ok(Box::new(std::fs::File::open(native)?))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let native = self.native(path);
        let m = std::fs::symlink_metadata(&native)?;
        let mut info = FileInfo::plain(path.clone(), m.size());
        // The size of a disk is where it ends.
        if m.file_type().is_block_device()
            && let Ok(mut disk) = std::fs::File::open(&native)
        {
            info.size = disk.seek(SeekFrom::End(0))?;
        }
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        info.mode = m.mode();
        info.times = [
            ns(m.mtime(), m.mtime_nsec()),
            ns(m.atime(), m.atime_nsec()),
            ns(m.ctime(), m.ctime_nsec()),
            super::accessor::UNKNOWN,
        ];
        info.identity = (m.dev(), m.ino());
        info.data = Dict::new()
            .with("DevMajor", rustix::fs::major(m.dev()))
            .with("DevMinor", rustix::fs::minor(m.dev()));
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn files_by_their_text() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a:b"), "content").unwrap();
        let files = RawFiles { root: dir.path().into() };
        let path = files.read(b"/a:b");
        assert_eq!((path.to_text().as_str(), path.components.len()), ("/a:b", 1));
        let mut out = String::new();
        files.open(&path).unwrap().read_to_string(&mut out).unwrap();
        assert_eq!((out.as_str(), files.lstat(&path).unwrap().size), ("content", 7));
        assert!(files.open(&files.read(b"/")).is_err());
        let whole = RawFiles { root: "/".into() };
        assert!(whole.open(&whole.read(b"/dev/null")).is_err());
    }
}
