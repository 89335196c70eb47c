//! What agents before 0.6.8 (protocol 3) leave to the server.
//!
//! They send log lines one at a time, a status when a query is over, and no
//! report of the flow: whether it has failed, how many queries have ended and
//! what was uploaded is for the server to say. Here that becomes the report a
//! later agent would have sent. Pure.

use std::collections::BTreeMap;

use regex::Regex;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::{FlowStats, LogMessage, VeloStatus};

use super::status::{ended, failed};

/// Log text that means failure to stock servers and agents, unless configured
/// (`Frontend.collection_error_regex`).
const ERRORS: &str = "(?i)(Error:|Symbol.+?not found|Expecting a path arg type, not|\
                      Field.+?is required|Unexpected arg)";

/// Which log lines of an old agent mean that its collection has failed.
#[derive(Clone, Debug)]
pub struct LogErrors(Option<Regex>);

impl LogErrors {
    /// The configured pattern, or stock's own. One that is no pattern is said by
    /// the check of the configuration, and matches nothing here.
    pub fn new(pattern: Option<&str>) -> Self {
        Self(Regex::new(pattern.unwrap_or(ERRORS)).ok())
    }

    /// The text of an old agent's log line that is an error.
    pub fn of<'a>(&self, l: &'a LogMessage) -> Option<&'a str> {
        let text = l.message.trim_end();
        let old = l.jsonl.is_empty() && !text.is_empty();
        let bad = l.level == "ERROR" || self.0.as_ref().is_some_and(|r| r.is_match(text));
        (old && bad).then_some(text)
    }
}

/// Queries of one collection that are reported before they have ended, so that
/// an agent that names a large number costs nothing.
const MOST_QUERIES: i64 = 1000;

/// Files of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// How many.
    pub count: i64,
    /// Bytes that came.
    pub bytes: i64,
    /// Bytes that were announced.
    pub expected: i64,
}

/// The end of a query, as an old agent told it.
#[derive(Debug)]
pub struct QueryEnd {
    /// What it said.
    pub status: VeloStatus,
    /// The request it answers: 1 and up for queries, 0 for a cancel.
    pub request: u64,
    /// Queries that were asked for.
    pub queries: i64,
    /// Files of the run until now.
    pub files: Files,
    /// Server time, microseconds.
    pub received: u64,
}

impl QueryEnd {
    /// Whether it is about a query, and not an answer to a cancel.
    pub fn is_query(&self) -> bool {
        self.status.query_id != 0 || self.request != 0
    }
}

/// The first error in the log of each query, by the name the agent gives it.
#[derive(Clone, Debug, Default)]
pub struct Legacy {
    /// The agent numbers its responses: only those of protocol 3 do.
    pub old: bool,
    /// By run and name.
    errors: BTreeMap<(String, String), String>,
}

fn blame(s: &mut VeloStatus, why: &str) {
    if !failed(s) {
        s.status = ReturnedStatus::GenericError.into();
        s.error_message = why.to_owned();
    }
}

impl Legacy {
    /// An error in the log of query `artifact` of the run `child`: it counts for the
    /// query's end, whichever of both came first.
    pub fn error(
        &mut self,
        child: &str,
        artifact: &str,
        text: &str,
        report: Option<&mut FlowStats>,
    ) {
        let key = (child.to_owned(), artifact.to_owned());
        let first = self.errors.entry(key).or_insert_with(|| text.to_owned());
        for s in report.into_iter().flat_map(|r| &mut r.query_status) {
            if s.artifact == artifact {
                blame(s, first);
            }
        }
    }

