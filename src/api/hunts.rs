//! Hunts: creating, changing, looking.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tonic::Status;
use velociraptor_proto::proto::hunt::State;
use velociraptor_proto::proto::{
    GetHuntRequest, GetHuntResultsRequest, GetTableRequest, GetTableResponse, Hunt,
    HuntEstimateRequest, HuntMutation, HuntStats, HuntTags, ListHuntsRequest, ListHuntsResponse,
    StartFlowResponse,
};

use super::status::{denied, status};
use super::table::{align, finish, needs_all, page};
use super::{Api, Caller};
use crate::plugins::server::hunt_results;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::compiler::redact;
use crate::services::ids::OrgId;

/// Rows of `GetHuntResults` at most, as stock.
const RESULTS: usize = 100;

/// Hunts of one answer when the request does not say.
const LIMIT: u64 = 1000;

fn row_of<M: prost::Message + prost::Name>(m: &M) -> Value {
    velociraptor_proto::json::to_sparse_row(m).unwrap_or_default()
}

impl Api {
    pub(super) async fn new_hunt(
        &self,
        caller: &Caller,
        mut hunt: Hunt,
    ) -> Result<StartFlowResponse, Status> {
        // Whoever may collect may propose; starting needs more.
        let needed = match hunt.state() {
            State::Running => Permission::StartHunt,
            _ => Permission::CollectClient,
        };
        caller.require(needed)?;
        let orgs: Vec<String> = hunt.org_ids.clone();
        if !orgs.is_empty() {
            caller.require(Permission::OrgAdmin)?;
        }
        hunt.hunt_id.clear();
        let targets = match orgs.is_empty() {
            true => vec![caller.clone()],
            false => {
                let mut all = Vec::new();
                for id in &orgs {
                    let there = self.in_org(caller, id).await?;
                    if !there.policy.allows(needed) {
                        return Err(denied(&caller.name, needed));
                    }
                    all.push(there);
                }
                all
            }
        };
        for t in &targets {
            // Only the root organisation's own says where else it runs.
            let org_ids = if t.org.id.is_root() { orgs.clone() } else { vec![] };
            let one = Hunt { org_ids, ..hunt.clone() };
            let made = self.server.create_hunt(&t.org, &caller.name, &t.policy, one).await;
            hunt.hunt_id = made.map_err(|e| status(&e))?.hunt_id;
        }
        let what = json!({ "hunt_id": hunt.hunt_id, "details": row_of(&hunt), "orgs": orgs });
        audit(&self.server, &caller.org, &caller.name, "CreateHunt", what).await;
        Ok(StartFlowResponse { flow_id: hunt.hunt_id })
    }

    async fn in_org(&self, caller: &Caller, id: &str) -> Result<Caller, Status> {
        let id = OrgId::new(id);
        let org = self.server.org(&id);
        let org = org.ok_or_else(|| Status::not_found(format!("organisation {id} not found")))?;
        let policy = match caller.policy.is_super_user() {
            true => caller.policy.clone(),
            false => {
                let found = self.server.users.policy(&id, &caller.name).await;
                found.map_err(|e| Status::unavailable(e.to_string()))?
            }
        };
        Ok(Caller { name: caller.name.clone(), org, policy })
    }

    pub(super) async fn change_hunt(&self, caller: &Caller, m: HuntMutation) -> Result<(), Status> {
        caller.require(match m.state() {
            State::Running => Permission::StartHunt,
            State::Deleted => Permission::DeleteResults,
            _ => Permission::CollectClient,
        })?;
        let done = self.server.modify_hunt(&caller.org, &caller.name, &m).await;
        done.map_err(|e| status(&e))?;
        let what = json!({ "hunt_id": m.hunt_id, "details": row_of(&m) });
        audit(&self.server, &caller.org, &caller.name, "ModifyHunt", what).await;
        Ok(())
    }

