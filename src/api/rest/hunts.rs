//! Hunts, by the names of stock calls.

use axum::Router;
use velociraptor_proto::proto::{
    GetHuntRequest, GetHuntResultsRequest, GetTableRequest, Hunt, HuntEstimateRequest,
    HuntMutation, ListHuntsRequest,
};

use super::{Rest, on_get, on_post, text};

pub(super) fn routes(rest: &Rest) -> Router {
    Router::new()
        .route(
            "/v1/CreateHunt",
            on_post(rest, |r, c, m: Hunt| async move { text(&r.api.new_hunt(&c, m).await?) }),
        )
        .route(
            "/v1/ModifyHunt",
            on_post(rest, |r, c, m: HuntMutation| async move {
                r.api.change_hunt(&c, m).await.map(|()| "{}".to_owned())
            }),
        )
        .route(
            "/v1/EstimateHunt",
            on_post(
                rest,
                |r, c, m: HuntEstimateRequest| async move { text(&r.api.estimate(&c, &m)?) },
            ),
        )
        .route(
            "/v1/ListHunts",
            on_get(rest, |r, c, m: ListHuntsRequest| async move { text(&r.api.list(&c, &m)?) }),
        )
        .route(
            "/v1/GetHunt",
            on_get(
                rest,
                |r, c, m: GetHuntRequest| async move { text(&r.api.one_hunt(&c, &m).await?) },
            ),
        )
        .route(
            "/v1/GetHuntTags",
            on_get(rest, |r, c, _: GetHuntRequest| async move { text(&r.api.hunt_tags(&c)?) }),
        )
        .route(
            "/v1/GetHuntTable",
            on_get(
                rest,
                |r, c, m: GetTableRequest| async move { text(&r.api.hunt_table(&c, &m)?) },
            ),
        )
        .route(
            "/v1/GetHuntFlows",
            on_get(rest, |r, c, m: GetTableRequest| async move {
                text(&r.api.hunt_flows(&c, &m).await?)
            }),
        )
        .route(
            "/v1/GetHuntResults",
            on_get(rest, |r, c, m: GetHuntResultsRequest| async move {
                text(&r.api.hunt_rows(&c, &m).await?)
            }),
        )
}
