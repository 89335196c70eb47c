//! Hunts, by the names of stock calls.

use axum::Router;
use axum::extract::Request;
use axum::routing::{MethodRouter, get, post};
use prost::{Message, Name};
use tonic::Status;
use velociraptor_proto::proto::{
    GetHuntRequest, GetHuntResultsRequest, GetTableRequest, Hunt, HuntEstimateRequest,
    HuntMutation, ListHuntsRequest,
};

use super::{Rest, text};
use crate::api::Caller;

/// One call: `post` says that its message is the body.
fn call<M, F, A>(rest: &Rest, is_post: bool, body: F) -> MethodRouter
where
    M: Message + Name + Default,
    F: Fn(Rest, Caller, M) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<String, Status>> + Send + 'static,
{
    let rest = rest.clone();
    let handler =
        move |request: Request| async move { rest.answer::<M, _, _>(request, &[], body).await };
    if is_post { post(handler) } else { get(handler) }
}

pub(super) fn routes(rest: &Rest) -> Router {
    Router::new()
        .route(
            "/v1/CreateHunt",
            call(rest, true, |r, c, m: Hunt| async move { text(&r.api.new_hunt(&c, m).await?) }),
        )
        .route(
            "/v1/ModifyHunt",
            call(rest, true, |r, c, m: HuntMutation| async move {
                r.api.change_hunt(&c, m).await.map(|()| "{}".to_owned())
            }),
        )
        .route(
            "/v1/EstimateHunt",
            call(rest, true, |r, c, m: HuntEstimateRequest| async move {
                text(&r.api.estimate(&c, &m)?)
            }),
        )
        .route(
            "/v1/ListHunts",
            call(
                rest,
                false,
                |r, c, m: ListHuntsRequest| async move { text(&r.api.list(&c, &m)?) },
            ),
        )
        .route(
            "/v1/GetHunt",
            call(rest, false, |r, c, m: GetHuntRequest| async move {
                text(&r.api.one_hunt(&c, &m).await?)
            }),
        )
        .route(
            "/v1/GetHuntTags",
            call(rest, false, |r, c, _: GetHuntRequest| async move { text(&r.api.hunt_tags(&c)?) }),
        )
        .route(
            "/v1/GetHuntTable",
            call(rest, false, |r, c, m: GetTableRequest| async move {
                text(&r.api.hunt_table(&c, &m)?)
            }),
        )
        .route(
            "/v1/GetHuntFlows",
            call(rest, false, |r, c, m: GetTableRequest| async move {
                text(&r.api.hunt_flows(&c, &m).await?)
            }),
        )
        .route(
            "/v1/GetHuntResults",
            call(rest, false, |r, c, m: GetHuntResultsRequest| async move {
                text(&r.api.hunt_rows(&c, &m).await?)
            }),
        )
}
