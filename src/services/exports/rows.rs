//! Result sets into an archive: JSON lines, separated values or both. They are read
//! twice for the latter, since the head of a table comes first and names every
//! column.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::Format;
use super::container::Container;
use super::csv::Columns;
use crate::services::events::decorate;
use crate::services::flows::{Rows, rows_path};
use crate::services::server::{Org, Server, ServiceError};
use crate::store::resultset::{self, ResultSet};
use crate::store::zip::write::member_name;

/// Rows handed on together, and their bytes.
const ROWS: usize = 1000;
const BYTES: usize = 1 << 20;
/// Rows asked for together of a flow that is not settled.
const LIVE: u64 = 200;

/// Rows of one flow, with members that are added to each.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub client: String,
    pub flow: String,
    pub added: Vec<(&'static str, String)>,
}

/// Reads one source, a chunk at a time.
struct Reader {
    server: Arc<Server>,
    org: Arc<Org>,
    source: Source,
    which: Rows,
    at: u64,
    settled: Option<resultset::Rows>,
}

impl Reader {
    async fn open(
        server: &Arc<Server>,
        org: &Arc<Org>,
        source: &Source,
        which: &Rows,
    ) -> Result<Self, ServiceError> {
        let key = (source.client.clone(), source.flow.clone());
        let live = org.state().flows.contains_key(&key);
        let settled = match live {
            true => None,
            false => {
                let at = rows_path(org, &source.client, &source.flow, which);
                let set = ResultSet::open(&server.tree, &at).await?;
                Some(set.rows(0).await?)
            }
        };
        Ok(Self {
            server: server.clone(),
            org: org.clone(),
            source: source.clone(),
            which: which.clone(),
            at: 0,
            settled,
        })
    }

    /// The next rows; none at the end.
    async fn next(&mut self) -> Result<Vec<Bytes>, ServiceError> {
        let (client, flow) = (&self.source.client, &self.source.flow);
        let Some(settled) = &mut self.settled else {
            let rows = self.server.rows(&self.org, client, flow, &self.which, self.at, LIVE);
            let rows = rows.await?;
            self.at += rows.len() as u64;
            return Ok(self.with_members(rows));
        };
        let (mut out, mut bytes) = (Vec::new(), 0);
        while out.len() < ROWS && bytes < BYTES {
            let Some(row) = settled.next().await? else { break };
            bytes += row.len();
            out.push(row);
        }
        Ok(self.with_members(out))
    }

    fn with_members(&self, rows: Vec<Bytes>) -> Vec<Bytes> {
        match self.source.added.is_empty() {
            true => rows,
            false => rows.iter().map(|r| with_members(r, &self.source.added)).collect(),
        }
    }
}

/// A row with further members; those it has of that name are replaced.
fn with_members(row: &Bytes, added: &[(&'static str, String)]) -> Bytes {
    let text = std::str::from_utf8(row).unwrap_or_default();
    let clash = added.iter().any(|(name, _)| text.contains(&format!("\"{name}\"")));
    if clash && let Ok(mut map) = serde_json::from_slice::<Map<String, Value>>(row) {
        for (name, value) in added {
            map.insert((*name).to_owned(), value.as_str().into());
        }
        return Value::Object(map).to_string().into();
    }
    let members: Vec<String> = (added.iter())
        .map(|(name, value)| format!("\"{name}\":{}", Value::from(value.as_str())))
        .collect();
    let line = decorate(row, &members.join(","));
    line.slice(..line.len().saturating_sub(1))
}

/// Writes rows of `sources`, one after the other, as the members of this name.
pub(super) async fn write(
    (server, org): (&Arc<Server>, &Arc<Org>),
    container: &mut Container,
    name: &[&str],
    (sources, which): (&[Source], &Rows),
    format: Format,
) -> Result<(), ServiceError> {
    let name = member_name(name);
    let mut columns = Columns::default();
    let mut total = 0u64;
    if format.json() {
        container.begin(&format!("{name}.json")).await?;
    }
    for source in sources {
        let mut reader = Reader::open(server, org, source, which).await?;
        loop {
            let rows = reader.next().await?;
            if rows.is_empty() {
                break;
            }
            total += rows.len() as u64;
            if format.csv() {
                rows.iter().for_each(|r| columns.see(r));
            }
            if format.json() {
                let mut text = Vec::new();
                for row in &rows {
                    text.extend_from_slice(row);
                    text.push(b'\n');
                }
                container.write(&text).await?;
            }
        }
    }
    if !format.csv() {
        return Ok(());
    }
    container.begin(&format!("{name}.csv")).await?;
    container.write(&columns.head()).await?;
    for source in sources {
        let mut reader = Reader::open(server, org, source, which).await?;
        while total > 0 {
            let mut rows = reader.next().await?;
            if rows.is_empty() {
                break;
            }
            // What came meanwhile may have columns that the head does not name.
            rows.truncate(usize::try_from(total).unwrap_or(usize::MAX));
            total -= rows.len() as u64;
            container.write(&columns.lines(&rows)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_added_once() {
        let added = [("FlowId", "F.1".to_owned()), ("Fqdn", "a\"b".to_owned())];
        let row = |text: &'static str| {
            let out = with_members(&Bytes::from_static(text.as_bytes()), &added);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(row(r#"{"A":1}"#), r#"{"A":1,"FlowId":"F.1","Fqdn":"a\"b"}"#);
        assert_eq!(row(r#"{"FlowId":1,"A":2}"#), r#"{"FlowId":"F.1","A":2,"Fqdn":"a\"b"}"#);
    }
}
