//! The accessor `raw_ext4`: files of an ext2, ext3 or ext4 file system in an image. Reads only,
//! and what is written in the journal alone is not seen.

mod blocks;
mod inode;
mod open;
mod volume;

use std::io;
use std::sync::Arc;

use vql::Str;

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek};
use super::last::Last;
use super::path::OsPath;
use inode::Inode;
use volume::Volume;

/// Number of the inode of the root.
const ROOT: u32 = 2;
/// See the module.
pub struct Ext4Images {
    /// What images are read with.
    below: Accessors,
    /// The volume used last.
    last: Last<Arc<Volume>>,
}

impl Ext4Images {
    /// Images are read with `below`.
    pub fn new(below: Accessors) -> Ext4Images {
        Ext4Images { below, last: Last::default() }
    }

    /// The volume a path is in, and the inode of the path.
    fn find(&self, path: &OsPath) -> io::Result<(Arc<Volume>, Inode)> {
        let of = path.delegate.as_deref();
        let of = of.ok_or_else(|| io::Error::other("a path in no image"))?;
        let open = || Ok(Arc::new(Volume::open(self.below.open_outer(path)?)?));
        let volume = self.last.or_open(of, open)?;
        let mut found = volume.inode(ROOT)?;
        for part in &path.components {
            let entries = volume.entries(&found)?;
            let exact = entries.iter().find(|(name, _)| name == part);
            // Who asks may know the name from a system without cases.
            let same = |(name, _): &&(Str, u32)| {
                name.to_text().to_lowercase() == part.to_text().to_lowercase()
            };
            let entry = exact.or_else(|| entries.iter().find(same));
            found = volume.inode(entry.ok_or(io::ErrorKind::NotFound)?.1)?;
        }
        Ok((volume, found))
    }
}

impl Accessor for Ext4Images {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        // What directories hold are their entries, as they are on the disk.
        let (volume, inode) = self.find(path)?;
        volume.open_file(&inode)
    }

    fn device(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        self.below.open_outer(path)
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        Ok(self.find(path)?.1.info(path.clone()))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let (volume, inode) = self.find(path)?;
        let mut out = Vec::new();
        for (name, number) in volume.entries(&inode)? {
            let below = path.join(name);
            out.push(match volume.inode(number) {
                Ok(inode) => inode.info(below),
                // The name is there, whatever became of the file.
                Err(e) => {
                    let mut info = FileInfo::plain(below, 0);
                    info.data.set("error", e.to_string());
                    info
                }
            });
        }
        out.sort_by(|a, b| a.path.components.last().cmp(&b.path.components.last()));
        Ok(out)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
