//! Uploads get their stock paths: by a link where one private file holds all of
//! it, by a copy where its pieces lie in several.

use bytes::Bytes;

use super::flows::job::{self, buffer_data};
use super::flows::{Attempt, ChunkData, LiveFlow, UploadKey};
use super::server::{Org, Server, ServiceError};
use super::settle::blob;
use super::state::FlowKey;
use crate::env::Open;
use crate::store::uploads::{UploadRow, map_bytes};
use crate::store::{FilePath, StoreError, StoreKind, paths};

/// Gives complete uploads their stock paths, as soon as they are complete, so
/// that whoever reads the datastore finds them there.
pub(super) async fn place_complete(
    server: &Server,
    org: &Org,
    key: &FlowKey,
) -> Result<(), ServiceError> {
    let todo: Vec<(UploadKey, usize, Attempt, bool)> = {
        let state = org.state();
        let Some(f) = state.flows.get(key) else { return Ok(()) };
        let winners = f.uploads.iter().filter_map(|(k, u)| {
            let (i, a) = u.winner()?;
            // An earlier try has the name: the later one takes it over.
            let replaces = u.attempts.iter().any(|a| a.settled);
            (!a.settled).then(|| (k.clone(), i, a.clone(), replaces))
        });
        winners.collect()
    };
    let (client, flow) = key;
    let path = paths::Client { org: &org.id, id: client };
    let path = path.flow(flow);
    for (k, i, attempt, replaces) in todo {
        let stock = path.upload(&k.accessor, &k.components);
        server.tree.record_long_names(&stock.0).await?;
        if let Some(index) = attempt.eof.as_ref().and_then(|e| e.index.as_ref()) {
            place_map(server, &stock, &map_bytes(&index.ranges)).await?;
        }
        if let Err(e) = place(server, &stock, &attempt, replaces).await {
            tracing::warn!(client, flow, upload = ?stock, error = %e, "upload not placed");
            return Err(e);
        }
        let mut state = org.state();
        let upload = state.flows.get_mut(key).and_then(|f| f.uploads.get_mut(&k));
        if let Some(a) = upload.and_then(|u| u.attempts.get_mut(i)) {
            a.settled = true;
        }
    }
    Ok(())
}

/// Metadata rows of the complete uploads, in the order they were finished, as a
/// stock server would have written them.
fn metadata(
    org: &Org,
    key: &FlowKey,
    f: &LiveFlow,
) -> Result<Vec<serde_json::Value>, ServiceError> {
    let (client, flow) = key;
    let path = paths::Client { org: &org.id, id: client };
    let path = path.flow(flow);
    let mut done: Vec<(&UploadKey, &Attempt)> =
        f.uploads.iter().filter_map(|(k, u)| u.winner().map(|(_, a)| (k, a))).collect();
    done.sort_by_key(|(k, a)| (a.eof.as_ref().map_or(0, |e| e.received), k.number));
    let mut rows = Vec::new();
    for (k, attempt) in done {
        let Some(eof) = &attempt.eof else { continue };
        let stock = path.upload(&k.accessor, &k.components);
        let nanos = (eof.received as i64).saturating_mul(1000);
        let shown =
            if attempt.path.is_empty() { k.components.join("/") } else { attempt.path.clone() };
        let mut row = UploadRow::data(nanos, &shown, &stock, (eof.size, eof.stored_size));
        row.accessor = Some(k.accessor.clone());
        row.client_components = Some(k.components.clone());
        let lines = if eof.index.is_some() { vec![row.map()] } else { vec![] };
        for l in std::iter::once(row).chain(lines) {
            let bad = |e: serde_json::Error| ServiceError::Invalid(e.to_string());
            rows.push(serde_json::from_slice(&l.encode().map_err(bad)?).map_err(bad)?);
        }
    }
    Ok(rows)
}

impl Server {
    /// Metadata rows of a flow's complete uploads, wherever they are.
    pub async fn upload_rows(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
    ) -> Result<Vec<serde_json::Value>, ServiceError> {
        let key = (client.to_owned(), flow.to_owned());
        let live = org.state().flows.get(&key).cloned();
        let path = paths::Client { org: &org.id, id: client };
        let stored = path.flow(flow).uploads();
        let count = live.as_ref().map_or(u64::MAX, |f| f.base_uploads);
        let mut out = Vec::new();
        if count > 0 {
            for row in crate::store::resultset::read_rows(&self.tree, &stored, 0, count).await? {
                out.extend(serde_json::from_slice::<serde_json::Value>(&row).ok());
            }
        }
        if let Some(f) = live {
            place_complete(self, org, &key).await?;
            out.extend(metadata(org, &key, &f)?);
        }
        Ok(out)
    }
}

