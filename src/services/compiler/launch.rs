//! Whether somebody may launch an artifact.

use velociraptor_proto::proto::Artifact;

use crate::services::acl::{Permission, Policy};
use crate::services::repository::Kind;

/// A launch that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("collecting {artifact} needs the permission {permission}")]
pub struct Denied {
    /// The artifact.
    pub artifact: String,
    /// The permission that is missing.
    pub permission: String,
}

/// Collecting needs the right for the place it runs (`COLLECT_CLIENT`, or
/// `COLLECT_BASIC` when the artifact is marked basic; `COLLECT_SERVER` on the
/// server) and every permission the artifact requires.
pub fn check_launch(policy: &Policy, artifact: &Artifact, on_server: bool) -> Result<(), Denied> {
    let denied = |p: &str| Denied { artifact: artifact.name.clone(), permission: p.to_owned() };
    let on_server = on_server || !Kind::of(artifact).is_client();
    let basic = artifact.metadata.as_ref().is_some_and(|m| m.basic);
    let place = if on_server { Permission::CollectServer } else { Permission::CollectClient };
    let as_basic = basic && !on_server && policy.allows(Permission::CollectBasic);
    if !policy.allows(place) && !as_basic {
        return Err(denied(place.name()));
    }
    for name in &artifact.required_permissions {
        // An unknown name can not be held.
        if !Permission::parse(name).is_some_and(|p| policy.allows(p)) {
            return Err(denied(name));
        }
    }
    Ok(())
}
