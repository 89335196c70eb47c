//! One stream at the master, from its first frame to its end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::FusedFuture;
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use velociraptor_proto::fleet::{Down, DownBeat, Hello, Refused, Up, down, up};

use super::ending::Ending;
use super::fleet::{Caller, Inner, refusal};
use super::incoming::Verdict;
use super::queue::{Entrance, Exit, queue};
use super::seats::{Live, Seat};
use super::{Counters, Downlink, FromMinion, Process, VERSION};

/// Serves one stream.
pub(super) async fn converse(fleet: Arc<Inner>, mut caller: Caller) {
    let ending = match introduce(&fleet, &mut caller).await {
        Ok((seat, hello)) => accept(&fleet, &mut caller, seat, hello).await,
        Err(e) => e,
    };
    let last = match ending {
        Ending::Refused(r) => {
            Counters::add(&fleet.counters.refused, 1);
            tracing::warn!(node = caller.node, peer = %caller.addr, reason = r.reason,
                permanent = r.permanent, "node refused");
            Ok(refusal(r))
        }
        Ending::Violation(why) => {
            tracing::warn!(node = caller.node, peer = %caller.addr, why, "protocol error of a node");
            Err(Status::new(Code::InvalidArgument, why))
        }
        Ending::Replaced => Err(Status::aborted("the process has a newer stream")),
        Ending::Stopping => Err(Status::unavailable("the master stops")),
        other => Err(Status::unavailable(other.to_string())),
    };
    // It may not be reading any more.
    let _ = timeout(fleet.limits.beat, caller.to.send(last)).await;
}

/// Reads the `Hello` and finds it a seat.
async fn introduce(fleet: &Arc<Inner>, caller: &mut Caller) -> Result<(Seat, Hello), Ending> {
    let first = tokio::select! {
        biased;
        () = fleet.stop.cancelled() => return Err(Ending::Stopping),
        first = timeout(fleet.limits.connect, caller.from.message()) => first,
    };
    let hello = match first {
        Err(_) => return Err(Ending::Silent(fleet.limits.connect.as_millis())),
        Ok(Err(e)) => return Err(Ending::broken(&e)),
        Ok(Ok(None)) => return Err(Ending::Finished),
        Ok(Ok(Some(Up { kind: Some(up::Kind::Hello(h)), .. }))) => h,
        Ok(Ok(Some(_))) => return Err(Ending::Violation("the first frame is not Hello".into())),
    };
    Counters::add(&fleet.counters.frames_received, 1);
    let process = check(&caller.node, &hello).map_err(Ending::Refused)?;
    let seat = tokio::select! {
        biased;
        () = fleet.stop.cancelled() => return Err(Ending::Stopping),
        () = caller.to.closed() => return Err(Ending::Finished),
        seat = fleet.seats.take(&process, caller.addr, &fleet.limits) => seat,
    };
    Ok((seat.map_err(Ending::Refused)?, hello))
}

/// Whether a `Hello` is that of `node` in a language we speak.
fn check(node: &str, hello: &Hello) -> Result<Process, Refused> {
    let refuse = |reason, permanent| Err(Refused { reason, permanent });
    if hello.version != VERSION {
        // Either side may be replaced by a newer one any time; until then the minion
        // serves its clients, and its journal is read from the store.
        return refuse(
            format!(
                "this master speaks version {VERSION} of the protocol between nodes, and {} \
                 version {} ({}): both need the same release",
                node, hello.version, hello.product
            ),
            false,
        );
    }
    let process: Process = hello.process.clone().unwrap_or_default().into();
    if process.node != node {
        return refuse(
            format!(
                "the certificate is that of node {node}, and the name given is {:?}",
                process.node
            ),
            true,
        );
    }
    if process.epoch.is_empty() {
        return refuse("the process gave no epoch".into(), true);
    }
    Ok(process)
}

/// Tells everybody that the stream is over, however the conversation ends.
struct Guest<'a>(&'a Inner, &'a Process, &'a Downlink);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.2.end();
        Counters::sub(&self.0.counters.streams, 1);
        self.0.master.gone(self.1);
    }
}

