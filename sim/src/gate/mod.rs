//! A gate in every call of a process to the world around it: counts the calls,
//! holds them while the host stands still, and stops the process for good
//! before a call of a given number, which reaches every point between a sync
//! and the acknowledgement it is for.
//!
//! Timers of tokio are not held: a process that was stopped finds that its
//! deadlines have passed, as after SIGSTOP or suspend. What code has done
//! between two calls it has done in its own memory only, which dies with it.

mod fs;
mod net;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor::env::{Cpu, Env};

/// The gate of one process. Clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: u64,
    trip_at: Option<u64>,
    tripped: bool,
    closed: bool,
    waiting: Vec<Waker>,
    /// Errors of the file server that processes were told, by name.
    met: BTreeMap<&'static str, u64>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls since the process started.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Stops the process for good before its `n`th call from now (1 is the next).
    pub fn trip_after(&self, n: u64) {
        let mut s = self.lock();
        s.trip_at = Some(s.calls + n.max(1));
    }

    /// Whether it has been stopped for good.
    pub fn tripped(&self) -> bool {
        self.lock().tripped
    }

    /// Holds calls from now on, or lets them pass.
    pub fn close(&self, closed: bool) {
        let mut s = self.lock();
        s.closed = closed;
        if !closed {
            s.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// A new process begins. A host that stands still keeps it waiting.
    pub fn reset(&self) {
        let mut s = self.lock();
        let met = std::mem::take(&mut s.met);
        *s = State { closed: s.closed, met, ..State::default() };
    }

    /// Ready when nothing holds the process.
    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut s = self.lock();
        if s.tripped {
            return Poll::Pending; // until it is killed
        }
        if s.closed {
            s.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Counts a call, once it is not held.
    fn poll_count(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_open(cx).is_pending() {
            return Poll::Pending;
        }
        let mut s = self.lock();
        s.calls += 1;
        if s.trip_at.is_some_and(|at| s.calls >= at) {
            s.tripped = true;
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Counts what a call was told, if it is worth counting.
    fn met<T>(&self, told: io::Result<T>) -> io::Result<T> {
        let what = match told.as_ref().map_err(io::Error::kind) {
            Err(ErrorKind::StorageFull) => "ENOSPC",
            Err(ErrorKind::StaleNetworkFileHandle) => "ESTALE",
            _ => return told,
        };
        *self.lock().met.entry(what).or_default() += 1;
        told
    }

    /// How often processes were told of a full file server, or of a stale file.
    pub fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.lock().met.clone()
    }

    /// Makes a counted call; its result is held, too.
    async fn through<T>(&self, call: impl Future<Output = T>) -> T {
        poll_fn(|cx| self.poll_count(cx)).await;
        let done = call.await;
        poll_fn(|cx| self.poll_open(cx)).await;
        done
    }

    /// The environment with this gate in it.
    pub fn guard(&self, env: Env) -> Env {
        Env {
            net: Arc::new(net::GatedNet::new(env.net, self.clone())),
            fs: Arc::new(fs::GatedFs::new(env.fs, self.clone())),
            cpu: Arc::new(GatedCpu(env.cpu, self.clone())),
            ..env
        }
    }
}

struct GatedCpu(Arc<dyn Cpu>, Gate);

impl Cpu for GatedCpu {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, ()> {
        async move {
            poll_fn(|cx| self.1.poll_open(cx)).await;
            self.0.run(work).await;
        }
        .boxed()
    }
}
