//! Readable names of what agents send, and the client record they refresh.

use bytes::Bytes;
use velociraptor_proto::proto::{ClientInfo, VeloMessage};

use super::flows::job;
use super::server::{Org, Server};
use super::state::merge_info;

impl Server {
    /// The artifact (and source) a job belongs to; empty if it has none.
    pub fn job_name(&self, m: &VeloMessage) -> String {
        if let Some(r) = &m.vql_response {
            return r.query.as_ref().map(|q| self.reveal(&q.name)).unwrap_or_default();
        }
        m.log_message.as_ref().map(|l| self.reveal(&l.artifact)).unwrap_or_default()
    }

    /// Merges the record an agent sent about itself. Returns labels it asks for.
    pub fn apply_client_info(&self, org: &Org, client: &str, job: &[u8]) -> Vec<String> {
        let rows = super::flows::rows_of_job(job).unwrap_or_default();
        let Some(info) = parse_info(&rows) else {
            tracing::warn!(client, "client info cannot be read");
            return vec![];
        };
        let labels = info.labels.clone();
        merge_info(&mut org.state().clients.entry(client).info, &info);
        labels
    }
}

fn parse_info(rows: &Bytes) -> Option<ClientInfo> {
    let line = job::lines(rows).next()?;
    velociraptor_proto::json::from_json(line).ok()
}
