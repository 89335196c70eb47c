//! The agent's outgoing queue: what was stored is sent at least once, in order,
//! also after a restart. On disk while that works, in memory otherwise.
//!
//! Writers wait while the queue is over its limit (their item is stored first),
//! which is how back-pressure reaches the queries. There is one reader, which
//! leases items and then commits or lets go.

mod disk;
mod segment;

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};

use disk::{Disk, Position};

use crate::env::Env;

/// A queue of one class.
#[derive(Debug)]
pub struct Buffer {
    state: Mutex<State>,
    disk_limit: u64,
    memory_limit: u64,
    space: Notify,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    disk: Option<Disk>,
    /// After a write error the disk is only read, so that order is kept.
    disk_failed: bool,
    memory: VecDeque<Bytes>,
    memory_bytes: u64,
}

/// Items on loan. Dropping it leaves them in the queue.
#[derive(Debug, Default)]
pub struct Lease {
    /// The items, oldest first.
    pub items: Vec<Bytes>,
    disk_to: Option<Position>,
    disk_bytes: u64,
    from_memory: usize,
}

impl Lease {
    /// True without items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl Buffer {
    /// A queue in memory of at most `limit` bytes (soft: the last item may exceed it).
    pub fn memory(limit: u64) -> Buffer {
        Buffer {
            state: Mutex::default(),
            disk_limit: 0,
            memory_limit: limit,
            space: Notify::new(),
            filled: Notify::new(),
        }
    }

    /// A queue in files beside `base`, of `disk_limit` bytes; if they cannot be
    /// used, in memory.
    pub async fn on_disk(env: &Env, base: &str, disk_limit: u64, memory_limit: u64) -> Buffer {
        let disk = match Disk::open(env.fs.clone(), base).await {
            Ok(d) => {
                if d.bytes > 0 {
                    tracing::info!(
                        "{} bytes from before the restart are still to be sent",
                        d.bytes
                    );
                }
                Some(d)
            }
            Err(e) => {
                tracing::error!("disk buffer: {e}; buffering in memory");
                None
            }
        };
        let state = State { disk, ..State::default() };
        Buffer { state: Mutex::new(state), disk_limit, ..Buffer::memory(memory_limit) }
    }

    /// Stores an item, then waits until the queue is within its limit.
    pub async fn push(&self, item: Bytes) {
        self.store(item).await;
        self.wait_for_space().await;
    }

    async fn store(&self, item: Bytes) {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let to_disk = state.memory.is_empty() && !state.disk_failed;
        if let Some(disk) = state.disk.as_mut().filter(|_| to_disk) {
            match disk.push(&item).await {
                Ok(()) => return self.filled.notify_one(),
                Err(e) => {
                    tracing::error!("disk buffer: {e}; buffering in memory from now on");
                    state.disk_failed = true;
                }
            }
        }
        state.memory_bytes += item.len() as u64;
        state.memory.push_back(item);
        self.filled.notify_one();
    }

    fn has_space(&self, state: &State) -> bool {
        let on_disk = state.disk.as_ref().map_or(0, |d| d.bytes);
        let disk_full = on_disk > self.disk_limit && on_disk > 0;
        !disk_full && state.memory_bytes <= self.memory_limit
    }

    async fn wait_for_space(&self) {
        loop {
            let freed = self.space.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.has_space(&*self.state.lock().await) {
                return;
            }
            freed.await;
        }
    }

    /// Resolves when something was stored since the last call.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Bytes not committed.
    pub async fn bytes(&self) -> u64 {
        let state = self.state.lock().await;
        state.disk.as_ref().map_or(0, |d| d.bytes) + state.memory_bytes
    }

    /// Lends the oldest items, up to about `max` bytes but at least one.
    /// Leasing again without a commit lends the same items.
    pub async fn lease(&self, max: u64) -> Lease {
        let mut lease = Lease::default();
        let mut state = self.state.lock().await;
        let mut total = 0;
        if let Some(disk) = &mut state.disk {
            let mut at = disk.head();
            loop {
                match disk.read(at).await {
                    Ok(Some((item, next))) => {
                        total += item.len() as u64;
                        if total > max && !lease.items.is_empty() {
                            return lease;
                        }
                        lease.disk_bytes += item.len() as u64;
                        lease.disk_to = Some(next);
                        lease.items.push(item);
                        at = next;
                    }
                    Ok(None) => break,
                    Err(e) => {
                        tracing::error!("disk buffer: {e}");
                        return lease;
                    }
                }
            }
        }
        for item in &state.memory {
            total += item.len() as u64;
            if total > max && !lease.items.is_empty() {
                break;
            }
            lease.from_memory += 1;
            lease.items.push(item.clone());
        }
        lease
    }

    /// Removes leased items for good.
    pub async fn commit(&self, lease: Lease) {
        let mut state = self.state.lock().await;
        for _ in 0..lease.from_memory {
            if let Some(item) = state.memory.pop_front() {
                state.memory_bytes -= item.len() as u64;
            }
        }
        if let (Some(disk), Some(to)) = (&mut state.disk, lease.disk_to)
            && let Err(e) = disk.consume(to, lease.disk_bytes).await
        {
            // At worst the items are sent again after a restart.
            tracing::warn!("disk buffer: {e}");
        }
        drop(state);
        self.space.notify_waiters();
    }

    /// Puts what was stored on stable storage.
    pub async fn sync(&self) {
        let mut state = self.state.lock().await;
        if let Some(disk) = &mut state.disk
            && let Err(e) = disk.sync().await
        {
            tracing::warn!("disk buffer: {e}");
            state.disk_failed = true;
        }
    }
}

#[cfg(test)]
mod tests;
