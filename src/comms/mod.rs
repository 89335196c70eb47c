//! The client wire protocol over HTTP and WebSocket: server half and agent half.
//!
//! No policy: bodies are opaque bytes, and this room does not know what a job
//! means, who a client is or what is stored. Effects go through `Env`.

pub mod agent;
pub mod fetch;
pub mod server;
pub mod tls;
pub mod ws;

/// One keep-alive pad: a `ClientCommunication` holding only its ignored
/// `padding` field (number 11, packed, one zero). Parsers skip any number of
/// them before the reply.
pub const PAD: [u8; 3] = [0x5a, 0x01, 0x00];

/// The two posting endpoints of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Check-ins, answered by tasks (long poll).
    Reader,
    /// Results, answered when they are stored.
    Control,
}

impl Channel {
    /// The handler name appended to a base URL.
    pub fn path(self) -> &'static str {
        match self {
            Channel::Reader => "reader",
            Channel::Control => "control",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
