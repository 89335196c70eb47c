//! Several frontends as one server: who is master, who applies whose journal,
//! and what may go.
//!
//! The master reads the journals of all processes and decides; a minion writes
//! its own. Nothing here knows sockets: the stream between them is given to it
//! as bytes and places.

mod apply;
pub mod chain;
pub mod claimer;
mod discover;
pub mod hold;
pub mod hub;
pub mod living;
pub mod minion;
pub mod offers;
pub mod outbox;
mod positions;
pub mod processes;
pub mod relay;
mod release;
mod role;
pub mod running;
mod seen_term;
pub mod standing;
pub mod status;
pub mod steering;
mod table;
mod tail;
pub mod task_files;
pub mod term;
pub mod watch;

use std::time::Duration;

pub(in crate::services) use apply::{facts_of, is_fact};
pub(in crate::services) use processes::seen_position;
pub use role::Role;
pub(in crate::services) use table::Proc;
pub use table::{Applied, ProcessTable};
pub(in crate::services) use tail::Step;

/// Longest that a new name can stay unseen on the store, microseconds: directory
/// caches of a network file system are refreshed after at most this.
const NAME_DELAY: u64 = 60_000_000;

/// How a master treats other processes.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often the store is looked at for processes, and for what those without
    /// a stream wrote. Default 5 s.
    pub tail_every: Duration,
    /// A process without a stream whose node shows no sign of life for this long
    /// counts as dead. Default 30 s.
    pub stale: Duration,
    /// The last files of a process that has been dead for this long are deleted
    /// once nobody needs them. Default 120 s.
    pub dead_after: Duration,
    /// How far every other process must have been applied beyond the moment at
    /// which something was settled before it is forgotten. Default 10 min.
    pub tombstone: Duration,
    /// Most message hashes remembered of settled things, 16 bytes each. Default
    /// 4 Mi.
    pub tombstone_hashes: usize,
    /// Nobody is served: every other process has ended, and what they left is put
    /// into stock files.
    pub offline: bool,
    /// How clients are shared among nodes.
    pub balance: steering::Balance,
    /// Breaks promises on purpose, for the tests that show that they are kept.
    pub danger: Danger,
}

/// What can be broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Danger {
    /// Nothing is remembered of what is settled.
    pub no_tombstones: bool,
    /// Recovery does not look at what a decision had seen.
    pub ignore_seen: bool,
    /// Records are applied whatever their place.
    pub ignore_place: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tail_every: Duration::from_secs(5),
            stale: Duration::from_secs(30),
            dead_after: Duration::from_secs(120),
            tombstone: Duration::from_secs(600),
            tombstone_hashes: 4 << 20,
            offline: false,
            balance: steering::Balance::default(),
            danger: Danger::default(),
        }
    }
}

#[cfg(test)]
mod tests;
