//! Events of endpoints and of the server: what there is, and of which days.

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use serde_json::json;
use tonic::Status;
use velociraptor_proto::proto::ListAvailableEventResultsRequest as Wanted;

use super::{Rest, failed, json, table::Asked, text};
use crate::api::Caller;
use crate::api::status::status;
use crate::services::acl::Permission;
use crate::services::events::EventKey;

pub(super) fn routes(rest: &Rest) -> Router {
    let (stock, names, days) = (rest.clone(), rest.clone(), rest.clone());
    Router::new()
        .route(
            "/v1/ListAvailableEventResults",
            post(move |request: Request| async move {
                let call = |r: Rest, c: Caller, m: Wanted| async move {
                    text(&r.api.available_events(&c, &m).await?)
                };
                stock.answer::<Wanted, _, _>(request, &[], call).await
            }),
        )
        .route(
            "/fleet/events",
            get(move |r: Request| async move {
                names.event_names(r).await.map_or_else(|e| failed(&e), json)
            }),
        )
        .route(
            "/fleet/event_days",
            get(move |r: Request| async move {
                days.event_days(r).await.map_or_else(|e| failed(&e), json)
            }),
        )
}

impl Rest {
    /// Names and kinds of the events of `client_id`.
    async fn event_names(&self, request: Request) -> Result<String, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::ReadResults)?;
        let asked = Asked::read(&request)?;
        let found = self.api.server.event_names(&caller.org, &asked.client).await;
        let items: Vec<_> = (found.map_err(|e| status(&e))?.into_iter())
            .map(|(name, s)| json!({ "name": name, "rows": s.rows, "logs": s.logs }))
            .collect();
        Ok(json!({ "items": items }).to_string())
    }

    /// Days of one artifact, newest first.
    async fn event_days(&self, request: Request) -> Result<String, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::ReadResults)?;
        let asked = Asked::read(&request)?;
        let key = EventKey {
            client: asked.client,
            artifact: asked.name,
            day: String::new(),
            logs: asked.kind == "event_logs",
        };
        let days = self.api.server.event_days(&caller.org, &key).await;
        let days: Vec<String> = days.map_err(|e| status(&e))?.into_iter().rev().collect();
        Ok(json!({ "items": days }).to_string())
    }
}
