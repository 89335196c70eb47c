//! One stream at the minion, from connecting to its end.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::FusedFuture;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use velociraptor_proto::fleet::{Down, Records, SessionChange, Up, Welcome, down, up};

use super::ending::Ending;
use super::outgoing::{Numbered, chunks};
use super::queue::{Entrance, Exit, queue};
use super::{Address, Counters, FromMaster, FromMinion, Minion, Process, VERSION};

/// A stream that the master has accepted.
pub(super) struct Session<'a> {
    minion: &'a Minion,
    pub master: Process,
    /// Readers that were there when this process introduced itself.
    list: Vec<SessionChange>,
    records: Exit<Records>,
    to: mpsc::Sender<Up>,
    from: Streaming<Down>,
}

impl<'a> Session<'a> {
    /// Connects, introduces this process, and waits to be welcomed.
    pub async fn open(
        minion: &'a Minion,
        address: &Address,
        stop: &CancellationToken,
    ) -> Result<Self, Ending> {
        let (session, welcome) = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Ending::Stopping),
            r = Self::introduce(minion, address) => r?,
        };
        minion.uplink.heard();
        // The services have the last word.
        match minion.side.welcome(welcome).await {
            Ok(()) => Ok(session),
            Err(why) => Err(Ending::Unwanted(session.master, why)),
        }
    }

    async fn introduce(minion: &'a Minion, address: &Address) -> Result<(Self, Welcome), Ending> {
        let limits = minion.uplink.limits();
        let deadline = Instant::now() + limits.connect;
        let late = |_| Ending::Silent(limits.connect.as_millis());
        let connecting = minion.dialer.connect(address, limits);
        let mut client = tokio::time::timeout_at(deadline, connecting)
            .await
            .map_err(late)?
            .map_err(Ending::Broken)?;
        let records = minion.uplink.begin();
        let (mut hello, list) = minion.side.hello();
        hello.version = VERSION;
        hello.process = Some(minion.process.clone().into());
        hello.sessions = list.len() as u64;
        let (to, frames) = mpsc::channel(1);
        // There is room for one.
        let _ = to.try_send(Up { seq: 0, kind: Some(up::Kind::Hello(hello)) });
        let calling = client.stream(ReceiverStream::new(frames));
        let answer = tokio::time::timeout_at(deadline, calling).await.map_err(late)?;
        let mut from = answer.map_err(|e| Ending::broken(&e))?.into_inner();
        let first = timeout(limits.welcome, from.message()).await;
        let welcome = match first {
            Err(_) => return Err(Ending::Silent(limits.welcome.as_millis())),
            Ok(Err(e)) => return Err(Ending::broken(&e)),
            Ok(Ok(None)) => return Err(Ending::Finished),
            Ok(Ok(Some(down))) => match down.kind {
                Some(down::Kind::Welcome(w)) => w,
                Some(down::Kind::Refused(r)) => return Err(Ending::Refused(r)),
                _ => return Err(Ending::Violation("the first frame is not Welcome".into())),
            },
        };
        if welcome.version != VERSION {
            return Err(Ending::Violation(format!(
                "the master speaks version {} of the protocol between nodes ({}), this node \
                 version {VERSION}: both need the same release",
                welcome.version, welcome.product
            )));
        }
        let master = welcome.master.clone().unwrap_or_default().into();
        Ok((Self { minion, master, list, records, to, from }, welcome))
    }

    /// Until it ends. What the master asked for and was begun is finished.
    pub async fn run(self, stop: &CancellationToken) -> Ending {
        let Session { minion, list, records, to, mut from, .. } = self;
        let limits = minion.uplink.limits();
        let (inbox, received) = queue(limits.queue_frames, limits.queue_bytes);
        let (halt, last) = (CancellationToken::new(), AtomicU64::new(0));
        let mut reader = pin!(read(minion, &mut from, inbox));
        let mut writer = pin!(write(minion, to, list, records, &last));
        let mut worker = pin!(work(minion, received, &halt, &last).fuse());
        let ending = tokio::select! {
            biased;
            () = stop.cancelled() => Ending::Stopping,
            e = &mut reader => e,
            e = &mut writer => e,
            e = &mut worker => e,
        };
        halt.cancel();
        if !worker.is_terminated() {
            worker.await;
        }
        ending
    }
}

