//! The file browser, by the names of stock calls.

use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::{get, post};
use velociraptor_proto::proto::{
    GetTableRequest, VfsListRequest, VfsRefreshDirectoryRequest, VfsStatDownloadRequest,
};

use super::{Rest, text};

macro_rules! call {
    ($rest:expr, $method:ident, $message:ty, $api:ident) => {{
        let rest = $rest.clone();
        $method(move |request: Request| async move {
            let call = |r: Rest, c, m: $message| async move { text(&r.api.$api(&c, &m).await?) };
            rest.answer::<$message, _, _>(request, &[], call).await
        })
    }};
}

pub(super) fn routes(rest: &Rest) -> Router {
    let (one, files) = (rest.clone(), rest.clone());
    let fetched = get(move |request: Request| async move {
        let call = |r: Rest, c, m: VfsListRequest| async move { r.api.fetched_files(&c, &m).await };
        files.answer::<VfsListRequest, _, _>(request, &[], call).await
    });
    Router::new()
        .route(
            "/v1/VFSListDirectory/{client_id}",
            get(move |Path(id): Path<String>, request: Request| async move {
                let path = [("client_id".to_owned(), id)];
                let call = |r: Rest, c, m: VfsListRequest| async move {
                    text(&r.api.list_folder(&c, &m).await?)
                };
                one.answer::<VfsListRequest, _, _>(request, &path, call).await
            }),
        )
        .route("/v1/VFSListDirectory", call!(rest, get, VfsListRequest, list_folder))
        .route("/v1/VFSStatDirectory", call!(rest, get, VfsListRequest, stat_folder))
        .route("/v1/VFSListDirectoryFiles", call!(rest, get, GetTableRequest, folder_files))
        .route(
            "/v1/VFSRefreshDirectory",
            call!(rest, post, VfsRefreshDirectoryRequest, refresh_folder),
        )
        .route("/fleet/fetched", fetched)
        .route("/v1/VFSDownloadFile", call!(rest, post, VfsStatDownloadRequest, fetch_file))
        .route("/v1/VFSStatDownload", call!(rest, get, VfsStatDownloadRequest, stat_fetched))
}
