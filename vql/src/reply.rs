//! A value which is there already or will be: expressions which need no
//! waiting never allocate a future.

use crate::value::Value;
use futures::future::BoxFuture;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The result of evaluating something.
pub enum Reply<T = Value> {
    /// Known now.
    Ready(T),
    /// Known later.
    Pending(BoxFuture<'static, T>),
}

impl<T: Send + Unpin + 'static> Reply<T> {
    /// Wraps a future.
    pub fn from_future(future: impl Future<Output = T> + Send + 'static) -> Reply<T> {
        Reply::Pending(Box::pin(future))
    }

    /// Continues with `f`, which gets `cx` again: it is cloned only when the
    /// value is not there yet.
    pub fn then<C, U>(self, cx: &C, f: impl FnOnce(&C, T) -> Reply<U> + Send + 'static) -> Reply<U>
    where
        C: Clone + Send + Sync + 'static,
        U: Send + Unpin + 'static,
    {
        match self {
            Reply::Ready(value) => f(cx, value),
            Reply::Pending(future) => {
                let cx = cx.clone();
                Reply::from_future(async move {
                    let value = future.await;
                    f(&cx, value).await
                })
            }
        }
    }

    /// Transforms the value.
    pub fn map<U: Send + Unpin + 'static>(
        self,
        f: impl FnOnce(T) -> U + Send + 'static,
    ) -> Reply<U> {
        match self {
            Reply::Ready(value) => Reply::Ready(f(value)),
            Reply::Pending(future) => Reply::from_future(async move { f(future.await) }),
        }
    }
}

impl<T> From<T> for Reply<T> {
    fn from(value: T) -> Self {
        Reply::Ready(value)
    }
}

impl<T: Unpin> IntoFuture for Reply<T> {
    type Output = T;
    type IntoFuture = ReplyFuture<T>;
    fn into_future(self) -> ReplyFuture<T> {
        match self {
            Reply::Ready(value) => ReplyFuture { ready: Some(value), pending: None },
            Reply::Pending(future) => ReplyFuture { ready: None, pending: Some(future) },
        }
    }
}

/// What awaiting a [`Reply`] polls.
pub struct ReplyFuture<T> {
    ready: Option<T>,
    pending: Option<BoxFuture<'static, T>>,
}

impl<T: Unpin> Future for ReplyFuture<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.ready.take() {
            return Poll::Ready(value);
        }
        match &mut self.pending {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