async fn accept(fleet: &Arc<Inner>, caller: &mut Caller, seat: Seat, hello: Hello) -> Ending {
    let process: Process = hello.process.clone().unwrap_or_default().into();
    let (out, exit) = Downlink::new(process.clone(), &fleet.limits);
    let _ = seat.live.downlink.set(out.clone());
    let mut welcome = match fleet.master.hello(&process, hello, out.clone()).await {
        Ok(w) => w,
        Err(r) => {
            out.end();
            return Ending::Refused(r);
        }
    };
    Counters::add(&fleet.counters.streams, 1);
    Counters::add(&fleet.counters.streams_total, 1);
    // Before the seat is given back: the next process of this node comes after `gone`.
    let guest = Guest(fleet, &process, &out);
    welcome.version = VERSION;
    tracing::info!(%process, peer = %caller.addr, "node connected");
    let talk = Talk { fleet, process: &process, out: &out, live: &seat.live };
    let ending = talk.run(caller, exit, down::Kind::Welcome(welcome)).await;
    tracing::info!(%process, why = %ending, "node disconnected");
    drop(guest);
    ending
}

struct Talk<'a> {
    fleet: &'a Inner,
    process: &'a Process,
    out: &'a Downlink,
    live: &'a Live,
}

impl Talk<'_> {
    async fn run(
        &self,
        caller: &mut Caller,
        exit: Exit<down::Kind>,
        welcome: down::Kind,
    ) -> Ending {
        let limits = &self.fleet.limits;
        let (inbox, received) = queue(limits.queue_frames, limits.queue_bytes);
        let (stop, sent) = (CancellationToken::new(), AtomicU64::new(0));
        let Caller { certificate, from, to, .. } = caller;
        let mut reader = pin!(self.read(from, inbox));
        let mut writer = pin!(self.write(to, exit, welcome, certificate, &sent));
        let mut worker = pin!(self.work(received, &stop, &sent).fuse());
        let ending = tokio::select! {
            biased;
            () = self.live.end.cancelled() => Ending::Replaced,
            () = self.fleet.stop.cancelled() => Ending::Stopping,
            () = self.out.closed() => match self.out.last_word() {
                Some(r) => Ending::Refused(r),
                None => Ending::Closed,
            },
            e = &mut reader => e,
            e = &mut writer => e,
            e = &mut worker => e,
        };
        self.out.end();
        // What has begun is finished; what waits is not acknowledged and comes again.
        stop.cancel();
        if !worker.is_terminated() {
            worker.await;
        }
        ending
    }

    /// Takes frames from the wire. Silence counts only while it is listening: when the
    /// inbox is full the silence is ours.
    async fn read(&self, from: &mut tonic::Streaming<Up>, inbox: Entrance<Up>) -> Ending {
        let silence = self.fleet.limits.silence();
        loop {
            let up = match timeout(silence, from.message()).await {
                Err(_) => {
                    Counters::add(&self.fleet.counters.silent, 1);
                    return Ending::Silent(silence.as_millis());
                }
                Ok(Err(e)) => return Ending::broken(&e),
                Ok(Ok(None)) => return Ending::Finished,
                Ok(Ok(Some(up))) => up,
            };
            self.live.speaks();
            let bytes = up.encoded_len();
            Counters::add(&self.fleet.counters.frames_received, 1);
            Counters::add(&self.fleet.counters.bytes_received, bytes as u64);
            if inbox.push(up, bytes).await.is_err() {
                return Ending::Closed;
            }
        }
    }

    /// Puts frames on the wire: beats first, then acknowledgements, then the queue.
    async fn write(
        &self,
        to: &tokio::sync::mpsc::Sender<Result<Down, Status>>,
        mut exit: Exit<down::Kind>,
        welcome: down::Kind,
        certificate: &[u8],
        sent: &AtomicU64,
    ) -> Ending {
        let limits = &self.fleet.limits;
        let mut beat = interval_at(Instant::now() + limits.beat, limits.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kind = welcome;
        loop {
            let seq = 1 + sent.fetch_add(1, Ordering::Relaxed);
            // Acknowledgements and the queue take turns: neither keeps the other waiting.
            let acks_first = !matches!(kind, down::Kind::Acks(_));
            let down = Down { seq, kind: Some(kind) };
            let bytes = down.encoded_len() as u64;
            match timeout(limits.stall, to.send(Ok(down))).await {
                Err(_) => return self.stalled(),
                Ok(Err(_)) => return Ending::Finished,
                Ok(Ok(())) => {}
            }
            Counters::add(&self.fleet.counters.frames_sent, 1);
            Counters::add(&self.fleet.counters.bytes_sent, bytes);
            kind = tokio::select! {
                biased;
                _ = beat.tick() => {
                    if let Err(e) = (self.fleet.verify)(certificate) {
                        return Ending::Refused(Refused {
                            reason: format!("the certificate no longer proves the node: {e}"),
                            permanent: e.permanent,
                        });
                    }
                    down::Kind::Beat(DownBeat {
                        clock_micros: self.fleet.env.clock.micros(),
                        received: self.fleet.seen().last(self.process).unwrap_or_default(),
                    })
                }
                acks = self.out.next_acks(), if acks_first => down::Kind::Acks(acks),
                Some(queued) = exit.pop() => {
                    if queued.since.elapsed() > limits.stall {
                        return self.stalled();
                    }
                    queued.item
                }
                acks = self.out.next_acks(), if !acks_first => down::Kind::Acks(acks),
            };
        }
    }

    fn stalled(&self) -> Ending {
        Counters::add(&self.fleet.counters.stalled, 1);
        Ending::Stalled(self.fleet.limits.stall.as_millis())
    }

    /// Hands frames to the services, one after the other.
    async fn work(
        &self,
        mut inbox: Exit<Up>,
        stop: &CancellationToken,
        sent: &AtomicU64,
    ) -> Ending {
        let counters = &self.fleet.counters;
        let mut numbers = self.fleet.seen().stream(self.process);
        loop {
            let queued = tokio::select! {
                biased;
                () = stop.cancelled() => return Ending::Closed,
                queued = inbox.pop() => queued,
            };
            // Its room in the inbox is taken until it is done with.
            let Some(mut queued) = queued else { return Ending::Closed };
            let up = std::mem::take(&mut queued.item);
            if up.seq > 0 {
                match numbers.judge(up.seq) {
                    Verdict::Next => {}
                    Verdict::Repeat => {
                        Counters::add(&counters.repeats, 1);
                        self.out.acknowledge(numbers.last().unwrap_or_default());
                        continue;
                    }
                    Verdict::Skip(n) => {
                        Counters::add(&counters.skipped, n);
                        tracing::warn!(process = %self.process, frames = n,
                            "another master has acknowledged frames that this one never had");
                    }
                    Verdict::Gap => {
                        let last = numbers.last().unwrap_or_default();
                        return Ending::Violation(format!("frame {} follows {last}", up.seq));
                    }
                }
            }
            if let Some(up::Kind::Beat(b)) = &up.kind {
                let lag = sent.load(Ordering::Relaxed).saturating_sub(b.received);
                self.live.lag.store(lag, Ordering::Relaxed);
                let ours = self.fleet.env.clock.micros() as i64;
                self.live.skew_micros.store(b.clock_micros as i64 - ours, Ordering::Relaxed);
            }
            if matches!(up.kind, Some(up::Kind::Hello(_))) {
                return Ending::Violation("a second Hello".into());
            }
            match FromMinion::from_wire(up.kind) {
                Some(frame) => self.fleet.master.frame(self.process, frame).await,
                None => Counters::add(&counters.unknown, 1),
            }
            if up.seq > 0 {
                self.fleet.seen().done(self.process, &mut numbers, up.seq);
                self.out.acknowledge(up.seq);
            }
        }
    }
}
