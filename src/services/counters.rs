//! What the services count, for metrics and tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of what clients sent, since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Jobs stored.
    pub jobs: AtomicU64,
    /// Jobs or POSTs recognised as repeats.
    pub duplicates: AtomicU64,
    /// Jobs whose place was taken by other content.
    pub conflicts: AtomicU64,
    /// POSTs and jobs of clients and flows that were deleted.
    pub dropped: AtomicU64,
    /// Jobs that nobody stores.
    pub ignored: AtomicU64,
    /// Jobs that can never be stored, kept in quarantine.
    pub quarantined: AtomicU64,
    /// POSTs that were refused or not stored.
    pub refused: AtomicU64,
    /// Rows stored.
    pub rows: AtomicU64,
    /// Upload bytes stored.
    pub upload_bytes: AtomicU64,
    /// Tasks handed to clients.
    pub tasks_sent: AtomicU64,
    /// Flows settled into stock files.
    pub settled: AtomicU64,
    /// Bytes of rows that queries put into temporary files.
    pub query_spilled_bytes: Arc<AtomicU64>,
    /// Tools fetched from elsewhere.
    pub tools_fetched: AtomicU64,
    /// Tools that could not be fetched, or were not what was expected.
    pub tools_failed: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn inc(c: &AtomicU64) {
        c.fetch_add(1, Ordering::Relaxed);
    }
}
