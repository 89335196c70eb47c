//! An independent implementation of the Velociraptor multi-frontend server.
//!
//! Each module is a room; docs/ARCHITECTURE.md says what belongs where.
//! Dependencies point down only: `cli` → `api`, `gui`, `frontend`, `agent` →
//! `services` → `cluster`, `store`, `plugins` → `crypto`, `comms`, `vql` → `env`.

pub mod env;
