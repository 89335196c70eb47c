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

/// So many levels of brackets take as much stack as a call.
const LEVELS_PER_CALL: usize = 6;

/// Runs futures on a fresh stack.
pub(super) struct Spawner(tokio::runtime::Handle);

/// A spawner and the scope to use with it when the calls above and what is
/// about to be evaluated would use too much of this stack.
pub(super) fn fresh_stack(scope: &Scope, nesting: usize) -> Option<(Spawner, Scope)> {
    let cost = scope.calls() + (nesting / LEVELS_PER_CALL) as u32;
    if cost < CALLS_PER_STACK || scope.calls() == 0 {
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
