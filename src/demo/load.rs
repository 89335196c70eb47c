//! What the clients are asked to do, and when they are done with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::time::timeout;

use crate::env::{Env, fs};
use crate::pool::{Api, Book, Tasks};

/// The artifact collected.
pub const ARTIFACT: &str = "Demo.Load";
/// Rows of one collection, over about a second.
const ROWS: usize = 100;
/// Bytes of the file each collection uploads.
const FILE: usize = 64 << 10;
/// A call that takes longer is given up.
const CALL: Duration = Duration::from_secs(20);

/// Makes the file that is uploaded: bytes that do not compress.
pub async fn sample_file(env: &Env, dir: &str) -> anyhow::Result<String> {
    let path = format!("{dir}/sample.bin");
    let mut data = vec![0; FILE];
    env.entropy.fill(&mut data);
    fs::replace(&*env.fs, &format!("{path}.new"), &path, &data).await.context("sample.bin")?;
    Ok(path)
}

/// The query that defines the artifact.
pub fn definition(file: &str) -> String {
    format!(
        "SELECT artifact_set(definition='''name: {ARTIFACT}\n\
         description: Rows that take a while, and a file.\n\
         sources:\n  \
         - name: Rows\n    query: SELECT _value AS I, sleep(ms=10) AS S FROM range(start=0, end={ROWS}, step=1)\n  \
         - name: File\n    query: SELECT upload(file=\"{file}\") AS Upload FROM scope()\n''') FROM scope()"
    )
}

/// The query that starts a hunt.
pub fn hunt() -> String {
    format!("SELECT hunt(artifacts='{ARTIFACT}', description='demo').HuntId AS H FROM scope()")
}

/// A hunt's own counts, and what the clients know of it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct HuntCounts {
    /// Its id.
    pub hunt: String,
    /// Clients that were given its collection, as the server counts.
    pub scheduled: u64,
    /// Of which have ended.
    pub finished: u64,
    /// Of which with an error.
    pub errors: u64,
    /// Clients that received it, as they say.
    pub received: u64,
}

impl HuntCounts {
    /// Every client once, all of them good.
    pub fn is_exact(&self, clients: u64) -> bool {
        let all = [self.scheduled, self.finished, self.received];
        all.iter().all(|n| *n == clients) && self.errors == 0
    }
}

/// Clients by hunt, as they know it: a hunt's collection is `F.X.H` for `H.X`.
pub fn hunts_of(book: &Book) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (client, flow, _) in book.flows() {
        let id = flow.strip_prefix("F.").and_then(|f| f.strip_suffix(".H"));
        if let Some(id) = id {
            out.entry(format!("H.{id}")).or_default().insert(client);
        }
    }
    out
}

/// A query that is given up in time.
pub async fn query(api: &Api, vql: &str) -> anyhow::Result<Vec<serde_json::Map<String, Value>>> {
    let rows = timeout(CALL, api.query(vql, &[])).await;
    rows.with_context(|| format!("no answer in {} s", CALL.as_secs()))?
}

/// What the server says of every hunt.
pub async fn counts(api: &Api, book: &Book) -> anyhow::Result<Vec<HuntCounts>> {
    let rows = query(api, "SELECT hunt_id, stats FROM hunts(summary=TRUE)").await?;
    let received = hunts_of(book);
    let one = |row: &serde_json::Map<String, Value>| {
        let id = row.get("hunt_id")?.as_str()?.to_owned();
        let n = |key: &str| match row.get("stats").and_then(|s| s.get(key)) {
            Some(Value::String(s)) => s.parse().unwrap_or(0),
            Some(v) => v.as_u64().unwrap_or(0),
            None => 0,
        };
        Some(HuntCounts {
            received: received.get(&id).map_or(0, |c| c.len() as u64),
            scheduled: n("total_clients_scheduled"),
            finished: n("total_finished_clients"),
            errors: n("total_clients_with_errors"),
            hunt: id,
        })
    };
    Ok(rows.iter().filter_map(one).collect())
}

/// Collections that are not over yet: of tasks that were accepted, of tasks that
/// clients received, and of hunts not yet with everybody.
pub fn open(book: &Book, tasks: &Tasks, hunts: usize, clients: u64) -> u64 {
    let mut open = 0;
    for (client, flow) in tasks.all().into_keys() {
        open += u64::from(!book.flow(&client, &flow).is_some_and(|f| f.complete));
    }
    let of_tasks = tasks.all();
    for (client, flow, known) in book.flows() {
        let counted = of_tasks.contains_key(&(client, flow));
        open += u64::from(!counted && known.received.is_some() && !known.complete);
    }
    let received: u64 = hunts_of(book).values().map(|c| c.len() as u64).sum();
    open + (hunts as u64 * clients).saturating_sub(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hunt_is_exact_when_every_client_has_it_once() {
        let good =
            HuntCounts { hunt: "H.1".into(), scheduled: 5, finished: 5, errors: 0, received: 5 };
        assert!(good.is_exact(5) && !good.is_exact(6));
        assert!(!HuntCounts { errors: 1, ..good.clone() }.is_exact(5));
        assert!(!HuntCounts { finished: 4, ..good }.is_exact(5));
    }
}
