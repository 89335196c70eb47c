//! From message lists to the raw bytes of single jobs.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::ZlibDecoder;

use super::open::Opened;
use super::wire::{Value, fields};
use super::{Compression, EnvelopeError};

/// Bytes one list may have after inflation, as stock receivers allow.
pub const MAX_LIST_BYTES: usize = 100 << 20;
/// Bytes all lists of a packet may have together.
pub const MAX_TOTAL_BYTES: usize = 256 << 20;
/// Jobs, and lists, a packet may hold.
pub const MAX_JOBS: usize = 1 << 20;

/// What a packet may grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one list.
    pub list_bytes: usize,
    /// Bytes of all lists.
    pub total_bytes: usize,
    /// Number of jobs.
    pub jobs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { list_bytes: MAX_LIST_BYTES, total_bytes: MAX_TOTAL_BYTES, jobs: MAX_JOBS }
    }
}

/// One list in the clear; at most `limit` bytes.
pub fn inflate_list(
    list: &Bytes,
    compression: Compression,
    limit: usize,
) -> Result<Bytes, EnvelopeError> {
    let too_large = EnvelopeError::TooLarge(limit, "bytes");
    if compression == Compression::None || list.is_empty() {
        return if list.len() > limit { Err(too_large) } else { Ok(list.clone()) };
    }
    let mut out = Vec::with_capacity(list.len().saturating_mul(4).min(limit));
    let mut z = ZlibDecoder::new(&list[..]).take(limit as u64 + 1);
    z.read_to_end(&mut out).map_err(|_| EnvelopeError::Inflate)?;
    if out.len() > limit {
        return Err(too_large);
    }
    let z = z.into_inner();
    if !z.into_inner().is_empty() {
        return Err(EnvelopeError::Inflate);
    }
    Ok(out.into())
}

/// The jobs of a list in the clear: raw serialised `VeloMessage`s, not copied.
pub fn jobs(list: &Bytes) -> impl Iterator<Item = Result<Bytes, EnvelopeError>> + '_ {
    fields(list).filter_map(|field| match field {
        Some((1, Value::Span(s))) => Some(Ok(list.slice(s))),
        None | Some((1, _)) => Some(Err(EnvelopeError::Malformed("MessageList"))),
        Some(_) => None,
    })
}

/// All jobs of a packet in order, within `limits`. Holds everything in memory at
/// once; [`inflate_list`] and [`jobs`] go list by list.
pub fn inflate_lists(opened: &Opened, limits: &Limits) -> Result<Vec<Bytes>, EnvelopeError> {
    let mut out = Vec::new();
    let mut total = 0;
    for list in &opened.lists {
        let list = inflate_list(list, opened.compression, limits.list_bytes)?;
        total += list.len();
        if total > limits.total_bytes {
            return Err(EnvelopeError::TooLarge(limits.total_bytes, "bytes"));
        }
        for job in jobs(&list) {
            if out.len() == limits.jobs {
                return Err(EnvelopeError::TooLarge(limits.jobs, "jobs"));
            }
            out.push(job?);
        }
    }
    Ok(out)
}
