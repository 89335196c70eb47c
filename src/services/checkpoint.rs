//! What must outlive journals that were deleted: the last POSTs of every client.
//!
//! A client that slept for weeks sends again the POST it had in flight. Its
//! hash is remembered without a time limit: in journals while they exist, and
//! in this node's checkpoint, which is written before any journal is deleted and
//! holds those whose record is in no journal any more.

use std::sync::Weak;

use prost::Message;
use velociraptor_proto::journal::{Checkpoint, Deleted, PostRing};

use super::deleted::DeadClient;
use super::ids::OrgId;
use super::server::{Server, ServiceError, fleet_dir};
use super::state::to_hash;
use crate::env::Mutant;
use crate::store::{StoreError, StoreKind};

/// Largest checkpoint read, bytes: about four million clients.
const LIMIT: usize = 1 << 30;

fn path(server: &Server, node: &str) -> String {
    format!("{}/{node}/checkpoint", fleet_dir(&server.tree.root))
}

/// Writes this node's checkpoint.
pub(super) async fn write(server: &Server) -> Result<(), ServiceError> {
    let (mut rings, mut deleted) = (Vec::new(), Vec::new());
    let forgotten = server.env.clock.micros().saturating_sub(super::deleted::KEPT);
    for org in server.orgs() {
        let mut state = org.state();
        state.clients.deleted.expire(forgotten);
        let org_id = org.id.id();
        let known = &state.clients.deleted;
        deleted.extend(known.clients().map(|(client, d)| Deleted {
            org_id: org_id.to_owned(),
            client_id: client.clone(),
            time: d.at,
            life: d.lives.iter().copied().collect(),
            lives_again: d.lives_again,
            since: d.since.iter().cloned().collect(),
            ..Default::default()
        }));
        deleted.extend(known.hunts().map(|(hunt, time)| Deleted {
            org_id: org_id.to_owned(),
            hunt_id: hunt.clone(),
            time,
            ..Default::default()
        }));
        deleted.extend(known.flows().map(|((client, flow), time)| Deleted {
            org_id: org_id.to_owned(),
            client_id: client.clone(),
            flow_id: flow.clone(),
            time,
            ..Default::default()
        }));
        for (id, c) in state.clients.iter() {
            for (class, ring) in c.rings() {
                let gone = ring.without_record();
                let (post_hash, received): (Vec<Vec<u8>>, Vec<u64>) =
                    gone.map(|(h, t)| (h.to_vec(), t)).unzip();
                let kept = !server.env.sabotage.is(Mutant::CheckpointWithoutRings);
                if kept && !post_hash.is_empty() {
                    rings.push(PostRing {
                        org_id: org.id.id().to_owned(),
                        client_id: id.clone(),
                        class: class.into(),
                        post_hash,
                        received,
                    });
                }
            }
        }
    }
    let data = Checkpoint { rings, deleted }.encode_to_vec();
    let tmp = server.tree.temp(StoreKind::Files);
    let at = path(server, &server.options.node);
    let done = crate::env::fs::replace(&*server.env.fs, &tmp, &at, &data).await;
    Ok(done.map_err(StoreError::from)?)
}

/// Reads the checkpoints of all nodes, before journals are read back.
pub(super) async fn read(server: &Server) -> Result<(), ServiceError> {
    let fs = &*server.env.fs;
    for node in fs.list(&fleet_dir(&server.tree.root)).await.map_err(StoreError::from)? {
        let at = path(server, &node.name);
        let data = crate::store::objects::read_whole(fs, &at, LIMIT).await;
        let Some(data) = data.map_err(StoreError::from)? else { continue };
        let Ok(c) = Checkpoint::decode(data.as_slice()) else {
            tracing::error!(
                path = at,
                "checkpoint cannot be read; repeats of old POSTs may be stored twice"
            );
            continue;
        };
        for d in c.deleted {
            let Some(org) = server.org(&OrgId::new(d.org_id.as_str())) else { continue };
            let mut state = org.state();
            let deleted = &mut state.clients.deleted;
            if !d.hunt_id.is_empty() {
                deleted.delete_hunt(&d.hunt_id, d.time, None);
                continue;
            }
            if !d.flow_id.is_empty() {
                deleted.delete_flow((d.client_id, d.flow_id), d.time, None);
                continue;
            }
            let dead = DeadClient {
                at: d.time,
                lives: d.life.into_iter().collect(),
                lives_again: d.lives_again,
                since: d.since.into_iter().collect(),
            };
            deleted.remember(&d.client_id, dead);
            // What was loaded may be older.
            state.clients.remove_dead(&d.client_id);
        }
        for ring in c.rings {
            let Some(org) = server.org(&OrgId::new(ring.org_id.as_str())) else { continue };
            let mut state = org.state();
            // A client that was deleted since is not brought back.
            let Some(client) = state.clients.get_mut(&ring.client_id) else { continue };
            let class = ring.class();
            let times = ring.received.iter().copied().chain(std::iter::repeat(0));
            for (h, received) in ring.post_hash.iter().zip(times) {
                client.ring(class).push(to_hash(h), received, Weak::new());
            }
        }
    }
    Ok(())
}
