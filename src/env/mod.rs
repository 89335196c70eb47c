//! Everything the server needs from the outside world, as one value.
//!
//! Production and simulation differ only in the [`Env`] they hand over: no
//! generics, no `cfg`, so the code tested is the code shipped. Monotonic time
//! is deliberately absent: all code uses `tokio::time`, which a simulator
//! pauses and drives.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

mod cpu;
pub mod fs;
pub mod real;
pub mod sabotage;
mod sided;

pub use fs::{Details, DirEntry, File, FileSystem, Meta, Open};
pub use sabotage::{Mutant, Sabotage};

/// A connected byte stream of either world.
pub trait Io: AsyncRead + AsyncWrite + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + 'static> Io for T {}

/// Type-erased stream: one virtual call per poll, under a TLS record.
pub type Conn = Pin<Box<dyn Io>>;

/// Sockets.
pub trait Net: Send + Sync {
    /// Listens on a TCP address; port 0 picks a free one.
    fn bind(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// Resolves `host` and connects; what begins with `/` is a Unix socket. No deadline is applied here.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Conn>>;

    /// Whether this is a network inside a simulation; see [`sabotage`].
    #[doc(hidden)]
    fn simulated(&self) -> bool {
        false
    }
}

/// A listening socket.
pub trait Listener: Send {
    /// The next connection with its peer's address.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Conn, SocketAddr)>>;
    /// Where it listens, with the port that was picked.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Wall clock only; deadlines belong to `tokio::time`.
pub trait Clock: Send + Sync {
    /// The current wall time; may jump.
    fn now(&self) -> SystemTime;

    /// Time since the host started, its sleep included. Never jumps, and stands
    /// still when the whole machine is stopped from outside: of two hosts' boot
    /// times nothing can be said, and after a stop nothing of the time that
    /// passed elsewhere. Where there is no such clock it is the wall time.
    fn boot(&self) -> Duration {
        since_epoch(self.now())
    }

    /// Seconds since the epoch.
    fn unix(&self) -> u64 {
        since_epoch(self.now()).as_secs()
    }

    /// Microseconds since the epoch.
    fn micros(&self) -> u64 {
        since_epoch(self.now()).as_micros() as u64
    }

    /// Nanoseconds since the epoch.
    fn nanos(&self) -> u64 {
        since_epoch(self.now()).as_nanos() as u64
    }
}

fn since_epoch(t: SystemTime) -> Duration {
    t.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Randomness for ids, initialisation vectors, jitter and choice.
pub trait Entropy: Send + Sync {
    /// Fills `buf` with unpredictable bytes (reproducible ones in simulation).
    fn fill(&self, buf: &mut [u8]);

    /// A uniform 64-bit number.
    fn next_u64(&self) -> u64 {
        let mut b = [0; 8];
        self.fill(&mut b);
        u64::from_le_bytes(b)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// Work that must not run on the reactor's own thread.
pub trait Cpu: Send + Sync {
    /// Runs `work` on a bounded pool (inline in simulation).
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, ()>;
}

/// Which runtime a task belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Client connections, ingest, replication.
    Frontend,
    /// GUI and API: their own threads, so that clients cannot slow people down.
    Gui,
}

/// Starts tasks; production has a runtime per [`Side`], a simulation has one.
pub trait Spawn: Send + Sync {
    /// Starts `task` detached.
    fn spawn(&self, side: Side, task: BoxFuture<'static, ()>);
}

/// One process's view of the world. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The shared store and this host's own files, by absolute path.
    pub fs: Arc<dyn FileSystem>,
    /// TLS cryptography, seeded in simulation.
    pub crypto: Arc<rustls::crypto::CryptoProvider>,
    /// CPU offload.
    pub cpu: Arc<dyn Cpu>,
    /// Task starter.
    pub tasks: Arc<dyn Spawn>,
    /// A fault put in on purpose: never in production.
    pub sabotage: Sabotage,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

impl Env {
    /// Starts a detached task on the frontend side.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Side::Frontend, Box::pin(task));
    }

    /// Starts a detached task on the GUI side.
    pub fn spawn_gui(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Side::Gui, Box::pin(task));
    }

    /// Runs CPU-heavy `work` off the reactor and returns its result.
    ///
    /// `None` means that the work panicked or the pool is shutting down.
    pub async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.cpu
            .run(Box::new(move || {
                let _ = tx.send(work());
            }))
            .await;
        rx.await.ok()
    }

    /// `base` plus a uniform extra of up to `spread`.
    pub fn jitter(&self, base: Duration, spread: Duration) -> Duration {
        if self.sabotage.is(Mutant::UnseededJitter) {
            use std::hash::BuildHasher;
            let n = std::hash::RandomState::new().hash_one(0);
            return base + Duration::from_nanos(n % (spread.as_nanos() as u64).max(1));
        }
        base + Duration::from_nanos(self.entropy.below(spread.as_nanos() as u64))
    }
}
