//! Several frontends as one server: who applies whose journal, and what may go.
//!
//! The master reads the journals of all processes and decides; a minion writes
//! its own. Nothing here knows sockets: the stream between them is given to it
//! as bytes and places.

pub mod hub;
pub mod minion;
pub mod outbox;
pub mod processes;
pub mod relay;
mod role;
pub mod status;

pub use role::Role;
