//! Journal files as things others hold on to.
//!
//! A [`Segment`] may be deleted once nobody refers to it: whoever still needs a
//! record, as the only copy of some rows or of a decision not yet written
//! elsewhere, holds its `Arc`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{FileSystem, Open};

/// One journal or spill file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Absolute path.
    pub path: String,
}

/// Bytes inside a segment; keeps the segment alive.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The file.
    pub segment: Arc<Segment>,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Extent {
    /// Reads the bytes; fewer than promised is `UnexpectedEof`.
    pub async fn read(&self, fs: &dyn FileSystem) -> io::Result<Bytes> {
        let f = fs.open(&self.segment.path, Open::Read).await?;
        let len = usize::try_from(self.len).map_err(io::Error::other)?;
        let data = f.read_at(self.offset, len).await?;
        if data.len() != len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{}: {} bytes at {} wanted, {} found",
                    self.segment.path,
                    self.len,
                    self.offset,
                    data.len()
                ),
            ));
        }
        Ok(Bytes::from(data))
    }
}
