//! What waits to be sent: an urgent and a normal queue of jobs, each serialised
//! once, as in a stock agent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use velociraptor::env::Entropy;

/// A job and its place in the ledger.
#[derive(Clone, Debug)]
pub struct Item {
    /// Serialised `MessageList` with one job.
    pub list: Vec<u8>,
    /// Index among the client's jobs.
    pub entry: usize,
}

#[derive(Default)]
struct Queues {
    urgent: VecDeque<Item>,
    normal: VecDeque<Item>,
    /// Items of the last try, which a stock agent leases again as they were.
    leased: usize,
}

/// See the module.
#[derive(Default)]
pub struct Outbox {
    queues: Mutex<Queues>,
    filled: Notify,
}

/// What one POST is to carry; nothing leaves the queue until [`Outbox::commit`].
pub struct Batch {
    /// From the urgent queue.
    pub urgent: bool,
    /// The items, oldest first.
    pub items: Vec<Item>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job.
    pub fn push(&self, urgent: bool, item: Item) {
        let mut q = self.lock();
        if urgent {
            q.urgent.push_back(item)
        } else {
            q.normal.push_back(item)
        }
        self.filled.notify_one();
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        let q = self.lock();
        q.urgent.len() + q.normal.len()
    }

    /// Waits until something was queued.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The next batch, of at most `max` bytes, urgent first. After a failure the
    /// same items again, or, one time in three unless `steady`, another number of them.
    pub fn next(&self, max: usize, steady: bool, entropy: &dyn Entropy) -> Option<Batch> {
        let mut q = self.lock();
        let urgent = !q.urgent.is_empty();
        let other = !urgent && entropy.below(3) == 0 && !steady;
        let again = if urgent || other { 0 } else { q.leased };
        let queue = if urgent { &q.urgent } else { &q.normal };
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0;
        let some = 1 + entropy.below(8) as usize;
        for i in queue {
            let enough = if again > 0 { items.len() >= again } else { items.len() >= some };
            if !items.is_empty() && (bytes + i.list.len() > max || enough) {
                break;
            }
            bytes += i.list.len();
            items.push(i.clone());
        }
        if !urgent {
            q.leased = items.len();
        }
        (!items.is_empty()).then_some(Batch { urgent, items })
    }

    /// The batch was taken.
    pub fn commit(&self, batch: &Batch) {
        let mut q = self.lock();
        let gone = |i: &Item| batch.items.iter().any(|b| b.entry == i.entry);
        if batch.urgent {
            q.urgent.retain(|i| !gone(i));
        } else {
            q.leased = 0;
            q.normal.retain(|i| !gone(i));
        }
    }

    /// Takes out what `which` says of the normal queue, unless it is on its way.
    pub fn remove(&self, which: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut q = self.lock();
        let kept = q.leased;
        let mut out = Vec::new();
        let mut at = 0;
        q.normal.retain(|i| {
            at += 1;
            let gone = at > kept && which(i.entry);
            if gone {
                out.push(i.entry);
            }
            !gone
        });
        out
    }
}
