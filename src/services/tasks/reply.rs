//! A reply on its way to a client, and what proves that it was read. Knows no task.

use crate::services::flows::job::Hash;

/// A reply that carries tasks, and when another check-in shows that it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Names it among all replies of this process.
    pub id: Hash,
    /// The request that it answers over HTTP.
    request: Option<Hash>,
    /// When its last byte was handed to the socket, microseconds.
    written: Option<u64>,
    /// For how long after that a new check-in of the same client process proves
    /// that it was read, microseconds.
    proves: u64,
}

impl Reply {
    /// The answer to `request` over HTTP. A stock agent that did not read its
    /// answer sends the same bytes again at once, or waits at least its `max_poll`,
    /// seconds, before it sends others: what comes earlier shows that it did. An
    /// eighth is left for clocks that run at other rates.
    pub fn http(id: Hash, request: Hash, max_poll: u64) -> Self {
        let poll = max_poll.saturating_mul(1_000_000);
        Self { id, request: Some(request), written: None, proves: poll - poll / 8 }
    }

    /// A frame of a WebSocket. An agent whose socket broke dials again at once, so
    /// only that it says it consumed the frame is proof.
    pub fn frame(id: Hash) -> Self {
        Self { id, request: None, written: None, proves: 0 }
    }

    /// It is on the socket since `now`, microseconds.
    pub fn wrote(&mut self, now: u64) {
        self.written = Some(now);
    }

    /// Whether it answers the request with these bytes.
    pub fn answers(&self, request: Hash) -> bool {
        self.request == Some(request)
    }

    /// Whether a check-in with other bytes, of the same client process, at `now`
    /// shows that this was read. Not if the clock was set back since.
    pub fn proved_at(&self, now: u64) -> bool {
        let age = self.written.and_then(|at| now.checked_sub(at));
        age.is_some_and(|age| age < self.proves)
    }
}
