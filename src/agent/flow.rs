//! One collection on this endpoint: its limits, counters, logs and states. All
//! values only grow; the final report goes out once, after the last log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use regex::Regex;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::flow_request::Compression;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::{
    FlowRequest, FlowStats, LogMessage, VeloMessage, VeloStatus, VqlRequest, VqlResponse,
};
use vql::Level;

use super::logs::LogBatch;
use super::outbox::Outbox;
use super::responder::{Part, Responder, Stopped, compress};
use crate::env::Clock;

/// Log lines marking a query as failed, as the stock client has it.
const ERRORS: &str = "(?i)(Error:|Symbol.+?not found|Expecting a path arg type, not|\
                      Field.+?is required|Unexpected arg)";
/// Log lines of one collection when the request names no number.
const MAX_LOGS: u64 = 100_000;
/// Well-known request ids of this protocol.
const LOG_SINK: u64 = 980;
const STATS_SINK: u64 = 981;
pub(super) const UPLOAD_SINK: u64 = 5;

/// See the module.
pub struct Flow {
    id: String,
    out: Arc<Outbox>,
    clock: Arc<dyn Clock>,
    /// Ends all queries.
    pub cancel: CancellationToken,
    errors: Regex,
    /// Queries of the request, without traces.
    expected: usize,
    max_rows: u64,
    max_bytes: u64,
    max_logs: u64,
    compression: bool,
    uploads: AtomicI64,
    outstanding: AtomicU64,
    state: Mutex<State>,
    /// There are logs to send.
    logged: tokio::sync::Notify,
    /// Rows and bytes sent for each query name. Held while a part is queued, so
    /// that row numbers arrive in order.
    sent: tokio::sync::Mutex<BTreeMap<String, Sent>>,
}

#[derive(Default)]
struct State {
    queries: Vec<Query>,
    logs: LogBatch,
    logged: u64,
    rows: u64,
    bytes: u64,
    cancelled: bool,
    complete_sent: bool,
}

#[derive(Default)]
struct Query {
    status: VeloStatus,
    ended: bool,
}

