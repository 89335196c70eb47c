//! VQL plugins and functions: common, endpoint and server.

pub mod server;
