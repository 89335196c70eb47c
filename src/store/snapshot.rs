//! The client database file: one row per client, its record as hex of the
//! binary message. What the fields mean is not known here.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use velociraptor_proto::proto::ClientInfo;

use super::objects::{StoreError, Tree};
use super::path::{Org, PathType, StoreKind};
use super::paths::{self, Client};
use super::resultset::lines::Lines;
use super::resultset::{DataFile, ResultSet, SetWriter, Written};
use crate::env::fs::parent;

/// What was found on disk.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Clients by id.
    pub clients: BTreeMap<String, ClientInfo>,
    /// How many of them came from records older than the snapshot.
    pub legacy: usize,
    /// Snapshot lines that could not be read.
    pub damaged: usize,
    /// Whether a stock server would use the snapshot: its index is there.
    pub indexed: bool,
}

/// One line of the snapshot, without newline.
pub fn encode_row(info: &ClientInfo) -> Vec<u8> {
    let id = serde_json::Value::String(info.client_id.clone());
    format!(r#"{{"client_id":{id},"info":"{}"}}"#, hex::encode(info.encode_to_vec())).into_bytes()
}

/// Reads a line the way stock servers do: the two values in that order with
/// nothing between them. `None` when it does not look like that.
pub fn decode_row(line: &[u8]) -> Option<ClientInfo> {
    const ID: &str = "\"client_id\":\"";
    const INFO: &str = "\",\"info\":\"";
    let text = std::str::from_utf8(line).ok()?;
    let rest = &text[text.find(ID)? + ID.len()..];
    let (id, rest) = rest.split_once('"')?;
    let info = rest.strip_prefix(&INFO[1..])?;
    let (info, _) = info.split_once('"')?;
    if id.is_empty() || info.is_empty() {
        return None;
    }
    let mut c = ClientInfo::decode(hex::decode(info).ok()?.as_slice()).ok()?;
    c.client_id = id.to_owned();
    Some(c)
}

/// Loads an organisation's clients: the snapshot, and for clients it does not
/// have the records of older servers.
pub async fn load(tree: &Tree, org: &Org) -> Result<Loaded, StoreError> {
    let mut out = Loaded::default();
    let at = paths::client_snapshot(org);
    let set = ResultSet::open(tree, &at).await?;
    out.indexed = set.total_rows().is_some_and(|n| n > 0);
    if let Some(data) = DataFile::open(tree, &at).await? {
        let mut lines = Lines::new(&data, 0);
        while let Some((_, line)) = lines.next().await? {
            match decode_row(&line) {
                Some(c) => drop(out.clients.insert(c.client_id.clone(), c)),
                None if line.trim_ascii().is_empty() => {}
                None => out.damaged += 1,
            }
        }
    }
    for child in tree.children(&paths::clients_dir(org)).await? {
        let known = out.clients.contains_key(&child.name);
        if child.is_dir || child.kind != PathType::ObjectProto || known {
            continue;
        }
        match legacy(tree, org, &child.name).await {
            Ok(Some(c)) => {
                out.legacy += 1;
                out.clients.insert(child.name, c);
            }
            Ok(None) => {}
            Err(StoreError::Corrupt { path, reason }) => {
                tracing::warn!(path, reason, "old client record not readable");
                out.damaged += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// A client from the records of servers before the snapshot.
async fn legacy(tree: &Tree, org: &Org, id: &str) -> Result<Option<ClientInfo>, StoreError> {
    let Some(mut c) = tree.get(&paths::legacy_client(org, id)).await? else { return Ok(None) };
    let at = Client { org, id };
    c.client_id = id.to_owned();
    if let Some(p) = tree.get(&at.ping()).await? {
        c.ip_address = p.ip_address;
        c.ping = p.ping;
        c.ping_time = p.ping_time;
        c.last_hunt_timestamp = p.last_hunt_timestamp;
        c.last_event_table_version = p.last_event_table_version;
    }
    if let Some(l) = tree.get(&at.labels()).await? {
        c.labels = l.label;
        c.labels_timestamp = l.timestamp;
    }
    if c.first_seen_at == 0
        && let Some(key) = tree.get(&at.key()).await?
    {
        c.first_seen_at = key.enroll_time;
    }
    Ok(Some(c))
}

/// Replaces the snapshot: the data first, then its index. One writer only.
pub async fn save<'a>(
    tree: &Tree,
    org: &Org,
    clients: impl IntoIterator<Item = &'a ClientInfo>,
) -> Result<Written, StoreError> {
    let at = paths::client_snapshot(org);
    let (data, index) = (tree.root.file(&at)?, tree.root.file(&at.index())?);
    let (tmp_data, tmp_index) = (tree.temp(StoreKind::Files), tree.temp(StoreKind::Files));
    let mut w = SetWriter::create(&*tree.fs, &tmp_data, &tmp_index).await?;
    for c in clients {
        w.row(&encode_row(c)).await?;
    }
    let written = w.finish().await?;
    tree.fs.rename(&tmp_data, &data).await?;
    tree.fs.rename(&tmp_index, &index).await?;
    tree.fs.sync_dir(parent(&data)).await?;
    Ok(written)
}

/// The bytes [`save`] writes, for those who place files themselves.
pub fn bytes<'a>(clients: impl IntoIterator<Item = &'a ClientInfo>) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for c in clients {
        all.extend_from_slice(&encode_row(c));
        all.push(b'\n');
    }
    super::resultset::canonical(&Bytes::from(all))
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
