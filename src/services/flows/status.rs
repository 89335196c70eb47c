//! A flow's state, computed from what its queries report.

use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::{ArtifactCollectorContext, FlowStats, VeloMessage, VeloStatus};

/// A client that has not reported for this long is shown as unresponsive, µs.
const UNRESPONSIVE: u64 = 300_000_000;

/// What an agent that has forgotten a flow says.
pub const UNKNOWN_FLOW: &str = "Flow not known";

fn status(s: &VeloStatus) -> ReturnedStatus {
    ReturnedStatus::try_from(s.status).unwrap_or(ReturnedStatus::GenericError)
}

/// Whether the query has ended, well or badly.
pub fn ended(s: &VeloStatus) -> bool {
    status(s) != ReturnedStatus::Progress
}

/// Whether the query has failed.
pub fn failed(s: &VeloStatus) -> bool {
    matches!(status(s), ReturnedStatus::GenericError | ReturnedStatus::UnknownFlow)
}

/// Whether the report says only that the agent does not know the flow.
pub fn is_unknown(stats: &FlowStats) -> bool {
    match stats.query_status.as_slice() {
        [one] => {
            status(one) == ReturnedStatus::UnknownFlow
                || one.error_message.starts_with(UNKNOWN_FLOW)
        }
        _ => false,
    }
}

/// The sessions of which these messages, as bytes, say that their client does not know
/// them. What cannot be read says nothing.
pub fn unknown_in(jobs: impl Iterator<Item = bytes::Bytes>) -> Vec<String> {
    let messages = jobs.filter_map(|j| <VeloMessage as prost::Message>::decode(j).ok());
    messages
        .filter(|m| m.flow_stats.as_ref().is_some_and(is_unknown))
        .map(|m| m.session_id)
        .collect()
}

/// Whether the report says that nothing more will come.
///
/// A resumed flow ends without the flag: its statuses and the count of open
/// transfers say so.
pub fn is_complete(stats: &FlowStats) -> bool {
    let resumed_and_over = stats.transactions_outstanding == 0
        && stats.query_status.iter().any(is_resume)
        && stats.query_status.iter().all(ended);
    stats.flow_complete || resumed_and_over
}

fn is_resume(s: &VeloStatus) -> bool {
    s.names_with_response.iter().any(|n| n == "Server.Internal.ResumedUploads")
}

/// Merges a later report into what is known: state never moves backwards and
/// counters never shrink, whatever order reports arrive in.
pub fn join(known: &mut FlowStats, new: FlowStats) {
    if is_unknown(&new) && !known.query_status.is_empty() {
        // The agent forgot a flow that had started: what was running ended there.
        if let Some(verdict) = new.query_status.into_iter().next() {
            for s in known.query_status.iter_mut().filter(|s| !ended(s)) {
                s.status = verdict.status;
                s.error_message = verdict.error_message.clone();
            }
        }
        known.flow_complete = true;
        return;
    }
    if is_unknown(known) && !new.query_status.is_empty() && !is_unknown(&new) {
        *known = new;
        return;
    }
    let rank = |s: &FlowStats| {
        (
            s.query_status.iter().filter(|q| ended(q)).count(),
            s.query_status.iter().map(|q| q.last_active).max().unwrap_or(0),
            s.query_status
                .iter()
                .map(|q| q.result_rows + q.log_rows + q.uploaded_bytes)
                .sum::<i64>(),
            s.query_status.len(),
        )
    };
    let complete = known.flow_complete || new.flow_complete;
    if rank(&new) >= rank(known) {
        *known = new;
    }
    known.flow_complete = complete;
}

/// The server's verdict on a run that will not report its end.
pub fn fail(report: &mut FlowStats, why: &str) {
    if is_complete(report) {
        return;
    }
    if report.query_status.is_empty() {
        report.query_status.push(VeloStatus::default());
        report.query_status[0].set_status(ReturnedStatus::Progress);
    }
    for s in report.query_status.iter_mut().filter(|s| !ended(s)) {
        s.set_status(ReturnedStatus::GenericError);
        why.clone_into(&mut s.error_message);
    }
    report.flow_complete = true;
}

