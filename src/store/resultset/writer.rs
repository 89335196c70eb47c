//! Writing whole new sets to private names. Who gives them their stock names,
//! and when, is not known here.

use bytes::{BufMut, Bytes, BytesMut};

use super::index::RowPos;
use super::tidx::TimeEntry;
use crate::env::{File, FileSystem, Open};
use crate::store::objects::StoreError;

/// Bytes gathered before a write.
const BUFFER: usize = 1 << 20;

/// What a finished writer wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Bytes of the data file.
    pub bytes: u64,
}

/// The canonical bytes of a set that fits in memory, and its index: the rows
/// of `jsonl` in order, blank lines left out, one exact entry per row.
///
/// Lines are taken as they are; `None` when an offset does not fit an entry.
pub fn canonical(jsonl: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut data, mut index) = (Vec::with_capacity(jsonl.len() + 1), Vec::new());
    for line in rows_of(jsonl) {
        let pos = RowPos { offset: data.len() as u64, skip: 0 };
        index.extend_from_slice(&pos.encode()?.to_le_bytes());
        data.extend_from_slice(line);
        data.push(b'\n');
    }
    Some((data, index))
}

/// The non-blank lines of a blob, without newlines.
pub fn rows_of(jsonl: &[u8]) -> impl Iterator<Item = &[u8]> {
    jsonl.split(|&c| c == b'\n').filter(|l| !l.trim_ascii().is_empty())
}

/// A new file written front to back.
#[derive(Debug)]
struct Appender {
    file: Box<dyn File>,
    at: u64,
    buf: BytesMut,
}

impl Appender {
    async fn create(fs: &dyn FileSystem, path: &str) -> Result<Appender, StoreError> {
        Ok(Appender { file: fs.open(path, Open::CreateNew).await?, at: 0, buf: BytesMut::new() })
    }

    fn len(&self) -> u64 {
        self.at + self.buf.len() as u64
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if !self.buf.is_empty() {
            let data = self.buf.split().freeze();
            let n = data.len() as u64;
            self.file.write_at(self.at, data).await?;
            self.at += n;
        }
        Ok(())
    }

    async fn push(&mut self, parts: &[&[u8]]) -> Result<(), StoreError> {
        for p in parts {
            self.buf.put_slice(p);
        }
        if self.buf.len() >= BUFFER { self.flush().await } else { Ok(()) }
    }

    async fn finish(mut self) -> Result<(), StoreError> {
        self.flush().await?;
        self.file.sync().await?;
        Ok(self.file.close().await?)
    }
}

/// Writes a simple set: `.json` and `.json.index`.
#[derive(Debug)]
pub struct SetWriter {
    data: Appender,
    index: Appender,
    rows: u64,
}

impl SetWriter {
    /// Creates both files; neither name may exist.
    pub async fn create(
        fs: &dyn FileSystem,
        data: &str,
        index: &str,
    ) -> Result<SetWriter, StoreError> {
        let data = Appender::create(fs, data).await?;
        Ok(SetWriter { data, index: Appender::create(fs, index).await?, rows: 0 })
    }

    /// Adds one row: a JSON object without newline, stored as it is.
    pub async fn row(&mut self, row: &[u8]) -> Result<(), StoreError> {
        let at = RowPos { offset: self.data.len(), skip: 0 };
        let entry = at.encode().ok_or_else(|| StoreError::Corrupt {
            path: "result set".into(),
            reason: "larger than a row index can address".into(),
        })?;
        self.data.push(&[row, b"\n"]).await?;
        self.index.push(&[&entry.to_le_bytes()]).await?;
        self.rows += 1;
        Ok(())
    }

    /// Adds the rows of a blob, blank lines left out; returns how many.
    pub async fn jsonl(&mut self, blob: &Bytes) -> Result<u64, StoreError> {
        let before = self.rows;
        for row in rows_of(blob) {
            self.row(row).await?;
        }
        Ok(self.rows - before)
    }

    /// Makes both durable, the data first.
    pub async fn finish(self) -> Result<Written, StoreError> {
        let written = Written { rows: self.rows, bytes: self.data.len() };
        self.data.finish().await?;
        self.index.finish().await?;
        Ok(written)
    }
}

/// Writes a timed set: `.json` and `.json.tidx`.
#[derive(Debug)]
pub struct TimedWriter {
    data: Appender,
    index: Appender,
    rows: u64,
}

impl TimedWriter {
    /// Creates both files; neither name may exist.
    pub async fn create(
        fs: &dyn FileSystem,
        data: &str,
        index: &str,
    ) -> Result<TimedWriter, StoreError> {
        let data = Appender::create(fs, data).await?;
        Ok(TimedWriter { data, index: Appender::create(fs, index).await?, rows: 0 })
    }

    /// Adds one row that happened at `nanos` (Unix time). Readers search by
    /// time, so rows should come in order.
    pub async fn row(&mut self, nanos: i64, row: &[u8]) -> Result<(), StoreError> {
        let entry = TimeEntry { nanos, offset: self.data.len(), annotation: 0 };
        self.data.push(&[row, b"\n"]).await?;
        self.index.push(&[&entry.encode()]).await?;
        self.rows += 1;
        Ok(())
    }

    /// Makes both durable, the data first.
    pub async fn finish(self) -> Result<Written, StoreError> {
        let written = Written { rows: self.rows, bytes: self.data.len() };
        self.data.finish().await?;
        self.index.finish().await?;
        Ok(written)
    }
}
