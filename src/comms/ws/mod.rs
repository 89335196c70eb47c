//! WebSocket (RFC 6455) as this protocol uses it: no extensions, no
//! subprotocols, both sides.
//!
//! Written here because a general library answers a message over its limit by
//! closing, upon which a stock agent resends it for ever; this one skips the
//! payload so that the server can answer. It also holds no buffer while idle
//! and can charge what it assembles to a byte budget.

mod frame;
mod json;
mod read;
mod write;

pub use frame::{Op, Role};
pub use json::{Envelope, EnvelopeError};
pub use read::{Charging, Event, WsError, WsReader};
pub use write::WsWriter;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

/// Constant of RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let mut h = Sha1::new();
    h.update(key.as_bytes());
    h.update(GUID.as_bytes());
    BASE64_STANDARD.encode(h.finalize())
}

/// A `Sec-WebSocket-Key` from 16 random bytes.
pub fn new_key(random: [u8; 16]) -> String {
    BASE64_STANDARD.encode(random)
}

#[cfg(test)]
mod tests {
    #[test]
    fn example_of_the_rfc() {
        let accept = super::accept_key("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
