//! Keeps a second process from working on a datastore that one is using.
//!
//! The running process writes a small file every few seconds. A new one that
//! finds it asks whether its writer is alive: on the same machine by process
//! id, otherwise by watching whether the file still changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::server::{Server, ServiceError, fleet_dir};
use crate::env::Env;
use crate::store::objects::read_whole;
use crate::store::{StoreError, StoreRoot};

/// How often the file is written.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// A file of another machine that does not change for this long is stale.
const STALE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Beat {
    /// Identifies the running system, so that process ids mean something.
    boot: String,
    pid: u32,
    epoch: String,
    count: u64,
}

fn path(root: &StoreRoot, node: &str) -> String {
    format!("{}/{node}/beat", fleet_dir(root))
}

async fn boot_id(env: &Env) -> String {
    let data = read_whole(&*env.fs, "/proc/sys/kernel/random/boot_id", 64).await;
    data.ok().flatten().map(|d| String::from_utf8_lossy(&d).trim().to_owned()).unwrap_or_default()
}

async fn last(env: &Env, at: &str) -> Result<Option<Beat>, ServiceError> {
    let data = read_whole(&*env.fs, at, 4096).await.map_err(StoreError::from)?;
    Ok(data.and_then(|d| serde_json::from_slice(&d).ok()))
}

/// Refuses if another process of this node is running on the datastore.
pub(super) async fn check(env: &Env, root: &StoreRoot, node: &str) -> Result<(), ServiceError> {
    let at = path(root, node);
    let Some(beat) = last(env, &at).await? else { return Ok(()) };
    let refuse = || {
        Err(ServiceError::Invalid(format!(
            "another process (id {}) is running as {node} on this datastore; stop it first, \
             or remove {at} if that is certainly not so",
            beat.pid
        )))
    };
    if !beat.boot.is_empty() && beat.boot == boot_id(env).await {
        let alive = env.fs.stat(&format!("/proc/{}", beat.pid)).await.is_ok();
        return if alive && beat.pid != std::process::id() { refuse() } else { Ok(()) };
    }
    if beat.boot.is_empty() {
        return Ok(());
    }
    tracing::info!(node, "waiting to see whether a process on another machine still runs");
    tokio::time::sleep(STALE).await;
    if last(env, &at).await?.as_ref() == Some(&beat) { Ok(()) } else { refuse() }
}

/// A node's last sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    /// The epoch of the process that gave it.
    pub epoch: String,
    /// Counts its signs.
    pub count: u64,
}

/// The last sign of life of a node; `None`: it ended in good order, or never
/// began.
pub(super) async fn sign(env: &Env, fleet: &str, node: &str) -> Result<Option<Sign>, ServiceError> {
    let beat = last(env, &format!("{fleet}/{node}/beat")).await?;
    Ok(beat.map(|b| Sign { epoch: b.epoch, count: b.count }))
}

impl Server {
    /// Shows that this process is alive.
    pub(super) async fn beat(&self, count: u64) -> Result<(), ServiceError> {
        let beat = Beat {
            boot: boot_id(&self.env).await,
            pid: std::process::id(),
            epoch: self.epoch.name(),
            count,
        };
        let data = serde_json::to_vec(&beat).map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let tmp = self.own_path("beat", &count.to_string());
        let at = path(&self.tree.root, &self.options.node);
        let done = crate::env::fs::replace(&*self.env.fs, &tmp, &at, &data).await;
        Ok(done.map_err(StoreError::from)?)
    }

    /// The process ends in good order.
    pub(super) async fn last_beat(&self) {
        let at = path(&self.tree.root, &self.options.node);
        if let Err(e) = self.env.fs.remove(&at).await {
            tracing::debug!(error = %e, "beat file not removed");
        }
    }
}
