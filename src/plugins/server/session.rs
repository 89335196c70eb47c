//! On whose behalf a query runs, and where: what server callables find in the
//! scope.

use std::sync::Arc;

use vql::{Error, Scope};

use crate::services::acl::{Permission, Policy};
use crate::services::ids::OrgId;
use crate::services::{Org, Server, ServiceError};

/// The caller of a query in one organisation.
#[derive(Clone)]
pub struct Session {
    /// The server.
    pub server: Arc<Server>,
    /// The organisation the query is about.
    pub org: Arc<Org>,
    /// User name, as in audit records.
    pub principal: String,
    /// What they may do there.
    pub policy: Policy,
}

impl Session {
    /// The session of a scope; queries that do not run on a server have none.
    pub fn of(scope: &Scope) -> Result<Arc<Session>, Error> {
        scope.extension().ok_or_else(|| Error::failed("only a server can do this"))
    }

    /// The session, if it holds the permission.
    pub fn with(scope: &Scope, permission: Permission) -> Result<Arc<Session>, Error> {
        let session = Session::of(scope)?;
        session.require(permission)?;
        Ok(session)
    }

    /// Fails unless the permission is held.
    pub fn require(&self, permission: Permission) -> Result<(), Error> {
        if self.policy.allows(permission) {
            return Ok(());
        }
        Err(Error::failed(format!("PermissionDenied: user {} lacks {permission}", self.principal)))
    }

    /// The same caller in another organisation, with their rights there.
    pub async fn in_org(&self, id: &str) -> Result<Session, Error> {
        let id = OrgId::new(id);
        if id == self.org.id {
            return Ok(self.clone());
        }
        let org = self.server.org(&id);
        let org = org.ok_or_else(|| Error::failed(format!("organisation {id} not found")))?;
        let policy = match self.policy.is_super_user() {
            true => self.policy.clone(),
            false => self.server.users.policy(&id, &self.principal).await.map_err(Error::failed)?,
        };
        Ok(Session { org, policy, ..self.clone() })
    }
}

/// A failed service call as a query sees it.
pub fn failed(e: ServiceError) -> Error {
    Error::failed(e)
}
