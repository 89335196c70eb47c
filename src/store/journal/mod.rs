//! The write-ahead journal of one process: commit point, outbox and recovery
//! source at once.
//!
//! Each process start takes a fresh epoch directory, so every journal file has
//! one writer by construction. A record is committed when its group is on
//! stable storage; nothing is acknowledged before. Files with stock names are
//! derived from records later. This module knows records, not what they mean.

mod epoch;
mod extents;
mod feed;
mod frame;
mod pace;
mod position;
mod process;
mod reader;
mod segment;
mod space;
#[cfg(test)]
mod tests;
mod writer;

pub use epoch::{
    Epoch, Listed, journal_path, list_epochs, list_files, list_processes, marker_path, process_dir,
    spill_path, take_epoch,
};
pub use extents::Extents;
pub use feed::{Feed, Group};
pub use frame::{FrameError, HEADER, decode_frame, encode_frame};
pub use position::Position;
pub use process::ProcessId;
pub use reader::{Damage, Found, Next, Reader, TornTail, scan, scan_from, take_frame};
pub use segment::{Extent, Segment};
pub use space::{Level, Refused, Space, Worth, is_full, remove_reserves};
pub use writer::{CommitError, Committed, Journal, JournalStats, Options, Stamp};
