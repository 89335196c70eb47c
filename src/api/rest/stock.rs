//! Calls of stock servers, by their names. What is not here answers 404.

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::{get, post};
use tonic::Status;
use velociraptor_proto::proto::{
    ApiFlowRequest, ArtifactCollectorArgs, ClientEventTable, CreateDownloadRequest,
    GetArtifactRequest, GetArtifactsRequest, GetClientMonitoringStateRequest, GetClientRequest,
    GetReportRequest, GetTableRequest, LabelClientsRequest, NotificationRequest,
    SearchClientsRequest, SetArtifactRequest, SetClientMetadataRequest,
};

use super::{Rest, download, text, traits};

/// A stock call with nothing to say.
fn empty((): ()) -> Result<String, Status> {
    Ok("{}".to_owned())
}

/// `GET`: the message is in the address. `POST`: it is the body.
macro_rules! call {
    ($rest:expr, $method:ident, $message:ty, $body:expr) => {{
        let rest = $rest.clone();
        $method(move |request: Request| async move {
            rest.answer::<$message, _, _>(request, &[], $body).await
        })
    }};
}

/// `GET` of one client: its id is in the path.
macro_rules! of_client {
    ($rest:expr, $message:ty, $body:expr) => {{
        let rest = $rest.clone();
        get(move |Path(id): Path<String>, request: Request| async move {
            let path = [("client_id".to_owned(), id)];
            rest.answer::<$message, _, _>(request, &path, $body).await
        })
    }};
}

pub(super) fn routes(rest: &Rest) -> Router {
    let clients =
        Router::new()
            .route(
                "/v1/SearchClients",
                call!(rest, get, SearchClientsRequest, |r, c, m| async move {
                    text(&r.api.search_clients(&c, m)?)
                }),
            )
            .route(
                "/v1/GetClient/{client_id}",
                of_client!(rest, GetClientRequest, |r, c, m| async move {
                    text(&r.api.client(&c, &m)?)
                }),
            )
            .route(
                "/v1/GetClientMetadata/{client_id}",
                of_client!(rest, GetClientRequest, |r, c, m| async move {
                    text(&r.api.client_metadata(&c, &m).await?)
                }),
            )
            .route(
                "/v1/SetClientMetadata",
                call!(rest, post, SetClientMetadataRequest, |r, c, m| async move {
                    r.api.change_metadata(&c, m).await.and_then(empty)
                }),
            )
            .route(
                "/v1/LabelClients",
                call!(rest, post, LabelClientsRequest, |r, c, m| async move {
                    text(&r.api.label(&c, m).await?)
                }),
            )
            .route(
                "/v1/NotifyClient",
                call!(rest, post, NotificationRequest, |r, c, m| async move {
                    r.api.notify(&c, &m).and_then(empty)
                }),
            );
    let flows =
        Router::new()
            .route(
                "/v1/CollectArtifact",
                call!(rest, post, ArtifactCollectorArgs, |r, c, m| async move {
                    text(&r.api.start_flow(&c, m).await?)
                }),
            )
            .route(
                "/v1/CreateDownload",
                call!(rest, post, CreateDownloadRequest, |r, c, m| async move {
                    text(&r.api.create_download(&c, m).await?)
                }),
            )
            .route(
                "/v1/CancelFlow",
                call!(rest, post, ApiFlowRequest, |r, c, m| async move {
                    text(&r.api.stop_flow(&c, m).await?)
                }),
            )
            .route(
                "/v1/GetFlowDetails",
                call!(rest, get, ApiFlowRequest, |r, c, m| async move {
                    text(&r.api.flow_details(&c, m).await?)
                }),
            )
            .route(
                "/v1/GetFlowRequests",
                call!(rest, get, ApiFlowRequest, |r, c, m| async move {
                    text(&r.api.flow_messages(&c, m).await?)
                }),
            )
            .route(
                "/v1/GetClientFlows",
                call!(rest, get, GetTableRequest, |r, c, m| async move {
                    text(&r.api.client_flows(&c, m).await?)
                }),
            )
            .route(
                "/v1/GetTable",
                call!(rest, get, GetTableRequest, |r, c, m| async move {
                    text(&r.api.table(&c, m).await?)
                }),
            );
    let artifacts = Router::new()
        .route(
            "/v1/GetArtifacts",
            call!(rest, get, GetArtifactsRequest, |r, c, m| async move {
                text(&r.api.artifacts(&c, m)?)
            })
            .merge(call!(rest, post, GetArtifactsRequest, |r, c, m| async move {
                text(&r.api.artifacts(&c, m)?)
            })),
        )
        .route(
            "/v1/GetArtifactFile",
            call!(rest, get, GetArtifactRequest, |r, c, m| async move {
                text(&r.api.artifact_file(&c, &m)?)
            }),
        )
        .route(
            "/v1/SetArtifactFile",
            call!(rest, post, SetArtifactRequest, |r, c, m| async move {
                text(&r.api.change_artifact(&c, m).await?)
            }),
        )
        .route(
            "/v1/GetReport",
            call!(
                rest,
                post,
                GetReportRequest,
                |r, c, m| async move { text(&r.api.report(&c, &m)?) }
            ),
        )
        .route(
            "/v1/GetClientMonitoringState",
            call!(rest, get, GetClientMonitoringStateRequest, |r, c, m| async move {
                text(&r.api.monitoring(&c, &m)?)
            }),
        )
        .route(
            "/v1/SetClientMonitoringState",
            call!(rest, post, ClientEventTable, |r, c, m| async move {
                r.api.change_monitoring(&c, m).await.and_then(empty)
            }),
        )
        .route(
            "/v1/GetServerMonitoringState",
            call!(rest, get, ArtifactCollectorArgs, |r, c, _m| async move {
                text(&r.api.server_monitoring(&c)?)
            }),
        )
        .route(
            "/v1/SetServerMonitoringState",
            call!(rest, post, ArtifactCollectorArgs, |r, c, m| async move {
                text(&r.api.change_server_monitoring(&c, m).await?)
            }),
        );
    clients.merge(flows).merge(artifacts).merge(traits::routes(rest)).merge(download::routes(rest))
}
