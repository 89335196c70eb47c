//! Changing the artifact definitions of an organisation.

use std::sync::Arc;

use serde_json::json;
use velociraptor_proto::proto::{Artifact, ArtifactMetadata};

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

/// What to note of a definition; what is not said stays.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Not shown in lists.
    pub hidden: Option<bool>,
    /// May be collected by those who may only collect what is marked so.
    pub basic: Option<bool>,
    /// Instead of its tags.
    pub tags: Option<Vec<String>>,
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
        self.note_of_artifacts(org, names, |of| {
            of.tags.extend(tags.iter().filter(|t| !t.is_empty()).cloned());
            of.tags.sort();
            of.tags.dedup();
        })
        .await
    }

    /// Marks a definition and returns what is noted of it now.
    pub async fn mark_artifact(
        &self,
        org: &Org,
        principal: &str,
        name: &str,
        marks: Marks,
    ) -> Result<ArtifactMetadata, ServiceError> {
        let details = json!({
            "artifact": name, "hidden": marks.hidden, "basic": marks.basic, "tags": marks.tags,
        });
        self.note_of_artifacts(org, &[name.to_owned()], |of| {
            of.hidden = marks.hidden.unwrap_or(of.hidden);
            of.basic = marks.basic.unwrap_or(of.basic);
            if let Some(tags) = &marks.tags {
                of.tags.clone_from(tags);
            }
        })
        .await?;
        audit(self, org, principal, "SetArtifactMetadata", details).await;
        Ok(org.repository.get(name).and_then(|a| a.metadata.clone()).unwrap_or_default())
    }

    async fn note_of_artifacts(
        &self,
        org: &Org,
        names: &[String],
        change: impl Fn(&mut ArtifactMetadata),
    ) -> Result<(), ServiceError> {
        let at = repository_metadata(&org.id);
        let _one = self.users.writing().await;
        let mut all = self.tree.get(&at).await?.unwrap_or_default();
        for name in names {
            change(all.metadata.entry(name.clone()).or_default());
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
