//! Streams of rows and the bounded channel plugins write them to.
//! The producer runs inside the stream: dropping the stream stops it.

use crate::error::Error;
use crate::value::Value;
use futures::Stream;
use futures::future::BoxFuture;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Rows a producer may be ahead of its consumer.
const READ_AHEAD: usize = 8;

/// Rows of a query. An element is usually a dictionary; sources may yield any value.
pub type RowStream = Pin<Box<dyn Stream<Item = Value> + Send>>;

/// A stream without rows.
pub fn empty() -> RowStream {
    Box::pin(futures::stream::empty())
}

/// A stream of ready rows.
pub fn from_rows<I>(rows: I) -> RowStream
where
    I: IntoIterator<Item = Value>,
    I::IntoIter: Send + 'static,
{
    Box::pin(futures::stream::iter(rows))
}

/// Where a plugin puts its rows.
#[derive(Clone)]
pub struct Emitter(mpsc::Sender<Value>);

impl Emitter {
    /// Hands one row over; waits while the consumer is behind.
    /// Fails with [`Error::Stopped`] when nobody wants more rows.
    pub async fn send(&self, row: impl Into<Value>) -> Result<(), Error> {
        self.0.send(row.into()).await.map_err(|_| Error::Stopped)
    }

    /// For threads which may block: hands one row over.
    pub fn blocking_send(&self, row: impl Into<Value>) -> Result<(), Error> {
        self.0.blocking_send(row.into()).map_err(|_| Error::Stopped)
    }

    /// True when nobody wants more rows.
    pub fn is_stopped(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves when nobody wants more rows.
    pub async fn stopped(&self) {
        self.0.closed().await;
    }
}

/// Runs a producer and streams what it emits. The producer is polled by the
/// stream itself; it needs no task of its own.
pub fn produce<F, Fut>(producer: F) -> RowStream
where
    F: FnOnce(Emitter) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let producer: BoxFuture<'static, ()> = Box::pin(producer(Emitter(sender)));
    Box::pin(Produced { producer: Some(producer), receiver })
}

struct Produced {
    producer: Option<BoxFuture<'static, ()>>,
    receiver: mpsc::Receiver<Value>,
}

impl Stream for Produced {
    type Item = Value;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Value>> {
        loop {
            match self.receiver.poll_recv(cx) {
                Poll::Ready(row) => return Poll::Ready(row),
                Poll::Pending => {}
            }
            let Some(producer) = &mut self.producer else { return Poll::Pending };
            match producer.as_mut().poll(cx) {
                Poll::Ready(()) => self.producer = None,
                Poll::Pending => {
                    // What the producer has just sent must not wait for a wake-up.
                    return self.receiver.poll_recv(cx);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn rows_arrive_and_dropping_stops_the_producer() {
        let (tx, rx) = tokio::sync::oneshot::channel::<()>();
        let mut rows = produce(|emitter| async move {
            let _held = tx;
            for i in 0.. {
                if emitter.send(i).await.is_err() {
                    return;
                }
            }
        });
        for want in 0..100 {
            assert_eq!(rows.next().await.and_then(|v| v.as_int()), Some(want));
        }
        drop(rows);
        assert!(rx.await.is_err(), "the producer must be gone");
    }

    #[tokio::test]
    async fn ends_with_the_producer() {
        let rows = produce(|emitter| async move {
            let _ = emitter.send("a").await;
        });
        assert_eq!(rows.count().await, 1);
    }
}
