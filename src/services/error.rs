//! Why a call of a service fails.

use crate::store::StoreError;
use crate::store::journal::CommitError;

/// Why a service call failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Another process has what this one needs to work on the datastore.
    #[error("{0}")]
    NotMaster(String),
    /// Nothing was decided; trying again is fine.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The datastore.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such thing.
    #[error("{0} not found")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The caller may not.
    #[error("PermissionDenied: {0}")]
    Denied(String),
    /// It took too long.
    #[error("{0}")]
    Timeout(String),
}
