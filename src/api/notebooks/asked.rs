//! Cells that queries want worked out.

use std::sync::{Arc, Weak};

use tonic::{Code, Status};
use velociraptor_proto::proto::{NotebookCellRequest, NotebookMetadata};
use vql::Registry;

use super::super::{Api, ApiOptions, Caller};
use super::Desk;
use crate::services::notebooks::desk::{Answer, CellDesk, Who};
use crate::services::tables::Views;
use crate::services::{Server, ServiceError};

/// The API as its server knows it: neither holds the other.
pub(in super::super) struct Asked {
    server: Weak<Server>,
    desk: Weak<Desk>,
    views: Weak<Views>,
    registry: Arc<Registry>,
    options: Arc<ApiOptions>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

impl Asked {
    pub(in super::super) fn of(api: &Api) -> Asked {
        Asked {
            server: Arc::downgrade(&api.server),
            desk: Arc::downgrade(&api.desk),
            views: Arc::downgrade(&api.views),
            registry: api.registry.clone(),
            options: api.options.clone(),
        }
    }

    fn api(&self) -> Result<Api, ServiceError> {
        let there = || {
            Some(Api {
                server: self.server.upgrade()?,
                desk: self.desk.upgrade()?,
                views: self.views.upgrade()?,
                registry: self.registry.clone(),
                options: self.options.clone(),
            })
        };
        there().ok_or_else(|| ServiceError::Invalid("no cells are worked out any more".into()))
    }
}

fn failed(e: Status) -> ServiceError {
    let text = e.message().to_owned();
    match e.code() {
        Code::NotFound => ServiceError::NotFound(text),
        Code::PermissionDenied => ServiceError::Denied(text),
        _ => ServiceError::Invalid(text),
    }
}

fn caller(who: Who) -> Caller {
    Caller { name: who.name, org: who.org, policy: who.policy }
}

impl CellDesk for Asked {
    fn create(&self, who: Who, asked: NotebookMetadata) -> Answer {
        let api = self.api();
        Box::pin(async move { api?.make_notebook(&caller(who), asked).await.map_err(failed) })
    }

    fn write(&self, who: Who, asked: NotebookCellRequest) -> Answer {
        let api = self.api();
        Box::pin(async move {
            let (api, caller, id) = (api?, caller(who), asked.notebook_id.clone());
            if asked.cell_id.is_empty() {
                let limit = api.desk.limits.timeout;
                return api.add_cell(&caller, &asked, limit).await.map_err(failed);
            }
            api.write_cell(&caller, &asked).await.map_err(failed)?;
            let found = api.notebook(&caller, &id).await.map_err(failed)?;
            found.ok_or_else(|| ServiceError::NotFound(format!("notebook {id}")))
        })
    }
}
