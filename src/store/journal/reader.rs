//! Reads a journal back, to the last whole record.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use velociraptor_proto::journal::Record;

use super::frame::{FrameError, HEADER, MAX_RECORD, decode_frame};
use super::segment::{Extent, Segment};
use crate::env::{FileSystem, Open};

/// Bytes read ahead at once.
const WINDOW: usize = 4 << 20;

/// A record found in a journal.
#[derive(Debug)]
pub struct Found {
    /// What it says.
    pub record: Record,
    /// Its payload.
    pub payload: Bytes,
    /// Where the payload lies.
    pub extent: Extent,
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

/// Hands every whole record of the journal at `path` to `each`, in order.
///
/// A torn tail is returned, not an error: those bytes were never acknowledged.
/// A file that does not start with the header is `InvalidData` unless it is
/// shorter than the header.
pub async fn scan(
    fs: &dyn FileSystem,
    path: &str,
    mut each: impl FnMut(Found),
) -> io::Result<Option<TornTail>> {
    let f = fs.open(path, Open::Read).await?;
    let size = f.size().await?;
    let segment = Arc::new(Segment { path: path.to_owned() });
    let head = f.read_at(0, HEADER.len()).await?;
    let torn = |offset: u64, reason: String| {
        let ignored = size.saturating_sub(offset);
        (ignored > 0).then(|| TornTail { path: path.to_owned(), offset, ignored, reason })
    };
    if head.len() < HEADER.len() {
        return Ok(torn(0, "shorter than a journal header".into()));
    }
    if head != HEADER {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path}: not a journal of a version this program reads"),
        ));
    }
    let mut at = HEADER.len() as u64;
    let mut want = WINDOW;
    let mut window = Bytes::new();
    let mut window_at = at;
    loop {
        let skip = (at - window_at) as usize;
        let rest = window.slice(skip.min(window.len())..);
        match decode_frame(&rest) {
            Ok(frame) => {
                let payload = rest.slice(frame.payload..frame.len);
                let extent = Extent {
                    segment: segment.clone(),
                    offset: at + frame.payload as u64,
                    len: payload.len() as u64,
                };
                each(Found { record: frame.record, payload, extent });
                at += frame.len as u64;
            }
            Err(FrameError::Short) if window_at + (window.len() as u64) < size => {
                if let Some(b) = rest.get(..4) {
                    let len = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
                    want = want.max(len.min(MAX_RECORD) + 8);
                }
                window = Bytes::from(f.read_at(at, want).await?);
                if window.is_empty() {
                    return Ok(None);
                }
                window_at = at;
            }
            Err(_) if at >= size => return Ok(None),
            Err(e) => return Ok(torn(at, e.to_string())),
        }
    }
}
