//! One live stream for each node: who has it, and whether it still speaks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::Refused;

use super::{Downlink, Limits, Process};

/// A stream as the master sees it.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Who is at the other end.
    pub process: Process,
    /// From where.
    pub addr: SocketAddr,
    /// How long the stream has been there.
    pub age: Duration,
    /// How long ago anything was received.
    pub silence: Duration,
    /// Frames waiting to be sent.
    pub waiting_frames: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Frames sent that the minion had not received at its last beat.
    pub lag: u64,
    /// How far its clock is ahead of ours, microseconds, plus the time a frame takes.
    pub skew_micros: i64,
}

/// What is known of a live stream.
#[derive(Debug)]
pub(super) struct Live {
    process: Process,
    addr: SocketAddr,
    since: Instant,
    heard: watch::Sender<Instant>,
    pub lag: AtomicU64,
    pub skew_micros: AtomicI64,
    pub downlink: OnceLock<Downlink>,
    /// Cancelled by whoever wants the seat.
    pub end: CancellationToken,
    /// Cancelled when the seat is free.
    over: CancellationToken,
}

impl Live {
    /// It said something.
    pub fn speaks(&self) {
        self.heard.send_replace(Instant::now());
    }

    fn info(&self) -> StreamInfo {
        let (waiting_frames, waiting_bytes) =
            self.downlink.get().map(Downlink::waiting).unwrap_or_default();
        StreamInfo {
            process: self.process.clone(),
            addr: self.addr,
            age: self.since.elapsed(),
            silence: self.heard.borrow().elapsed(),
            waiting_frames,
            waiting_bytes,
            lag: self.lag.load(Ordering::Relaxed),
            skew_micros: self.skew_micros.load(Ordering::Relaxed),
        }
    }
}

/// All live streams, by node.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<BTreeMap<String, Arc<Live>>>);

/// The right to be the stream of a node; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    pub live: Arc<Live>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.live.process.node);
        self.live.over.cancel();
    }
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every stream, by node.
    pub fn all(&self) -> Vec<StreamInfo> {
        self.lock().values().map(|l| l.info()).collect()
    }

    /// The seat of `process`'s node. An older stream of the same process is ended. A
    /// stream of another process is given time to show that it lives: one word of it,
    /// and this one is refused for good; if it has fallen silent, its stream ends.
    pub async fn take(
        self: &Arc<Self>,
        process: &Process,
        addr: SocketAddr,
        limits: &Limits,
    ) -> Result<Seat, Refused> {
        loop {
            let live = match self.sit_or_see(process, addr) {
                Ok(seat) => return Ok(seat),
                Err(live) => live,
            };
            if live.process == *process {
                live.end.cancel();
                live.over.cancelled().await;
                continue;
            }
            let mut heard = live.heard.subscribe();
            tokio::select! {
                biased;
                () = live.over.cancelled() => {}
                spoke = heard.changed() => if spoke.is_ok() {
                    return Err(twin(&live));
                },
                () = sleep(limits.silence()) => return Err(Refused {
                    reason: format!(
                        "what an earlier process of node {} ({}) said is still being worked on",
                        process.node, live.process.epoch
                    ),
                    permanent: false,
                }),
            }
        }
    }

    fn sit_or_see(
        self: &Arc<Self>,
        process: &Process,
        addr: SocketAddr,
    ) -> Result<Seat, Arc<Live>> {
        let mut map = self.lock();
        if let Some(live) = map.get(&process.node) {
            return Err(live.clone());
        }
        let now = Instant::now();
        let live = Arc::new(Live {
            process: process.clone(),
            addr,
            since: now,
            heard: watch::Sender::new(now),
            lag: AtomicU64::new(0),
            skew_micros: AtomicI64::new(0),
            downlink: OnceLock::new(),
            end: CancellationToken::new(),
            over: CancellationToken::new(),
        });
        map.insert(process.node.clone(), live.clone());
        Ok(Seat { seats: self.clone(), live })
    }
}

fn twin(live: &Live) -> Refused {
    let Process { node, epoch } = &live.process;
    Refused {
        reason: format!(
            "another process of node {node} is connected (epoch {epoch}, from {}, since {} s): \
             two processes cannot have one name; stop the other one first, or give this one a \
             name and a certificate of its own",
            live.addr,
            live.since.elapsed().as_secs(),
        ),
        permanent: true,
    }
}
