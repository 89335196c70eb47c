//! Sessions whose keys are known, so that most packets cost no RSA.
//!
//! A client process keeps one session for its life. Both maps are bounded; what
//! is forgotten costs one RSA operation when it is needed again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use super::open::Who;
use crate::crypto::{SessionCipher, SessionKeys};
use crate::services::flows::job::Hash;

/// A verified session.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its keys.
    pub keys: SessionKeys,
    /// Who speaks in it.
    pub who: Who,
}

/// The caches.
#[derive(Debug)]
pub struct Peers {
    capacity: usize,
    /// By the hash of the session's key block: the block itself would keep the whole
    /// body that it came in.
    inbound: Mutex<IndexMap<Hash, Arc<Known>>>,
    outbound: Mutex<IndexMap<String, Arc<SessionCipher>>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops the oldest eighth when full: cheap, and the order is that of insertion.
fn make_room<K: std::hash::Hash + Eq, V>(map: &mut IndexMap<K, V>, capacity: usize) {
    if map.len() >= capacity {
        map.drain(..(capacity / 8).max(1).min(map.len()));
    }
}

impl Peers {
    /// Caches for `capacity` sessions in each direction.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(8), inbound: Mutex::default(), outbound: Mutex::default() }
    }

    /// The session whose key block has this hash.
    pub fn inbound(&self, cipher: &Hash) -> Option<Arc<Known>> {
        lock(&self.inbound).get(cipher).cloned()
    }

    /// Remembers a verified session.
    pub fn set_inbound(&self, cipher: Hash, known: Arc<Known>) {
        let mut map = lock(&self.inbound);
        make_room(&mut map, self.capacity);
        map.insert(cipher, known);
    }

    /// Our session towards a client.
    pub fn outbound(&self, source: &str) -> Option<Arc<SessionCipher>> {
        lock(&self.outbound).get(source).cloned()
    }

    /// Remembers our session towards a client.
    pub fn set_outbound(&self, source: &str, cipher: Arc<SessionCipher>) {
        let mut map = lock(&self.outbound);
        make_room(&mut map, self.capacity);
        map.insert(source.to_owned(), cipher);
    }

    /// Forgets a client whose key changed or that was deleted.
    pub fn forget(&self, source: &str) {
        lock(&self.inbound).retain(|_, k| k.who.source != source);
        lock(&self.outbound).shift_remove(source);
    }
}
