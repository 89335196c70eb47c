//! The write-ahead journal of one process: commit point, outbox and recovery
//! source at once.
//!
//! Each process start takes a fresh epoch directory, so every journal file has
//! one writer by construction. A record is committed when its group is on
//! stable storage; nothing is acknowledged before. Files with stock names are
//! derived from records later. This module knows records, not what they mean.

mod epoch;
mod frame;
mod process;
mod reader;
mod segment;
mod writer;

pub use epoch::{Epoch, existing_segments, take_epoch};
pub use frame::{FrameError, HEADER, decode_frame, encode_frame};
pub use process::ProcessId;
pub use reader::{Found, TornTail, scan};
pub use segment::{Extent, Segment};
pub use writer::{CommitError, Committed, Journal, JournalStats, Options};
