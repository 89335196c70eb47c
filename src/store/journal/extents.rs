//! Reads what extents name, one after another. Each opening of a file asks the
//! file server, and thousands of messages are in one journal: so files stay open
//! between reads, a few of them, since the parts of a set come from several nodes.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::segment::{Extent, Segment};
use crate::env::{File, FileSystem, Open};

/// Files kept open: those that a few nodes write at one time.
const KEPT: usize = 8;

/// For one pass over extents. To be dropped with it: what a host believes of a
/// file's length may be old as long as the file is open.
pub struct Extents<'a> {
    fs: &'a dyn FileSystem,
    /// The one used last is the last.
    open: Vec<(Arc<Segment>, Box<dyn File>)>,
}

impl std::fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extents").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

impl<'a> Extents<'a> {
    /// Nothing is open yet.
    pub fn new(fs: &'a dyn FileSystem) -> Extents<'a> {
        Extents { fs, open: Vec::new() }
    }

    /// The bytes of one; fewer than promised is `UnexpectedEof`.
    pub async fn read(&mut self, extent: &Extent) -> io::Result<Bytes> {
        let known = self.open.iter().position(|(s, _)| *s == extent.segment);
        if let Some((segment, file)) = known.map(|i| self.open.remove(i)) {
            // A file that has grown since, or was lost: opening it asks the server.
            if let Ok(data) = extent.read_from(&*file).await {
                self.open.push((segment, file));
                return Ok(data);
            }
        }
        let file = self.fs.open(&extent.segment.path, Open::Read).await?;
        let data = extent.read_from(&*file).await?;
        if self.open.len() == KEPT {
            self.open.remove(0);
        }
        self.open.push((extent.segment.clone(), file));
        Ok(data)
    }
}
