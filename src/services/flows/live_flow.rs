//! A flow that is not settled: everything received for it, still in journals.
//!
//! Pure: it is told what was committed and says what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use velociraptor_proto::journal::{FlowRun, OpenFlow, Schedule};
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::{ArtifactCollectorContext, FlowStats, VeloStatus};

use super::job::{Hash, Job};
use super::live_legacy::{Files, Legacy, QueryEnd};
use super::live_set::{LiveSet, Order, Placed};
use super::live_upload::{Attempt, LiveUpload, UploadKey};
use super::runs::{self, Awaited};
use super::status;
use crate::services::ids::{Run, Session};
use crate::store::journal::Segment;

/// How long after its end a flow waits for rows or logs that are still missing
/// before it is settled without them, microseconds.
pub const SETTLE_GRACE: u64 = 30_000_000;

/// How long rows or files are waited for that a finished flow has counted and
/// not sent, microseconds.
const PATIENCE: u64 = 3_600_000_000;

/// The same for a flow of which a query failed: limits make an agent drop rows.
const FAILED_PATIENCE: u64 = 300_000_000;
/// How often the file browser is told of a flow whose telling fails.
const BROWSE_TRIES: u8 = 5;

/// What a committed job meant to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored.
    Stored,
    /// Known already; nothing changed.
    Duplicate,
    /// Its place is taken by other content; kept aside.
    Conflict,
    /// Stock would drop it: a query without a name, an empty message.
    Ignored,
}

impl From<Placed> for Outcome {
    fn from(p: Placed) -> Self {
        match p {
            Placed::New => Self::Stored,
            Placed::Duplicate => Self::Duplicate,
            Placed::Conflict => Self::Conflict,
        }
    }
}

/// Rows that stock files hold already.
#[derive(Clone, Debug, Default)]
struct Bases {
    results: BTreeMap<String, u64>,
    /// Of them those of each run, where there are several.
    of_runs: BTreeMap<String, BTreeMap<Run, u64>>,
    logs: u64,
    transactions: u64,
    /// Rows of `uploads.json`.
    uploads: u64,
}

/// An unsettled flow.
#[derive(Clone, Debug)]
pub struct LiveFlow {
    /// As scheduled or as loaded; `None` for a flow nobody asked for.
    pub context: Option<ArtifactCollectorContext>,
    /// Result sets by `Artifact/Source`.
    pub results: BTreeMap<String, LiveSet>,
    /// The query log.
    pub logs: LiveSet,
    /// Upload bookkeeping of resumable uploads.
    pub transactions: LiveSet,
    /// Uploads by key.
    pub uploads: BTreeMap<UploadKey, LiveUpload>,
    /// Upload metadata rows stored before this process saw the flow.
    pub base_uploads: u64,
    /// Latest report of each run, by child id.
    pub reports: BTreeMap<String, FlowStats>,
    /// Which runs its end waits for, if it was asked for more than once.
    pub awaited: Option<Awaited>,
    /// Server time of the last thing received, microseconds.
    pub last_received: u64,
    /// Server time at which the flow was first seen to have ended.
    pub ended_at: Option<u64>,
    /// The completion event was published.
    pub announced: bool,
    /// How often the file browser may still be told what it found.
    pub browse_left: u8,
    /// Context objects on disk differ from what is known.
    pub dirty: bool,
    /// Parts of its files were kept when it was settled last.
    pub kept_parts: bool,
    legacy: Legacy,
    bases: Bases,
    /// Reports and statuses taken: told twice they change nothing, but told again
    /// when the flow is settled they would bring it back.
    statuses: BTreeSet<Hash>,
    /// Records this flow was built from that are not extents of some set.
    pins: BTreeSet<Arc<Segment>>,
}

impl LiveFlow {
    fn with(context: Option<ArtifactCollectorContext>, bases: Bases) -> Self {
        Self {
            context,
            results: BTreeMap::new(),
            logs: LiveSet::new(Order::ByArrival, bases.logs),
            transactions: LiveSet::new(Order::ByArrival, bases.transactions),
            uploads: BTreeMap::new(),
            base_uploads: bases.uploads,
            reports: BTreeMap::new(),
            awaited: None,
            last_received: 0,
            ended_at: None,
            announced: false,
            browse_left: BROWSE_TRIES,
            dirty: true,
            kept_parts: false,
            legacy: Legacy::default(),
            bases,
            statuses: BTreeSet::new(),
            pins: BTreeSet::new(),
        }
    }

