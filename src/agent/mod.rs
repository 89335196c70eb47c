//! The endpoint agent: executor, flows, uploads, event queries, local buffer.
//! Speaks the client protocol, so it also works against a stock server.

pub mod buffer;
pub mod settings;
pub mod writeback;

pub use settings::Settings;
