//! Threads for work that would keep a runtime from everything else: as many at once as there are
//! cores, for clients and for people apart. Knows nothing of what the work is.
#![allow(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::Cpu;
use super::sided::Sided;

type Work = Box<dyn FnOnce() + Send>;

/// Work waits in the order it came, and threads of the caller's runtime take it from there until
/// there is none. A thread that gave its place back after each piece would be woken anew for the
/// next, and wake its runtime to have that begun.
pub(super) struct CpuPool(Sided<Arc<Lane>>);

impl CpuPool {
    /// So many pieces of work at once, for each side.
    pub(super) fn new(most: usize, sides: Option<&super::real::Runtimes>) -> Self {
        let lane = || Arc::new(Lane { most, state: Mutex::default() });
        Self(Sided::new(sides, lane(), lane()))
    }
}

impl Cpu for CpuPool {
    fn run(&self, work: Work) -> BoxFuture<'_, ()> {
        let (tell, told) = oneshot::channel();
        self.0.here().push(Job { work, tell });
        // A panic in the work drops its result channel; the caller sees that.
        told.map(drop).boxed()
    }
}

/// Work is done by whoever asks for it.
pub(super) struct InPlace;

impl Cpu for InPlace {
    fn run(&self, work: Work) -> BoxFuture<'_, ()> {
        async move { work() }.boxed()
    }
}

/// Not done if whoever asked has given up before it began.
struct Job {
    work: Work,
    tell: oneshot::Sender<()>,
}

struct Lane {
    /// Threads at once.
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that take from the queue, those not begun included.
    threads: usize,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut state = self.state();
        state.queue.push_back(job);
        if state.threads == self.most {
            return;
        }
        state.threads += 1;
        drop(state);
        let mut thread = Thread(Some(self.clone()));
        tokio::task::spawn_blocking(move || thread.work());
    }

    /// The next piece of work for one of the threads, whose place is free if there is none.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        let next = state.queue.pop_front();
        state.threads -= usize::from(next.is_none());
        next
    }
}

/// One of a lane's threads, until there is nothing left to do.
struct Thread(Option<Arc<Lane>>);

impl Thread {
    fn work(&mut self) {
        let Some(lane) = self.0.take() else { return };
        while let Some(Job { work, tell }) = lane.next() {
            if !tell.is_closed() {
                // The hook has told of a panic; the thread goes on with the work of others.
                let _ = catch_unwind(AssertUnwindSafe(work));
                let _ = tell.send(());
            }
        }
    }
}

impl Drop for Thread {
    /// A runtime that ends does not begin what waits for its threads: nobody shall wait for that.
    fn drop(&mut self) {
        let Some(lane) = self.0.take() else { return };
        let mut state = lane.state();
        state.threads -= 1;
        let left =
            if state.threads == 0 { std::mem::take(&mut state.queue) } else { VecDeque::new() };
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Holds the only thread until the sender is dropped.
    fn held(pool: &CpuPool) -> (mpsc::Sender<()>, BoxFuture<'_, ()>) {
        let (go, wait) = mpsc::channel::<()>();
        (
            go,
            pool.run(Box::new(move || {
                let _ = wait.recv();
            })),
        )
    }

    #[tokio::test]
    async fn a_call_that_nobody_looks_after_keeps_nobody_waiting() {
        let pool = CpuPool::new(1, None);
        let (go, running) = held(&pool);
        let queued = pool.run(Box::new(|| {}));
        let done = Arc::new(AtomicBool::new(false));
        let mark = done.clone();
        drop(pool.run(Box::new(move || mark.store(true, Ordering::SeqCst))));
        drop(go);
        // Nobody asks for the first two.
        let other = pool.run(Box::new(|| {}));
        tokio::time::timeout(LONG, other).await.unwrap();
        running.await;
        queued.await;
        assert!(!done.load(Ordering::SeqCst), "nobody wanted it");
    }

    #[tokio::test]
    async fn work_that_panics_takes_no_thread_along() {
        let pool = CpuPool::new(1, None);
        let (go, running) = held(&pool);
        let bad = pool.run(Box::new(|| panic!("on purpose")));
        let good = pool.run(Box::new(|| {}));
        drop(go);
        for f in [running, bad, good] {
            tokio::time::timeout(LONG, f).await.unwrap();
        }
    }

    /// Threads come and go while work comes: none of it is left behind by the last to go.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn work_that_comes_as_a_thread_goes_is_done() {
        let pool = Arc::new(CpuPool::new(2, None));
        let most = Arc::new(AtomicUsize::new(0));
        let now = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (pool, most, now) = (pool.clone(), most.clone(), now.clone());
                tokio::spawn(async move {
                    for _ in 0..2000 {
                        let (most, now) = (most.clone(), now.clone());
                        let work = move || {
                            most.fetch_max(
                                now.fetch_add(1, Ordering::SeqCst) + 1,
                                Ordering::SeqCst,
                            );
                            now.fetch_sub(1, Ordering::SeqCst);
                        };
                        pool.run(Box::new(work)).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            tokio::time::timeout(LONG, caller).await.unwrap().unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn who_waits_for_a_runtime_that_ends_is_told() {
        let pool = Arc::new(CpuPool::new(1, None));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        // The runtime's only thread for such work is taken by somebody else.
        let (go, wait) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || {
            let _ = wait.recv();
        });
        let work = {
            let _in = runtime.enter();
            pool.run(Box::new(|| panic!("not begun")))
        };
        runtime.shutdown_background();
        drop(go);
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(async { tokio::time::timeout(LONG, work).await }).unwrap();
    }
}