    /// A flow that was just scheduled: no stock file of it exists.
    pub fn scheduled(s: &Schedule, pin: Arc<Segment>) -> Self {
        let mut f = Self::with(s.context.clone(), Bases::default());
        f.pins.insert(pin);
        f
    }

    /// It is asked for, and something of it was here before that: what another
    /// frontend received can overtake the request.
    pub fn adopt(&mut self, s: &Schedule, pin: Arc<Segment>) {
        self.context.clone_from(&s.context);
        self.dirty = true;
        self.pin(pin);
        self.note_end(self.last_received);
    }

    /// A further run of it is asked for. What earlier runs collected stays and counts;
    /// how those that were over ended is not how it ends.
    pub fn run_again(&mut self, s: &Schedule, pin: Arc<Segment>) {
        let Some(new) = &s.context else { return };
        let known = self.reports.keys();
        self.awaited = Some(runs::awaited_with(self.awaited.take(), known, s));
        self.context = Some(runs::context_of(self.context.as_ref(), new));
        (self.ended_at, self.announced, self.browse_left) = (None, false, BROWSE_TRIES);
        self.dirty = true;
        self.pin(pin);
    }

    /// Whether this run was asked for, or something came of it.
    pub fn knows_run(&self, child: &str) -> bool {
        let asked = self.awaited.as_ref().is_some_and(|a| a.contains(child));
        asked || self.reports.contains_key(child)
    }

    /// Runs that are over, by child id.
    pub fn runs_over(&self) -> Vec<String> {
        let first = String::new();
        let all = self.awaited.iter().flatten().chain(self.reports.keys()).chain([&first]);
        let all: BTreeSet<&String> = all.collect();
        all.into_iter().filter(|c| self.over() || self.run_over(c)).cloned().collect()
    }

    /// Whether nothing more will come of this run.
    pub fn run_over(&self, child: &str) -> bool {
        self.stopped() || self.reports.get(child).is_some_and(status::is_complete)
    }

    /// Sessions that its client may be working on.
    pub fn sessions(&self) -> Vec<String> {
        let flow = self.context.as_ref().map(|c| c.session_id.clone()).unwrap_or_default();
        let first = String::new();
        let all: BTreeSet<&String> = match &self.awaited {
            Some(a) => a.iter().filter(|c| !self.run_over(c)).collect(),
            None => self.reports.keys().chain([&first]).collect(),
        };
        let id = |child: &String| Session { flow: flow.clone(), child: child.clone() }.id();
        all.into_iter().map(id).collect()
    }

    /// What is to be known of its runs when it is opened again, if it has several.
    pub fn runs(&self) -> Vec<FlowRun> {
        let Some(awaited) = &self.awaited else { return vec![] };
        let all: BTreeSet<&String> = awaited.iter().chain(self.reports.keys()).collect();
        let describe = |child: &String| {
            let run = Session { flow: String::new(), child: child.clone() }.run();
            let mut rows: BTreeMap<String, u64> = BTreeMap::new();
            for (name, of) in &self.bases.of_runs {
                rows.insert(name.clone(), of.get(&run).copied().unwrap_or(0));
            }
            // What is stored and was told apart by nobody is the first run's.
            for (name, n) in self.bases.results.iter().filter(|(_, n)| run == 0 && **n > 0) {
                rows.entry(name.clone()).or_insert(*n);
            }
            rows.extend(self.results.iter().map(|(name, set)| (name.clone(), set.rows_of(run))));
            rows.retain(|_, n| *n > 0);
            FlowRun {
                child: child.clone(),
                report: self.reports.get(child).cloned(),
                awaited: awaited.contains(child),
                rows,
            }
        };
        all.into_iter().map(describe).collect()
    }

    /// A flow that nobody here asked for, of which no stock file exists.
    pub fn unrequested() -> Self {
        Self::with(None, Bases::default())
    }

    /// A flow with stock files, to which something is being added.
    pub fn opened(
        o: &OpenFlow,
        context: Option<ArtifactCollectorContext>,
        reports: BTreeMap<String, FlowStats>,
        pin: Arc<Segment>,
    ) -> Self {
        let bases = Bases {
            results: o.base_rows.clone(),
            of_runs: runs::bases(&o.runs),
            logs: o.base_logs,
            transactions: o.base_transactions,
            uploads: o.base_uploads,
        };
        let mut f = Self::with(context, bases);
        // What stock files say now may be of runs that come later in the journal.
        f.reports = if o.runs.is_empty() { reports } else { runs::reports(&o.runs) };
        f.awaited = runs::awaited(&o.runs);
        f.kept_parts = !o.parts.is_empty();
        f.uploads = o.parts.iter().map(LiveUpload::kept).collect();
        f.pins.insert(pin);
        f.announced = match &f.awaited {
            Some(_) => f.over(),
            None => f.reports.values().any(status::is_complete),
        };
        f
    }