/// Places the uploads of a flow and writes their metadata rows.
pub(super) async fn settle(
    server: &Server,
    org: &Org,
    key: &FlowKey,
    f: &LiveFlow,
) -> Result<(), ServiceError> {
    place_complete(server, org, key).await?;
    let rows = metadata(org, key, f)?;
    let (client, flow) = key;
    let path = paths::Client { org: &org.id, id: client };
    server.settle_rows(&path.flow(flow).uploads(), f.base_uploads, &blob(&rows)).await
}

/// The single private file that holds the whole upload at its own offsets.
fn whole_file(a: &Attempt) -> Option<&str> {
    let mut file = None;
    for (off, c) in &a.chunks {
        let ChunkData::Spill(e) = &c.data else { return None };
        if e.offset != *off || file.is_some_and(|f: &str| f != e.segment.path) {
            return None;
        }
        file = Some(e.segment.path.as_str());
    }
    file
}

async fn place(
    server: &Server,
    stock: &FilePath,
    a: &Attempt,
    replaces: bool,
) -> Result<(), ServiceError> {
    let at = server.tree.root.file(stock).map_err(StoreError::from)?;
    let temporary = server.tree.temp(StoreKind::Files);
    let placed = place_as(server, &at, &temporary, a, replaces).await;
    server.or_discard(&[&temporary], placed).await
}

async fn place_as(
    server: &Server,
    at: &str,
    temporary: &str,
    a: &Attempt,
    replaces: bool,
) -> Result<(), ServiceError> {
    let fs = &*server.env.fs;
    let err = |e| ServiceError::from(StoreError::from(e));
    let size = a.eof.as_ref().map_or(0, |e| e.stored_size);
    if let Some(spill) = whole_file(a)
        && fs.stat(spill).await.is_ok_and(|m| m.len == size)
    {
        // Its own name goes when nothing refers to the record any more.
        fs.link(spill, temporary).await.map_err(err)?;
    } else {
        let f = fs.open(temporary, Open::CreateNew).await.map_err(err)?;
        for off in a.chunks.keys() {
            let data = chunk(server, a, *off).await?;
            f.write_at(*off, data).await.map_err(err)?;
        }
        f.sync().await.map_err(err)?;
        f.close().await.map_err(err)?;
    }
    if replaces {
        return fs.rename(temporary, at).await.map_err(err);
    }
    server.link(temporary, at).await
}

async fn place_map(server: &Server, stock: &FilePath, map: &[u8]) -> Result<(), ServiceError> {
    let at = server.tree.root.file(&stock.sparse_index()).map_err(StoreError::from)?;
    let temporary = server.tree.temp(StoreKind::Files);
    let made = crate::env::fs::create_synced(&*server.env.fs, &temporary, map).await;
    made.map_err(StoreError::from)?;
    server.link(&temporary, &at).await
}

/// The data of the chunk at `offset` of the stored stream.
pub(super) async fn chunk(
    server: &Server,
    a: &Attempt,
    offset: u64,
) -> Result<Bytes, ServiceError> {
    let fs = &*server.env.fs;
    let Some(c) = a.chunks.get(&offset) else { return Ok(Bytes::new()) };
    match &c.data {
        ChunkData::Spill(e) => Ok(e.read(fs).await.map_err(StoreError::from)?),
        ChunkData::Job(e) => {
            let raw = e.read(fs).await.map_err(StoreError::from)?;
            let bad = |e: String| ServiceError::Invalid(format!("journaled job: {e}"));
            let m: velociraptor_proto::proto::VeloMessage =
                prost::Message::decode(raw).map_err(|e: prost::DecodeError| bad(e.to_string()))?;
            match &m.file_buffer {
                Some(b) => buffer_data(b).map_err(|e: job::JobError| bad(e.to_string())),
                None => Err(bad("it holds no file data".into())),
            }
        }
    }
}
