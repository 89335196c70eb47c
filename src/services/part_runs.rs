//! What is known of the runs of a flow, beside its stock files.
//!
//! Stock files hold the rows of all runs of a flow one after the other, and the sum of
//! their reports. Which rows are whose, and which run is still awaited, is kept in
//! `fleet/partial/<org>/<client>/<flow>/runs`, for as long as the flow is there.

use std::collections::BTreeMap;

use prost::Message;
use velociraptor_proto::journal::{FlowRun, FlowRuns};
use velociraptor_proto::proto::FlowStats;

use super::flows::{LiveFlow, is_complete};
use super::ids::OrgId;
use super::part_uploads::folder;
use super::server::{Server, ServiceError, fleet_dir};
use super::state::FlowKey;
use crate::store::{StoreError, StoreKind};

/// Its name in the flow's folder.
pub(super) const NAME: &str = "runs";

/// Longest list read, bytes.
const LIMIT: usize = 64 << 20;

fn path(server: &Server, org: &OrgId, client: &str, flow: &str) -> String {
    format!("{}/{}/{NAME}", fleet_dir(&server.tree.root), folder(org, client, flow))
}

/// Keeps what is known of the runs of a flow that has several. Its sets are in stock
/// files; the record that says so follows.
pub(super) async fn keep(
    server: &Server,
    org: &OrgId,
    (client, flow): &FlowKey,
    f: &LiveFlow,
) -> Result<(), ServiceError> {
    let runs = f.runs();
    if runs.is_empty() {
        return Ok(());
    }
    let (at, tmp) = (path(server, org, client, flow), server.tree.temp(StoreKind::Files));
    let data = FlowRuns { runs }.encode_to_vec();
    let written = crate::env::fs::replace(&*server.env.fs, &tmp, &at, &data).await;
    Ok(written.map_err(StoreError::from)?)
}

/// What was kept of the runs of a flow.
pub(super) async fn kept(
    server: &Server,
    org: &OrgId,
    client: &str,
    flow: &str,
) -> Result<Vec<FlowRun>, ServiceError> {
    let at = path(server, org, client, flow);
    let data = crate::store::objects::read_whole(&*server.env.fs, &at, LIMIT).await;
    let Some(data) = data.map_err(StoreError::from)? else { return Ok(vec![]) };
    match FlowRuns::decode(data.as_slice()) {
        Ok(list) => Ok(list.runs),
        Err(e) => {
            tracing::error!(path = at, error = %e, "list of a flow's runs cannot be read");
            Ok(vec![])
        }
    }
}

/// Whether the rows of these runs are all rows that are stored. If not, a stock server
/// has gone on with the flow.
pub(super) fn are_all(runs: &[FlowRun], stored: &BTreeMap<String, u64>) -> bool {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, n) in runs.iter().flat_map(|r| &r.rows) {
        *sums.entry(name).or_default() += n;
    }
    let sum = |name: &String| sums.get(name.as_str()).copied().unwrap_or(0);
    !runs.is_empty() && stored.iter().all(|(name, n)| sum(name) == *n)
}

/// The one run of a flow of which nothing was kept. It is in the record also before its
/// first report: later stock files may say more than was known then.
pub(super) fn one(reports: &BTreeMap<String, FlowStats>) -> Vec<FlowRun> {
    let run = |(child, report): (&String, &FlowStats)| FlowRun {
        child: child.clone(),
        report: Some(report.clone()),
        awaited: !is_complete(report),
        ..Default::default()
    };
    match reports.is_empty() {
        true => vec![FlowRun { awaited: true, ..Default::default() }],
        false => reports.iter().map(run).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_whose_rows_are_not_all_rows_are_of_another_time() {
        let run = |n| FlowRun { rows: [("A".to_owned(), n)].into(), ..Default::default() };
        let stored = |n| BTreeMap::from([("A".to_owned(), n), ("B".to_owned(), 0)]);
        assert!(are_all(&[run(3), run(4)], &stored(7)));
        assert!(!are_all(&[run(3), run(4)], &stored(8)) && !are_all(&[], &stored(0)));
    }
}
