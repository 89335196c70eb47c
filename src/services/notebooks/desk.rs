//! Where cells of notebooks are worked out: the API has the place for it, and whoever
//! else wants a cell worked out asks there.

use std::sync::Arc;

use futures::future::BoxFuture;
use velociraptor_proto::proto::{NotebookCellRequest, NotebookMetadata};

use super::Notebooks;
use crate::services::acl::Policy;
use crate::services::server::{Org, ServiceError};

/// Who asks, with what they may do. Whether they may do this was looked at.
#[derive(Clone, Debug)]
pub struct Who {
    /// User name.
    pub name: String,
    /// Organisation.
    pub org: Arc<Org>,
    /// With these rights the queries of cells run.
    pub policy: Policy,
}

/// What a notebook became; its cells in brief.
pub type Answer = BoxFuture<'static, Result<NotebookMetadata, ServiceError>>;

/// See the module.
pub trait CellDesk: Send + Sync + std::fmt::Debug {
    /// Makes a notebook and works its first cells out.
    fn create(&self, who: Who, asked: NotebookMetadata) -> Answer;
    /// Gives a cell another input, or adds one, and works it out.
    fn write(&self, who: Who, asked: NotebookCellRequest) -> Answer;
}

impl Notebooks {
    /// The place where cells are worked out. Only the first that is named counts.
    pub fn set_desk(&self, desk: Arc<dyn CellDesk>) {
        if self.desk.set(desk).is_err() {
            tracing::debug!("cells are worked out by the API that was there first");
        }
    }

    /// The same, if this process has it.
    pub fn desk(&self) -> Result<&Arc<dyn CellDesk>, ServiceError> {
        let none = || ServiceError::Invalid("no cells are worked out in this process".into());
        self.desk.get().ok_or_else(none)
    }
}
