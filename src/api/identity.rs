//! Who is calling: from the client certificate of the connection, and for the
//! gateway from what it says in the call's metadata.

use std::sync::Arc;

use serde::Deserialize;
use tonic::{Request, Status};

use super::Api;
use super::status::{denied, status};
use crate::comms::server::PeerInfo;
use crate::crypto::certs::Certificate;
use crate::crypto::node::CN_PREFIX;
use crate::services::acl::{Permission, Policy};
use crate::services::ids::OrgId;
use crate::services::{Org, ServiceError};

/// A caller, in the organisation the call is about.
#[derive(Debug, Clone)]
pub struct Caller {
    /// User name, as in audit records.
    pub name: String,
    /// The organisation.
    pub org: Arc<Org>,
    /// What they may do there.
    pub policy: Policy,
}

impl Caller {
    /// Fails unless the permission is held.
    pub fn require(&self, permission: Permission) -> Result<(), Status> {
        if self.policy.allows(permission) { Ok(()) } else { Err(denied(&self.name, permission)) }
    }
}

/// What the gateway says about the person it acts for.
#[derive(Deserialize)]
struct Impersonated {
    name: String,
}

impl Api {
    /// The caller of a request. `org_id` is the organisation the message names;
    /// other messages are about root, unless the gateway says otherwise.
    pub(super) async fn caller<T>(
        &self,
        request: &Request<T>,
        org_id: Option<&str>,
    ) -> Result<Caller, Status> {
        let certificate = request
            .extensions()
            .get::<PeerInfo>()
            .and_then(|p| p.certificate.as_ref())
            .ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
        let certificate = Certificate::from_der(certificate)
            .map_err(|e| Status::unauthenticated(format!("client certificate: {e}")))?;
        let name = certificate
            .name()
            .ok_or_else(|| Status::unauthenticated("the client certificate has no name"))?;
        // No user can have such a name, but say what is wrong.
        if name.starts_with(CN_PREFIX) {
            return Err(Status::permission_denied(
                "PermissionDenied: a node's certificate calls the other nodes, not the API",
            ));
        }
        if name == self.options.pinned_server_name {
            let org = self.org(org_id.unwrap_or_default())?;
            let policy = Policy::super_user().locked_down(self.server.users.denied());
            return Ok(Caller { name: name.to_owned(), org, policy });
        }
        if name == self.options.gateway_name {
            let org = metadata(request, "orgid")?.unwrap_or_default();
            let org = org_id.filter(|o| !o.is_empty()).unwrap_or(&org);
            let user = metadata(request, "user")?
                .ok_or_else(|| Status::unauthenticated("the gateway names no user"))?;
            let user: Impersonated = serde_json::from_str(&user)
                .map_err(|e| Status::unauthenticated(format!("user metadata: {e}")))?;
            return self.user(&user.name, org).await;
        }
        self.user(name, org_id.unwrap_or_default()).await
    }

    pub(super) async fn user(&self, name: &str, org: &str) -> Result<Caller, Status> {
        let unknown = || Status::permission_denied(format!("PermissionDenied: user {name}"));
        let user = self.server.users.get(name).await.map_err(unavailable)?.ok_or_else(unknown)?;
        let org = self.org(org)?;
        let policy = self.server.users.policy(&org.id, &user.name).await.map_err(unavailable)?;
        Ok(Caller { name: user.name, org, policy })
    }

    fn org(&self, id: &str) -> Result<Arc<Org>, Status> {
        let found = self.server.org(&OrgId::new(id));
        found.ok_or_else(|| status(&ServiceError::NotFound(format!("organisation {id}"))))
    }
}

fn unavailable(e: impl std::fmt::Display) -> Status {
    Status::unavailable(e.to_string())
}

fn metadata<T>(request: &Request<T>, key: &str) -> Result<Option<String>, Status> {
    let value = request.metadata().get(key);
    let text = value.map(|v| v.to_str().map(str::to_owned)).transpose();
    text.map_err(|_| Status::invalid_argument(format!("metadata {key} is not ASCII")))
}
