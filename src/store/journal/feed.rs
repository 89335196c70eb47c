//! What a journal has just written, for whoever passes it on.
//!
//! A feed holds a bounded number of bytes. A reader that falls behind loses the
//! oldest groups and sees so from the places of the next; the journal never
//! waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::Notify;

use super::position::Position;

/// Records that were committed together, as they lie in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they begin.
    pub start: Position,
    /// Where they end, in the same file.
    pub end: Position,
    /// The bytes.
    pub data: Bytes,
}

#[derive(Debug, Default)]
struct Queue {
    groups: VecDeque<Group>,
    bytes: usize,
    lost: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading end. One reader at a time.
#[derive(Debug)]
pub struct Feed(Arc<Shared>);

impl Feed {
    /// The next group; `None` once the journal is closed and all was taken.
    pub async fn next(&self) -> Option<Group> {
        loop {
            {
                let mut q = self.0.lock();
                if let Some(g) = q.groups.pop_front() {
                    q.bytes -= g.data.len();
                    return Some(g);
                }
                if q.closed {
                    return None;
                }
            }
            self.0.wake.notified().await;
        }
    }

    /// The next group if there is one now.
    pub fn try_next(&self) -> Option<Group> {
        let mut q = self.0.lock();
        let g = q.groups.pop_front()?;
        q.bytes -= g.data.len();
        Some(g)
    }

    /// Groups dropped because this reader was too slow.
    pub fn lost(&self) -> u64 {
        self.0.lock().lost
    }
}

/// All feeds of a journal.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<Vec<Weak<Shared>>>);

impl Feeds {
    fn live(&self) -> Vec<Arc<Shared>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|w| w.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn subscribe(&self, limit: usize) -> Feed {
        let shared =
            Arc::new(Shared { limit, queue: Mutex::new(Queue::default()), wake: Notify::new() });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::downgrade(&shared));
        Feed(shared)
    }

    pub(super) fn publish(&self, group: &Group) {
        for s in self.live() {
            let mut q = s.lock();
            q.bytes += group.data.len();
            q.groups.push_back(group.clone());
            while q.bytes > s.limit {
                let Some(g) = q.groups.pop_front() else { break };
                q.bytes -= g.data.len();
                q.lost += 1;
            }
            drop(q);
            s.wake.notify_one();
        }
    }

    pub(super) fn close(&self) {
        for s in self.live() {
            s.lock().closed = true;
            s.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(offset: u64, n: usize) -> Group {
        let start = Position { file: 0, offset };
        let end = Position { file: 0, offset: offset + n as u64 };
        Group { start, end, data: Bytes::from(vec![0; n]) }
    }

    #[tokio::test]
    async fn a_slow_reader_loses_the_oldest_and_sees_the_gap() {
        let feeds = Feeds::default();
        let feed = feeds.subscribe(10);
        for at in [16, 20, 24, 28] {
            feeds.publish(&group(at, 4));
        }
        assert_eq!((feed.next().await.unwrap().start.offset, feed.lost()), (24, 2));
        assert_eq!(feed.try_next().unwrap().start.offset, 28);
        assert!(feed.try_next().is_none());
        // A group that never fits is lost as a whole.
        feeds.publish(&group(32, 11));
        assert!(feed.try_next().is_none());
        feeds.close();
        assert!(feed.next().await.is_none());
        drop(feed);
        assert!(feeds.live().is_empty());
    }
}
