//! Parts of other accessors' trees put together to one tree. Where it came from
//! does not show in the paths it gives.

use std::io;
use std::sync::Arc;

use vql::Str;

use super::accessor::{Accessor, FileInfo, Range, ReadSeek, UNKNOWN};
use super::path::{Kind, OsPath};

/// A tree of one accessor at a place of the whole.
#[derive(Clone)]
pub struct Mount {
    /// Where it is.
    pub at: Vec<Str>,
    /// What answers for it.
    pub accessor: Arc<dyn Accessor>,
    /// The directory of that accessor that is seen there.
    pub from: OsPath,
}

/// See the module.
pub struct Mounts {
    /// How paths of the whole are read.
    pub kind: Kind,
    /// Of two that hold a path the longer one counts, then the later.
    pub mounts: Vec<Mount>,
}

impl Mounts {
    fn same(&self, a: &Str, b: &Str) -> bool {
        match self.kind.ignores_case() {
            true => a.as_bytes().eq_ignore_ascii_case(b.as_bytes()),
            false => a == b,
        }
    }

    fn begins(&self, path: &[Str], with: &[Str]) -> bool {
        path.len() >= with.len() && with.iter().zip(path).all(|(a, b)| self.same(a, b))
    }

    /// The mount that holds a path, and the path in it.
    fn find(&self, path: &OsPath) -> Option<(&Mount, OsPath)> {
        let parts = &path.components;
        let holding = self.mounts.iter().filter(|m| self.begins(parts, &m.at));
        let mount = holding.max_by_key(|m| m.at.len())?;
        let mut inside = mount.from.clone();
        inside.components.extend_from_slice(&parts[mount.at.len()..]);
        Some((mount, inside))
    }

    /// What a mount says of a file, by its place in the whole.
    fn seen(&self, mut info: FileInfo, mount: &Mount, whole: &OsPath) -> FileInfo {
        let below = info.path.components.get(mount.from.components.len()..).unwrap_or_default();
        let mut path = OsPath { components: mount.at.clone(), kind: self.kind, delegate: None };
        path.components.extend_from_slice(below);
        path.delegate.clone_from(&whole.delegate);
        info.path = path;
        info
    }

    /// Names of mounts, or of directories that lead to them, directly below a path.
    fn names_below(&self, path: &OsPath) -> Vec<Str> {
        let depth = path.components.len();
        let mut out: Vec<Str> = Vec::new();
        for m in self.mounts.iter().filter(|m| self.begins(&m.at, &path.components)) {
            if let Some(name) = m.at.get(depth)
                && !out.iter().any(|n| self.same(n, name))
            {
                out.push(name.clone());
            }
        }
        out
    }

    fn directory(&self, path: OsPath) -> FileInfo {
        let mut info = FileInfo::plain(path, 0);
        info.mode = 0o040_755;
        info.times = [UNKNOWN; 4];
        info
    }
}

impl Accessor for Mounts {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let found = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        found.0.accessor.open(&found.1)
    }

    fn device(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let found = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        found.0.accessor.device(&found.1)
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        match self.find(path) {
            Some((mount, inside)) => Ok(self.seen(mount.accessor.lstat(&inside)?, mount, path)),
            None if !self.names_below(path).is_empty() => Ok(self.directory(path.clone())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn stat(&self, path: &OsPath) -> io::Result<FileInfo> {
        match self.find(path) {
            Some((mount, inside)) => Ok(self.seen(mount.accessor.stat(&inside)?, mount, path)),
            None => self.lstat(path),
        }
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let names = self.names_below(path);
        let mut out = match self.find(path) {
            Some((mount, inside)) => match mount.accessor.read_dir(&inside) {
                Ok(all) => all.into_iter().map(|info| self.seen(info, mount, path)).collect(),
                Err(e) if names.is_empty() => return Err(e),
                Err(_) => Vec::new(),
            },
            None if names.is_empty() => return Err(io::ErrorKind::NotFound.into()),
            None => Vec::new(),
        };
        for name in names {
            let known =
                |i: &FileInfo| i.path.components.last().is_some_and(|n| self.same(n, &name));
            if out.iter().any(known) {
                continue;
            }
            let mut below = OsPath { kind: self.kind, ..path.clone() };
            below.components.push(name);
            // What is put there has no size of its own.
            let mut info = self.lstat(&below).unwrap_or_else(|_| self.directory(below));
            info.size = 0;
            out.push(info);
        }
        Ok(out)
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let found = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        found.0.accessor.ranges(&found.1)
    }
}
