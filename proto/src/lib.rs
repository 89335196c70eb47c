//! Generated messages of every edge, and the descriptors they came from.
//!
//! [`proto`] is the stock package (client wire, datastore objects, gRPC API);
//! [`journal`] is this implementation's own. Nothing here has behaviour beyond
//! [`json`], the canonical JSON mapping, and [`gateway`], that of web clients.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod json;
mod transcode;

/// The stock `proto` package.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    tonic::include_proto!("proto");
}

/// Records of a frontend's journal.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod journal {
    tonic::include_proto!("journal");
}

/// What frontends say to their master and back.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod fleet {
    tonic::include_proto!("fleet");
}

/// The serialized `FileDescriptorSet` of all packages.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
