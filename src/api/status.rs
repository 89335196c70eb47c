//! Errors as the API's clients know them: denied, invalid, not found, and
//! everything else as unavailable, which makes clients try again.

use tonic::Status;

use crate::services::ServiceError;
use crate::services::acl::Permission;

/// The status of a failed service call.
pub fn status(e: &ServiceError) -> Status {
    match e {
        ServiceError::Denied(_) => Status::permission_denied(e.to_string()),
        ServiceError::Invalid(_) => Status::invalid_argument(e.to_string()),
        ServiceError::NotFound(what) => {
            tracing::debug!(what, "not found");
            Status::not_found("Not Found")
        }
        _ => Status::unavailable(e.to_string()),
    }
}

/// A permission is missing.
pub fn denied(name: &str, permission: Permission) -> Status {
    Status::permission_denied(format!("PermissionDenied: user {name} lacks {permission}"))
}

/// The store failed.
pub fn store(e: crate::store::StoreError) -> Status {
    status(&e.into())
}
