//! Uploaded files: dense, compressed or sparse, read by offset; their table
//! rows and sparse maps. Which upload is which is not known here.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::objects::{StoreError, Tree, read_whole};
use super::path::FilePath;
use super::resultset::DataFile;
use super::resultset::data::BLOCK;

mod map;
mod rows;

use map::{Stretch, stretches};
pub use map::{map_bytes, parse_map};
pub use rows::{UploadKind, UploadRow, go_time};

/// Largest sparse map read, in bytes.
const MAX_MAP: usize = 64 << 20;
/// Bytes of a hole given at once.
const ZEROS: usize = 64 << 10;
/// Exports expand sparse files up to this many bytes regardless of the ratio.
pub const MAX_EXPAND: u64 = 100 << 20;

/// How holes of a sparse file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// As zeros: the file as it was on the client.
    Padded,
    /// Not at all: the bytes stored.
    Skipped,
}

/// An uploaded file, open for reading.
#[derive(Debug)]
pub struct Upload {
    data: DataFile,
    map: Option<Result<Vec<Stretch>, String>>,
}

impl Upload {
    /// Opens an upload with its chunk index and sparse map; `None` when there
    /// is none.
    pub async fn open(tree: &Tree, at: &FilePath) -> Result<Option<Upload>, StoreError> {
        let Some(data) = DataFile::open(tree, at).await? else { return Ok(None) };
        let path = tree.root.file(&at.sparse_index())?;
        let map = read_whole(&*tree.fs, &path, MAX_MAP)
            .await?
            .map(|raw| parse_map(&raw).and_then(|r| stretches(&r)));
        Ok(Some(Upload { data, map }))
    }

    /// Whether there is a sparse map.
    pub fn is_sparse(&self) -> bool {
        self.map.is_some()
    }

    /// Bytes stored (inflated).
    pub fn stored_size(&self) -> u64 {
        self.data.len()
    }

    /// Bytes a reader gets.
    pub fn size(&self, holes: Holes) -> Result<u64, StoreError> {
        Ok(match self.stretches(holes)? {
            Some(s) => s.last().map_or(0, |s| s.end),
            None => self.data.len(),
        })
    }

    /// Whether an export should expand it, with a limit of `max` bytes: small
    /// enough, or mostly data.
    pub fn worth_expanding(&self, max: u64) -> Result<bool, StoreError> {
        let size = self.size(Holes::Padded)?;
        Ok(size < max || size <= self.data.len().saturating_mul(2))
    }

    fn stretches(&self, holes: Holes) -> Result<Option<&[Stretch]>, StoreError> {
        match (&self.map, holes) {
            (Some(Ok(s)), Holes::Padded) => Ok(Some(s)),
            (Some(Err(e)), Holes::Padded) => Err(StoreError::corrupt(self.data.path(), e)),
            _ => Ok(None),
        }
    }

    /// The next bytes from `at` on, as many as are at hand; `None` at the end.
    /// Follow with `at` plus their length.
    pub async fn piece(&self, holes: Holes, at: u64) -> Result<Option<Bytes>, StoreError> {
        let whole = [Stretch { start: 0, end: self.data.len(), source: Some(0) }];
        let list = self.stretches(holes)?.unwrap_or(&whole);
        let Some(s) = list.get(list.partition_point(|s| s.end <= at)) else { return Ok(None) };
        let left = usize::try_from(s.end - at).unwrap_or(usize::MAX);
        let Some(source) = s.source else { return Ok(Some(zeros(left))) };
        let from = source + (at - s.start);
        match self.data.block(from, BLOCK).await? {
            Some((start, block)) if start == from => Ok(Some(block.slice(..block.len().min(left)))),
            // A chunk is missing: zeros keep what follows in its place.
            Some((start, _)) => {
                Ok(Some(zeros(left.min(usize::try_from(start - from).unwrap_or(left)))))
            }
            None => Err(StoreError::corrupt(self.data.path(), "data ends before its map")),
        }
    }

    /// Up to `len` bytes from `at` on; shorter only at the end.
    pub async fn read(&self, holes: Holes, at: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        while out.len() < len {
            let Some(piece) = self.piece(holes, at.saturating_add(out.len() as u64)).await? else {
                break;
            };
            out.extend_from_slice(&piece[..piece.len().min(len - out.len())]);
        }
        Ok(out)
    }

    /// Lower-case hex SHA-256 of what a reader gets.
    pub async fn sha256(&self, holes: Holes) -> Result<String, StoreError> {
        let mut hash = Sha256::new();
        let mut at = 0;
        while let Some(piece) = self.piece(holes, at).await? {
            hash.update(&piece);
            at += piece.len() as u64;
        }
        Ok(hex::encode(hash.finalize()))
    }
}

fn zeros(len: usize) -> Bytes {
    static ZERO: [u8; ZEROS] = [0; ZEROS];
    Bytes::from_static(&ZERO[..len.min(ZEROS)])
}

#[cfg(test)]
mod tests;
