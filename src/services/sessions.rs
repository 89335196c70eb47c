//! Which clients are held by this frontend right now.
//!
//! The frontend registers readers; services wake them. A client normally has
//! one reader; the newest is the one that gets tasks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::flows::job::Hash;
use super::ids::OrgId;

/// A held reader.
#[derive(Debug)]
pub struct Held {
    /// Unique in this process.
    pub id: u64,
    /// The session cipher of its client process.
    pub cipher: Hash,
    /// Peer address as known to the frontend.
    pub remote: String,
    /// Set when there is something to send.
    pub wake: Notify,
    /// Set when a newer reader took over or the client was deleted.
    pub superseded: Notify,
}

type Key = (OrgId, String);

/// The registry.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    held: Mutex<BTreeMap<Key, Vec<Arc<Held>>>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<Arc<Held>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a reader; returns it and the reader it displaces, if any.
    pub fn register(
        &self,
        org: &OrgId,
        client: &str,
        cipher: Hash,
        remote: &str,
    ) -> (Arc<Held>, Option<Arc<Held>>) {
        let held = Arc::new(Held {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            cipher,
            remote: remote.to_owned(),
            wake: Notify::new(),
            superseded: Notify::new(),
        });
        let mut map = self.lock();
        let list = map.entry((org.clone(), client.to_owned())).or_default();
        let old = list.last().cloned();
        list.push(held.clone());
        (held, old)
    }

    /// The reader is over.
    pub fn unregister(&self, org: &OrgId, client: &str, id: u64) {
        let mut map = self.lock();
        let key = (org.clone(), client.to_owned());
        if let Some(list) = map.get_mut(&key) {
            list.retain(|h| h.id != id);
            if list.is_empty() {
                map.remove(&key);
            }
        }
    }

    /// The reader that gets the client's tasks.
    pub fn held(&self, org: &OrgId, client: &str) -> Option<Arc<Held>> {
        self.lock().get(&(org.clone(), client.to_owned()))?.last().cloned()
    }

    /// Lets the client's reader look at its queue.
    pub fn wake(&self, org: &OrgId, client: &str) {
        if let Some(h) = self.held(org, client) {
            h.wake.notify_one();
        }
    }

    /// Wakes every reader of an organisation.
    pub fn wake_all(&self, org: &OrgId) {
        for (key, list) in self.lock().iter() {
            if key.0 == *org
                && let Some(h) = list.last()
            {
                h.wake.notify_one();
            }
        }
    }

    /// Clients held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reader_gets_the_tasks() {
        let s = Sessions::default();
        let org = OrgId::root();
        let (a, none) = s.register(&org, "C.1", [1; 16], "a");
        assert!(none.is_none());
        let (b, old) = s.register(&org, "C.1", [2; 16], "b");
        assert_eq!(old.unwrap().id, a.id);
        assert_eq!(s.held(&org, "C.1").unwrap().id, b.id);
        s.unregister(&org, "C.1", b.id);
        assert_eq!(s.held(&org, "C.1").unwrap().id, a.id);
        s.unregister(&org, "C.1", a.id);
        assert!(s.is_empty() && s.held(&org, "C.1").is_none());
    }
}
