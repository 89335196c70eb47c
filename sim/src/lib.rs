//! Whole clusters of the production code in one thread, from one seed.
//!
//! Determinism rests on: turmoil's clock and network, `biased` selects, ordered
//! maps, TLS randomness and ids from the seed, one simulation per process at a
//! time on a thread of its own, and task ids aligned before it starts.
#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod crypto;
pub mod disk;
pub mod explore;
pub mod faults;
pub mod gate;
pub mod latency;
pub mod ledger;
pub mod mounts;
pub mod mutants;
pub mod net;
pub mod nfs;
mod oracle;
pub mod plan;
pub mod runner;
pub mod scenarios;
pub mod trace;
pub mod tree;
pub mod watch;
pub mod world;
