//! Files of which a part is there, when their journals go.
//!
//! The part gets its stock path, as a stock server would have left it. What a server
//! of ours needs to go on is kept below `fleet/partial/<org>/<client>/<flow>/`: the
//! bytes once more, and a list of the messages that brought them.

use prost::Message;
use velociraptor_proto::journal::{OpenFlow, PartChunk, PartEnd, PartUpload, PartUploads};

use super::flows::{Attempt, LiveFlow, UploadKey};
use super::ids::OrgId;
use super::server::{Org, Server, ServiceError, fleet_dir};
use super::settle_uploads::chunk;
use super::state::FlowKey;
use crate::env::Open;
use crate::env::fs::parent;
use crate::store::{StoreError, StoreKind, paths};

/// Longest list read, bytes.
const LIMIT: usize = 64 << 20;

/// Where the parts of a flow are, below the directory of the fleet.
pub(super) fn folder(org: &OrgId, client: &str, flow: &str) -> String {
    let org = if org.is_root() { "root" } else { org.id() };
    format!("partial/{org}/{client}/{flow}")
}

fn list_path(server: &Server, org: &OrgId, client: &str, flow: &str) -> String {
    format!("{}/{}/list", fleet_dir(&server.tree.root), folder(org, client, flow))
}

/// Keeps the parts of unfinished uploads of a flow. Returns how many there are.
pub(super) async fn keep(
    server: &Server,
    org: &Org,
    key: &FlowKey,
    f: &LiveFlow,
) -> Result<usize, ServiceError> {
    let last = |(k, u): (&UploadKey, &super::flows::LiveUpload)| {
        let a = u.attempts.last()?;
        (!a.complete() && !a.chunks.is_empty())
            .then(|| (k.clone(), a.clone(), u.winner().is_some()))
    };
    let open: Vec<(UploadKey, Attempt, bool)> = f.uploads.iter().filter_map(last).collect();
    if open.is_empty() {
        return Ok(0);
    }
    let (client, flow) = key;
    let (fleet, folder) = (fleet_dir(&server.tree.root), folder(&org.id, client, flow));
    let mut list = PartUploads::default();
    for (n, (k, attempt, has_winner)) in open.iter().enumerate() {
        let file = format!("{folder}/{n}");
        copy(server, attempt, u64::MAX, &format!("{fleet}/{file}")).await?;
        let same = |(o, u): (&UploadKey, &super::flows::LiveUpload)| {
            o.accessor == k.accessor && o.components == k.components && u.winner().is_some()
        };
        if !has_winner && !f.uploads.iter().any(same) {
            show(server, org, key, k, attempt).await?;
        }
        list.uploads.push(describe(k, attempt, file));
    }
    let (at, tmp) = (list_path(server, &org.id, client, flow), server.tree.temp(StoreKind::Files));
    let written = crate::env::fs::replace(&*server.env.fs, &tmp, &at, &list.encode_to_vec()).await;
    written.map_err(StoreError::from)?;
    Ok(open.len())
}

fn describe(k: &UploadKey, a: &Attempt, file: String) -> PartUpload {
    let chunk = |(offset, c): (&u64, &super::flows::Chunk)| PartChunk {
        offset: *offset,
        length: c.len,
        hash: c.hash.to_vec(),
    };
    PartUpload {
        run: k.run,
        number: k.number,
        accessor: k.accessor.clone(),
        components: k.components.clone(),
        path: a.path.clone(),
        started: a.started,
        file,
        chunks: a.chunks.iter().map(chunk).collect(),
        end: a.eof.as_ref().map(|e| PartEnd {
            size: e.size,
            stored_size: e.stored_size,
            received: e.received,
            index: e.index.clone(),
        }),
    }
}

/// Writes the chunks of an attempt that end at `until` or before to a file of its
/// own, which replaces one that is there.
async fn copy(server: &Server, a: &Attempt, until: u64, to: &str) -> Result<(), ServiceError> {
    let temporary = server.tree.temp(StoreKind::Files);
    let written = write(server, a, until, &temporary).await;
    server.or_discard(&[&temporary], written).await?;
    let fs = &*server.env.fs;
    let named = fs.rename(&temporary, to).await.map_err(|e| StoreError::from(e).into());
    server.or_discard(&[&temporary], named).await?;
    Ok(fs.sync_dir(parent(to)).await.map_err(StoreError::from)?)
}

