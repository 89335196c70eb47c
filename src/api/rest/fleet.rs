//! What our own pages ask beside stock calls: lists in the shape they are shown in,
//! where a client is held, the nodes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::get;
use serde_json::{Map, Value, json};
use tonic::Status;
use velociraptor_proto::proto::{Artifact, ClientInfo};

use super::{Rest, failed, json, live, parameters, table};
use crate::api::Caller;
use crate::services::acl::{Permission, Policy};
use crate::services::clients::{ONLINE, api_client};
use crate::services::compiler::check_launch;
use crate::services::fleet::status::NodeView;
use crate::services::sessions::Held;

/// Clients of a page at most.
const MAX_PAGE: usize = 500;

pub(super) fn routes(rest: &Rest) -> Router {
    let own = Router::new()
        .route("/fleet/clients", answered(rest, |rest, caller, r| rest.client_list(&caller, &r)))
        .route("/fleet/cluster", answered(rest, |rest, caller, _| rest.cluster(&caller)))
        .route("/fleet/artifacts", answered(rest, |rest, caller, _| rest.artifact_list(&caller)));
    let (one, definition) = (rest.clone(), rest.clone());
    own.route(
        "/fleet/client/{id}",
        get(move |Path(id): Path<String>, r: Request| async move {
            match one.caller(&r).await.and_then(|c| {
                c.require(Permission::ReadResults)?;
                Ok(one.connection(&c, &id))
            }) {
                Ok(v) => json(v.to_string()),
                Err(e) => failed(&e),
            }
        }),
    )
    .route(
        "/fleet/artifact/{name}",
        get(move |Path(name): Path<String>, r: Request| async move {
            match definition.caller(&r).await.and_then(|c| definition.artifact(&c, &name)) {
                Ok(v) => json(v.to_string()),
                Err(e) => failed(&e),
            }
        }),
    )
    .merge(table::routes(rest))
    .merge(live::routes(rest))
}

/// `GET` of something that is in memory.
fn answered(
    rest: &Rest,
    call: impl Fn(&Rest, Caller, Request) -> Result<Value, Status> + Clone + Send + Sync + 'static,
) -> axum::routing::MethodRouter {
    let rest = rest.clone();
    get(move |request: Request| async move {
        let found = match rest.caller(&request).await {
            Ok(caller) => call(&rest, caller, request),
            Err(e) => Err(e),
        };
        found.map_or_else(|e| failed(&e), |v| json(v.to_string()))
    })
}

impl Rest {
    /// Whether a client is held, and by which node.
    pub(super) fn connection(&self, caller: &Caller, client: &str) -> Value {
        let held = self.api.server.sessions.held(&caller.org.id, client);
        self.connected(client, held.as_ref())
    }

    fn connected(&self, client: &str, held: Option<&Arc<Held>>) -> Value {
        match held {
            None => json!({ "client_id": client, "connected": false }),
            Some(h) => {
                let own = &self.api.server.options.node;
                let node = h.process().map_or(own.as_str(), |p| p.node.as_str());
                json!({ "client_id": client, "connected": true, "node": node, "remote": h.remote })
            }
        }
    }

    /// Sums for the edge of every page; `held` clients are connected.
    pub(super) fn vitals(&self, caller: &Caller, held: usize) -> Value {
        let server = &self.api.server;
        let nodes = NodeView::all(server, server.hub().as_deref());
        let up = nodes.iter().filter(|n| n.connected).count();
        let delivery = server.delivery().measured();
        json!({
            "clients": caller.org.state().clients.len(),
            "held": held,
            "nodes": nodes.len(),
            "nodes_up": up,
            "lag_bytes": nodes.iter().map(|n| n.lag_bytes).max().unwrap_or(0),
            "delivery_p99": delivery.p99,
            "now": server.env.clock.micros(),
        })
    }

