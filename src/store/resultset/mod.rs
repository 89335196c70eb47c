//! Tables of JSON rows on disk: simple sets (`.json` with a row index) and
//! timed sets (`.json` with a time index), plain or compressed.
//!
//! Readers accept everything stock servers ever wrote, damaged files included;
//! writers make whole new files only. What a row means is not known here.

pub mod chunk;
pub mod data;
pub mod index;
pub mod lines;
pub mod reader;
pub mod span;
pub mod tidx;
pub mod timed;
pub mod writer;

pub use data::DataFile;
pub use reader::{ResultSet, Rows};
pub use span::Span;
pub use timed::{DayFile, TimedRow, TimedRows, TimedSet, with_ts};
pub use writer::{SetWriter, TimedWriter, Written, canonical};

use super::{FilePath, StoreError, Tree};
use bytes::Bytes;

/// Rows of a set: from its index, or counted when it has none. A set replaced
/// meanwhile is opened once more.
pub async fn row_count(tree: &Tree, at: &FilePath) -> Result<u64, StoreError> {
    let once = || async { ResultSet::open(tree, at).await?.count_rows().await };
    match once().await {
        Err(e) if e.is_stale() => once().await,
        r => r,
    }
}

/// At most `count` rows from number `start` on. A set replaced meanwhile is
/// opened once more.
pub async fn read_rows(
    tree: &Tree,
    at: &FilePath,
    start: u64,
    count: u64,
) -> Result<Vec<Bytes>, StoreError> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let once = || async { ResultSet::open(tree, at).await?.page(start, count).await };
    match once().await {
        Err(e) if e.is_stale() => once().await,
        r => r,
    }
}
