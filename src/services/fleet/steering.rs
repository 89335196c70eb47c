//! Which nodes take clients: what the master decided, what each process was told
//! of it. Knows no client and no address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::services::server::{Server, ServiceError, fleet_dir};
use crate::store::{StoreError, StoreKind};

/// Longest list of drained nodes that is read, bytes.
const LIMIT: usize = 1 << 20;

/// What this process is to do with its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// It is drained: its clients go to others.
    pub drain: bool,
    /// It was told to end, which drains it too.
    pub stopping: bool,
    /// Other nodes that take clients; `None`: nobody said yet.
    pub nodes: Option<BTreeSet<String>>,
}

impl Steering {
    /// Whether clients are to leave.
    pub fn leaves(&self) -> bool {
        self.drain || self.stopping
    }
}

/// So many clients are to go to nodes that have fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub clients: u32,
    /// To these nodes.
    pub to: Vec<String>,
}

/// What was said to this process, and on a master what was decided.
#[derive(Debug, Default)]
pub struct Steer {
    now: watch::Sender<Steering>,
    share: watch::Sender<Share>,
    drained: Mutex<BTreeSet<String>>,
    /// Held while the list is written.
    writing: tokio::sync::Mutex<()>,
}

impl Steer {
    /// What holds now.
    pub fn get(&self) -> Steering {
        self.now.borrow().clone()
    }

    /// Whether clients are to leave.
    pub fn leaves(&self) -> bool {
        self.now.borrow().leaves()
    }

    /// Sees every change.
    pub fn watch(&self) -> watch::Receiver<Steering> {
        self.now.subscribe()
    }

    /// Sees every order to share clients.
    pub fn shares(&self) -> watch::Receiver<Share> {
        self.share.subscribe()
    }

    /// The master says so.
    pub fn set(&self, drain: bool, nodes: BTreeSet<String>) {
        let nodes = Some(nodes);
        self.now.send_if_modified(|s| {
            let changed = s.drain != drain || s.nodes != nodes;
            if s.drain != drain {
                tracing::info!(drain, "this node is told whether to send its clients away");
            }
            (s.drain, s.nodes) = (drain, nodes);
            changed
        });
    }

    /// This process ends.
    pub fn stop(&self) {
        self.now.send_modify(|s| s.stopping = true);
    }

    /// The master wants clients to be shared.
    pub fn share(&self, share: Share) {
        self.share.send_replace(share);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.drained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a master: nodes that are drained.
    pub fn drained(&self) -> BTreeSet<String> {
        self.lock().clone()
    }
}

fn path(server: &Server) -> String {
    format!("{}/drained.json", fleet_dir(&server.tree.root))
}

impl Server {
    /// On a master: reads which nodes are drained.
    pub(in crate::services) async fn load_drained(&self) -> Result<(), ServiceError> {
        let data = crate::store::objects::read_whole(&*self.env.fs, &path(self), LIMIT).await;
        let Some(data) = data.map_err(StoreError::from)? else { return Ok(()) };
        match serde_json::from_slice(&data) {
            Ok(nodes) => *self.steer.lock() = nodes,
            // Not worth keeping a server from starting.
            Err(e) => {
                tracing::error!(path = path(self), error = %e, "not understood: no node is drained")
            }
        }
        Ok(())
    }

    /// Nodes that this master has heard of.
    pub fn known_nodes(&self) -> BTreeSet<String> {
        let mut known: BTreeSet<String> = [self.options.node.clone()].into();
        known.extend(self.processes.positions().into_keys().map(|p| p.node));
        if let Some(hub) = self.hub() {
            known.extend(hub.status().into_iter().map(|n| n.process.node));
        }
        known
    }

    /// Drains a node, or takes that back. Durable when it returns; the node is told
    /// within a second. Returns whether anything changed.
    pub async fn set_drained(&self, node: &str, drained: bool) -> Result<bool, ServiceError> {
        self.sure(false)?;
        let _one = self.steer.writing.lock().await;
        let mut all = self.steer.drained();
        if !self.known_nodes().contains(node) && !all.contains(node) {
            let known: Vec<String> = self.known_nodes().into_iter().collect();
            let what = format!("no node is called {node:?}; there are {}", known.join(", "));
            return Err(ServiceError::Invalid(what));
        }
        let changed = if drained { all.insert(node.to_owned()) } else { all.remove(node) };
        if !changed {
            return Ok(false);
        }
        let data = serde_json::to_vec(&all).map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let tmp = self.tree.temp(StoreKind::Files);
        let done = crate::env::fs::replace(&*self.env.fs, &tmp, &path(self), &data).await;
        done.map_err(StoreError::from)?;
        *self.steer.lock() = all;
        self.sure(true)?;
        Ok(true)
    }
}

/// What nodes with too many clients are to send away in a second, by node. `held`:
/// clients of the nodes that take clients.
pub fn shares(held: &BTreeMap<String, u64>, options: &Balance) -> BTreeMap<String, Share> {
    let mut out = BTreeMap::new();
    if options.per_second == 0 || held.len() < 2 {
        return out;
    }
    let nodes = held.len() as u64;
    let mean = held.values().sum::<u64>().div_ceil(nodes);
    let most = mean + (mean * u64::from(options.tolerance_percent)).div_ceil(100).max(SLACK);
    let to: Vec<String> =
        held.iter().filter(|(_, n)| **n < mean).map(|(node, _)| node.clone()).collect();
    for (node, n) in held.iter().filter(|(_, n)| **n > most) {
        let clients = u32::try_from(n - mean).unwrap_or(u32::MAX).min(options.per_second);
        out.insert(node.clone(), Share { clients, to: to.clone() });
    }
    out
}

/// A node may always have so many clients more than the mean: clients that are
/// between two polls are counted nowhere.
const SLACK: u64 = 5;

/// How clients are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Clients that each node with too many sends away in a second; 0: none.
    pub per_second: u32,
    /// Percent above the mean that a node may have.
    pub tolerance_percent: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(n: &[u64]) -> BTreeMap<String, u64> {
        n.iter().enumerate().map(|(i, n)| (format!("n{i}"), *n)).collect()
    }

    #[test]
    fn only_nodes_above_the_mean_give_and_only_those_below_take() {
        let options = Balance { per_second: 7, tolerance_percent: 10 };
        let s = shares(&held(&[300, 290, 10]), &options);
        let names: Vec<&str> = s.keys().map(String::as_str).collect();
        assert_eq!(names, ["n0", "n1"]);
        assert_eq!(s["n0"], Share { clients: 7, to: vec!["n2".into()] });
        assert!(shares(&held(&[105, 100, 95]), &options).is_empty(), "within the tolerance");
        assert!(shares(&held(&[6, 0]), &options).is_empty(), "too few to be worth it");
        assert!(shares(&held(&[500]), &options).is_empty(), "nobody to give to");
        assert!(shares(&held(&[300, 0]), &Balance::default()).is_empty(), "off");
    }

    #[test]
    fn what_is_said_is_seen_once() {
        let s = Steer::default();
        let mut w = s.watch();
        assert!(!s.leaves());
        s.set(true, ["a".to_owned()].into());
        assert!(w.has_changed().unwrap() && s.leaves());
        w.mark_unchanged();
        s.set(true, ["a".to_owned()].into());
        assert!(!w.has_changed().unwrap());
        s.set(false, BTreeSet::new());
        assert!(!s.leaves());
        s.stop();
        assert!(s.leaves());
    }
}
