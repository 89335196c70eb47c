//! The rows of a hunt as one set: those of its clients one after the other, in the
//! order they were recruited, each with whose it is. Knows nothing of pages.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;

use crate::services::flows::Rows;
use crate::services::repository::source_name;
use crate::services::server::{Org, Server, ServiceError};

/// A client, its rows, and whether no more will come.
type Answer = Result<(String, u64, bool), ServiceError>;

/// Sets of which counts are remembered at most.
const MAX_SETS: usize = 64;
/// Clients whose rows are counted at once.
const AT_ONCE: usize = 16;

/// Counts of rows of flows that are over, by set and client: they change no more.
#[derive(Debug, Default)]
pub struct Counted(Mutex<VecDeque<(String, BTreeMap<String, u64>)>>);

impl Counted {
    fn take(&self, name: &str) -> BTreeMap<String, u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(n, _)| n == name);
        at.and_then(|i| all.remove(i)).map(|(_, counts)| counts).unwrap_or_default()
    }

    fn put(&self, name: String, counts: BTreeMap<String, u64>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(n, _)| *n != name);
        all.push_front((name, counts));
        all.truncate(MAX_SETS);
    }
}

/// The rows of one client.
struct Part {
    client: String,
    flow: String,
    /// Rows before it.
    before: u64,
    /// What is put at the end of each row.
    tail: String,
}

/// One result set of a hunt, from all clients.
pub struct HuntRows {
    hunt: String,
    name: String,
    parts: Vec<Part>,
    total: u64,
}

impl std::fmt::Debug for HuntRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.hunt, self.name)
    }
}

/// The result sets that artifacts may have, by name. Sources without a name share one.
pub fn sets_of(org: &Org, artifacts: &[String]) -> Vec<String> {
    let defined = artifacts.iter().filter_map(|a| org.repository.get(a));
    let mut seen = std::collections::BTreeSet::new();
    defined
        .flat_map(|a| a.sources.iter().map(|s| source_name(&a.name, &s.name)).collect::<Vec<_>>())
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

impl HuntRows {
    /// Finds out what each client of a hunt has in the set `name`, or in the first one.
    pub async fn find(
        server: &Arc<Server>,
        org: &Arc<Org>,
        hunt: &str,
        name: &str,
        counted: &Counted,
    ) -> Result<Self, ServiceError> {
        let found = server.hunt(org, hunt, false);
        let found = found.ok_or_else(|| ServiceError::NotFound(format!("hunt {hunt}")))?;
        let sets = sets_of(org, &found.artifacts);
        let name = match name {
            "" => sets.first().or(found.artifacts.first()).cloned().unwrap_or_default(),
            n => n.to_owned(),
        };
        let of = name.split('/').next().unwrap_or_default();
        if !sets.contains(&name) && !found.artifacts.iter().any(|a| a == of) {
            let text = format!("{name} is not in hunt {hunt}, which has {}", sets.join(", "));
            return Err(ServiceError::Invalid(text));
        }
        let key = format!("{} {hunt} {name}", org.id);
        let mut known = counted.take(&key);
        let members = server.hunt_members(org, hunt)?;
        let which = Rows::Results(name.clone());
        let mut asked: Vec<BoxFuture<'_, Answer>> = Vec::new();
        for (client, m) in &members {
            if known.contains_key(client) {
                continue;
            }
            let (client, flow, over) = (client.clone(), m.flow.clone(), m.end.is_some());
            let nothing = m.end.as_ref().is_some_and(|e| e.rows == 0);
            let which = which.clone();
            asked.push(Box::pin(async move {
                let n = match nothing {
                    true => 0,
                    false => server.row_count(org, &client, &flow, &which).await?,
                };
                Ok((client, n, over))
            }));
        }
        let counts: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        let mut now = BTreeMap::new();
        for count in counts {
            let (client, n, over) = count?;
            match over {
                true => drop(known.insert(client, n)),
                false => drop(now.insert(client, n)),
            }
        }
        let mut parts = Vec::new();
        let mut total = 0;
        for (client, m) in members {
            let n = known.get(&client).or(now.get(&client)).copied().unwrap_or(0);
            if n == 0 {
                continue;
            }
            let host = {
                let state = org.state();
                let info = state.clients.get(&client).map(|c| &c.info);
                info.map(|i| if i.fqdn.is_empty() { i.hostname.clone() } else { i.fqdn.clone() })
            };
            let text = |t: &str| serde_json::Value::from(t).to_string();
            let mut tail = String::new();
            let _ = write!(
                tail,
                "\"FlowId\":{},\"ClientId\":{},\"_OrgId\":{},\"Fqdn\":{}}}",
                text(&m.flow),
                text(&client),
                text(&org.id.to_string()),
                text(&host.unwrap_or_default())
            );
            parts.push(Part { client, flow: m.flow, before: total, tail });
            total += n;
        }
        counted.put(key, known);
        Ok(Self { hunt: hunt.to_owned(), name, parts, total })
    }

    /// Name of the result set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows of all clients.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Rows from `start` on, each with the columns that say whose it is.
    pub async fn rows(
        &self,
        server: &Server,
        org: &Org,
        start: u64,
        count: u64,
    ) -> Result<Vec<Bytes>, ServiceError> {
        let end = start.saturating_add(count).min(self.total);
        let mut out = Vec::new();
        let mut at = start;
        let mut i = self.parts.partition_point(|p| p.before <= start).saturating_sub(1);
        let which = Rows::Results(self.name.clone());
        while at < end {
            let Some(part) = self.parts.get(i) else { break };
            let next = self.parts.get(i + 1).map_or(self.total, |p| p.before);
            let take = end.min(next).saturating_sub(at);
            let rows = server.rows(org, &part.client, &part.flow, &which, at - part.before, take);
            let rows = rows.await?;
            if (rows.len() as u64) < take {
                return Err(ServiceError::Invalid("the results changed; ask again".into()));
            }
            out.extend(rows.iter().map(|r| with_tail(r, &part.tail)));
            (at, i) = (at + take, i + 1);
        }
        Ok(out)
    }
}

/// A row with more members; what is no object becomes one with nothing else.
fn with_tail(row: &[u8], tail: &str) -> Bytes {
    let inside = row.trim_ascii().strip_prefix(b"{").and_then(|r| r.strip_suffix(b"}"));
    let inside = inside.unwrap_or_default().trim_ascii();
    let mut out = Vec::with_capacity(inside.len() + tail.len() + 2);
    out.push(b'{');
    out.extend_from_slice(inside);
    if !inside.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(tail.as_bytes());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_row_is_comes_last() {
        let tail = "\"ClientId\":\"C.1\"}";
        let row = |r: &str| String::from_utf8(with_tail(r.as_bytes(), tail).to_vec()).unwrap();
        assert_eq!(row("{\"a\":1}\n"), r#"{"a":1,"ClientId":"C.1"}"#);
        assert_eq!(row("{}"), r#"{"ClientId":"C.1"}"#);
        assert_eq!(row("no row"), r#"{"ClientId":"C.1"}"#);
        // A row that says it is of another client does not win.
        let forged = row(r#"{"ClientId":"C.2"}"#);
        let read: serde_json::Value = serde_json::from_str(&forged).unwrap();
        assert_eq!(read["ClientId"], "C.1");
    }
}
