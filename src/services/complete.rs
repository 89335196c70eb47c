//! What happens when a flow ends: the event, and the client record.

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::proto::{ArtifactCollectorContext, ClientInfo};

use super::flows::Rows;
use super::server::{Org, Server, ServiceError};
use super::state::FlowKey;

/// The artifact that describes an endpoint; a site's own version comes first.
pub const INTERROGATION: [&str; 2] = ["Custom.Generic.Client.Info", "Generic.Client.Info"];

/// The artifact of events that tell the end of a flow.
pub const COMPLETION: &str = "System.Flow.Completion";

impl Server {
    /// After something was stored for a flow: announces its end, once, when all
    /// of it is here. What could not be announced is tried again by whoever keeps house.
    pub async fn after_progress(&self, org: &Org, key: &FlowKey) -> Result<(), ServiceError> {
        let now = self.env.clock.micros();
        if let Err(e) = self.follow_hunt_end(org, key).await {
            tracing::warn!(client = key.0, flow = key.1, error = %e, "hunt does not know of it yet");
        }
        {
            let mut state = org.state();
            let Some(f) = state.flows.get_mut(key) else { return Ok(()) };
            if !f.ready_to_announce(now) || f.context.is_none() {
                return Ok(());
            }
            f.announced = true;
        }
        let done = self.announce(org, key).await;
        if done.is_err()
            && let Some(f) = org.state().flows.get_mut(key)
        {
            f.announced = false;
        }
        done
    }

    async fn announce(&self, org: &Org, (client, flow): &FlowKey) -> Result<(), ServiceError> {
        let Some(context) = self.flow(org, client, flow).await? else { return Ok(()) };
        if let Some(name) = interrogation(&context) {
            self.learn(org, client, flow, name).await?;
        }
        self.end_of_hunt_flow(org, client, flow, &context).await?;
        let row = serde_json::json!({
            "Timestamp": self.env.clock.unix(),
            "Flow": velociraptor_proto::json::to_sparse_row(&context)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?,
            "FlowId": flow,
            "ClientId": client,
        });
        self.push_events(org, client, COMPLETION, Bytes::from(format!("{row}\n"))).await?;
        self.sessions.wake(&org.id, client);
        Ok(())
    }

    /// Fills the client record from an interrogation's rows.
    async fn learn(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        artifact: &str,
    ) -> Result<(), ServiceError> {
        let set = Rows::Results(format!("{artifact}/BasicInformation"));
        let rows = self.rows(org, client, flow, &set, 0, 1).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let Ok(row) = serde_json::from_slice::<serde_json::Value>(row) else { return Ok(()) };
        let mut info = client_info(&row);
        info.last_interrogate_flow_id = flow.to_owned();
        info.last_interrogate_artifact_name = artifact.to_owned();
        self.decide(org, client, "", Kind::ClientInfo(info)).await?;
        let row = serde_json::json!({"ClientId": client});
        self.push_events(org, "server", "Server.Internal.Interrogation", format!("{row}\n").into())
            .await?;
        Ok(())
    }
}

fn interrogation(c: &ArtifactCollectorContext) -> Option<&'static str> {
    let asked = &c.request.as_ref()?.artifacts;
    INTERROGATION.into_iter().find(|n| asked.iter().any(|a| a == n))
}

/// The record fields of a `BasicInformation` row.
fn client_info(row: &serde_json::Value) -> ClientInfo {
    let text = |k: &str| match &row[k] {
        serde_json::Value::String(s) => s.clone(),
        serde_json::Value::Null => String::new(),
        v => v.to_string(),
    };
    let list = |k: &str| -> Vec<String> {
        let items = row[k].as_array().into_iter().flatten();
        items.filter_map(|v| v.as_str()).map(str::to_owned).collect()
    };
    ClientInfo {
        hostname: text("Hostname"),
        fqdn: text("Fqdn"),
        system: text("OS"),
        release: format!("{}{}", text("Platform"), text("PlatformVersion")),
        architecture: text("Architecture"),
        client_version: text("Version"),
        client_name: text("Name"),
        build_time: text("BuildTime"),
        build_url: text("build_url"),
        labels: list("Labels"),
        mac_addresses: list("MACAddresses"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_records() {
        let row = serde_json::json!({
            "Hostname": "h", "OS": "linux", "Platform": "debian", "PlatformVersion": "12",
            "Labels": ["a"], "MACAddresses": null, "Version": "0.77.2",
        });
        let i = client_info(&row);
        assert_eq!((i.hostname.as_str(), i.release.as_str()), ("h", "debian12"));
        assert_eq!((i.labels.len(), i.mac_addresses.len()), (1, 0));
    }
}
