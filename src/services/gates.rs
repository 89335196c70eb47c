//! Order between what is added to a flow and what is decided about it.
//!
//! Whoever commits something for flows is inside their gates until it is applied;
//! whoever decides that a flow is settled, cancelled or lost closes its gate until
//! that is applied. So memory changes in the order in which records say it did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::state::FlowKey;

/// The gates of an organisation's flows.
#[derive(Debug, Default)]
pub struct Gates(Mutex<BTreeMap<FlowKey, Arc<RwLock<()>>>>);

/// A gate in use: forgotten when nobody uses it any more.
#[derive(Debug)]
struct Entry<'a> {
    gates: &'a Gates,
    key: FlowKey,
    gate: Arc<RwLock<()>>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut all = self.gates.lock();
        // The table's and ours.
        if Arc::strong_count(&self.gate) <= 2 {
            all.remove(&self.key);
        }
    }
}

/// Inside some gates: nothing is decided about these flows meanwhile.
#[derive(Debug)]
pub struct Inside<'a>(Vec<(OwnedRwLockReadGuard<()>, Entry<'a>)>);

impl Inside<'_> {
    /// How many flows.
    pub fn flows(&self) -> usize {
        self.0.len()
    }
}

/// A closed gate: nothing is added to this flow meanwhile.
#[derive(Debug)]
pub struct Closed<'a> {
    _guard: OwnedRwLockWriteGuard<()>,
    _entry: Entry<'a>,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlowKey, Arc<RwLock<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, key: FlowKey) -> Entry<'_> {
        let gate = self.lock().entry(key.clone()).or_default().clone();
        Entry { gates: self, key, gate }
    }

    /// Waits until none of these gates is closed, and keeps them open.
    pub async fn enter(&self, mut keys: Vec<FlowKey>) -> Inside<'_> {
        // In one order, so that two who need several do not wait for each other.
        keys.sort();
        keys.dedup();
        let mut inside = Inside(Vec::with_capacity(keys.len()));
        for key in keys {
            let entry = self.entry(key);
            let guard = entry.gate.clone().read_owned().await;
            inside.0.push((guard, entry));
        }
        inside
    }

    /// Waits until everybody inside is out, and lets nobody in meanwhile.
    pub async fn close(&self, key: FlowKey) -> Closed<'_> {
        let entry = self.entry(key);
        let guard = entry.gate.clone().write_owned().await;
        Closed { _guard: guard, _entry: entry }
    }

    /// Closes the gate unless somebody is inside.
    pub fn try_close(&self, key: FlowKey) -> Option<Closed<'_>> {
        let entry = self.entry(key);
        let guard = entry.gate.clone().try_write_owned().ok()?;
        Some(Closed { _guard: guard, _entry: entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn key(flow: &str) -> FlowKey {
        ("C.1".into(), flow.into())
    }

    #[tokio::test]
    async fn a_flow_is_not_decided_about_under_a_commit_nor_committed_to_meanwhile() {
        let g = Gates::default();
        let one = g.enter(vec![key("F.1"), key("F.2"), key("F.1")]).await;
        assert_eq!(one.flows(), 2);
        let two = g.enter(vec![key("F.1")]).await;
        assert!(g.try_close(key("F.1")).is_none());
        drop(one);
        assert!(g.try_close(key("F.1")).is_none());
        assert!(g.try_close(key("F.2")).is_some());
        let mut closing = Box::pin(g.close(key("F.1")));
        assert!((&mut closing).now_or_never().is_none());
        // Whoever waits to decide is not overtaken for ever.
        let mut late = Box::pin(g.enter(vec![key("F.1")]));
        assert!((&mut late).now_or_never().is_none());
        drop(two);
        let closed = closing.await;
        assert!((&mut late).now_or_never().is_none() && g.try_close(key("F.1")).is_none());
        drop(closed);
        drop(late.await);
        assert!(g.lock().is_empty(), "gates nobody uses are forgotten");
    }

    #[tokio::test]
    async fn waiting_given_up_leaves_nothing() {
        let g = Gates::default();
        let closed = g.close(key("F.1")).await;
        let waiting = Box::pin(g.enter(vec![key("F.0"), key("F.1")]));
        assert!(waiting.now_or_never().is_none());
        drop(closed);
        assert!(g.lock().is_empty());
    }
}
