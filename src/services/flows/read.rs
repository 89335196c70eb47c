//! Rows of flows, wherever they are: in journals while the flow is live, in
//! stock files once it is settled.

use bytes::Bytes;
use prost::Message;
use velociraptor_proto::proto::VeloMessage;

use super::job;
use super::live_set::LiveSet;
use crate::services::server::{Org, Server, ServiceError};
use crate::store::journal::{Extent, Extents};
use crate::store::{FilePath, StoreError};

/// Which rows of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// A result set, by `Artifact` or `Artifact/Source`.
    Results(String),
    /// The query log.
    Logs,
    /// Upload bookkeeping of resumable uploads.
    Transactions,
}

/// The rows inside a journaled job, as JSON lines.
pub fn rows_of_job(raw: &[u8]) -> Result<Bytes, ServiceError> {
    let bad = |e: &dyn std::fmt::Display| ServiceError::Invalid(format!("journaled job: {e}"));
    let m = VeloMessage::decode(raw).map_err(|e| bad(&e))?;
    if let Some(r) = &m.vql_response {
        return job::response_rows(r).map_err(|e| bad(&e));
    }
    if let Some(l) = &m.log_message {
        return Ok(job::log_rows(l));
    }
    if let Some(t) = &m.upload_transaction {
        let row = velociraptor_proto::json::to_row(t).map_err(|e| bad(&e))?;
        return Ok(Bytes::from(format!("{row}\n")));
    }
    Ok(Bytes::new())
}

fn is_log(raw: &[u8]) -> bool {
    VeloMessage::decode(raw).is_ok_and(|m| m.log_message.is_some())
}

impl Server {
    /// Rows of the stock file at `path`; 0 if it does not exist.
    pub async fn stored_rows(&self, path: &FilePath) -> Result<u64, ServiceError> {
        Ok(crate::store::resultset::row_count(&self.tree, path).await?)
    }

    /// Reads the rows in one extent of several, whose journals stay open meanwhile.
    pub async fn journal_rows(
        &self,
        journals: &mut Extents<'_>,
        extent: &Extent,
    ) -> Result<Bytes, ServiceError> {
        let raw = journals.read(extent).await.map_err(StoreError::from)?;
        self.readable_rows(&raw)
    }

    /// As [`rows_of_job`], with obfuscated names in log text made readable.
    pub fn readable_rows(&self, raw: &[u8]) -> Result<Bytes, ServiceError> {
        let rows = rows_of_job(raw)?;
        let hidden = rows.contains(&b'$');
        match std::str::from_utf8(&rows) {
            Ok(text) if hidden && is_log(raw) => {
                Ok(Bytes::from(self.names.reveal_all(text).into_owned()))
            }
            _ => Ok(rows),
        }
    }

    fn live_set(&self, org: &Org, client: &str, flow: &str, which: &Rows) -> Option<LiveSet> {
        let state = org.state();
        let f = state.flows.get(&(client.to_owned(), flow.to_owned()))?;
        match which {
            Rows::Results(name) => f.results.get(name).cloned(),
            Rows::Logs => Some(f.logs.clone()),
            Rows::Transactions => Some(f.transactions.clone()),
        }
    }

    /// The file that holds all rows of a set: `None` while some are in journals.
    pub fn settled(&self, org: &Org, client: &str, flow: &str, which: &Rows) -> Option<FilePath> {
        let live = self.live_set(org, client, flow, which).is_some();
        (!live).then(|| rows_path(org, client, flow, which))
    }

    /// How many rows there are.
    pub async fn row_count(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        which: &Rows,
    ) -> Result<u64, ServiceError> {
        match self.live_set(org, client, flow, which) {
            Some(s) => Ok(s.rows()),
            None => self.stored_rows(&rows_path(org, client, flow, which)).await,
        }
    }

    /// Up to `count` rows from row `start` on, one JSON object each.
    pub async fn rows(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        which: &Rows,
        start: u64,
        count: u64,
    ) -> Result<Vec<Bytes>, ServiceError> {
        let path = rows_path(org, client, flow, which);
        let Some(set) = self.live_set(org, client, flow, which) else {
            return Ok(crate::store::resultset::read_rows(&self.tree, &path, start, count).await?);
        };
        let mut out = Vec::new();
        if start < set.base {
            let n = count.min(set.base - start);
            out = crate::store::resultset::read_rows(&self.tree, &path, start, n).await?;
        }
        let mut journals = Extents::new(&*self.env.fs);
        for (at, part) in set.parts() {
            if out.len() as u64 >= count {
                break;
            }
            if at + part.rows <= start {
                continue;
            }
            let blob = self.journal_rows(&mut journals, &part.extent).await?;
            let skip = start.saturating_sub(at) as usize;
            for line in job::lines(&blob).skip(skip) {
                if out.len() as u64 >= count {
                    break;
                }
                out.push(blob.slice_ref(line));
            }
        }
        Ok(out)
    }
}

/// Where settled rows are.
pub fn rows_path(org: &Org, client: &str, flow: &str, which: &Rows) -> FilePath {
    let path = crate::store::paths::Client { org: &org.id, id: client };
    let path = path.flow(flow);
    match which {
        Rows::Results(name) => path.results_of(name),
        Rows::Logs => path.logs(),
        Rows::Transactions => path.upload_transactions(),
    }
}
