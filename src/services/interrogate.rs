//! What the server knows about a client beyond what it collects: interrogation,
//! labels, metadata.

use velociraptor_proto::proto::{ArtifactCollectorArgs, ClientMetadata};

use super::complete::INTERROGATION;
use super::server::{Org, Server, ServiceError};
use crate::store::paths::Client;

impl Server {
    /// Asks a client what it is, once in its life, or again when told to.
    pub async fn interrogate(&self, org: &Org, client: &str) -> Result<String, ServiceError> {
        let artifact = INTERROGATION.into_iter().find(|n| org.repository.get(n).is_some());
        let artifact =
            artifact.ok_or_else(|| ServiceError::NotFound("Generic.Client.Info".into()))?;
        let mut request = ArtifactCollectorArgs {
            client_id: client.to_owned(),
            artifacts: vec![artifact.to_owned()],
            urgent: true,
            ..Default::default()
        };
        self.compile_into(org, &mut request).await?;
        self.schedule(org, "InterrogationService", request).await
    }

    /// A client's metadata; none is an empty list.
    pub async fn metadata(&self, org: &Org, client: &str) -> Result<ClientMetadata, ServiceError> {
        let path = Client { org: &org.id, id: client };
        Ok(self.tree.get(&path.metadata()).await?.unwrap_or_default())
    }

    /// Sets and removes metadata keys of a client.
    pub async fn set_metadata(
        &self,
        org: &Org,
        client: &str,
        add: &[(String, String)],
        remove: &[String],
    ) -> Result<(), ServiceError> {
        let path = Client { org: &org.id, id: client };
        let mut all = self.metadata(org, client).await?;
        all.client_id = client.to_owned();
        all.items.retain(|i| !remove.contains(&i.key) && !add.iter().any(|(k, _)| *k == i.key));
        for (key, value) in add {
            all.items.push(velociraptor_proto::proto::ClientMetadataItem {
                key: key.clone(),
                value: value.clone(),
            });
        }
        self.decided.set(&path.metadata(), &all).await?;
        Ok(())
    }

    /// Adds and removes labels of a client. Its event table follows at once.
    pub async fn label(
        &self,
        org: &Org,
        client: &str,
        principal: &str,
        add: &[String],
        remove: &[String],
    ) -> Result<(), ServiceError> {
        if org.state().clients.get(client).is_none() {
            return Err(ServiceError::NotFound(format!("client {client}")));
        }
        let change = velociraptor_proto::journal::LabelChange {
            add: add.iter().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect(),
            remove: remove.to_vec(),
            labels_timestamp: self.env.clock.nanos(),
        };
        let kind = velociraptor_proto::journal::decision::Kind::Label(change);
        self.decide(org, client, principal, kind).await?;
        self.sessions.wake(&org.id, client);
        Ok(())
    }
}
