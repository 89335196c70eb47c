//! Deep recursion of queries continues on another task, whose stack is fresh.

use crate::reply::Reply;
use crate::scope::Scope;
use crate::stream::{RowStream, produce};
use crate::value::Value;
use futures::StreamExt;
use std::future::Future;
use tokio_util::task::AbortOnDropHandle;

/// What a too deep recursion logs.
pub(super) const STACK_OVERFLOW: &str = "Stack Overflow";

/// Calls which share one stack.
const CALLS_PER_STACK: u32 = 12;

/// Runs futures on a fresh stack.
pub(super) struct Spawner(tokio::runtime::Handle);

/// A spawner and the scope to use with it when the calls above have used
/// enough of this stack.
pub(super) fn fresh_stack(scope: &Scope) -> Option<(Spawner, Scope)> {
    if scope.calls() < CALLS_PER_STACK {
        return None;
    }
    let handle = tokio::runtime::Handle::try_current().ok()?;
    Some((Spawner(handle), scope.on_fresh_stack()))
}

impl Spawner {
    pub(super) fn run(self, future: impl Future<Output = Value> + Send + 'static) -> Reply {
        Reply::from_future(async move {
            let task = AbortOnDropHandle::new(self.0.spawn(future));
            task.await.unwrap_or_default()
        })
    }

    /// Polls `rows` on a fresh stack.
    pub(super) fn stream(self, rows: RowStream) -> RowStream {
        produce(|emitter| async move {
            let mut rows = rows;
            let task = self.0.spawn(async move {
                while let Some(row) = rows.next().await {
                    if emitter.send(row).await.is_err() {
                        return;
                    }
                }
            });
            let _ = AbortOnDropHandle::new(task).await;
        })
    }
}
