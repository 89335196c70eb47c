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
pub mod tidx;
pub mod timed;
pub mod writer;

pub use data::DataFile;
pub use reader::{ResultSet, Rows};
pub use timed::{DayFile, TimedRow, TimedRows, TimedSet, with_ts};
pub use writer::{SetWriter, TimedWriter, Written, canonical};
