//! Which operating system process a start of a node is, so that another start on
//! the same machine can tell at once whether it has ended.
//!
//! Knows `/proc`; does not know what the answer is used for.

use serde::{Deserialize, Serialize};

use crate::env::{Env, FileSystem};
use crate::store::StoreError;
use crate::store::journal::ProcessId;
use crate::store::objects::read_whole;

/// Largest of these small files that is read, bytes.
const LIMIT: usize = 4096;

/// An operating system process, as far as it can be told from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Running {
    /// The machine's host name, for people.
    pub host: String,
    /// The running system: process ids mean something within it. Empty: unknown.
    pub boot: String,
    /// The process id namespace (a container's own); 0: unknown.
    pub namespace: u64,
    /// Process id.
    pub pid: u32,
    /// When the process started, in ticks since boot; tells it from a later one
    /// with the same id.
    pub started: u64,
    /// When it came up, seconds since the epoch.
    pub since: u64,
}

async fn text(fs: &dyn FileSystem, path: &str) -> Option<String> {
    let data = read_whole(fs, path, LIMIT).await.ok().flatten()?;
    Some(String::from_utf8_lossy(&data).trim().to_owned())
}

/// Id and start time of a living process; `None` if there is none, or only what is
/// left of it until its parent looks. `which` is a process id, or `self`.
async fn process(fs: &dyn FileSystem, which: &str) -> Option<(u32, u64)> {
    let stat = text(fs, &format!("/proc/{which}/stat")).await?;
    let pid = stat.split_whitespace().next()?.parse().ok()?;
    // The name in brackets may hold anything: fields are counted from its end.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, start) = (rest.first()?, rest.get(19)?);
    if matches!(*state, "Z" | "X") { None } else { Some((pid, start.parse().ok()?)) }
}

/// Start time of a living process.
async fn started(fs: &dyn FileSystem, pid: u32) -> Option<u64> {
    process(fs, &pid.to_string()).await.map(|p| p.1)
}

impl Running {
    /// This process.
    pub async fn here(env: &Env) -> Self {
        let fs = &*env.fs;
        let boot = text(fs, "/proc/sys/kernel/random/boot_id").await.unwrap_or_default();
        let own = process(fs, "self").await.unwrap_or_default();
        // Without the running system the numbers would mean nothing to anybody.
        let (pid, started) = if boot.is_empty() { (0, 0) } else { own };
        Self {
            host: text(fs, "/proc/sys/kernel/hostname").await.unwrap_or_default(),
            namespace: fs.stat("/proc/self/ns/pid").await.map_or(0, |m| m.inode),
            started,
            boot,
            pid,
            since: env.clock.unix(),
        }
    }

    /// Whether process ids of `here` mean the same there.
    pub fn is_here(&self, here: &Running) -> bool {
        !self.boot.is_empty()
            && self.boot == here.boot
            && self.namespace != 0
            && self.namespace == here.namespace
    }

    /// Whether it has certainly ended, as seen from the process `here`. `false`
    /// says nothing.
    pub async fn has_ended(&self, env: &Env, here: &Running) -> bool {
        if !self.is_here(here) {
            return false;
        }
        if (self.pid, self.started) == (here.pid, here.started) {
            return true; // an earlier server inside this very process
        }
        started(&*env.fs, self.pid).await != Some(self.started)
    }

    /// For people: which process where.
    pub fn describe(&self) -> String {
        match (self.host.is_empty(), self.pid) {
            (true, 0) => "unknown host".into(),
            (true, pid) => format!("process {pid}"),
            (false, 0) => format!("host {}", self.host),
            (false, pid) => format!("process {pid} on host {}", self.host),
        }
    }
}

fn path(fleet: &str, p: &ProcessId) -> String {
    format!("{fleet}/{}/{}/process.json", p.node, p.epoch)
}

/// Says which process a start of a node is, for later starts.
pub async fn announce(
    env: &Env,
    fleet: &str,
    me: &ProcessId,
    here: &Running,
) -> Result<(), StoreError> {
    let data = serde_json::to_vec(here).map_err(std::io::Error::other)?;
    let at = path(fleet, me);
    Ok(crate::env::fs::create_own(&*env.fs, &at, &data).await?)
}

/// Which process a start of a node was; `None` if it did not say.
pub async fn of(env: &Env, fleet: &str, p: &ProcessId) -> Result<Option<Running>, StoreError> {
    let data = read_whole(&*env.fs, &path(fleet, p), LIMIT).await?;
    Ok(data.and_then(|d| serde_json::from_slice(&d).ok()))
}

/// Removes the directory of a start that came to nothing, so that one that is
/// tried again and again leaves no trail.
pub async fn retract(env: &Env, fleet: &str, me: &ProcessId) {
    let dir = format!("{fleet}/{}/{}", me.node, me.epoch);
    let Ok(names) = env.fs.list(&dir).await else { return };
    for e in names.iter().filter(|e| !e.is_dir) {
        if let Err(e) = env.fs.remove(&format!("{dir}/{}", e.name)).await {
            tracing::debug!(error = %e, "file of a refused start not removed");
        }
    }
    let _ = env.fs.remove_dir(&dir).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_are_told_only_on_the_same_machine() {
        let env = crate::env::real::env();
        let here = Running::here(&env).await;
        assert!(!here.boot.is_empty() && here.started > 0 && here.namespace > 0, "{here:?}");
        assert!(here.has_ended(&env, &here).await, "an earlier server of this process");
        // Process 1 lives; with another start time it is a later one of that id.
        let start = started(&*env.fs, 1).await.unwrap();
        let first = Running { pid: 1, started: start, ..here.clone() };
        assert!(!first.has_ended(&env, &here).await);
        let reused = Running { started: start + 1, ..first.clone() };
        assert!(reused.has_ended(&env, &here).await);
        let gone = Running { pid: 4_000_000, ..first.clone() };
        assert!(gone.has_ended(&env, &here).await);
        for other in [
            Running { boot: "other".into(), ..gone.clone() },
            Running { boot: String::new(), ..gone.clone() },
            Running { namespace: gone.namespace + 1, ..gone.clone() },
        ] {
            assert!(!other.has_ended(&env, &here).await, "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_start_says_what_it_is() {
        let tmp = tempfile::tempdir().unwrap();
        let fleet = tmp.path().to_str().unwrap();
        let env = crate::env::real::env();
        let (me, here) = (ProcessId::new("n.1", "00000001-ab"), Running::here(&env).await);
        assert_eq!(of(&env, fleet, &me).await.unwrap(), None);
        announce(&env, fleet, &me, &here).await.unwrap();
        assert_eq!(of(&env, fleet, &me).await.unwrap(), Some(here));
        retract(&env, fleet, &me).await;
        assert_eq!(of(&env, fleet, &me).await.unwrap(), None);
        assert!(env.fs.list(&format!("{fleet}/n.1")).await.unwrap().is_empty());
    }
}
