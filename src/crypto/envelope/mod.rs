//! The envelope around every client message, in either direction.
//!
//! Reading is split so that a server can budget its RSA work: [`parse`] costs
//! nothing, [`open_with`] is symmetric only (the session was seen before), and
//! [`unwrap_session`] is the one RSA decryption of a session's life. Jobs come
//! out as the sender's raw bytes, unparsed: their hash is their identity.
//!
//! What this module does not decide: which organisation a nonce names, which key
//! belongs to a source, whether old protocol versions are welcome. Nothing in a
//! packet can say that it is authenticated; only [`Session::verify`] can.

mod cipher;
mod lists;
mod open;
mod seal;
mod wire;

pub use cipher::SessionKeys;
pub(super) use cipher::unpad;
pub use lists::{
    Limits, MAX_JOBS, MAX_LIST_BYTES, MAX_TOTAL_BYTES, inflate_list, inflate_lists, jobs,
};
pub use open::{Opened, Packet, Sealed, Session, open_with, parse, unwrap_session};
pub use seal::{SessionCipher, pack_job};

use super::KeyError;

/// Protocol version of everything written here, and of agents since 0.6.8.
pub const API_VERSION: u32 = 4;

/// Filler that may precede any packet in a reply, to keep a connection alive:
/// a `ClientCommunication` of nothing but padding.
pub const PAD: [u8; 3] = [0x5a, 0x01, 0x00];

/// How the lists of a packet are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are. Servers send this.
    None,
    /// Each list a zlib stream (RFC 1950) of its own. Agents send this.
    Zlib,
}

/// Why a packet was refused; names the offending field of the wire format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a protobuf of the expected shape.
    #[error("{0}: malformed protobuf")]
    Malformed(&'static str),
    /// A field without which nothing can be done.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// A field of an impossible length.
    #[error("{0}: unacceptable length {1}")]
    Length(&'static str, usize),
    /// None of the given private keys opens the session block.
    #[error("encrypted_cipher: not decryptable with our key")]
    Key,
    /// The packet was changed, or the session's keys are others.
    #[error("full_hmac: does not match")]
    Hmac,
    /// Bad padding after decryption.
    #[error("{0}: bad padding")]
    Padding(&'static str),
    /// Text that is not UTF-8.
    #[error("{0}: not UTF-8")]
    Utf8(&'static str),
    /// A compression this protocol does not have.
    #[error("compression: unknown method {0}")]
    Compression(u64),
    /// A list that is not one whole zlib stream.
    #[error("message_list: damaged zlib stream")]
    Inflate,
    /// Larger than the limits for lists, totals or numbers of jobs.
    #[error("message_list: more than {0} {1}")]
    TooLarge(usize, &'static str),
    /// Not the nonce that was expected.
    #[error("nonce: not ours")]
    Nonce,
    /// The cryptography library failed on valid input.
    #[error(transparent)]
    Crypto(#[from] KeyError),
}

#[cfg(test)]
mod tests;
