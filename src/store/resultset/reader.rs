//! Reading a simple result set.

use std::sync::Arc;

use bytes::Bytes;

use super::data::DataFile;
use super::index::{self, RowPos};
use super::lines::{Line, LineState, Lines, judge, moved_row};
use super::span::{Span, extent};
use crate::env::File;
use crate::store::objects::{StoreError, Tree};
use crate::store::path::FilePath;

/// How far before an indexed offset a line's end is looked for, in bytes.
const LOOK_BACK: u64 = 4096;
/// What a row of a page is thought to take, in bytes, and the least that is read.
const ROW: usize = 512;
const LEAST: usize = 16 << 10;

/// An open result set.
#[derive(Debug)]
pub struct ResultSet {
    data: Option<Arc<DataFile>>,
    index: Option<(Box<dyn File>, u64)>,
}

impl ResultSet {
    /// Opens a set; a missing data file is an empty set.
    pub async fn open(tree: &Tree, at: &FilePath) -> Result<ResultSet, StoreError> {
        let data = DataFile::open(tree, at).await?.map(Arc::new);
        let index = match (&data, tree.open_read(&tree.root.file(&at.index())?).await?) {
            (Some(_), Some(f)) => {
                let rows = index::rows(f.size().await?);
                Some((f, rows))
            }
            _ => None,
        };
        Ok(ResultSet { data, index })
    }

    /// Whether there is a data file at all.
    pub fn exists(&self) -> bool {
        self.data.is_some()
    }

    /// Logical bytes of the data file.
    pub fn size(&self) -> u64 {
        self.data.as_ref().map_or(0, |d| d.len())
    }

    /// Rows according to the index; `None` without an index ("unknown", which
    /// the API shows as -1).
    pub fn total_rows(&self) -> Option<u64> {
        match (&self.data, &self.index) {
            (None, _) => Some(0),
            (_, Some((_, rows))) => Some(*rows),
            (_, None) => None,
        }
    }

    /// Rows, counted by reading when there is no index.
    pub async fn count_rows(&self) -> Result<u64, StoreError> {
        match self.total_rows() {
            Some(n) => Ok(n),
            None => self.scan_rows().await,
        }
    }

    /// Rows found by reading the whole file, whatever the index says.
    pub async fn scan_rows(&self) -> Result<u64, StoreError> {
        let mut rows = self.scan_from(0);
        let mut n = 0;
        while rows.next().await?.is_some() {
            n += 1;
        }
        Ok(n)
    }

    /// Rows from number `start` on.
    pub async fn rows(&self, start: u64) -> Result<Rows, StoreError> {
        self.rows_by(start, usize::MAX).await
    }

    /// The same; the first read is of so many bytes.
    async fn rows_by(&self, start: u64, first: usize) -> Result<Rows, StoreError> {
        let (Some(data), true) = (&self.data, start > 0) else { return Ok(self.scan_from(0)) };
        let Some((index, total)) = &self.index else { return Ok(self.scan_from(start)) };
        if start >= *total {
            // Rows without an entry are remains of a torn write.
            return Ok(Rows { data: None, state: LineState::default(), skip: 0 });
        }
        let entry = index.read_at(start * index::ENTRY as u64, index::ENTRY).await?;
        let pos = index::parse(&entry).first().copied().unwrap_or_default();
        if !at_line_start(data, pos.offset).await? {
            tracing::debug!(path = data.path(), row = start, "stale row index, scanning");
            return Ok(self.scan_from(start));
        }
        let mut lines = Lines::resume(data, LineState::at(pos.offset).reading(first));
        for _ in 0..pos.skip {
            lines.next().await?;
        }
        Ok(Rows { data: Some(data.clone()), state: lines.into_state(), skip: 0 })
    }

    /// At most `count` rows from number `start` on, collected.
    pub async fn page(&self, start: u64, count: usize) -> Result<Vec<Bytes>, StoreError> {
        let first = count.saturating_mul(ROW).max(LEAST);
        let mut rows = self.rows_by(start, first).await?;
        let mut out = Vec::new();
        while out.len() < count {
            match rows.next().await? {
                Some(r) => out.push(r),
                None => break,
            }
        }
        Ok(out)
    }

    /// Rows from number `start` on, at most `count` and `most` bytes, with one read; fewer
    /// where they are large. `None` where they have to be read one after the other.
    pub async fn span(
        &self,
        start: u64,
        count: usize,
        most: u64,
    ) -> Result<Option<Span>, StoreError> {
        let (Some(data), Some(_)) = (&self.data, &self.index) else { return Ok(None) };
        if data.is_chunked() {
            return Ok(None);
        }
        let mut entries = self.positions(start, count.saturating_add(1)).await?;
        let more = entries.len() > count;
        let Some(first) = entries.first().copied() else { return Ok(None) };
        let Some((rows, end)) = extent(&entries, more, data.len(), most) else { return Ok(None) };
        if !at_line_start(data, first.offset).await? {
            return Ok(None);
        }
        entries.truncate(rows);
        let bytes = data.bytes(first.offset, end).await?;
        Ok(Some(Span::new(entries, bytes)))
    }

    /// The index entries of rows `start..start + count`, for those who write
    /// sets.
    pub async fn positions(&self, start: u64, count: usize) -> Result<Vec<RowPos>, StoreError> {
        let Some((f, _)) = &self.index else { return Ok(Vec::new()) };
        let at = start.saturating_mul(index::ENTRY as u64);
        Ok(index::parse(&f.read_at(at, count.saturating_mul(index::ENTRY)).await?))
    }

    fn scan_from(&self, skip: u64) -> Rows {
        Rows { data: self.data.clone(), state: LineState::default(), skip }
    }
}

/// Whether a line starts at `offset`: behind a newline and padding, or at the
/// start of the file or of a chunk.
async fn at_line_start(data: &DataFile, offset: u64) -> Result<bool, StoreError> {
    if offset == 0 || offset >= data.len() {
        return Ok(offset == 0);
    }
    if data.is_chunked() {
        // A look behind would inflate a chunk; an entry that is wrong shows as
        // a line that is no row, and is skipped.
        return Ok(true);
    }
    let from = offset.saturating_sub(LOOK_BACK);
    let before = data.bytes(from, offset).await?;
    let text = before.trim_ascii_end();
    Ok(text.len() < before.len() && before[text.len()..].contains(&b'\n') || text.is_empty())
}

/// Rows of a set in order, each one JSON object without newline. Keeps the file
/// open by itself.
#[derive(Debug)]
pub struct Rows {
    data: Option<Arc<DataFile>>,
    state: LineState,
    skip: u64,
}

impl Rows {
    /// The next row; lines that are not rows are passed over.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(data) = &self.data else { return Ok(None) };
        let mut lines = Lines::resume(data, std::mem::take(&mut self.state));
        let row = next_row(data, &mut lines, &mut self.skip).await;
        self.state = lines.into_state();
        row
    }
}

async fn next_row(
    data: &DataFile,
    lines: &mut Lines<'_>,
    skip: &mut u64,
) -> Result<Option<Bytes>, StoreError> {
    while let Some((_, line)) = lines.next().await? {
        let row = match judge(&line) {
            Line::Row(row) => Some(row),
            Line::Moved(at) => {
                let there = Lines::new(data, at).next().await?;
                there.and_then(|(_, line)| moved_row(&line))
            }
            Line::Skip => None,
        };
        match row {
            Some(_) if *skip > 0 => *skip -= 1,
            Some(row) => return Ok(Some(row)),
            None => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