    /// A page of clients: `q`, `start`, `rows`, `sort` (`-` for descending), `online`.
    fn client_list(&self, caller: &Caller, request: &Request) -> Result<Value, Status> {
        caller.require(Permission::ReadResults)?;
        let (mut q, mut sort) = (String::new(), String::new());
        let (mut start, mut rows, mut online) = (0usize, 50usize, false);
        for (k, v) in parameters(request) {
            let number =
                || v.parse().map_err(|_| Status::invalid_argument(format!("{k}: no number")));
            match k.as_str() {
                "q" => q = v,
                "sort" => sort = v,
                "start" => start = number()?,
                "rows" => rows = number()?,
                "online" => online = v == "true",
                _ => {}
            }
        }
        let server = &self.api.server;
        let now = server.env.clock.micros();
        let (column, down) = match sort.strip_prefix('-') {
            Some(c) => (c, true),
            None => (sort.as_str(), false),
        };
        let text = |i: &ClientInfo| match column {
            "host" => i.hostname.to_lowercase(),
            "os" => format!("{} {}", i.system, i.release),
            "ip" => i.ip_address.clone(),
            "agent" => i.client_version.clone(),
            _ => String::new(),
        };
        // Only the page is copied: there may be many clients, and those that send wait meanwhile.
        let (mut total, mut count, shown);
        let page: Vec<(ClientInfo, Value, bool)> = {
            let state = caller.org.state();
            let mut held = server.sessions.view(&caller.org.id);
            (total, count) = (0usize, 0usize);
            let mut found: Vec<&ClientInfo> = Vec::new();
            for c in state.clients.found(&q) {
                let recent = now.saturating_sub(c.info.ping) <= ONLINE
                    || held.held(&c.info.client_id).is_some();
                total += 1;
                count += usize::from(recent);
                if recent || !online {
                    found.push(&c.info);
                }
            }
            match column {
                "" | "id" => {}
                "seen" => found.sort_by_cached_key(|i| match held.held(&i.client_id) {
                    Some(_) => u64::MAX,
                    None => i.ping,
                }),
                "first" => found.sort_by_key(|i| i.first_seen_at),
                "host" | "os" | "ip" | "agent" => found.sort_by_cached_key(|i| text(i)),
                other => {
                    let why = format!("sort: `{other}` is no column");
                    return Err(Status::invalid_argument(why));
                }
            }
            if down {
                found.reverse();
            }
            shown = found.len();
            let page = found.into_iter().skip(start).take(rows.min(MAX_PAGE));
            page.map(|i| {
                let h = held.held(&i.client_id);
                (i.clone(), self.connected(&i.client_id, h), h.is_some())
            })
            .collect()
        };
        let items: Vec<Value> = page
            .into_iter()
            .filter_map(|(info, connection, held)| {
                let client = api_client(&info, held.then_some(now));
                let mut row = velociraptor_proto::json::to_sparse_row(&client).ok()?;
                if let (Value::Object(row), Value::Object(c)) = (&mut row, connection) {
                    row.extend(c);
                }
                Some(row)
            })
            .collect();
        Ok(json!({
            "items": items, "total": total, "online": count, "shown": shown, "now": now,
        }))
    }

    /// Every node, its lag and load.
    fn cluster(&self, caller: &Caller) -> Result<Value, Status> {
        caller.require(Permission::ReadResults)?;
        let server = &self.api.server;
        let nodes: Vec<Value> = NodeView::all(server, server.hub().as_deref())
            .into_iter()
            .map(|n| {
                let stats = velociraptor_proto::json::to_row(&n.stats).unwrap_or(Value::Null);
                json!({
                    "node": n.node, "role": n.role, "epoch": n.epoch, "connected": n.connected,
                    "drained": n.drained,
                    "since": n.since, "beat_age_ms": n.beat_age_ms, "streams": n.streams,
                    "product": n.product, "clients": n.clients, "lag_bytes": n.lag_bytes,
                    "lag_files": n.lag_files, "waiting_frames": n.waiting_frames,
                    "waiting_bytes": n.waiting_bytes, "stats": stats,
                })
            })
            .collect();
        let space = server.journal.space();
        let delivery = server.delivery().measured();
        let (mut enrolled, mut unsettled) = (0, 0);
        for org in server.orgs() {
            let state = org.state();
            enrolled += state.clients.len();
            unsettled += state.flows.len();
        }
        Ok(json!({
            "nodes": nodes,
            "enrolled": enrolled,
            "held": server.sessions.len(),
            "unsettled_flows": unsettled,
            "now": server.env.clock.micros(),
            "started": server.started,
            "store": {
                "free_bytes": space.free(),
                "reserve_bytes": space.held(),
                "level": space.level() as u64,
                "healthy": space.health().err().map(|e| e.to_string()),
                "waiting_bytes": server.journal.waiting_bytes(),
                "journal_files": server.journal_files(),
            },
            "delivery": { "p50": delivery.p50, "p99": delivery.p99 },
        }))
    }

    /// All definitions in brief, with whether the caller may launch each.
    fn artifact_list(&self, caller: &Caller) -> Result<Value, Status> {
        caller.require(Permission::ReadResults)?;
        let all = caller.org.repository.all();
        let items: Vec<Value> = all.iter().map(|a| brief(a, &caller.policy)).collect();
        Ok(json!({ "items": items }))
    }

    /// One definition with its text.
    fn artifact(&self, caller: &Caller, name: &str) -> Result<Value, Status> {
        caller.require(Permission::ReadResults)?;
        let found = caller.org.repository.get(name);
        let found =
            found.ok_or_else(|| Status::not_found(format!("artifact {name} is not known")))?;
        let mut whole = velociraptor_proto::json::to_sparse_row(&*found)
            .map_err(|e| Status::internal(e.to_string()))?;
        if let (Value::Object(whole), Value::Object(brief)) =
            (&mut whole, brief(&found, &caller.policy))
        {
            let more: Map<_, _> = brief.into_iter().filter(|(k, _)| k == "refused").collect();
            whole.extend(more);
        }
        Ok(whole)
    }
}

fn brief(a: &Artifact, policy: &Policy) -> Value {
    let on_server = a.r#type.eq_ignore_ascii_case("server");
    let refused = check_launch(policy, a, on_server).err().map(|e| e.to_string());
    json!({
        "name": a.name,
        "type": a.r#type,
        "description": a.description,
        "built_in": a.built_in,
        "aliases": a.aliases,
        "parameters": a.parameters.len(),
        "has_sources": !a.sources.is_empty(),
        "tools": a.tools.iter().map(|t| &t.name).collect::<Vec<_>>(),
        "precondition": if a.precondition.is_empty() {
            a.sources.iter().map(|s| s.precondition.as_str()).collect::<Vec<_>>().join(" ")
        } else {
            a.precondition.clone()
        },
        "refused": refused,
    })
}