#[derive(Default)]
struct Sent {
    rows: u64,
    bytes: u64,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Flow {
    /// A collection that has not started.
    pub fn new(id: &str, request: &FlowRequest, out: Arc<Outbox>, clock: Arc<dyn Clock>) -> Flow {
        let pattern = match request.log_error_regex.as_str() {
            "" => ERRORS,
            own => own,
        };
        let errors = Regex::new(pattern).or_else(|e| {
            tracing::warn!("{id}: error pattern: {e}");
            Regex::new(ERRORS)
        });
        Flow {
            id: id.to_owned(),
            out,
            clock,
            cancel: CancellationToken::new(),
            // The default pattern compiles; an empty one would match everything.
            errors: errors.unwrap_or_else(|_| never()),
            expected: request.vql_client_actions.len(),
            max_rows: request.max_rows,
            max_bytes: request.max_upload_bytes,
            max_logs: if request.max_logs == 0 { MAX_LOGS } else { request.max_logs },
            compression: request.compression() == Compression::Zlib,
            uploads: AtomicI64::new(0),
            outstanding: AtomicU64::new(0),
            state: Mutex::default(),
            logged: tokio::sync::Notify::new(),
            sent: tokio::sync::Mutex::default(),
        }
    }

    /// Its id, with the child part if it has one.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a query that is about to run; gives its place in the report.
    pub fn start_query(&self) -> usize {
        let now = self.clock.micros();
        let status = VeloStatus {
            status: ReturnedStatus::Progress.into(),
            first_active: now,
            last_active: now,
            ..Default::default()
        };
        let mut state = self.state();
        state.queries.push(Query { status, ended: false });
        state.queries.len() - 1
    }

    /// Seeds the report with the state of a query that ran before.
    pub fn seed_query(&self, status: VeloStatus) -> usize {
        let mut state = self.state();
        state.queries.push(Query { status, ended: false });
        state.queries.len() - 1
    }

    /// Upload numbers go on from here.
    pub fn seed_uploads(&self, next: i64) {
        self.uploads.fetch_max(next, Ordering::Relaxed);
    }

    /// Marks a query as ended: failed if it logged an error.
    pub fn end_query(&self, index: usize) {
        let now = self.clock.micros();
        if let Some(q) = self.state().queries.get_mut(index)
            && !q.ended
        {
            touch(q, now);
            q.ended = true;
            let failed = !q.status.error_message.is_empty();
            let status = if failed { ReturnedStatus::GenericError } else { ReturnedStatus::Ok };
            q.status.set_status(status);
        }
    }

    /// Marks a query as failed; the first message is kept.
    pub fn fail_query(&self, index: usize, message: &str) {
        if let Some(q) = self.state().queries.get_mut(index) {
            fail(q, message);
        }
    }

    /// Adds a log line of query `index`, or of the collection.
    pub fn log(&self, index: Option<usize>, level: Level, message: &str) {
        let promoted = level != Level::Alert && self.errors.is_match(message);
        let level = if promoted { Level::Error } else { level };
        let now = self.clock.unix();
        let mut state = self.state();
        let state = &mut *state;
        if level == Level::Error
            && let Some(q) = index.and_then(|i| state.queries.get_mut(i))
        {
            fail(q, message);
        }
        let exempt = level == Level::Alert || index.is_none();
        let message = match state.logged {
            _ if exempt => message,
            n if n + 1 == self.max_logs => "Log Limit Exceeded - suppressing further logs",
            n if n >= self.max_logs => return,
            _ => message,
        };
        if !exempt {
            state.logged += 1;
        }
        state.logs.add(level, message, now);
        self.logged.notify_one();
        if let Some(q) = index.and_then(|i| state.queries.get_mut(i)) {
            q.status.log_rows += 1;
        }
    }

    /// Whether any query was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Ends everything with `reason` and a log line; `false` when it had ended
    /// already.
    pub fn cancel_with(&self, reason: &str, line: &str) -> bool {
        {
            let mut state = self.state();
            if state.cancelled || state.complete_sent {
                return false;
            }
            state.cancelled = true;
            state.logs.add(Level::Error, line, self.clock.unix());
            let now = self.clock.micros();
            for q in state.queries.iter_mut().filter(|q| !q.ended) {
                touch(q, now);
                fail(q, reason);
                q.ended = true;
                q.status.set_status(ReturnedStatus::GenericError);
            }
        }
        self.cancel.cancel();
        true
    }

    /// A row or byte limit was passed: everything ends, failed by `message`.
    fn limit(&self, index: usize, message: &str) {
        self.log(Some(index), Level::Error, message);
        for q in &mut self.state().queries {
            fail(q, message);
        }
        self.cancel.cancel();
    }

    /// The state now.
    pub fn stats(&self) -> FlowStats {
        let now = self.clock.micros();
        let mut state = self.state();
        for q in state.queries.iter_mut().filter(|q| !q.ended) {
            touch(q, now);
        }
        let complete = !state.queries.is_empty() && state.queries.iter().all(|q| q.ended);
        FlowStats {
            query_status: state.queries.iter().map(|q| q.status.clone()).collect(),
            flow_complete: complete,
            transactions_outstanding: self.outstanding.load(Ordering::Relaxed),
            ..Default::default()
        }
    }

    /// Resolves when there are log lines that were not sent.
    pub async fn logged(&self) {
        self.logged.notified().await;
    }

    /// Sends the log lines gathered so far.
    pub async fn flush_logs(&self) {
        let batches = self.state().logs.take(self.clock.micros());
        for batch in batches {
            self.out.post(self.message(LOG_SINK, |m| m.log_message = Some(batch))).await;
        }
    }

    /// Sends a progress report, unless the final one was sent.
    pub async fn send_progress(&self) {
        let mut stats = self.stats();
        // The end is told by `finish` alone, so that it follows the last log.
        stats.flow_complete = false;
        if !self.state().complete_sent {
            self.out.post(self.message(STATS_SINK, |m| m.flow_stats = Some(stats))).await;
        }
    }

    /// Sends what is left and the final report; further calls do nothing.
    /// Queries that were not started make an entry each, failed by `reason`.
    pub async fn finish(&self, reason: &str) {
        let started = self.state().queries.len();
        for _ in started..self.expected {
            let i = self.start_query();
            self.fail_query(i, reason);
            self.end_query(i);
        }
        {
            let mut state = self.state();
            if state.complete_sent {
                return;
            }
            state.complete_sent = true;
        }
        self.flush_logs().await;
        let mut stats = self.stats();
        stats.flow_complete = true;
        self.out.post(self.message(STATS_SINK, |m| m.flow_stats = Some(stats))).await;
    }

    /// Changes how many asynchronous uploads are left.
    pub fn outstanding(&self, change: i64) {
        let change = |n: u64| Some(n.saturating_add_signed(change));
        let _ = self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    fn message(&self, request_id: u64, fill: impl FnOnce(&mut VeloMessage)) -> VeloMessage {
        let mut m =
            VeloMessage { session_id: self.id.clone(), request_id, ..VeloMessage::default() };
        fill(&mut m);
        m
    }

    async fn send_part(&self, index: usize, part: Part<'_>) -> Result<(), Stopped> {
        let mut sent = self.sent.lock().await;
        let name = &part.request.name;
        let so_far = sent.entry(name.clone()).or_default();
        let mut response = response(&part, so_far.rows, self.clock.micros());
        so_far.rows += part.rows;
        if self.compression {
            response.byte_offset = so_far.bytes;
            response.uncompressed_size = part.jsonl.len() as u64;
            response.compressed_json_response = compress(part.jsonl.as_bytes());
            response.jsonl_response = String::new();
        }
        so_far.bytes += part.jsonl.len() as u64;
        let total = {
            let mut state = self.state();
            state.rows += part.rows;
            if let Some(q) = state.queries.get_mut(index) {
                q.status.result_rows += part.rows as i64;
                if !q.status.names_with_response.contains(name) {
                    q.status.names_with_response.push(name.clone());
                }
            }
            state.rows
        };
        self.out.post(self.message(0, |m| m.vql_response = Some(response))).await;
        drop(sent);
        if self.max_rows > 0 && total > self.max_rows {
            let (limit, id) = (self.max_rows, &self.id);
            let text = format!("Rows {total} exceeded limit {limit} for flow {id}. Cancelling.");
            self.limit(index, &text);
            return Err(Stopped);
        }
        Ok(())
    }

    async fn send_upload(&self, index: usize, mut message: VeloMessage) -> Result<(), Stopped> {
        let mut total = 0;
        if let Some(b) = &mut message.file_buffer {
            {
                let mut state = self.state();
                state.bytes += b.data_length;
                total = state.bytes;
                if let Some(q) = state.queries.get_mut(index) {
                    q.status.uploaded_bytes += b.data_length as i64;
                    if b.offset == 0 {
                        q.status.uploaded_files += 1;
                        q.status.expected_uploaded_bytes += b.size as i64;
                    }
                }
            }
            if self.compression && !b.data.is_empty() {
                b.uncompressed_length = b.data.len() as u64;
                b.data = compress(&b.data).into();
            }
        }
        message.session_id.clone_from(&self.id);
        self.out.post(message).await;
        if self.max_bytes > 0 && total > self.max_bytes {
            let (limit, id) = (self.max_bytes, &self.id);
            let text = format!("Bytes {total} exceeded limit {limit} for flow {id}. Cancelling.");
            self.limit(index, &text);
            return Err(Stopped);
        }
        Ok(())
    }
}

/// A query's own time is that of its collection.
fn touch(q: &mut Query, now: u64) {
    q.status.last_active = now.max(q.status.last_active);
    let micros = q.status.last_active.saturating_sub(q.status.first_active);
    q.status.duration = Duration::from_micros(micros).as_nanos() as i64;
}

fn fail(q: &mut Query, message: &str) {
    if q.status.error_message.is_empty() {
        let message = if message.is_empty() { "Generic Error" } else { message };
        q.status.error_message = message.to_owned();
    }
}

fn never() -> Regex {
    #[allow(clippy::expect_used)]
    Regex::new(r"[^\s\S]").expect("a constant pattern")
}

/// The message of one part, uncompressed.
pub(super) fn response(part: &Part<'_>, start_row: u64, now: u64) -> VqlResponse {
    VqlResponse {
        columns: part.columns.to_vec(),
        query: Some(VqlRequest { vql: part.request.vql.clone(), name: part.request.name.clone() }),
        timestamp: now,
        query_id: part.query_index,
        part: part.part,
        total_rows: part.rows,
        jsonl_response: part.jsonl.to_owned(),
        query_start_row: start_row,
        ..Default::default()
    }
}

/// One query's way to the server.
#[derive(Clone, Debug)]
pub struct FlowQuery {
    /// The collection.
    pub flow: Arc<Flow>,
    /// Its place in the report.
    pub index: usize,
}

impl Responder for FlowQuery {
    fn session(&self) -> &str {
        &self.flow.id
    }

    fn cancel(&self) -> &CancellationToken {
        &self.flow.cancel
    }

    fn log(&self, level: Level, message: &str) {
        self.flow.log(Some(self.index), level, message);
    }

    fn fail(&self, message: &str) {
        self.flow.fail_query(self.index, message);
    }

    fn next_upload(&self) -> i64 {
        self.flow.uploads.fetch_add(1, Ordering::Relaxed)
    }

    fn rows<'a>(&'a self, part: Part<'a>) -> BoxFuture<'a, Result<(), Stopped>> {
        self.flow.send_part(self.index, part).boxed()
    }

    fn upload(&self, message: VeloMessage) -> BoxFuture<'_, Result<(), Stopped>> {
        self.flow.send_upload(self.index, message).boxed()
    }

    fn outstanding(&self, change: i64) {
        self.flow.outstanding(change);
    }
}

/// A batch of log lines as it is sent.
pub(super) fn log_message(id: i64, rows: u64, jsonl: String, now: u64) -> LogMessage {
    LogMessage { timestamp: now, id, number_of_rows: rows, jsonl, ..Default::default() }
}
