//! Further runs of a flow: what is kept of the earlier ones, and which are awaited.
//!
//! A shell session of the web page is one flow, each command in it a run of it. Pure:
//! all that follows from a request for a run follows from its record and the records
//! before it, never from what stock files say when journals are read back.

use std::collections::{BTreeMap, BTreeSet};

use velociraptor_proto::journal::{FlowRun, Schedule};
use velociraptor_proto::proto::{ArtifactCollectorArgs, ArtifactCollectorContext, FlowStats};

use crate::services::ids::{Run, Session};

/// Runs, by child id, for whose end the end of the flow waits.
pub type Awaited = BTreeSet<String>;

/// The session of the run that a context is of.
pub fn session_of(c: &ArtifactCollectorContext) -> Session {
    let given = c.request.as_ref().map_or("", |r| r.flow_id.as_str());
    let child = Session::parse(given).child;
    Session { flow: c.session_id.clone(), child }
}

/// The awaited runs with the one that `s` asks for. `known`: runs of which something
/// was reported.
pub(super) fn awaited_with<'a>(
    before: Option<Awaited>,
    known: impl Iterator<Item = &'a String>,
    s: &Schedule,
) -> Awaited {
    let all = before.unwrap_or_else(|| known.cloned().chain([String::new()]).collect());
    let new = s.context.as_ref().map(|c| session_of(c).child);
    all.into_iter().filter(|c| !s.over.contains(c)).chain(new).collect()
}

/// The context of the run `new` on top of what is known of the flow: the earlier
/// requests are listed, as stock lists them, and what was counted stays counted.
pub(super) fn context_of(
    old: Option<&ArtifactCollectorContext>,
    new: &ArtifactCollectorContext,
) -> ArtifactCollectorContext {
    let mut c = new.clone();
    let Some(old) = old else { return c };
    if c.previous_flows.is_empty() {
        c.previous_flows.clone_from(&old.previous_flows);
    }
    let id = |c: &ArtifactCollectorContext| session_of(c).child;
    if c.previous_flows.iter().all(|p| id(p) != id(old)) {
        c.previous_flows.push(earlier(old));
    }
    // Stock files may be of later runs than this, when journals are read back.
    if let Some(at) = c.previous_flows.iter().position(|p| id(p) == id(new)) {
        c.previous_flows.truncate(at);
    }
    c.total_collected_rows = old.total_collected_rows;
    c.total_logs = old.total_logs;
    c.total_uploaded_files = old.total_uploaded_files;
    c.total_uploaded_bytes = old.total_uploaded_bytes;
    c.total_expected_uploaded_bytes = old.total_expected_uploaded_bytes;
    c.artifacts_with_results.clone_from(&old.artifacts_with_results);
    c
}

/// What is listed of an earlier run: who asked for what, and when.
pub(super) fn earlier(c: &ArtifactCollectorContext) -> ArtifactCollectorContext {
    let request =
        c.request.clone().map(|r| ArtifactCollectorArgs { compiled_collector_args: vec![], ..r });
    ArtifactCollectorContext {
        session_id: c.session_id.clone(),
        client_id: c.client_id.clone(),
        create_time: c.create_time,
        request,
        ..Default::default()
    }
}

/// Stored rows of each run, by result set.
pub(super) fn bases(runs: &[FlowRun]) -> BTreeMap<String, BTreeMap<Run, u64>> {
    let mut out: BTreeMap<String, BTreeMap<Run, u64>> = BTreeMap::new();
    for r in runs {
        let run = Session { flow: String::new(), child: r.child.clone() }.run();
        for (name, n) in &r.rows {
            out.entry(name.clone()).or_default().insert(run, *n);
        }
    }
    out
}

/// The latest reports, by child id.
pub(super) fn reports(runs: &[FlowRun]) -> BTreeMap<String, FlowStats> {
    runs.iter().filter_map(|r| Some((r.child.clone(), r.report.clone()?))).collect()
}

/// The awaited runs, if there was more than one run.
pub(super) fn awaited(runs: &[FlowRun]) -> Option<Awaited> {
    let several = runs.iter().any(|r| !r.child.is_empty());
    let awaited = runs.iter().filter(|r| r.awaited).map(|r| r.child.clone());
    several.then(|| awaited.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(id: &str, rows: u64) -> ArtifactCollectorContext {
        let mut c = ArtifactCollectorContext {
            session_id: "F.1".into(),
            total_collected_rows: rows,
            ..Default::default()
        };
        c.request = Some(ArtifactCollectorArgs {
            flow_id: id.into(),
            compiled_collector_args: vec![Default::default()],
            ..Default::default()
        });
        c
    }

    fn listed(c: &ArtifactCollectorContext) -> Vec<String> {
        c.previous_flows.iter().map(|p| session_of(p).id()).collect()
    }

    #[test]
    fn earlier_requests_are_listed_once_and_in_order_whatever_files_say() {
        let one = context("F.1", 4);
        let two = context_of(Some(&one), &context("F.1/2", 0));
        let three = context_of(Some(&two), &context("F.1/3", 0));
        assert_eq!(listed(&three), ["F.1", "F.1/2"]);
        assert_eq!(three.total_collected_rows, 4);
        let request = three.previous_flows[0].request.as_ref().unwrap();
        assert!(request.compiled_collector_args.is_empty());
        // Read back with the files of the third run there.
        let again = context_of(Some(&three), &context("F.1/2", 0));
        assert_eq!(listed(&again), ["F.1"]);
        assert_eq!(listed(&context_of(Some(&again), &context("F.1/3", 0))), ["F.1", "F.1/2"]);
        // With a list of its own: what a stock server had.
        let mut own = context("F.1/5", 0);
        own.previous_flows = vec![context("F.1", 0), context("F.1/0", 0)];
        assert_eq!(
            listed(&context_of(Some(&context("F.1/1", 0)), &own)),
            ["F.1", "F.1/0", "F.1/1"]
        );
    }

    #[test]
    fn what_is_over_is_not_awaited_any_more() {
        let run = |id: &str, over: &[&str]| Schedule {
            context: Some(context(id, 0)),
            over: over.iter().map(|c| (*c).to_owned()).collect(),
            ..Default::default()
        };
        let known = [String::new()];
        let two = awaited_with(None, known.iter(), &run("F.1/2", &[]));
        assert_eq!(two, Awaited::from(["".into(), "2".into()]), "a shell session goes on");
        let three = awaited_with(Some(two), known.iter(), &run("F.1/3", &["2"]));
        assert_eq!(three, Awaited::from(["".into(), "3".into()]));
        assert_eq!(
            awaited_with(None, known.iter(), &run("F.1/2", &[""])),
            Awaited::from(["2".into()])
        );
    }
}
