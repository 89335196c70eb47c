//! An independent implementation of the Velociraptor multi-frontend server.
//!
//! Each module is a room; docs/ARCHITECTURE.md says what belongs where.
//! Dependencies point down only: `cli` → `api`, `gui`, `frontend`, `agent` →
//! `services` → `cluster`, `store`, `plugins` → `crypto`, `comms`, `vql` → `env`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod comms;
pub mod config;
pub mod crypto;
pub mod demo;
pub mod env;
pub mod frontend;
pub mod gui;
pub mod node;
pub mod plugins;
pub mod pool;
pub mod services;
pub mod store;

/// The product's name, as users see it.
pub const PRODUCT: &str = "velociraptor";

/// The name by which this program's own agent introduces itself and is
/// installed: not the stock agent's, so that nothing mistakes it for that.
pub const AGENT_NAME: &str = "velociraptor-fleet-agent";

/// What `--version` prints after the name: this is not the stock program.
pub const ABOUT: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (independent implementation; client protocol version 4)");
