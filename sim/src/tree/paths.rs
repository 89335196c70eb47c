//! The tree by whole paths, for who needs no caches.

use bytes::Bytes;

use super::*;

/// The names of a `/`-separated path from the top.
pub(crate) fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|p| !p.is_empty())
}

/// Refuses a rename between a directory and what is below it, as the kernel
/// does before it asks any file system.
pub(crate) fn check_rename(from: &str, to: &str) -> Done<()> {
    let below = |a: &str, b: &str| {
        let (mut a, mut b) = (parts(a), parts(b));
        loop {
            match (a.next(), b.next()) {
                (None, Some(_)) => return true,
                (Some(x), Some(y)) if x == y => {}
                _ => return false,
            }
        }
    };
    if below(from, to) {
        return Err(ErrorKind::InvalidInput);
    }
    if below(to, from) {
        return Err(ErrorKind::DirectoryNotEmpty);
    }
    Ok(())
}

impl Tree {
    /// The file or directory at a path.
    pub fn walk(&self, path: &str) -> Done<Ino> {
        parts(path).try_fold(ROOT, |at, name| Ok(self.lookup(at, name)?.ino))
    }

    /// The directory of a path's last name, and that name (empty at the top).
    pub fn walk_to<'p>(&self, path: &'p str) -> Done<(Ino, &'p str)> {
        let mut names: Vec<&str> = parts(path).collect();
        let last = names.pop().unwrap_or_default();
        let dir = names.into_iter().try_fold(ROOT, |at, name| Ok(self.lookup(at, name)?.ino))?;
        self.dir(dir)?;
        Ok((dir, last))
    }

    /// Every path of a file or directory, in order.
    pub fn paths(&self, ino: Ino) -> Vec<String> {
        let Ok(n) = self.node(ino) else { return Vec::new() };
        if ino == ROOT {
            return vec![String::new()];
        }
        let of = |(dir, name): &(Ino, String)| {
            self.paths(*dir).into_iter().map(|d| format!("{d}/{name}")).collect::<Vec<_>>()
        };
        n.names.iter().flat_map(of).collect()
    }

    /// Every file's path, in order.
    pub fn files(&self) -> Vec<String> {
        let files = self.nodes.iter().filter(|(_, n)| matches!(n.body, Body::File(_)));
        let mut all: Vec<String> = files.flat_map(|(i, _)| self.paths(*i)).collect();
        all.sort();
        all
    }

    /// The bytes of a file, those not yet stable included.
    pub fn get(&mut self, path: &str) -> Option<Vec<u8>> {
        let ino = self.walk(path).ok()?;
        Some(self.read(ino, 0, usize::MAX).ok()?.0.to_vec())
    }

    /// Puts a file there, durably, with its directories, whatever was there. A
    /// path that leads through a file is left alone.
    pub fn put(&mut self, path: &str, data: &[u8]) {
        let _ = self.try_put(path, data);
        self.commit_names();
    }

    fn try_put(&mut self, path: &str, data: &[u8]) -> Done<()> {
        let now = Duration::ZERO;
        let mut names: Vec<&str> = parts(path).collect();
        let last = names.pop().ok_or(ErrorKind::IsADirectory)?;
        let mut dir = ROOT;
        for name in names {
            dir = match self.lookup(dir, name) {
                Ok(a) => a.ino,
                Err(_) => self.mkdir(dir, name, now)?.ino,
            };
        }
        if self.lookup(dir, last).is_ok() {
            self.remove(dir, last, now)?;
        }
        let ino = self.create(dir, last, now)?.ino;
        self.write(ino, 0, Bytes::copy_from_slice(data), true, now)?;
        Ok(())
    }
}