async fn write(server: &Server, a: &Attempt, until: u64, to: &str) -> Result<(), ServiceError> {
    let err = |e| ServiceError::from(StoreError::from(e));
    let f = server.env.fs.open(to, Open::CreateNew).await.map_err(err)?;
    for (off, _) in a.chunks.iter().filter(|(off, c)| *off + c.len <= until) {
        f.write_at(*off, chunk(server, a, *off).await?).await.map_err(err)?;
    }
    f.sync().await.map_err(err)?;
    f.close().await.map_err(err)
}

/// Gives what is there from the start its stock path: a stock server goes on behind it.
async fn show(
    server: &Server,
    org: &Org,
    (client, flow): &FlowKey,
    k: &UploadKey,
    a: &Attempt,
) -> Result<(), ServiceError> {
    let covered = a.covered();
    if covered == 0 {
        return Ok(());
    }
    let path = paths::Client { org: &org.id, id: client };
    let stock = path.flow(flow).upload(&k.accessor, &k.components);
    server.tree.record_long_names(&stock.0).await?;
    let at = server.tree.root.file(&stock).map_err(StoreError::from)?;
    let temporary = server.tree.temp(StoreKind::Files);
    let written = write(server, a, covered, &temporary).await;
    server.or_discard(&[&temporary], written).await?;
    server.link(&temporary, &at).await?;
    Ok(server.env.fs.sync_dir(parent(&at)).await.map_err(StoreError::from)?)
}

/// What was kept of a flow and can be gone on with: not files that are finished by
/// now, of which `uploads.json` has rows.
pub(super) async fn kept(
    server: &Server,
    org: &OrgId,
    client: &str,
    flow: &str,
) -> Result<Vec<PartUpload>, ServiceError> {
    let fs = &*server.env.fs;
    let at = list_path(server, org, client, flow);
    let data = crate::store::objects::read_whole(fs, &at, LIMIT).await.map_err(StoreError::from)?;
    let Some(data) = data else { return Ok(vec![]) };
    let list = match PartUploads::decode(data.as_slice()) {
        Ok(list) => list.uploads,
        Err(e) => {
            tracing::error!(path = at, error = %e, "list of unfinished uploads cannot be read");
            return Ok(vec![]);
        }
    };
    let path = paths::Client { org, id: client };
    let rows = path.flow(flow).uploads();
    let mut finished = Vec::new();
    for row in crate::store::resultset::read_rows(&server.tree, &rows, 0, u64::MAX).await? {
        let row: serde_json::Value = serde_json::from_slice(&row).unwrap_or_default();
        finished.push(row["_Components"].clone());
    }
    let fleet = fleet_dir(&server.tree.root);
    let mut out = Vec::new();
    for p in list {
        let stock = path.flow(flow).upload(&p.accessor, &p.components);
        if finished.contains(&serde_json::json!(stock.0.components)) {
            continue;
        }
        let end = p.chunks.iter().map(|c| c.offset + c.length).max().unwrap_or(0);
        let size = fs.stat(&format!("{fleet}/{}", p.file)).await.map(|m| m.len);
        match size {
            Ok(n) if n >= end => out.push(p),
            _ => tracing::error!(client, flow, file = p.file, "part of an upload is gone"),
        }
    }
    Ok(out)
}

/// The same with the parts' paths as this process sees them.
pub(super) fn located(server: &Server, mut open: OpenFlow) -> OpenFlow {
    let fleet = fleet_dir(&server.tree.root);
    open.parts.iter_mut().for_each(|p| p.file = format!("{fleet}/{}", p.file));
    open
}

/// The flow is settled without unfinished uploads: nothing of it is needed.
pub(super) async fn forget(server: &Server, org: &OrgId, client: &str, flow: &str) {
    let fs = &*server.env.fs;
    let dir = format!("{}/{}", fleet_dir(&server.tree.root), folder(org, client, flow));
    // The list first: it says what else is of use.
    let mut names = vec!["list".to_owned()];
    names.extend(fs.list(&dir).await.unwrap_or_default().into_iter().map(|e| e.name));
    names.retain(|n| n != super::part_runs::NAME);
    for name in names {
        match fs.remove(&format!("{dir}/{name}")).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir, name, error = %e, "part of a finished upload not removed");
            }
            _ => {}
        }
    }
    let _ = fs.remove_dir(&dir).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_organisation_has_a_folder_of_its_own() {
        assert_eq!(folder(&OrgId::root(), "C.1", "F.1"), "partial/root/C.1/F.1");
        assert_eq!(folder(&OrgId::new("O1"), "C.1", "F.1"), "partial/O1/C.1/F.1");
    }
}
