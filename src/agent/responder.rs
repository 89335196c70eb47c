//! What a running query may tell the server, whether it belongs to a
//! collection or to the event table.

use std::io::Write;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::{VeloMessage, VqlRequest};
use vql::Level;

/// Nothing more is wanted: a limit was passed or the query is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Consecutive rows of one query.
#[derive(Debug)]
pub struct Part<'a> {
    /// The query as it was received.
    pub request: &'a VqlRequest,
    /// Its index among the queries of its request.
    pub query_index: u64,
    /// 0, 1, 2 .. within this query.
    pub part: u64,
    /// Rows in `jsonl`.
    pub rows: u64,
    /// One JSON object a line.
    pub jsonl: &'a str,
    /// Column names of the first row.
    pub columns: &'a [String],
}

/// See the module.
pub trait Responder: Send + Sync {
    /// The session its messages carry.
    fn session(&self) -> &str;
    /// Ends the query.
    fn cancel(&self) -> &CancellationToken;
    /// Adds a log line.
    fn log(&self, level: Level, message: &str);
    /// Marks the query as failed.
    fn fail(&self, message: &str);
    /// A number for a new upload.
    fn next_upload(&self) -> i64;
    /// Queues rows; waits while the queue is full.
    fn rows<'a>(&'a self, part: Part<'a>) -> BoxFuture<'a, Result<(), Stopped>>;
    /// Queues a message about an upload; waits while the queue is full.
    fn upload(&self, message: VeloMessage) -> BoxFuture<'_, Result<(), Stopped>>;
    /// Changes the number of uploads that go on after the query's rows.
    fn outstanding(&self, change: i64);
}

/// The zlib form, at the fastest level.
pub fn compress(data: &[u8]) -> Vec<u8> {
    let out = Vec::with_capacity(data.len() / 4 + 64);
    let mut z = flate2::write::ZlibEncoder::new(out, flate2::Compression::fast());
    // Writing to memory does not fail.
    let _ = z.write_all(data);
    z.finish().unwrap_or_default()
}
