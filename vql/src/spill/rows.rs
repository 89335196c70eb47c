//! Rows in a temporary file, written once and read any number of times.

use super::encode::{decode, encode};
use super::{Spill, SpillFile, SpillFiles, lost};
use crate::log::Level;
use crate::scope::Scope;
use crate::stream::RowStream;
use crate::value::Value;
use std::sync::Arc;

/// Bytes gathered before they are written.
const BUFFER: usize = 256 << 10;
/// Bytes read at a time.
const READ: usize = 256 << 10;

/// Takes rows. When they cannot be written any more they stay in memory.
pub(crate) struct Writer {
    files: Arc<dyn SpillFiles>,
    file: Arc<dyn SpillFile>,
    buffer: Vec<u8>,
    at: u64,
    kept: Vec<Value>,
    fault: Option<String>,
}

impl Writer {
    /// A file for rows.
    pub(crate) async fn new(spill: &Spill) -> Result<Writer, String> {
        let file = spill.files.create().await?;
        let files = spill.files.clone();
        Ok(Writer { files, file, buffer: Vec::new(), at: 0, kept: Vec::new(), fault: None })
    }

    /// Adds a row.
    pub(crate) async fn push(&mut self, value: &Value) {
        // The length, for reading it back in pieces.
        let start = self.buffer.len();
        self.buffer.extend([0; 8]);
        encode(value, &*self.files, &mut self.kept, &mut self.buffer);
        let length = (self.buffer.len() - start - 8) as u64;
        self.buffer[start..start + 8].copy_from_slice(&length.to_le_bytes());
        if self.buffer.len() >= BUFFER && self.fault.is_none() {
            match self.file.write(self.at, self.buffer.clone()).await {
                Ok(()) => {
                    self.at += self.buffer.len() as u64;
                    self.buffer.clear();
                }
                Err(e) => self.fault = Some(e),
            }
        }
    }

    /// All rows are there. Why some are in memory goes to the log.
    pub(crate) fn finish(self, scope: &Scope) -> Spilled {
        if let Some(e) = &self.fault {
            scope.log(Level::Warn, format!("Rows stay in memory: {e}"));
        }
        Spilled {
            files: self.files,
            file: self.file,
            size: self.at,
            tail: Arc::new(self.buffer),
            kept: Arc::new(self.kept),
        }
    }
}

/// Rows put aside. Clones read the same file.
#[derive(Clone)]
pub(crate) struct Spilled {
    files: Arc<dyn SpillFiles>,
    file: Arc<dyn SpillFile>,
    size: u64,
    /// What is behind the end of the file.
    tail: Arc<Vec<u8>>,
    kept: Arc<Vec<Value>>,
}

impl Spilled {
    /// The rows; what cannot be read back is lost, and said to be.
    pub(crate) fn stream(&self, scope: &Scope, what: &'static str) -> RowStream {
        let state = (self.reader(), scope.clone());
        Box::pin(futures::stream::unfold(state, move |(mut reader, scope)| async move {
            match reader.next().await {
                Ok(row) => row.map(|row| (row, (reader, scope))),
                Err(e) => {
                    lost(&scope, what, &e);
                    None
                }
            }
        }))
    }

    /// Reads from the first row on.
    pub(crate) fn reader(&self) -> Reader {
        Reader { rows: self.clone(), buffer: Vec::new(), start: 0, at: 0 }
    }
}

/// A place in rows put aside.
pub(crate) struct Reader {
    rows: Spilled,
    buffer: Vec<u8>,
    /// What of the buffer was read.
    start: usize,
    /// Where in the file, or in what is behind it, the buffer ends.
    at: u64,
}

impl Reader {
    /// The next row.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, String> {
        let end = self.rows.size + self.rows.tail.len() as u64;
        if self.start == self.buffer.len() && self.at == end {
            return Ok(None);
        }
        self.fill(8).await?;
        let head = &self.buffer[self.start..self.start + 8];
        let length = u64::from_le_bytes(head.try_into().unwrap_or_default());
        let length = usize::try_from(length).map_err(|e| e.to_string())?;
        self.fill(8 + length).await?;
        let mut row = &self.buffer[self.start + 8..self.start + 8 + length];
        self.start += 8 + length;
        let value = decode(&mut row, &*self.rows.files, &self.rows.kept);
        value.map(Some).ok_or_else(|| "a temporary file is damaged".into())
    }

    /// So many bytes in the buffer.
    async fn fill(&mut self, wanted: usize) -> Result<(), String> {
        while self.buffer.len() - self.start < wanted {
            self.buffer.drain(..self.start);
            self.start = 0;
            let missing = wanted.saturating_sub(self.buffer.len()).max(READ);
            let data = match self.at.checked_sub(self.rows.size) {
                None => {
                    let left = usize::try_from(self.rows.size - self.at).unwrap_or(usize::MAX);
                    self.rows.file.read(self.at, missing.min(left)).await?
                }
                Some(behind) => {
                    let tail = &self.rows.tail;
                    let from = usize::try_from(behind).unwrap_or(usize::MAX).min(tail.len());
                    tail[from..from.saturating_add(missing).min(tail.len())].to_vec()
                }
            };
            if data.is_empty() {
                return Err("a temporary file is too short".into());
            }
            self.at += data.len() as u64;
            self.buffer.extend(data);
        }
        Ok(())
    }
}
