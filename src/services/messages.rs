//! Readable names of what agents send, and the client record they refresh.

use bytes::Bytes;
use velociraptor_proto::proto::{ClientInfo, VeloMessage};

use super::flows::job::{self, Job};
use super::server::{Org, Server};
use super::state::merge_info;

impl Server {
    /// Makes the hidden names in a job's statuses readable and looks for errors in
    /// an old agent's log. Returns the artifact (and source) the job belongs to;
    /// empty if it has none. The bytes that are stored are not touched.
    pub fn read_job(&self, job: &mut Job) -> String {
        let VeloMessage { vql_response, log_message, flow_stats, status, .. } = &mut job.message;
        for s in flow_stats.iter_mut().flat_map(|f| &mut f.query_status).chain(status) {
            s.artifact = self.reveal(&s.artifact);
            s.error_message = self.names.reveal_all(&s.error_message).into_owned();
            for n in &mut s.names_with_response {
                *n = self.reveal(n);
            }
        }
        if let Some(l) = log_message {
            l.artifact = self.reveal(&l.artifact);
            let error = self.log_errors.of(l);
            job.log_error = error.map(|text| self.names.reveal_all(text).into_owned());
            return l.artifact.clone();
        }
        let query = vql_response.as_ref().and_then(|r| r.query.as_ref());
        query.map(|q| self.reveal(&q.name)).unwrap_or_default()
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
