//! Notebooks, by the names of stock calls, and as our own pages draw them.

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use serde_json::{Value, json};
use tonic::Status;
use velociraptor_proto::proto::{
    NotebookCellRequest, NotebookExportRequest, NotebookFileUploadRequest,
    NotebookFileUploadResponse, NotebookMetadata, Notebooks,
};

use super::{Rest, failed, json as answer, on_file, on_get, on_post, parameters, text};
use crate::services::acl::Permission;

type Asked = NotebookCellRequest;
type Record = NotebookMetadata;

pub(super) fn routes(rest: &Rest) -> Router {
    let (all, one) = (rest.clone(), rest.clone());
    Router::new()
        .route(
            "/v1/GetNotebooks",
            on_get(rest, |r, c, m: Asked| async move {
                // Only those with timelines are asked for without an id.
                let mut items: Vec<Record> = match m.notebook_id.is_empty() {
                    true => Vec::new(),
                    false => r.api.notebook(&c, &m.notebook_id).await?.into_iter().collect(),
                };
                if m.include_uploads {
                    for n in &mut items {
                        r.api.with_files(&c, n).await?;
                    }
                }
                text(&Notebooks { items })
            }),
        )
        .route(
            "/v1/NewNotebook",
            on_post(rest, |r, c, m: Record| async move { text(&r.api.new_notebook(&c, m).await?) }),
        )
        .route(
            "/v1/UpdateNotebook",
            on_post(
                rest,
                |r, c, m: Record| async move { text(&r.api.change_notebook(&c, m).await?) },
            ),
        )
        .route(
            "/v1/DeleteNotebook",
            on_post(rest, |r, c, m: Record| async move {
                r.api.delete_notebook(&c, &m).await.map(|()| "{}".to_owned())
            }),
        )
        .route(
            "/v1/NewNotebookCell",
            on_post(rest, |r, c, m: Asked| async move { text(&r.api.new_cell(&c, &m).await?) }),
        )
        .route(
            "/v1/GetNotebookCell",
            on_get(rest, |r, c, m: Asked| async move { text(&r.api.one_cell(&c, &m).await?) }),
        )
        .route(
            "/v1/UpdateNotebookCell",
            on_post(rest, |r, c, m: Asked| async move { text(&r.api.update_cell(&c, &m).await?) }),
        )
        .route(
            "/v1/RevertNotebookCell",
            on_post(rest, |r, c, m: Asked| async move { text(&r.api.revert_cell(&c, &m).await?) }),
        )
        .route(
            "/v1/CancelNotebookCell",
            on_post(rest, |r, c, m: Asked| async move {
                r.api.cancel_cell(&c, &m).await.map(|()| "{}".to_owned())
            }),
        )
        .route(
            "/v1/UploadNotebookAttachment",
            on_file(rest, |r, c, m: NotebookFileUploadRequest| async move {
                let made = r.api.attach(&c, &m).await?;
                r.uploads.take(m.data.len() / 4 * 3);
                let url = r.file_address(&c, &made.at);
                text(&NotebookFileUploadResponse {
                    url,
                    filename: made.name,
                    mime_type: made.mime.to_owned(),
                })
            }),
        )
        .route(
            "/v1/RemoveNotebookAttachment",
            on_post(rest, |r, c, m: NotebookFileUploadRequest| async move {
                r.api.detach(&c, &m).await.map(|()| "{}".to_owned())
            }),
        )
        .route(
            "/v1/CreateNotebookDownloadFile",
            on_post(rest, |r, c, m: NotebookExportRequest| async move {
                r.api.export_notebook(&c, m).await.map(|()| "{}".to_owned())
            }),
        )
        .route(
            "/fleet/notebooks",
            get(move |r: Request| async move {
                all.notebooks(r).await.map_or_else(|e| failed(&e), |v| answer(v.to_string()))
            }),
        )
        .route(
            "/fleet/notebook_cell",
            get(move |r: Request| async move {
                one.drawn(r).await.map_or_else(|e| failed(&e), |v| answer(v.to_string()))
            }),
        )
}

impl Rest {
    /// Notebooks in brief.
    async fn notebooks(&self, request: Request) -> Result<Value, Status> {
        let caller = self.caller(&request).await?;
        let all = self.api.notebook_list(&caller).await?;
        let brief = |n: Record| {
            json!({
                "id": n.notebook_id, "name": n.name, "description": n.description,
                "creator": n.creator, "created": n.created_time, "modified": n.modified_time,
                "cells": n.cell_metadata.len(), "public": n.public,
                "collaborators": n.collaborators,
            })
        };
        Ok(json!({ "items": all.into_iter().map(brief).collect::<Vec<_>>() }))
    }

    /// A version of a cell with what it shows: texts as trees, and its tables by their
    /// numbers.
    async fn drawn(&self, request: Request) -> Result<Value, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::ReadResults)?;
        let mut asked = Asked::default();
        for (k, v) in parameters(&request) {
            match k.as_str() {
                "notebook_id" => asked.notebook_id = v,
                "cell_id" => asked.cell_id = v,
                "version" => asked.version = v,
                _ => {}
            }
        }
        let cell = self.api.one_cell(&caller, &asked).await?;
        let parts = match cell.calculating {
            true => Vec::new(),
            false => self.api.cell_parts(&caller, &asked.notebook_id, &cell).await?,
        };
        Ok(json!({
            "id": cell.cell_id, "type": cell.r#type, "input": cell.input,
            "version": cell.current_version, "versions": cell.available_versions,
            "calculating": cell.calculating, "error": cell.error, "messages": cell.messages,
            "more": cell.more_messages, "seconds": cell.duration, "timestamp": cell.timestamp,
            "parts": parts,
        }))
    }
}
