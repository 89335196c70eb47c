//! What a held reader is sent: a short queue from its session to its connection.
//! One for each client that waits, so it holds next to nothing while it is empty
//! (a channel of the runtime keeps room for 32 entries, two kilobytes).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::service::Push;

#[derive(Debug)]
struct State {
    queue: VecDeque<Push>,
    /// Either end is gone.
    over: bool,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    depth: usize,
    /// Something came, or the sender went.
    filled: Notify,
    /// There is room, or the receiver went.
    room: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session's end. Dropping it ends the reader once the queue is empty.
#[derive(Debug)]
pub struct Pusher(Arc<Queue>);

/// The connection's end.
#[derive(Debug)]
pub struct Pushes(Arc<Queue>);

/// The connection is gone; nothing will be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reader is gone")]
pub struct ReaderGone;

/// A queue of at most `depth` entries.
pub fn pushes(depth: usize) -> (Pusher, Pushes) {
    let queue = Arc::new(Queue {
        state: Mutex::new(State { queue: VecDeque::new(), over: false }),
        depth: depth.max(1),
        filled: Notify::new(),
        room: Notify::new(),
    });
    (Pusher(queue.clone()), Pushes(queue))
}

impl Pusher {
    /// Queues `push`; waits while the queue is full. To be called by one task at a
    /// time.
    pub async fn send(&self, push: Push) -> Result<(), ReaderGone> {
        loop {
            {
                let mut s = self.0.state();
                if s.over {
                    return Err(ReaderGone);
                }
                if s.queue.len() < self.0.depth {
                    s.queue.push_back(push);
                    break;
                }
            }
            self.0.room.notified().await;
        }
        self.0.filled.notify_one();
        Ok(())
    }
    /// Waits until the connection is gone.
    pub async fn closed(&self) {
        while !self.0.state().over {
            self.0.room.notified().await;
        }
    }
}

impl Pushes {
    /// Takes nothing more; what is queued can still be read.
    pub fn close(&mut self) {
        self.0.state().over = true;
        self.0.room.notify_one();
    }

    /// What is queued now.
    pub fn try_recv(&mut self) -> Option<Push> {
        self.0.state().queue.pop_front()
    }

    /// The next one; `None` when the sender is gone. Safe to drop at any time.
    pub async fn recv(&mut self) -> Option<Push> {
        loop {
            {
                let mut s = self.0.state();
                if let Some(push) = s.queue.pop_front() {
                    if s.queue.is_empty() {
                        s.queue = VecDeque::new();
                    }
                    self.0.room.notify_one();
                    return Some(push);
                }
                if s.over {
                    return None;
                }
            }
            self.0.filled.notified().await;
        }
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.filled.notify_one();
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn task(seq: u64) -> Push {
        Push::Task { seq, body: Default::default() }
    }

    fn seq(push: Option<Push>) -> Option<u64> {
        match push? {
            Push::Task { seq, .. } => Some(seq),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_order_bounded_and_over_with_either_end() {
        let (tx, mut rx) = pushes(2);
        let sender = tokio::spawn(async move {
            for n in 0..100 {
                tx.send(task(n)).await.unwrap();
            }
        });
        for n in 0..100 {
            tokio::task::yield_now().await;
            assert!(rx.0.state().queue.len() <= 2);
            assert_eq!(seq(rx.recv().await), Some(n));
        }
        assert!(rx.recv().await.is_none());
        sender.await.unwrap();

        let (tx, rx) = pushes(1);
        tx.send(task(1)).await.unwrap();
        let full = tokio::time::timeout(Duration::from_secs(1), tx.send(task(2))).await;
        assert!(full.is_err());
        let waits = tokio::spawn(async move { tx.send(task(3)).await });
        tokio::task::yield_now().await;
        drop(rx);
        assert_eq!(waits.await.unwrap(), Err(ReaderGone));

        let (tx, mut rx) = pushes(1);
        tx.send(task(7)).await.unwrap();
        drop(tx);
        assert_eq!((seq(rx.recv().await), rx.recv().await.is_none()), (Some(7), true));
    }
}