    /// Adds the end of a query to the report.
    ///
    /// A query that timed out ends twice, the second time well: the first error
    /// stays and the later counts are taken.
    pub fn ended(&self, child: &str, report: &mut FlowStats, end: QueryEnd) {
        let QueryEnd { status: mut s, request, queries, files, received } = end;
        if s.query_id == 0 {
            s.query_id = request as i64;
        }
        if let Some(text) = self.errors.get(&(child.to_owned(), s.artifact.clone())) {
            blame(&mut s, text);
        }
        let (mut known, others): (Vec<_>, Vec<_>) =
            report.query_status.drain(..).partition(|q| q.query_id == s.query_id);
        report.query_status = others;
        if let Some(k) = known.pop() {
            s.result_rows = s.result_rows.max(k.result_rows);
            s.log_rows = s.log_rows.max(k.log_rows);
            s.first_active = k.first_active;
            if failed(&k) {
                (s.status, s.error_message, s.backtrace) = (k.status, k.error_message, k.backtrace);
            }
        }
        s.last_active = received;
        if s.first_active == 0 {
            s.first_active = received.saturating_sub(s.duration.max(0) as u64 / 1000);
        }
        let sum = |f: fn(&VeloStatus) -> i64| report.query_status.iter().map(f).sum::<i64>();
        s.uploaded_files = (files.count - sum(|q| q.uploaded_files)).max(0);
        s.uploaded_bytes = (files.bytes - sum(|q| q.uploaded_bytes)).max(0);
        s.expected_uploaded_bytes = (files.expected - sum(|q| q.expected_uploaded_bytes)).max(0);
        let queries = if s.total_queries > 0 { s.total_queries } else { queries.max(1) };
        report.query_status.push(s);
        // Queries that have not ended yet, as a later agent would report them.
        for id in 1..=queries.min(MOST_QUERIES) {
            if report.query_status.iter().all(|q| q.query_id != id) {
                report.query_status.push(VeloStatus {
                    status: ReturnedStatus::Progress.into(),
                    query_id: id,
                    last_active: received,
                    ..Default::default()
                });
            }
        }
        report.query_status.sort_by_key(|q| q.query_id);
        report.flow_complete = report.query_status.iter().all(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(id: i64, of: i64, status: ReturnedStatus, text: &str, rows: i64) -> QueryEnd {
        let status = VeloStatus {
            status: status.into(),
            error_message: text.into(),
            artifact: format!("A{id}"),
            query_id: id,
            total_queries: of,
            result_rows: rows,
            duration: 2_000_000,
            ..Default::default()
        };
        QueryEnd { status, request: 1, queries: of, files: Files::default(), received: 10_000 }
    }

    fn states(r: &FlowStats) -> Vec<(i64, ReturnedStatus, &str, i64)> {
        let of = |q: &'_ VeloStatus| (q.query_id, q.status(), q.result_rows);
        let all = r.query_status.iter().map(|q| (of(q), q.error_message.as_str()));
        all.map(|((id, status, rows), text)| (id, status, text, rows)).collect()
    }

    #[test]
    fn complete_when_every_query_has_ended() {
        let (l, mut r) = (Legacy::default(), FlowStats::default());
        l.ended("", &mut r, end(2, 2, ReturnedStatus::Ok, "", 7));
        assert!(!r.flow_complete);
        assert_eq!(states(&r)[0], (1, ReturnedStatus::Progress, "", 0));
        l.ended("", &mut r, end(2, 2, ReturnedStatus::Ok, "", 7));
        assert!(!r.flow_complete, "the same query twice is one query");
        l.ended("", &mut r, end(1, 2, ReturnedStatus::Ok, "", 3));
        assert!(r.flow_complete);
        assert_eq!(states(&r), [(1, ReturnedStatus::Ok, "", 3), (2, ReturnedStatus::Ok, "", 7)]);
        assert_eq!(
            (r.query_status[0].first_active, r.query_status[0].last_active),
            (8_000, 10_000)
        );
    }

    #[test]
    fn agents_without_query_ids_are_told_apart_by_the_request() {
        let (l, mut r) = (Legacy::default(), FlowStats::default());
        for request in [1, 2] {
            let e = QueryEnd { request, queries: 2, ..end(0, 0, ReturnedStatus::Ok, "", 1) };
            l.ended("", &mut r, e);
            assert_eq!(r.flow_complete, request == 2);
        }
        let cancelled = QueryEnd { request: 0, ..end(0, 0, ReturnedStatus::GenericError, "", 0) };
        assert!(!cancelled.is_query());
    }

    #[test]
    fn a_query_that_timed_out_stays_failed_and_keeps_its_rows() {
        let (l, mut r) = (Legacy::default(), FlowStats::default());
        l.ended("", &mut r, end(1, 1, ReturnedStatus::GenericError, "timed out", 2));
        l.ended("", &mut r, end(1, 1, ReturnedStatus::Ok, "", 5));
        assert_eq!(states(&r), [(1, ReturnedStatus::GenericError, "timed out", 5)]);
    }

    #[test]
    fn an_error_in_the_log_fails_its_query_before_or_after_the_end() {
        let mut r = FlowStats::default();
        let mut l = Legacy::default();
        l.error("", "A1", "first", Some(&mut r));
        l.error("", "A1", "second", Some(&mut r));
        l.ended("", &mut r, end(1, 2, ReturnedStatus::Ok, "", 0));
        l.ended("", &mut r, end(2, 2, ReturnedStatus::Ok, "", 0));
        assert_eq!(r.query_status[1].status(), ReturnedStatus::Ok);
        l.error("", "A2", "late", Some(&mut r));
        assert_eq!(
            states(&r),
            [
                (1, ReturnedStatus::GenericError, "first", 0),
                (2, ReturnedStatus::GenericError, "late", 0)
            ]
        );
    }

    #[test]
    fn files_are_counted_once_over_all_queries() {
        let (l, mut r) = (Legacy::default(), FlowStats::default());
        let files = |n| Files { count: n, bytes: 10 * n, expected: 10 * n };
        l.ended("", &mut r, QueryEnd { files: files(2), ..end(1, 2, ReturnedStatus::Ok, "", 0) });
        l.ended("", &mut r, QueryEnd { files: files(3), ..end(2, 2, ReturnedStatus::Ok, "", 0) });
        let of = |q: &VeloStatus| (q.uploaded_files, q.uploaded_bytes, q.expected_uploaded_bytes);
        assert_eq!(r.query_status.iter().map(of).collect::<Vec<_>>(), [(2, 20, 20), (1, 10, 10)]);
    }

    #[test]
    fn what_is_an_error() {
        let line = |level: &str, text: &str| LogMessage {
            level: level.into(),
            message: text.into(),
            ..Default::default()
        };
        let e = LogErrors::new(None);
        assert_eq!(e.of(&line("ERROR", "x\n")), Some("x"));
        assert_eq!(e.of(&line("DEFAULT", "symbol foo not found")), Some("symbol foo not found"));
        assert_eq!(e.of(&line("INFO", "all is well")), None);
        assert_eq!(
            LogErrors::new(Some("well")).of(&line("INFO", "all is well")),
            Some("all is well")
        );
        // Later agents send many lines at once and say themselves what failed.
        let many = LogMessage { jsonl: "{}\n".into(), ..line("ERROR", "x") };
        assert_eq!(e.of(&many), None);
    }
}
