//! Reads journals back, record by record.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use velociraptor_proto::journal::Record;

use super::frame::{FrameError, HEADER, MAX_RECORD, decode_frame};
use super::segment::{Extent, Segment};
use crate::env::{File, FileSystem, Open};

/// Bytes read ahead at once.
const WINDOW: usize = 1 << 20;

/// A record found in a journal.
#[derive(Debug)]
pub struct Found {
    /// What it says.
    pub record: Record,
    /// Its payload.
    pub payload: Bytes,
    /// Where the payload lies.
    pub extent: Extent,
    /// Where the record begins in its file.
    pub start: u64,
    /// Where the next one begins.
    pub end: u64,
}

/// Where and why reading stopped before the end of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub path: String,
    /// First byte that is not part of a whole record.
    pub offset: u64,
    /// Bytes from there to the end.
    pub ignored: u64,
    /// What was wrong.
    pub reason: String,
}

/// What lies at a place of a journal.
#[derive(Debug)]
pub enum Next {
    /// A record.
    Record(Found),
    /// Bytes of known length that are no record of this version.
    Poison {
        /// Where they begin.
        start: u64,
        /// Where the next record begins.
        end: u64,
        /// What is wrong with them.
        reason: String,
        /// The bytes.
        raw: Bytes,
    },
    /// Nothing: the file ends here, as far as can be seen.
    End,
    /// Less than a record. Of a file that is still written: not all of it yet.
    Torn(TornTail),
}

/// Takes the record at the start of `rest`, which lies at `at` of `segment`.
///
/// `None`: `rest` is empty.
pub fn take_frame(rest: &Bytes, at: u64, segment: &Arc<Segment>) -> Option<Result<Found, Damage>> {
    if rest.is_empty() {
        return None;
    }
    Some(match decode_frame(rest) {
        Ok(frame) => {
            let payload = rest.slice(frame.payload..frame.len);
            let extent = Extent {
                segment: segment.clone(),
                offset: at + frame.payload as u64,
                len: payload.len() as u64,
            };
            let end = at + frame.len as u64;
            Ok(Found { record: frame.record, payload, extent, start: at, end })
        }
        Err(error) => Err(Damage { len: damaged_len(rest, &error), error }),
    })
}

/// Why there is no record at a place.
#[derive(Debug)]
pub struct Damage {
    /// What is wrong.
    pub error: FrameError,
    /// How many bytes to pass over, if that is certain.
    pub len: Option<usize>,
}

/// How many bytes a damaged record takes: its length counts if its checksum is
/// right, or if another record follows it.
fn damaged_len(rest: &Bytes, error: &FrameError) -> Option<usize> {
    let len = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let next = 8usize.checked_add(len)?;
    match error {
        FrameError::Header(_) => Some(next),
        FrameError::Checksum => decode_frame(rest.get(next..)?).is_ok().then_some(next),
        FrameError::Short | FrameError::Length(_) => None,
    }
}

/// Reads one journal file from some place on.
#[derive(Debug)]
pub struct Reader {
    file: Box<dyn File>,
    segment: Arc<Segment>,
    size: u64,
    at: u64,
    window: Bytes,
    window_at: u64,
    want: usize,
}

impl Reader {
    /// Opens `segment`; reading begins at `from`, or after the header.
    ///
    /// A file that does not start with the header is `InvalidData`; one that is
    /// shorter than the header is torn at its start.
    pub async fn open(fs: &dyn FileSystem, segment: Arc<Segment>, from: u64) -> io::Result<Self> {
        let file = fs.open(&segment.path, Open::Read).await?;
        let size = file.size().await?;
        let first = HEADER.len() as u64;
        if size >= first && from <= first {
            let head = file.read_at(0, HEADER.len()).await?;
            if head != HEADER {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: not a journal of a version this program reads", segment.path),
                ));
            }
        }
        let at = if size < first { 0 } else { from.max(first) };
        Ok(Self { file, segment, size, at, window: Bytes::new(), window_at: at, want: WINDOW })
    }

    /// Where the next record begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes in the file when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn torn(&self, reason: String) -> Next {
        Next::Torn(TornTail {
            path: self.segment.path.clone(),
            offset: self.at,
            ignored: self.size.saturating_sub(self.at),
            reason,
        })
    }

    /// What lies at the present place; passes over it if it is of known length.
    pub async fn next(&mut self) -> io::Result<Next> {
        loop {
            if self.at >= self.size {
                return Ok(Next::End);
            }
            if self.at < HEADER.len() as u64 {
                return Ok(self.torn("shorter than a journal header".into()));
            }
            let skip = ((self.at - self.window_at) as usize).min(self.window.len());
            let rest = self.window.slice(skip..);
            let more = self.window_at + (self.window.len() as u64) < self.size;
            match take_frame(&rest, self.at, &self.segment) {
                Some(Ok(found)) => {
                    self.at = found.end;
                    return Ok(Next::Record(found));
                }
                // What follows a damaged record decides how long it is.
                Some(Err(d)) if more && d.len.is_none() && self.fits(&rest, &d) => {
                    self.fill(&rest).await?;
                }
                Some(Err(Damage { error, len: Some(len) })) => {
                    let start = self.at;
                    self.at += len as u64;
                    let raw = rest.slice(..len.min(rest.len()));
                    let reason = error.to_string();
                    return Ok(Next::Poison { start, end: self.at, reason, raw });
                }
                Some(Err(d)) => return Ok(self.torn(d.error.to_string())),
                None => self.fill(&rest).await?,
            }
        }
    }

    /// Whether reading more could make sense of what is there.
    fn fits(&self, rest: &Bytes, d: &Damage) -> bool {
        match d.error {
            FrameError::Short => true,
            FrameError::Checksum => (rest.len() as u64) < self.size - self.at,
            FrameError::Length(_) | FrameError::Header(_) => false,
        }
    }

    async fn fill(&mut self, rest: &Bytes) -> io::Result<()> {
        if let Some(b) = rest.get(..4) {
            let len = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
            self.want = self.want.max(len.min(MAX_RECORD) + 8);
        }
        // The same start again: a larger piece, or what is wrong stays wrong.
        if rest.len() >= self.want {
            self.want = rest.len().saturating_mul(2);
        }
        let window = Bytes::from(self.file.read_at(self.at, self.want).await?);
        if window.len() <= rest.len() {
            // It became shorter than it was: another process's file, cut.
            self.size = self.at + window.len() as u64;
        }
        self.window = window;
        self.window_at = self.at;
        self.want = WINDOW;
        Ok(())
    }
}

/// Hands every whole record of the journal at `path` from `offset` on to
/// `each`, in order, and passes over poison.
///
/// A torn tail is returned, not an error: those bytes were never acknowledged.
pub async fn scan_from(
    fs: &dyn FileSystem,
    path: &str,
    offset: u64,
    mut each: impl FnMut(Found),
) -> io::Result<Option<TornTail>> {
    let mut r = Reader::open(fs, Arc::new(Segment::of_path(path)), offset).await?;
    loop {
        match r.next().await? {
            Next::Record(f) => each(f),
            Next::Poison { start, reason, .. } => {
                tracing::error!(path, offset = start, reason, "journal record cannot be read");
            }
            Next::End => return Ok(None),
            Next::Torn(t) => return Ok(Some(t)),
        }
    }
}

/// [`scan_from`] the start.
pub async fn scan(
    fs: &dyn FileSystem,
    path: &str,
    each: impl FnMut(Found),
) -> io::Result<Option<TornTail>> {
    scan_from(fs, path, 0, each).await
}