/// Takes frames from the wire. Silence counts only while it is listening.
async fn read(minion: &Minion, from: &mut Streaming<Down>, inbox: Entrance<Down>) -> Ending {
    let (counters, silence) = (minion.uplink.counters(), minion.uplink.limits().silence());
    loop {
        let down = match timeout(silence, from.message()).await {
            Err(_) => {
                Counters::add(&counters.silent, 1);
                return Ending::Silent(silence.as_millis());
            }
            Ok(Err(e)) => return Ending::broken(&e),
            Ok(Ok(None)) => return Ending::Finished,
            Ok(Ok(Some(down))) => down,
        };
        minion.uplink.heard();
        let bytes = down.encoded_len();
        Counters::add(&counters.frames_received, 1);
        Counters::add(&counters.bytes_received, bytes as u64);
        match &down.kind {
            Some(down::Kind::Refused(r)) => return Ending::Refused(r.clone()),
            Some(down::Kind::Welcome(_)) => return Ending::Violation("a second Welcome".into()),
            Some(down::Kind::Acks(a)) => {
                if let Err(e) = minion.uplink.acknowledged(a.seq) {
                    return Ending::Violation(e.to_string());
                }
            }
            _ => {}
        }
        if inbox.push(down, bytes).await.is_err() {
            return Ending::Closed;
        }
    }
}

/// What goes on the wire next.
enum Next {
    Plain(FromMinion),
    Numbered(Option<Numbered>),
}

/// Puts frames on the wire: beats, the list of sessions, numbered frames, records.
async fn write(
    minion: &Minion,
    to: mpsc::Sender<Up>,
    list: Vec<SessionChange>,
    mut records: Exit<Records>,
    last: &AtomicU64,
) -> Ending {
    let (uplink, counters) = (&minion.uplink, minion.uplink.counters());
    let limits = uplink.limits();
    let mut beat = interval_at(Instant::now() + limits.beat, limits.beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut list = chunks(list).into_iter();
    let mut numbered_first = true;
    loop {
        let listing = list.len() > 0;
        // Numbered frames and records take turns: neither keeps the other waiting.
        let next = tokio::select! {
            biased;
            _ = beat.tick() => {
                let mut beat = minion.side.beat();
                beat.clock_micros = minion.env.clock.micros();
                beat.received = last.load(Ordering::Relaxed);
                Next::Plain(FromMinion::Beat(beat))
            }
            () = std::future::ready(()), if listing => {
                Next::Plain(FromMinion::Snapshot(list.next().unwrap_or_default()))
            }
            n = uplink.next(), if numbered_first => Next::Numbered(n),
            Some(queued) = records.pop() => Next::Plain(FromMinion::Records(queued.item)),
            n = uplink.next(), if !numbered_first => Next::Numbered(n),
        };
        numbered_first = !matches!(next, Next::Numbered(_));
        let (seq, frame) = match next {
            Next::Plain(frame) => (0, frame),
            Next::Numbered(None) => return Ending::Stale,
            Next::Numbered(Some(n)) => {
                Counters::add(&counters.resent, u64::from(n.again));
                (n.seq, n.frame)
            }
        };
        let up = Up { seq, kind: Some(frame.into_wire()) };
        let bytes = up.encoded_len() as u64;
        if to.send(up).await.is_err() {
            return Ending::Finished;
        }
        Counters::add(&counters.frames_sent, 1);
        Counters::add(&counters.bytes_sent, bytes);
    }
}

/// Hands frames to the services, one after the other.
async fn work(
    minion: &Minion,
    mut inbox: Exit<Down>,
    halt: &CancellationToken,
    last: &AtomicU64,
) -> Ending {
    loop {
        let queued = tokio::select! {
            biased;
            () = halt.cancelled() => return Ending::Closed,
            queued = inbox.pop() => queued,
        };
        // Its room in the inbox is taken until it is done with.
        let Some(mut queued) = queued else { return Ending::Closed };
        let down = std::mem::take(&mut queued.item);
        last.store(down.seq, Ordering::Relaxed);
        let own = matches!(down.kind, Some(down::Kind::Acks(_) | down::Kind::Beat(_)));
        match FromMaster::from_wire(down.kind) {
            Some(frame) => minion.side.frame(frame).await,
            None if own => {}
            None => Counters::add(&minion.uplink.counters().unknown, 1),
        }
    }
}
