//! Queries through a server's API.

use anyhow::{Context as _, bail};
use futures::StreamExt;
use serde_json::{Map, Value};
use tonic::transport::Channel;
use velociraptor_proto::proto::api_client::ApiClient;
use velociraptor_proto::proto::{VqlCollectorArgs, VqlEnv, VqlRequest};

use crate::api::client::connect;
use crate::config::model::ApiClientConfig;
use crate::env::Env;

/// Rows of one packet.
const PACKET: u64 = 1000;

/// A connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    client: ApiClient<Channel>,
    org: String,
}

impl Api {
    /// Connects.
    pub async fn connect(env: &Env, config: &ApiClientConfig, org: &str) -> anyhow::Result<Api> {
        Ok(Api { client: connect(env, config).await?, org: org.to_owned() })
    }

    /// The rows of a query.
    pub async fn query(
        &self,
        vql: &str,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Vec<Map<String, Value>>> {
        let one = |(key, value): &(&str, &str)| VqlEnv {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            comment: String::new(),
        };
        let request = VqlCollectorArgs {
            query: vec![VqlRequest { vql: vql.to_owned(), name: "query".into() }],
            env: variables.iter().map(one).collect(),
            max_row: PACKET,
            max_wait: 1,
            org_id: self.org.clone(),
            ..Default::default()
        };
        let refused = |s: tonic::Status| anyhow::anyhow!("{:?}: {}", s.code(), s.message());
        let mut stream = self.client.clone().query(request).await.map_err(refused)?.into_inner();
        let mut rows = Vec::new();
        while let Some(message) = stream.next().await {
            let message = message.map_err(refused)?;
            if message.log.contains("VQL Error: ") {
                bail!("{}", message.log.trim());
            }
            if !message.response.is_empty() {
                let more: Vec<Map<String, Value>> =
                    serde_json::from_str(&message.response).context("rows from the server")?;
                rows.extend(more);
            }
        }
        Ok(rows)
    }
}