    /// Keeps the record behind `pin` until the flow is settled.
    pub fn pin(&mut self, pin: Arc<Segment>) {
        if self.pins.last() != Some(&pin) {
            self.pins.insert(pin);
        }
    }

    /// Whether this very message was taken before.
    pub fn has(&self, job: &Job) -> bool {
        let h = &job.hash;
        self.results.values().any(|s| s.has(h))
            || self.logs.has(h)
            || self.transactions.has(h)
            || (job.message.file_buffer.is_some() && self.uploads.values().any(|u| u.has(h)))
    }

    /// The messages taken.
    pub fn hashes(&self) -> impl Iterator<Item = Hash> {
        let sets = self.sets().flat_map(LiveSet::hashes);
        let uploads = self.uploads.values().flat_map(super::LiveUpload::hashes);
        sets.chain(uploads).chain(self.statuses.iter().copied())
    }

    /// The journals from which this flow can be made again.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.sets().flat_map(LiveSet::segments).chain(&self.pins)
    }

    /// Whether what is here can be put into stock files although more will come: so
    /// that what comes goes behind it. Pieces of files have no stock form, second
    /// runs begin again at row 0, and of protocol 3 more is remembered than is stored.
    pub fn can_pause(&self) -> bool {
        self.context.is_some()
            && !self.over()
            && !self.legacy.old
            && self.uploads_complete()
            && self.awaited.is_none()
            && self.reports.keys().all(String::is_empty)
            && self.sets().all(|s| s.is_first_run() && !s.has_gap())
    }

    /// Bytes of messages that are in journals alone; contents of files apart, which
    /// are linked.
    pub fn live_bytes(&self) -> u64 {
        self.sets().flat_map(LiveSet::parts).map(|(_, p)| p.extent.len).sum()
    }

    fn sets(&self) -> impl Iterator<Item = &LiveSet> {
        self.results.values().chain([&self.logs, &self.transactions])
    }

    /// Takes a committed job. `name` is the readable query name.
    pub fn apply(&mut self, session: &Session, job: &Job, name: &str, received: u64) -> Outcome {
        let m = &job.message;
        let run = session.run();
        self.legacy.old |= m.response_id != 0;
        let outcome = if let Some(r) = &m.vql_response {
            if name.is_empty() {
                return Outcome::Ignored;
            }
            let base = self.bases.results.get(name).copied().unwrap_or(0);
            let of_runs = || self.bases.of_runs.get(name).cloned().unwrap_or_default();
            let set = self
                .results
                .entry(name.to_owned())
                .or_insert_with(|| LiveSet::of_runs(Order::ByRow, base, of_runs()));
            // Agents before row numbers leave them 0 in later parts.
            let start = (r.part == 0 || r.query_start_row > 0).then_some(r.query_start_row);
            set.add(run, start, job).into()
        } else if let Some(l) = &m.log_message {
            if job.rows == 0 {
                return Outcome::Ignored;
            }
            if let Some(text) = &job.log_error {
                let report = self.reports.get_mut(&session.child);
                self.legacy.error(&session.child, &l.artifact, text, report);
                self.dirty = true;
            }
            self.logs.add(run, None, job).into()
        } else if let Some(b) = &m.file_buffer {
            // The data may lie beside the journal; the record that says so is in it.
            self.pin(job.extent.segment.clone());
            match UploadKey::of(run, b) {
                Some(key) => self.uploads.entry(key).or_default().add(job, received).into(),
                None => return Outcome::Ignored,
            }
        } else if m.upload_transaction.is_some() {
            self.transactions.add(run, None, job).into()
        } else if let Some(s) = &m.flow_stats {
            self.pin(job.extent.segment.clone());
            if !status::is_unknown(s) {
                self.statuses.insert(job.hash);
            }
            self.report(&session.child, s.clone());
            Outcome::Stored
        } else if let Some(s) = &m.status {
            self.pin(job.extent.segment.clone());
            self.statuses.insert(job.hash);
            let end = self.query_end(run, m.request_id, s.clone(), received);
            if end.is_query() {
                let report = self.reports.entry(session.child.clone()).or_default();
                self.legacy.ended(&session.child, report, end);
                self.dirty = true;
            }
            Outcome::Stored
        } else {
            return Outcome::Ignored;
        };
        if outcome != Outcome::Duplicate {
            self.last_received = self.last_received.max(received);
            self.note_end(received);
        }
        outcome
    }

    fn report(&mut self, child: &str, new: FlowStats) {
        self.dirty = true;
        match self.reports.get_mut(child) {
            Some(known) => status::join(known, new),
            None => {
                self.reports.insert(child.to_owned(), new);
            }
        }
    }

    /// An old agent counts the rows of a query's last source only; those of all
    /// its sources came before its end.
    fn query_end(&self, run: Run, request: u64, mut status: VeloStatus, received: u64) -> QueryEnd {
        let rows = |n: &String| self.results.get(n).map_or(0, |set| set.rows_of(run));
        status.names_with_response.retain(|n| rows(n) > 0);
        let came: u64 = status.names_with_response.iter().map(rows).sum();
        status.result_rows = status.result_rows.max(came as i64);
        QueryEnd {
            status,
            request,
            queries: self.context.as_ref().map_or(1, |c| c.total_requests),
            files: self.files(Some(run)),
            received,
        }
    }

    /// Files of a run, or of all.
    fn files(&self, run: Option<Run>) -> Files {
        let mut sum = Files::default();
        let of = |k: &UploadKey| run.is_none_or(|run| k.run == run);
        let uploads = self.uploads.iter().filter(|(k, _)| of(k));
        for a in uploads.filter_map(|(_, u)| u.attempts.last()) {
            let bytes = a.covered();
            sum.count += 1;
            sum.bytes += bytes as i64;
            sum.expected += a.eof.as_ref().map_or(bytes, |e| e.stored_size) as i64;
        }
        sum
    }

    /// Why the flow is to be stopped, if it sent more than its request allows.
    /// Agents of protocol 4 stop by themselves.
    pub fn over_limit(&self) -> Option<&'static str> {
        let request = self.context.as_ref()?.request.as_ref()?;
        if !self.legacy.old {
            return None;
        }
        let run = Session::parse(&request.flow_id).run();
        let rows: u64 = self.results.values().map(|set| set.rows_of(run)).sum();
        let over = |limit: u64, n: u64| limit > 0 && n > limit;
        if over(request.max_rows, rows) {
            return Some("Row count exceeded limit");
        }
        over(request.max_upload_bytes, self.files(Some(run)).bytes as u64)
            .then_some("Collection exceeded upload limits")
    }

    fn note_end(&mut self, received: u64) {
        if self.ended_at.is_none() && self.over() {
            self.ended_at = Some(received);
        }
    }

    /// The user's cancel: final unless the finished result came first.
    pub fn cancel(&mut self, by: &str, now: u64) {
        self.end_with(format!("Cancelled by {by}"), now);
    }

    /// The server's verdict that the flow will not finish.
    pub fn fail(&mut self, why: &str, now: u64) {
        self.end_with(why.to_owned(), now);
    }

    /// The server's verdict that one run will not finish; of a flow that was asked for
    /// once, that the flow will not.
    pub fn fail_run(&mut self, child: &str, why: &str, now: u64) {
        if self.awaited.is_none() || self.stopped() {
            return self.fail(why, now);
        }
        let report = self.reports.entry(child.to_owned()).or_default();
        status::fail(report, why);
        self.dirty = true;
        self.note_end(now);
    }

    fn end_with(&mut self, status: String, now: u64) {
        if self.over() {
            return;
        }
        if let Some(c) = &mut self.context {
            c.state = State::Error.into();
            c.status = status;
        }
        self.dirty = true;
        self.ended_at = Some(now);
    }

    /// Whether it was cancelled, or the server said that nothing more will come.
    fn stopped(&self) -> bool {
        self.context.as_ref().is_some_and(|c| {
            matches!(c.state(), State::Error | State::Finished) && !c.status.is_empty()
        })
    }

    /// Whether the agent or the server said that nothing more will come.
    pub fn over(&self) -> bool {
        let ended = |child: &String| self.reports.get(child).is_some_and(status::is_complete);
        self.stopped()
            || match &self.awaited {
                Some(awaited) => awaited.iter().all(ended),
                None => !self.reports.is_empty() && self.reports.values().all(status::is_complete),
            }
    }

    /// Whether all that the agent says it sent is here.
    pub fn whole(&self) -> bool {
        let promised: i64 =
            self.reports.values().flat_map(|r| &r.query_status).map(|q| q.result_rows).sum();
        let have: u64 = self.results.values().map(LiveSet::rows).sum::<u64>()
            + (self.bases.results.iter())
                .filter(|(k, _)| !self.results.contains_key(*k))
                .map(|(_, v)| v)
                .sum::<u64>();
        have >= promised.max(0) as u64
            && self.results.values().all(|s| !s.has_gap())
            && self.uploads_complete()
    }

    /// Whether every upload that was begun has arrived.
    pub fn uploads_complete(&self) -> bool {
        self.uploads.values().all(|u| u.attempts.last().is_none_or(|a| a.complete()))
    }

    /// How long after the last thing received more may still come, microseconds.
    ///
    /// An agent's report can be far ahead of its queue, and a stock agent stays
    /// away for minutes after a failure. Nothing is lost by waiting; a flow that
    /// was stopped or failed may never send what it counted.
    fn patience(&self) -> u64 {
        let stopped = self.context.as_ref().is_some_and(|c| !c.status.is_empty());
        let failed = self.reports.values().flat_map(|r| &r.query_status).any(status::failed);
        match (stopped, failed) {
            (true, _) => SETTLE_GRACE,
            (false, true) => FAILED_PATIENCE,
            (false, false) => PATIENCE,
        }
    }

    /// Whether what is missing is not waited for any longer.
    fn given_up(&self, now: u64) -> bool {
        self.ended_at.is_some_and(|at| now >= at.max(self.last_received) + self.patience())
    }

    /// Whether the flow's rows may be put into stock files now.
    ///
    /// Logs have no exact total, so a whole flow still waits for the grace
    /// period before its log is final; rows settle with it.
    pub fn ready_to_settle(&self, now: u64) -> bool {
        match self.ended_at {
            Some(at) => {
                let quiet = now >= at.max(self.last_received) + SETTLE_GRACE;
                (self.whole() && quiet) || self.given_up(now)
            }
            // Nobody asked for it and nothing more came.
            None => {
                let quiet = now >= self.last_received + 2 * SETTLE_GRACE;
                self.context.is_none() && quiet && self.uploads_complete()
            }
        }
    }

    /// Whether it found folders or files that the file browser is to know of.
    pub fn to_browse(&self) -> bool {
        let request = self.context.as_ref().and_then(|c| c.request.as_ref());
        self.announced
            && self.browse_left > 0
            && request.is_some_and(crate::services::vfs::concerns)
    }

    /// Whether the end may be announced: all of it is here, or waited for.
    pub fn ready_to_announce(&self, now: u64) -> bool {
        !self.announced && self.ended_at.is_some() && (self.whole() || self.given_up(now))
    }

    /// The context with state and totals as they are now.
    pub fn snapshot(&self, now: u64) -> Option<ArtifactCollectorContext> {
        self.snapshot_with(now, None)
    }

    /// As [`Self::snapshot`], for a flow the client was last heard of at
    /// `inflight` (microseconds).
    pub fn snapshot_with(
        &self,
        now: u64,
        inflight: Option<u64>,
    ) -> Option<ArtifactCollectorContext> {
        let mut c = self.context.clone()?;
        c.inflight_time = inflight.unwrap_or(0);
        status::derive_runs(&mut c, &self.by_run(), now);
        if self.reports.is_empty() && self.last_received > 0 {
            self.unreported(&mut c);
        }
        self.show_progress(&mut c);
        // An urgent report may overtake what it counts: whoever waits for the end
        // must find everything there.
        let waiting = self.ended_at.is_some() && !self.whole() && !self.given_up(now);
        if waiting && c.state() == State::Finished {
            c.state = State::InProgress.into();
        }
        for (name, set) in &self.results {
            if set.rows() > 0 && !c.artifacts_with_results.contains(name) {
                c.artifacts_with_results.push(name.clone());
            }
        }
        Some(c)
    }

    fn by_run(&self) -> status::Reports<'_> {
        let Some(awaited) = &self.awaited else {
            let awaited = self.reports.values().collect();
            return status::Reports { awaited, ..status::Reports::default() };
        };
        let mut of = status::Reports { more: !self.over(), ..status::Reports::default() };
        for (child, report) in &self.reports {
            let list = if awaited.contains(child) { &mut of.awaited } else { &mut of.past };
            list.push(report);
        }
        of
    }

    /// What is stored already counts before the client reports on it.
    fn show_progress(&self, c: &mut ArtifactCollectorContext) {
        let rows: u64 = self.results.values().map(LiveSet::rows).sum();
        let bytes: u64 = (self.uploads.values())
            .filter_map(|u| u.attempts.iter().map(Attempt::covered).max())
            .sum();
        c.total_collected_rows = c.total_collected_rows.max(rows);
        c.total_uploaded_bytes = c.total_uploaded_bytes.max(bytes);
        c.total_logs = c.total_logs.max(self.logs.rows());
        if c.state() == State::Waiting && (rows > 0 || bytes > 0) {
            c.state = State::InProgress.into();
        }
    }

    /// Something came and no report yet: agents of protocol 3 report only ends.
    fn unreported(&self, c: &mut ArtifactCollectorContext) {
        if matches!(c.state(), State::Waiting | State::Running) {
            c.state = State::InProgress.into();
        }
        let files = self.files(None);
        c.total_collected_rows = self.results.values().map(LiveSet::rows).sum();
        c.total_logs = self.logs.rows();
        c.total_uploaded_files = self.base_uploads + files.count as u64;
        c.total_uploaded_bytes = files.bytes as u64;
        c.active_time = self.last_received;
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::{hash, parse};
    use super::*;
    use crate::store::journal::Extent;
    use prost::Message;
    use velociraptor_proto::proto::velo_status::ReturnedStatus;
    use velociraptor_proto::proto::*;

    fn flow() -> LiveFlow {
        let segment = Arc::new(Segment::of_path("x"));
        let context = ArtifactCollectorContext {
            session_id: "F.1".into(),
            state: State::Running.into(),
            ..Default::default()
        };
        LiveFlow::scheduled(&Schedule { context: Some(context), ..Default::default() }, segment)
    }

    fn job(m: VeloMessage) -> Job {
        let raw = m.encode_to_vec();
        let segment = Arc::new(Segment::of_path("x"));
        parse(&raw, hash(&raw), Extent { segment, offset: 0, len: raw.len() as u64 }, None).unwrap()
    }

    fn rows(start: u64, n: u64) -> Job {
        job(VeloMessage {
            vql_response: Some(VqlResponse {
                jsonl_response: "{\"a\":1}\n".repeat(n as usize),
                query_start_row: start,
                total_rows: n,
                part: start,
                timestamp: start,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    fn done(rows: i64) -> Job {
        job(VeloMessage {
            flow_stats: Some(FlowStats {
                flow_complete: true,
                query_status: vec![VeloStatus {
                    status: ReturnedStatus::Ok.into(),
                    result_rows: rows,
                    last_active: 5,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn the_end_may_overtake_the_rows() {
        let mut f = flow();
        let s = Session::parse("F.1");
        assert_eq!(f.apply(&s, &rows(0, 10), "A", 1), Outcome::Stored);
        f.apply(&s, &done(25), "", 2);
        assert!(f.over() && !f.whole() && !f.ready_to_announce(3));
        assert_eq!(f.snapshot(3).unwrap().state(), State::InProgress);
        f.apply(&s, &rows(10, 15), "A", 4);
        assert!(f.whole() && f.ready_to_announce(5));
        assert!(!f.ready_to_settle(5), "late logs are waited for");
        assert!(f.ready_to_settle(4 + SETTLE_GRACE));
        assert_eq!(f.snapshot(6).unwrap().state(), State::Finished);
    }

    #[test]
    fn cancelled_stays_cancelled_unless_finished_first() {
        let s = Session::parse("F.1");
        let mut f = flow();
        f.cancel("me", 1);
        f.apply(&s, &done(0), "", 2);
        let c = f.snapshot(3).unwrap();
        assert_eq!((c.state(), c.status.as_str()), (State::Error, "Cancelled by me"));
        let mut f = flow();
        f.apply(&s, &done(0), "", 2);
        f.cancel("me", 3);
        assert_eq!(f.snapshot(3).unwrap().state(), State::Finished);
    }

    #[test]
    fn unnamed_rows_are_ignored_and_repeats_are_seen() {
        let mut f = flow();
        let s = Session::parse("F.1");
        assert_eq!(f.apply(&s, &rows(0, 1), "", 1), Outcome::Ignored);
        assert_eq!(f.apply(&s, &rows(0, 1), "A", 1), Outcome::Stored);
        assert_eq!(f.apply(&s, &rows(0, 1), "A", 1), Outcome::Duplicate);
        assert!(f.has(&rows(0, 1)));
        assert_eq!(f.apply(&s, &rows(0, 2), "A", 1), Outcome::Conflict);
        assert_eq!(f.results["A"].rows(), 1);
    }
}
