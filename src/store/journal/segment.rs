//! Journal files as things others hold on to.
//!
//! A [`Segment`] may be deleted once nobody refers to it: whoever still needs a
//! record, as the only copy of some rows or of a decision not yet written
//! elsewhere, holds its `Arc`.

use std::cmp::Ordering;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::epoch::{journal_path, spill_path};
use super::process::ProcessId;
use crate::env::{File, FileSystem, Open};

/// One journal or spill file. Two are equal if they have the same path.
#[derive(Debug)]
pub struct Segment {
    /// Absolute path.
    pub path: String,
    process: ProcessId,
    file: Option<u64>,
    end: OnceLock<u64>,
    doomed: AtomicBool,
}

impl Segment {
    /// A file that is no journal, of no process in particular.
    pub fn of_path(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            process: ProcessId::default(),
            file: None,
            end: OnceLock::new(),
            doomed: AtomicBool::new(false),
        }
    }

    /// Journal file `file` of `process`, below the directory `fleet`.
    pub fn journal(fleet: &str, process: &ProcessId, file: u64) -> Self {
        let path = journal_path(fleet, process, file);
        Self { process: process.clone(), file: Some(file), ..Self::of_path(path) }
    }

    /// The private file `name` of `process` that holds bulk data.
    pub fn spill(fleet: &str, process: &ProcessId, name: &str) -> Self {
        let path = spill_path(fleet, process, name);
        Self { process: process.clone(), ..Self::of_path(path) }
    }

    /// Who wrote it.
    pub fn process(&self) -> &ProcessId {
        &self.process
    }

    /// Its number among the journal files of its process; `None` for others.
    pub fn file(&self) -> Option<u64> {
        self.file
    }

    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Bytes in it, known once nothing more is written to it.
    pub fn end(&self) -> Option<u64> {
        self.end.get().copied()
    }

    /// Nothing more is written to it; it ends at `end`.
    pub fn close(&self, end: u64) {
        let _ = self.end.set(end);
    }

    /// It is about to be deleted.
    pub fn doom(&self) {
        self.doomed.store(true, Relaxed);
    }

    /// Whether it is about to be deleted.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Relaxed)
    }
}

impl PartialEq for Segment {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Segment {}

impl PartialOrd for Segment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Segment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path.cmp(&other.path)
    }
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
        self.read_from(&*fs.open(&self.segment.path, Open::Read).await?).await
    }

    /// The same from the open file.
    pub(super) async fn read_from(&self, f: &dyn File) -> io::Result<Bytes> {
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
