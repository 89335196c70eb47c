//! Changing the artifact definitions of an organisation.

use std::sync::Arc;

use serde_json::json;
use velociraptor_proto::proto::Artifact;

use super::acl::Permission;
use super::audit::audit;
use super::repository::custom::{self, CustomError};
use super::repository::{ArtifactError, Kind};
use super::server::{Org, Server, ServiceError};
use crate::store::paths::repository_metadata;

impl From<CustomError> for ServiceError {
    fn from(e: CustomError) -> Self {
        match e {
            CustomError::Store(e) => e.into(),
            CustomError::Artifact(ArtifactError::NotFound(n)) => {
                ServiceError::NotFound(format!("artifact {n}"))
            }
            CustomError::Artifact(e) => ServiceError::Invalid(e.to_string()),
        }
    }
}

/// The permission needed to write a definition: what runs on the server is a
/// matter of its own.
pub fn writer_permission(artifact: &Artifact) -> Permission {
    match Kind::of(artifact) {
        Kind::Client | Kind::ClientEvent => Permission::ArtifactWriter,
        Kind::Server | Kind::ServerEvent | Kind::Notebook | Kind::Internal => {
            Permission::ServerArtifactWriter
        }
    }
}

impl Server {
    /// Stores a definition and uses it from now on.
    pub async fn set_artifact(
        &self,
        org: &Org,
        principal: &str,
        text: &str,
    ) -> Result<Arc<Artifact>, ServiceError> {
        let artifact = custom::set(&self.decided, &org.id, &org.repository, text).await?;
        let details = json!({ "artifact": artifact.name, "definition": text });
        audit(self, org, principal, "SetArtifact", details).await;
        Ok(artifact)
    }

    /// Adds tags to definitions.
    pub async fn tag_artifacts(
        &self,
        org: &Org,
        names: &[String],
        tags: &[String],
    ) -> Result<(), ServiceError> {
        let at = repository_metadata(&org.id);
        let _one = self.users.writing().await;
        let mut all = self.tree.get(&at).await?.unwrap_or_default();
        for name in names {
            let of = all.metadata.entry(name.clone()).or_default();
            of.tags.extend(tags.iter().filter(|t| !t.is_empty()).cloned());
            of.tags.sort();
            of.tags.dedup();
        }
        self.decided.set(&at, &all).await?;
        org.repository.set_metadata(&all.metadata.into_iter().collect());
        Ok(())
    }

    /// Deletes a definition somebody wrote.
    pub async fn delete_artifact(
        &self,
        org: &Org,
        principal: &str,
        name: &str,
    ) -> Result<(), ServiceError> {
        custom::remove(&self.tree, &org.id, &org.repository, name).await?;
        audit(self, org, principal, "DeleteArtifact", json!({ "artifact": name })).await;
        Ok(())
    }
}
