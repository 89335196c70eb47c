//! Looking at hunts.

use velociraptor_proto::proto::Hunt;
use velociraptor_proto::proto::hunt::State;

use super::conditions;
use super::table::Member;
use crate::services::server::{Org, Server, ServiceError};

/// One client's part in a hunt, as tables show it.
#[derive(Clone, Debug)]
pub struct HuntFlowRow {
    /// The client.
    pub client: String,
    /// Its host name.
    pub hostname: String,
    /// Its flow.
    pub flow: String,
    /// When it started, milliseconds since the epoch.
    pub started: u64,
    /// The flow's state, by name.
    pub state: &'static str,
    /// Seconds.
    pub duration: i64,
    /// Bytes uploaded.
    pub bytes: u64,
    /// Rows collected.
    pub rows: u64,
}

impl Server {
    /// A hunt with its counts; `request` says whether with its compiled request.
    pub fn hunt(&self, org: &Org, id: &str, request: bool) -> Option<Hunt> {
        org.state().hunts.get(id).map(|h| h.shown(request))
    }

    /// All hunts that are not archived, newest first.
    pub fn hunts(&self, org: &Org, request: bool, archived: bool) -> Vec<Hunt> {
        let state = org.state();
        let all = state.hunts.iter().map(|(_, h)| h);
        let shown = all.filter(|h| archived || h.hunt.state() != State::Archived);
        let mut out: Vec<Hunt> = shown.map(|h| h.shown(request)).collect();
        out.sort_by(|a, b| b.hunt_id.cmp(&a.hunt_id));
        out
    }

    /// The clients of a hunt with their flows, in the order they were recruited.
    pub fn hunt_members(&self, org: &Org, id: &str) -> Result<Vec<(String, Member)>, ServiceError> {
        let state = org.state();
        let hunt = state.hunts.get(id);
        let hunt = hunt.ok_or_else(|| ServiceError::NotFound(format!("hunt {id}")))?;
        Ok(hunt.in_order().into_iter().map(|(c, m)| (c.clone(), m.clone())).collect())
    }

    /// One row of a hunt's table of flows.
    pub async fn hunt_row(
        &self,
        org: &Org,
        client: &str,
        m: &Member,
    ) -> Result<HuntFlowRow, ServiceError> {
        let hostname = {
            let state = org.state();
            state.clients.get(client).map(|c| c.info.hostname.clone()).unwrap_or_default()
        };
        let row = HuntFlowRow {
            client: client.to_owned(),
            hostname,
            flow: m.flow.clone(),
            started: m.since / 1000,
            state: "RUNNING",
            duration: 0,
            bytes: 0,
            rows: 0,
        };
        if let Some(end) = &m.end {
            return Ok(HuntFlowRow {
                started: if end.started > 0 { end.started / 1000 } else { row.started },
                state: if end.failed { "ERROR" } else { "FINISHED" },
                duration: end.duration / 1_000_000_000,
                bytes: end.bytes,
                rows: end.rows,
                ..row
            });
        }
        let Some(c) = self.flow(org, client, &m.flow).await? else { return Ok(row) };
        Ok(HuntFlowRow {
            started: if c.start_time > 0 { c.start_time / 1000 } else { row.started },
            state: c.state().as_str_name(),
            duration: c.execution_duration / 1_000_000_000,
            bytes: c.total_uploaded_bytes,
            rows: c.total_collected_rows,
            ..row
        })
    }

    /// How many clients match a condition and were seen since `since`,
    /// microseconds.
    pub fn estimate_hunt(
        &self,
        org: &Org,
        condition: Option<&velociraptor_proto::proto::HuntCondition>,
        since: u64,
    ) -> u64 {
        let state = org.state();
        let of = state.clients.iter().filter(|(id, c)| {
            let recent = c.info.ping >= since || self.sessions.held(&org.id, id).is_some();
            id.starts_with("C.") && recent && conditions::matches(condition, &c.info)
        });
        of.count() as u64
    }
}