/// Fills the derived fields of a context from the reports of its sessions.
pub fn derive(context: &mut ArtifactCollectorContext, reports: &[&FlowStats], now: u64) {
    derive_runs(context, &Reports { past: vec![], awaited: reports.to_vec(), more: false }, now);
}

/// The reports of a flow's runs.
#[derive(Debug, Default)]
pub struct Reports<'a> {
    /// Of runs that were over before others were asked for: they are counted, and say
    /// nothing of the state.
    pub past: Vec<&'a FlowStats>,
    /// Of those that are awaited.
    pub awaited: Vec<&'a FlowStats>,
    /// A run is awaited that has not reported its end.
    pub more: bool,
}

/// As [`derive`], for a flow that was asked for more than once.
pub fn derive_runs(context: &mut ArtifactCollectorContext, of: &Reports<'_>, now: u64) {
    let reports = of.awaited.as_slice();
    let statuses = |r: &[&FlowStats]| -> Vec<VeloStatus> {
        r.iter().flat_map(|r| r.query_status.iter().cloned()).collect()
    };
    let awaited = statuses(reports);
    let mut all = statuses(&of.past);
    all.extend(awaited.iter().cloned());
    let outstanding = |r: &[&FlowStats]| r.iter().map(|r| r.transactions_outstanding).sum::<u64>();
    context.transactions_outstanding = outstanding(&of.past) + outstanding(reports);
    if !all.is_empty() {
        totals(context, &all);
    }
    let stored = State::try_from(context.state).unwrap_or(State::Unset);
    if matches!(stored, State::Error | State::Finished) && !context.status.is_empty() {
        context.query_stats = all;
        return; // cancelled, or decided by the server
    }
    let over = (!awaited.is_empty() && awaited.iter().all(ended))
        || reports.iter().any(|r| r.flow_complete);
    let state = if let Some(bad) = awaited
        .iter()
        .find(|s| matches!(status(s), ReturnedStatus::GenericError | ReturnedStatus::UnknownFlow))
    {
        context.status = bad.error_message.clone();
        context.backtrace = bad.backtrace.clone();
        State::Error
    } else if over && !of.more {
        State::Finished
    } else if matches!(stored, State::Error | State::Finished) {
        stored
    } else if context.inflight_time > 0 && awaited.is_empty() {
        State::Waiting
    } else if context.inflight_time > 0 {
        if now.saturating_sub(context.active_time) > UNRESPONSIVE {
            State::Unresponsive
        } else {
            State::InProgress
        }
    } else {
        State::Running
    };
    context.state = state.into();
    context.query_stats = all;
}

