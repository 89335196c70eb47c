//! What one end of the stream has counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one end, all streams together.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that are up now.
    pub streams: AtomicU64,
    /// Streams that have been up.
    pub streams_total: AtomicU64,
    /// Attempts to connect that led to no stream (minion).
    pub connect_failures: AtomicU64,
    /// Peers without a node certificate that holds (master), or that the services
    /// or the link refused.
    pub refused: AtomicU64,
    /// Streams that ended because nothing came.
    pub silent: AtomicU64,
    /// Streams that ended because the other side did not read.
    pub stalled: AtomicU64,
    /// Frames sent.
    pub frames_sent: AtomicU64,
    /// Frames received.
    pub frames_received: AtomicU64,
    /// Bytes of frames sent, before TLS.
    pub bytes_sent: AtomicU64,
    /// Bytes of frames received, before TLS.
    pub bytes_received: AtomicU64,
    /// Numbered frames sent again (minion).
    pub resent: AtomicU64,
    /// Numbered frames that had been received before (master).
    pub repeats: AtomicU64,
    /// Numbered frames that another master has acknowledged and this one never saw.
    pub skipped: AtomicU64,
    /// Frames of a kind this version does not know.
    pub unknown: AtomicU64,
    /// Record frames not taken because the queue was full.
    pub withheld: AtomicU64,
    /// Session changes dropped because too many waited; the list made up for them.
    pub dropped_changes: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn sub(counter: &AtomicU64, n: u64) {
        counter.fetch_sub(n, Ordering::Relaxed);
    }
}
