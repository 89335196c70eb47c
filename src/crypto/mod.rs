//! Keys, certificates, client ids and the message envelope. Pure: bytes in, bytes out.
//!
//! Nothing here knows files, sockets, organisations or configuration. Randomness
//! and time are handed in. RSA key generation, OAEP and TLS use the provider's
//! own generator, whose output has a fixed length and so cannot change a trace.

mod authority;
pub mod certs;
pub mod client_id;
pub mod csr;
mod der;
pub mod envelope;
pub mod keys;
pub mod names;
pub mod node;

pub use client_id::ClientId;
pub use envelope::{
    Compression, EnvelopeError, Limits, Opened, Packet, Sealed, Session, SessionCipher, SessionKeys,
};
pub use keys::{KeyError, PrivateKey, PublicKey};
pub use node::{NodeError, NodeIdentity, NodeName, NodePeer, Revocations, verify_node};

/// What identifies a message: the first 16 bytes of the SHA-256 of its raw
/// bytes as the sender serialised them.
pub fn job_hash(raw: &[u8]) -> [u8; 16] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, raw);
    let mut out = [0; 16];
    out.copy_from_slice(&digest.as_ref()[..16]);
    out
}