/// Counters never shrink: rows that came after the last report were counted when
/// they were stored.
fn totals(context: &mut ArtifactCollectorContext, all: &[VeloStatus]) {
    let sum = |f: fn(&VeloStatus) -> i64| all.iter().map(f).sum::<i64>().max(0) as u64;
    let grow = |total: &mut u64, f: fn(&VeloStatus) -> i64| *total = sum(f).max(*total);
    grow(&mut context.total_collected_rows, |s| s.result_rows);
    grow(&mut context.total_logs, |s| s.log_rows);
    grow(&mut context.total_uploaded_files, |s| s.uploaded_files);
    grow(&mut context.total_uploaded_bytes, |s| s.uploaded_bytes);
    grow(&mut context.total_expected_uploaded_bytes, |s| s.expected_uploaded_bytes);
    context.execution_duration = all.iter().map(|s| s.duration).max().unwrap_or(0);
    context.active_time = all.iter().map(|s| s.last_active).max().unwrap_or(0);
    let first = all.iter().map(|s| s.first_active).filter(|t| *t > 0).min();
    context.start_time = first.unwrap_or(context.start_time);
    let mut names: Vec<String> = context.artifacts_with_results.clone();
    names.extend(all.iter().flat_map(|s| s.names_with_response.iter().cloned()));
    names.sort();
    names.dedup();
    context.artifacts_with_results = names;
    context.total_requests = all.len() as i64;
    context.outstanding_requests = all.iter().filter(|s| !ended(s)).count() as i64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(status: ReturnedStatus, rows: i64, at: u64) -> VeloStatus {
        VeloStatus {
            status: status.into(),
            result_rows: rows,
            last_active: at,
            ..Default::default()
        }
    }

    fn report(complete: bool, qs: &[VeloStatus]) -> FlowStats {
        FlowStats { flow_complete: complete, query_status: qs.to_vec(), ..Default::default() }
    }

    #[test]
    fn an_older_report_changes_nothing() {
        let done = report(true, &[q(ReturnedStatus::Ok, 5, 10)]);
        let mut known = done.clone();
        join(&mut known, report(false, &[q(ReturnedStatus::Progress, 3, 8)]));
        assert_eq!(known, done);
        let mut late = report(false, &[q(ReturnedStatus::Progress, 3, 8)]);
        join(&mut late, done.clone());
        assert_eq!(late, done);
    }

    #[test]
    fn what_was_counted_when_it_was_stored_stays_counted() {
        let stored = ArtifactCollectorContext { total_collected_rows: 58, ..Default::default() };
        let mut c = stored;
        derive(&mut c, &[&report(true, &[q(ReturnedStatus::UnknownFlow, 29, 5)])], 0);
        assert_eq!((c.total_collected_rows, c.state()), (58, State::Error));
    }

    #[test]
    fn unknown_ends_only_what_was_running() {
        let mut known =
            report(false, &[q(ReturnedStatus::Ok, 5, 9), q(ReturnedStatus::Progress, 1, 9)]);
        let mut gone = q(ReturnedStatus::UnknownFlow, 0, 0);
        gone.error_message = "Flow not known - maybe".into();
        join(&mut known, report(true, &[gone]));
        let mut c = ArtifactCollectorContext { state: State::Running.into(), ..Default::default() };
        derive(&mut c, &[&known], 0);
        assert_eq!(c.state(), State::Error);
        assert_eq!(c.total_collected_rows, 6);
        assert_eq!(c.query_stats[0].status(), ReturnedStatus::Ok);
    }

    #[test]
    fn states() {
        let state = |c: &ArtifactCollectorContext, r: &[&FlowStats]| {
            let mut c = c.clone();
            derive(&mut c, r, 1_000_000_000);
            c.state()
        };
        let running =
            ArtifactCollectorContext { state: State::Running.into(), ..Default::default() };
        let sent = ArtifactCollectorContext { inflight_time: 5, ..running.clone() };
        assert_eq!(state(&running, &[]), State::Running);
        assert_eq!(state(&sent, &[]), State::Waiting);
        let fresh = report(false, &[q(ReturnedStatus::Progress, 0, 999_000_000)]);
        assert_eq!(state(&sent, &[&fresh]), State::InProgress);
        let stale = report(false, &[q(ReturnedStatus::Progress, 0, 1)]);
        assert_eq!(state(&sent, &[&stale]), State::Unresponsive);
        let ok = report(true, &[q(ReturnedStatus::Ok, 1, 1)]);
        assert_eq!(state(&sent, &[&ok]), State::Finished);
        let bad = report(
            false,
            &[q(ReturnedStatus::GenericError, 1, 1), q(ReturnedStatus::Progress, 0, 1)],
        );
        assert_eq!(state(&sent, &[&bad]), State::Error);
        let cancelled = ArtifactCollectorContext {
            state: State::Error.into(),
            status: "Cancelled by x".into(),
            ..Default::default()
        };
        assert_eq!(state(&cancelled, &[&ok]), State::Error);
    }
}
