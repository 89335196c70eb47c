//! A data file read by logical offset, whether stored plain or compressed.

use bytes::Bytes;

use super::chunk::{self, Chunk};
use crate::env::File;
use crate::store::objects::{StoreError, Tree, read_whole};
use crate::store::path::FilePath;

/// Bytes read at once from a plain file.
pub const BLOCK: usize = 256 << 10;
/// Largest chunk index read, in bytes.
const MAX_CHUNK_INDEX: usize = 64 << 20;

/// An open data file.
#[derive(Debug)]
pub struct DataFile {
    file: Box<dyn File>,
    path: String,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    Plain(u64),
    Chunked(Vec<Chunk>),
}

impl DataFile {
    /// Opens a file and, if there is one, its chunk index. `None` when there is
    /// no such file. Bytes written later are not seen.
    pub async fn open(tree: &Tree, at: &FilePath) -> Result<Option<DataFile>, StoreError> {
        let path = tree.root.file(at)?;
        let chunks = tree.root.file(&at.chunk())?;
        DataFile::open_paths(tree, &path, &chunks).await
    }

    /// The same by absolute paths.
    pub async fn open_paths(
        tree: &Tree,
        path: &str,
        chunks: &str,
    ) -> Result<Option<DataFile>, StoreError> {
        let Some(file) = tree.open_read(path).await? else { return Ok(None) };
        let len = file.size().await?;
        let layout = match read_whole(&*tree.fs, chunks, MAX_CHUNK_INDEX).await? {
            Some(index) => Layout::Chunked(chunk::parse(&index, len)),
            None => Layout::Plain(len),
        };
        Ok(Some(DataFile { file, path: path.to_owned(), layout }))
    }

    /// Logical size in bytes.
    pub fn len(&self) -> u64 {
        match &self.layout {
            Layout::Plain(len) => *len,
            Layout::Chunked(c) => c.iter().map(Chunk::end).max().unwrap_or(0),
        }
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is stored compressed.
    pub fn is_chunked(&self) -> bool {
        matches!(self.layout, Layout::Chunked(_))
    }

    /// Its absolute path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The bytes from one offset to another of a plain file; fewer where it ends.
    pub(super) async fn bytes(&self, from: u64, to: u64) -> Result<Bytes, StoreError> {
        let len = usize::try_from(to.saturating_sub(from))
            .map_err(|e| StoreError::corrupt(&self.path, e))?;
        Ok(self.file.read_at(from, len).await?.into())
    }

    /// Bytes from logical offset `at` on, at most `most` of a plain file, with the offset they really start
    /// at (behind `at` when a compressed file has a gap there). `None` at the
    /// end. The next block starts where this one ends.
    pub async fn block(&self, at: u64, most: usize) -> Result<Option<(u64, Bytes)>, StoreError> {
        match &self.layout {
            Layout::Plain(len) => {
                let want = len.saturating_sub(at).min(most.min(BLOCK) as u64) as usize;
                if want == 0 {
                    return Ok(None);
                }
                let data = self.file.read_at(at, want).await?;
                Ok((!data.is_empty()).then(|| (at, data.into())))
            }
            Layout::Chunked(chunks) => {
                let Some(c) = chunks.get(chunk::locate(chunks, at)) else { return Ok(None) };
                let len = usize::try_from(c.compressed)
                    .map_err(|e| StoreError::corrupt(&self.path, e))?;
                let stream = self.file.read_at(c.at, len).await?;
                let data = Bytes::from(
                    chunk::inflate(c, &stream).map_err(|e| StoreError::corrupt(&self.path, e))?,
                );
                // The chunk ends behind `at`, so some of it is left.
                let skip = at.saturating_sub(c.file_offset).min(data.len() as u64);
                Ok(Some((c.file_offset + skip, data.slice(skip as usize..))))
            }
        }
    }
}
