//! Collections: what was asked, what came back, and where it is.

pub mod job;
mod live_flow;
mod live_legacy;
mod live_set;
mod live_upload;
mod ops;
mod read;
pub mod runs;
pub(super) mod status;

pub use live_flow::{LiveFlow, Outcome, SETTLE_GRACE};
pub use live_legacy::LogErrors;
pub use live_set::{LiveSet, Order, Part, Placed};
pub use live_upload::{Attempt, Chunk, ChunkData, Eof, LiveUpload, UploadKey};
pub use ops::MAX_ROW;
pub use read::{Rows, rows_of_job, rows_path};
pub use status::{is_complete, is_unknown, unknown_in};
