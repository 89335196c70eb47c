//! Turmoil's sockets, the virtual wall clock, seeded entropy, inline CPU work.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use velociraptor::env::{Clock, Conn, Cpu, Entropy, Listener, Net, Side, Spawn};

/// 2026-01-02T00:00:00Z: the committed certificates are a day old by then.
pub const EPOCH: Duration = Duration::from_secs(1_767_312_000);

/// Turmoil's network.
pub struct SimNet;
struct SimListener(turmoil::net::TcpListener);

impl Net for SimNet {
    fn bind(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move {
            let l = turmoil::net::TcpListener::bind(addr).await?;
            Ok(Box::new(SimListener(l)) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Conn>> {
        async move {
            let s = turmoil::net::TcpStream::connect((host, port)).await?;
            Ok(Box::pin(s) as Conn)
        }
        .boxed()
    }

    fn simulated(&self) -> bool {
        true
    }
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Conn, SocketAddr)>> {
        async move {
            let (s, peer) = self.0.accept().await?;
            Ok((Box::pin(s) as Conn, peer))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Virtual wall time.
#[derive(Default)]
pub struct SimClock {
    /// How far this clock is ahead, nanoseconds; may leap during a run.
    pub ahead: Arc<AtomicU64>,
}

impl Clock for SimClock {
    fn now(&self) -> SystemTime {
        let ahead = Duration::from_nanos(self.ahead.load(Ordering::Relaxed));
        UNIX_EPOCH + EPOCH + ahead + turmoil::sim_elapsed().unwrap_or_default()
    }
}

/// Randomness of one host, from the run's seed.
pub struct SimEntropy(Mutex<SmallRng>);

impl SimEntropy {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(SmallRng::seed_from_u64(seed)))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buf: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buf);
    }
}

/// CPU work runs at once: there is one thread.
pub struct Inline;

impl Cpu for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, ()> {
        work();
        futures::future::ready(()).boxed()
    }
}

impl Spawn for Inline {
    fn spawn(&self, _: Side, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}
