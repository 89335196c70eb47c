//! A queue bounded in frames and bytes. Knows sizes, not frames.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

use super::NotSent;

/// An item with the room it takes, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Queued<T> {
    pub item: T,
    /// When it was put in.
    pub since: Instant,
    _frame: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// The entrance. Cheap to clone.
#[derive(Debug)]
pub(super) struct Entrance<T> {
    to: UnboundedSender<Queued<T>>,
    frames: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    most: (usize, usize),
}

impl<T> Clone for Entrance<T> {
    fn clone(&self) -> Self {
        Self {
            to: self.to.clone(),
            frames: self.frames.clone(),
            bytes: self.bytes.clone(),
            most: self.most,
        }
    }
}

/// The exit; items come out in the order in which they went in.
#[derive(Debug)]
pub(super) struct Exit<T>(UnboundedReceiver<Queued<T>>);

/// A queue for `frames` items of `bytes` in all. An item larger than that takes
/// all of it, and so passes alone.
pub(super) fn queue<T>(frames: usize, bytes: usize) -> (Entrance<T>, Exit<T>) {
    let most = (
        frames.clamp(1, Semaphore::MAX_PERMITS),
        bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize)),
    );
    let (to, from) = unbounded_channel();
    let (frames, bytes) = (Arc::new(Semaphore::new(most.0)), Arc::new(Semaphore::new(most.1)));
    (Entrance { to, frames, bytes, most }, Exit(from))
}

impl<T> Entrance<T> {
    fn need(&self, size: usize) -> u32 {
        size.clamp(1, self.most.1) as u32
    }

    /// Waits for room. Fails only once the queue is closed.
    pub async fn push(&self, item: T, size: usize) -> Result<(), NotSent> {
        let gone = |_| NotSent::Gone;
        let frame = self.frames.clone().acquire_owned().await.map_err(gone)?;
        let bytes = self.bytes.clone().acquire_many_owned(self.need(size)).await.map_err(gone)?;
        self.put(item, frame, bytes)
    }

    /// Puts the item in if there is room now.
    pub fn try_push(&self, item: T, size: usize) -> Result<(), NotSent> {
        let why = |e| match e {
            TryAcquireError::Closed => NotSent::Gone,
            TryAcquireError::NoPermits => NotSent::Full,
        };
        let frame = self.frames.clone().try_acquire_owned().map_err(why)?;
        let bytes = self.bytes.clone().try_acquire_many_owned(self.need(size)).map_err(why)?;
        self.put(item, frame, bytes)
    }

    fn put(
        &self,
        item: T,
        frame: OwnedSemaphorePermit,
        bytes: OwnedSemaphorePermit,
    ) -> Result<(), NotSent> {
        if self.frames.is_closed() {
            return Err(NotSent::Gone);
        }
        let queued = Queued { item, since: Instant::now(), _frame: frame, _bytes: bytes };
        self.to.send(queued).map_err(|_| NotSent::Gone)
    }

    /// Nothing goes in any more, and whoever waits is told so.
    pub fn close(&self) {
        self.frames.close();
        self.bytes.close();
    }

    /// Items and bytes inside now.
    pub fn used(&self) -> (usize, usize) {
        (
            self.most.0 - self.frames.available_permits().min(self.most.0),
            self.most.1 - self.bytes.available_permits().min(self.most.1),
        )
    }
}

impl<T> Exit<T> {
    /// The next item; `None` once every entrance is gone and the queue is empty.
    pub async fn pop(&mut self) -> Option<Queued<T>> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_bounds_hold_and_a_giant_passes_alone() {
        let (to, mut from) = queue(3, 100);
        to.try_push('a', 60).unwrap();
        assert_eq!(to.try_push('b', 41), Err(NotSent::Full));
        to.try_push('b', 40).unwrap();
        assert_eq!(to.used(), (2, 100));
        drop(from.pop().await);
        to.try_push('c', 1).unwrap();
        to.try_push('d', 0).unwrap();
        assert_eq!(to.try_push('e', 0), Err(NotSent::Full), "three frames");
        let waiting = tokio::spawn({
            let to = to.clone();
            async move { to.push('f', 1000).await }
        });
        let mut seen = vec![];
        for _ in 0..4 {
            seen.push(from.pop().await.unwrap().item);
        }
        assert_eq!(seen, ['b', 'c', 'd', 'f']);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(to.used(), (0, 0));
    }

    #[tokio::test]
    async fn closing_wakes_whoever_waits() {
        let (to, _from) = queue(1, 1);
        to.try_push((), 1).unwrap();
        let waiting = tokio::spawn({
            let to = to.clone();
            async move { to.push((), 1).await }
        });
        tokio::task::yield_now().await;
        to.close();
        assert_eq!(waiting.await.unwrap(), Err(NotSent::Gone));
        assert_eq!(to.try_push((), 1), Err(NotSent::Gone));
    }
}
