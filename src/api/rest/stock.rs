//! Calls of stock servers, by their names.

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::{MethodRouter, get};
use prost::{Message, Name};
use tonic::Status;
use velociraptor_proto::proto::{
    ApiFlowRequest, ArtifactCollectorArgs, ClientEventTable, CreateDownloadRequest,
    GetArtifactRequest, GetArtifactsRequest, GetClientMonitoringStateRequest, GetClientRequest,
    GetReportRequest, GetTableRequest, LabelClientsRequest, LoadArtifactPackRequest,
    NotificationRequest, SearchClientsRequest, SetArtifactRequest, SetClientMetadataRequest,
};

use super::{Rest, download, on_file, on_get, on_post, text, traits, uploads};
use crate::api::Caller;

/// A stock call with nothing to say.
fn empty((): ()) -> Result<String, Status> {
    Ok("{}".to_owned())
}

/// `GET` of one client: its id is in the path.
fn of_client<M, F, A>(rest: &Rest, body: F) -> MethodRouter
where
    M: Message + Name + Default,
    F: Fn(Rest, Caller, M) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<String, Status>> + Send + 'static,
{
    let rest = rest.clone();
    get(move |Path(id): Path<String>, request: Request| async move {
        let path = [("client_id".to_owned(), id)];
        rest.answer::<M, _, _>(request, &path, body).await
    })
}

pub(super) fn routes(rest: &Rest) -> Router {
    let clients = Router::new()
        .route(
            "/v1/SearchClients",
            on_get(rest, |r, c, m: SearchClientsRequest| async move {
                text(&r.api.search_clients(&c, m)?)
            }),
        )
        .route(
            "/v1/GetClient/{client_id}",
            of_client(
                rest,
                |r, c, m: GetClientRequest| async move { text(&r.api.client(&c, &m)?) },
            ),
        )
        .route(
            "/v1/GetClientMetadata/{client_id}",
            of_client(rest, |r, c, m: GetClientRequest| async move {
                text(&r.api.client_metadata(&c, &m).await?)
            }),
        )
        .route(
            "/v1/SetClientMetadata",
            on_post(rest, |r, c, m: SetClientMetadataRequest| async move {
                r.api.change_metadata(&c, m).await.and_then(empty)
            }),
        )
        .route(
            "/v1/LabelClients",
            on_post(rest, |r, c, m: LabelClientsRequest| async move {
                text(&r.api.label(&c, m).await?)
            }),
        )
        .route(
            "/v1/NotifyClient",
            on_post(rest, |r, c, m: NotificationRequest| async move {
                r.api.notify(&c, &m).and_then(empty)
            }),
        );
    let flows = Router::new()
        .route(
            "/v1/CollectArtifact",
            on_post(rest, |r, c, m: ArtifactCollectorArgs| async move {
                text(&r.api.start_flow(&c, m).await?)
            }),
        )
        .route(
            "/v1/CreateDownload",
            on_post(rest, |r, c, m: CreateDownloadRequest| async move {
                text(&r.api.create_download(&c, m).await?)
            }),
        )
        .route(
            "/v1/CancelFlow",
            on_post(
                rest,
                |r, c, m: ApiFlowRequest| async move { text(&r.api.stop_flow(&c, m).await?) },
            ),
        )
        .route(
            "/v1/GetFlowDetails",
            on_get(rest, |r, c, m: ApiFlowRequest| async move {
                text(&r.api.flow_details(&c, m).await?)
            }),
        )
        .route(
            "/v1/GetFlowRequests",
            on_get(rest, |r, c, m: ApiFlowRequest| async move {
                text(&r.api.flow_messages(&c, m).await?)
            }),
        )
        .route(
            "/v1/GetClientFlows",
            on_get(rest, |r, c, m: GetTableRequest| async move {
                text(&r.api.client_flows(&c, m).await?)
            }),
        )
        .route(
            "/v1/GetTable",
            on_get(
                rest,
                |r, c, m: GetTableRequest| async move { text(&r.api.table(&c, m).await?) },
            ),
        );
    let artifacts = Router::new()
        .route(
            "/v1/GetArtifacts",
            on_get(
                rest,
                |r, c, m: GetArtifactsRequest| async move { text(&r.api.artifacts(&c, m)?) },
            )
            .merge(on_post(rest, |r, c, m: GetArtifactsRequest| async move {
                text(&r.api.artifacts(&c, m)?)
            })),
        )
        .route(
            "/v1/GetArtifactFile",
            on_get(rest, |r, c, m: GetArtifactRequest| async move {
                text(&r.api.artifact_file(&c, &m)?)
            }),
        )
        .route(
            "/v1/SetArtifactFile",
            on_post(rest, |r, c, m: SetArtifactRequest| async move {
                text(&r.api.change_artifact(&c, m).await?)
            }),
        )
        .route(
            "/v1/LoadArtifactPack",
            on_file(rest, |r, c, m: LoadArtifactPackRequest| async move {
                let bytes = m.data.len();
                let done = r.api.load_pack(&c, m).await?;
                // One that was uploaded before is named by its place.
                if bytes > 0 {
                    r.uploads.take(bytes);
                }
                text(&done)
            }),
        )
        .route(
            "/v1/GetReport",
            on_post(rest, |r, c, m: GetReportRequest| async move { text(&r.api.report(&c, &m)?) }),
        )
        .route(
            "/v1/GetClientMonitoringState",
            on_get(rest, |r, c, m: GetClientMonitoringStateRequest| async move {
                text(&r.api.monitoring(&c, &m)?)
            }),
        )
        .route(
            "/v1/SetClientMonitoringState",
            on_post(rest, |r, c, m: ClientEventTable| async move {
                r.api.change_monitoring(&c, m).await.and_then(empty)
            }),
        )
        .route(
            "/v1/GetServerMonitoringState",
            on_get(rest, |r, c, _m: ArtifactCollectorArgs| async move {
                text(&r.api.server_monitoring(&c)?)
            }),
        )
        .route(
            "/v1/SetServerMonitoringState",
            on_post(rest, |r, c, m: ArtifactCollectorArgs| async move {
                text(&r.api.change_server_monitoring(&c, m).await?)
            }),
        );
    let rest = [traits::routes(rest), download::routes(rest), uploads::routes(rest)];
    rest.into_iter().fold(clients.merge(flows).merge(artifacts), Router::merge)
}
