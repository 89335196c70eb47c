//! The stream between frontends: one connection from each minion to its master.
//!
//! It carries frames in order, resends those that must arrive, notices silence,
//! connects again, and lets only nodes of the deployment speak. It does not know
//! what a record, a task or a session means: that is `services`, which implements
//! [`MasterSide`] and [`MinionSide`]. What the frames are for: docs/CLUSTER.md.

mod backoff;
mod conversation;
mod counters;
mod dial;
mod downlink;
mod ending;
mod fleet;
mod frames;
mod incoming;
mod limits;
pub mod metrics;
mod minion;
mod outgoing;
mod queue;
mod seats;
mod session;
mod side;
mod uplink;
mod verify;

pub use counters::Counters;
pub use dial::{Address, Dialer};
pub use downlink::Downlink;
pub use fleet::{Fleet, Unproved, Verify};
pub use frames::{FromMaster, FromMinion, Process};
pub use limits::Limits;
pub use minion::{Addresses, Minion};
pub use seats::StreamInfo;
pub use side::{MasterSide, MinionSide};
pub use uplink::{LinkStatus, Uplink};
pub use verify::verifier;

/// Version of the protocol (`Hello.version`, `Welcome.version`). Frames of a kind
/// that a side does not know are passed over, so only a change of what existing
/// frames mean needs another number.
pub const VERSION: u32 = 1;

/// Room on the wire beyond the content of a frame: its number and tags, bytes.
const FRAME_OVERHEAD: usize = 64;

#[cfg(test)]
mod numbers_tests;
#[cfg(test)]
mod tests;

/// Why a frame was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// There is no stream, or it has ended.
    #[error("there is no stream")]
    Gone,
    /// The queue is full: the other side is slow.
    #[error("the stream's queue is full")]
    Full,
    /// It would never be accepted: larger than `cluster.frame_bytes`.
    #[error("a frame of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