    pub(super) fn list(
        &self,
        caller: &Caller,
        r: &ListHuntsRequest,
    ) -> Result<ListHuntsResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let mut all = self.server.hunts(&caller.org, false, r.include_archived);
        all.retain(|h| r.user_filter.is_empty() || h.creator == r.user_filter);
        let total = all.len() as i64;
        let count = if r.count == 0 { LIMIT } else { r.count };
        let items = all.into_iter().skip(r.offset as usize).take(count as usize);
        let items = items.map(|h| match r.summary {
            false => h,
            true => Hunt {
                hunt_id: h.hunt_id,
                hunt_description: h.hunt_description,
                state: h.state,
                creator: h.creator,
                create_time: h.create_time,
                start_time: h.start_time,
                expires: h.expires,
                stats: h.stats,
                ..Hunt::default()
            },
        });
        Ok(ListHuntsResponse { items: items.collect(), total })
    }

    pub(super) async fn one_hunt(
        &self,
        caller: &Caller,
        r: &GetHuntRequest,
    ) -> Result<Hunt, Status> {
        caller.require(Permission::ReadResults)?;
        if r.hunt_id.is_empty() {
            return Ok(Hunt::default());
        }
        let found = self.server.hunt(&caller.org, &r.hunt_id, r.include_request);
        let mut hunt = found.ok_or_else(|| Status::not_found("Not Found"))?;
        if let Some(request) = &mut hunt.start_request {
            request.compiled_collector_args.iter_mut().for_each(redact);
        }
        let exports = self.server.hunt_exports(&caller.org, &r.hunt_id).await;
        let exports = exports.map_err(|e| status(&e))?;
        hunt.stats.get_or_insert_default().available_downloads = Some(exports);
        Ok(hunt)
    }

    pub(super) fn hunt_tags(&self, caller: &Caller) -> Result<HuntTags, Status> {
        caller.require(Permission::ReadResults)?;
        let all = self.server.hunts(&caller.org, false, true);
        let tags: BTreeSet<String> = all.into_iter().flat_map(|h| h.tags).collect();
        Ok(HuntTags { tags: tags.into_iter().collect() })
    }

    pub(super) fn estimate(
        &self,
        caller: &Caller,
        r: &HuntEstimateRequest,
    ) -> Result<HuntStats, Status> {
        caller.require(Permission::ReadResults)?;
        let now = self.server.env.clock.micros();
        let since = match r.last_active {
            0 => 0,
            s => now.saturating_sub(s.saturating_mul(1_000_000)),
        };
        let n = self.server.estimate_hunt(&caller.org, r.condition.as_ref(), since);
        Ok(HuntStats { total_clients_scheduled: n, ..HuntStats::default() })
    }

    pub(super) fn hunt_table(
        &self,
        caller: &Caller,
        r: &GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let all = self.server.hunts(&caller.org, false, false);
        let rows: Vec<Map<String, Value>> = all
            .into_iter()
            .map(|h| {
                object(json!({
                    "State": h.state().as_str_name(),
                    "Tags": h.tags,
                    "HuntId": h.hunt_id,
                    "Description": h.hunt_description,
                    "Created": h.create_time,
                    "Started": h.start_time,
                    "Expires": h.expires,
                    "Scheduled": h.stats.as_ref().map_or(0, |s| s.total_clients_scheduled),
                    "Creator": h.creator,
                }))
            })
            .collect();
        let total = rows.len() as u64;
        finish(rows, total, r, true)
    }

    pub(super) async fn hunt_flows(
        &self,
        caller: &Caller,
        r: &GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let found = self.server.hunt_members(&caller.org, &r.hunt_id);
        let members = found.map_err(|e| status(&e))?;
        let total = members.len() as u64;
        let whole = needs_all(r);
        let (start, count) = page(r);
        let chosen: Vec<_> = match whole {
            true => members,
            false => members.into_iter().skip(start as usize).take(count as usize).collect(),
        };
        let mut rows = Vec::with_capacity(chosen.len());
        for (client, m) in &chosen {
            let row = self.server.hunt_row(&caller.org, client, m).await;
            let row = row.map_err(|e| status(&e))?;
            rows.push(object(json!({
                "ClientId": row.client,
                "Hostname": row.hostname,
                "FlowId": row.flow,
                "StartedTime": row.started,
                "State": row.state,
                "Duration": row.duration,
                "TotalBytes": row.bytes,
                "TotalRows": row.rows,
            })));
        }
        finish(rows, total, r, whole)
    }

    pub(super) async fn hunt_rows(
        &self,
        caller: &Caller,
        r: &GetHuntResultsRequest,
    ) -> Result<GetTableResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let skip = r.offset as usize;
        let count = if r.count == 0 { RESULTS } else { RESULTS.min(r.count as usize) };
        let mut rows = Vec::new();
        let (server, org) = (&self.server, &caller.org);
        let found = hunt_results::each(server, org, &r.hunt_id, &r.artifact, |row| {
            rows.push(row);
            std::future::ready(Ok(rows.len() < skip + count))
        });
        found.await.map_err(|e| status(&e))?;
        let rows: Vec<_> = rows.into_iter().skip(skip).collect();
        let total = rows.len() as u64;
        Ok(align(rows, total))
    }
}

fn object(v: Value) -> Map<String, Value> {
    match v {
        Value::Object(m) => m,
        _ => Map::new(),
    }
}
