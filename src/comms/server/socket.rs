//! A client's WebSocket: on `control` one answer per message, on `reader` tasks
//! when there are any, on `server.pem` the certificate.
//!
//! The client takes any data frame as the answer to its present or next post,
//! so nothing is ever sent unasked on `control`, and on `reader` a later
//! check-in is answered only by a task.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::body::{FREE, PREFIX, STEP, Wire};
use super::gate::Count;
use super::hold::Fate;
use super::http::{late, turn, within};
use super::limits::Metrics;
use super::pushes::Pushes;
use super::router::Shared;
use super::service::{
    Answer, Charge, End, Hold, Oversize, Push, ReaderAnswer, ReaderSession, Request, RequestHead,
};
use crate::comms::Channel;
use crate::comms::ws::{Charging, Envelope, Event, Op, Role, WsError, WsReader, WsWriter};
use crate::env::Conn;

/// Close codes of RFC 6455, section 7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const PROTOCOL: u16 = 1002;

/// What the service said to a message.
enum Said {
    /// To be sent as it is.
    Answer(Answer),
    /// To a later check-in: sent only if there is something in it.
    Aside(Answer),
    Hold(Hold),
}

/// A held reader's state.
struct Held<'a> {
    pushes: Pushes,
    fate: Fate,
    _gauge: Count<'a>,
}

struct Socket<'a> {
    shared: &'a Shared,
    writer: WsWriter<WriteHalf<Conn>>,
    head: Option<RequestHead>,
    nth: u64,
}

/// Serves one socket to its end. `head` is `None` for `server.pem`.
pub(super) async fn run(
    shared: &Arc<Shared>,
    wire: Wire,
    drain: CancellationToken,
    head: Option<RequestHead>,
) {
    let l = &shared.endpoint.limits;
    let _open = Count::of(&shared.endpoint.metrics.websockets);
    let (r, w) = tokio::io::split(wire.io);
    let charging = Charging {
        budget: shared.budget.bytes.clone(),
        all: shared.budget.all,
        free: FREE,
        step: STEP,
        wait: l.budget_wait,
    };
    let reader = WsReader::new(r, Role::Client, wire.input, l.max_body, Some(charging));
    let writer = WsWriter::server(w, l.ws_write);
    let socket = Socket { shared, writer, head, nth: 0 };
    socket.serve(reader, drain).await;
}

/// Why the loop ends.
enum Over {
    /// Say goodbye with this code.
    Close(u16, End),
    /// The connection is no use any more.
    Gone(End),
}

impl<'a> Socket<'a> {
    async fn serve(mut self, mut reader: WsReader<ReadHalf<Conn>>, drain: CancellationToken) {
        let mut held = None;
        let over = self.talk(&mut reader, &drain, &mut held).await;
        let end = match over {
            Over::Close(code, end) => {
                if self.writer.close(code).await.is_ok() {
                    goodbye(&mut reader, self.shared.endpoint.limits.linger).await;
                }
                end
            }
            Over::Gone(end) => end,
        };
        if let Some(Held { fate, .. }) = held {
            fate.end(end);
        }
    }

    async fn talk(
        &mut self,
        reader: &mut WsReader<ReadHalf<Conn>>,
        drain: &CancellationToken,
        held: &mut Option<Held<'a>>,
    ) -> Over {
        let l = &self.shared.endpoint.limits;
        let silence = l.ws_ping + l.ws_ping / 10;
        let mut ping = interval_at(Instant::now() + l.ws_ping, l.ws_ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending: Option<BoxFuture<'a, Said>> = None;
        loop {
            let mut dead = reader.heard() + silence;
            if let Some(begun) = reader.begun() {
                dead = dead.min(begun + l.read_total);
            }
            let busy = pending.is_some();
            let closing = if self.is_pem() { NORMAL } else { GOING_AWAY };
            tokio::select! {
                biased;
                said = async { pending.as_mut()?.await.into() }, if busy => {
                    pending = None;
                    reader.touch();
                    let Some(said) = said else { continue };
                    if let Err(over) = self.say(said, held).await {
                        return over;
                    }
                }
                push = next_push(held) => {
                    if let Err(over) = self.push(push, held).await {
                        return over;
                    }
                }
                () = drain.cancelled(), if !busy => return Over::Close(closing, End::Stopping),
                _ = ping.tick() => {
                    if self.writer.send(Op::Ping, b"").await.is_err() {
                        return Over::Gone(End::PeerGone);
                    }
                }
                event = reader.next(), if !busy => {
                    let holding = held.as_ref().map(|h| h.fate.session());
                    match self.event(event, holding).await {
                        Ok(p) => pending = p,
                        Err(over) => return over,
                    }
                }
                () = sleep_until(dead), if !busy => return Over::Gone(End::PeerGone),
            }
        }
    }

    fn is_pem(&self) -> bool {
        self.head.is_none()
    }

    /// Acts on what came; returns the service's work, if there is any.
    async fn event(
        &mut self,
        event: Result<Event, WsError>,
        holding: Option<Arc<dyn ReaderSession>>,
    ) -> Result<Option<BoxFuture<'a, Said>>, Over> {
        let metrics = &self.shared.endpoint.metrics;
        match event {
            Err(WsError::Protocol(why)) => {
                tracing::debug!(why, "WebSocket");
                Err(Over::Close(PROTOCOL, End::PeerGone))
            }
            Err(WsError::Io(_)) => Err(Over::Gone(End::PeerGone)),
            Ok(Event::Pong) => Ok(None),
            Ok(Event::Ping(p)) => match self.writer.send(Op::Pong, &p).await {
                Ok(()) => Ok(None),
                Err(_) => Err(Over::Gone(End::PeerGone)),
            },
            Ok(Event::Close(code)) => {
                // An echo ends the handshake.
                Err(Over::Close(code.filter(|c| *c >= 1000).unwrap_or(NORMAL), End::PeerGone))
            }
            Ok(Event::Message(body, permits)) => {
                Metrics::add(&metrics.requests, 1);
                Metrics::add(&metrics.body_bytes, body.len() as u64);
                Ok(Some(self.ask(body, Charge(permits), holding)))
            }
            Ok(Event::TooBig { prefix, len }) => {
                Metrics::add(&metrics.oversize, 1);
                let Some(mut head) = self.next_head(len) else {
                    return Err(Over::Close(PROTOCOL, End::PeerGone));
                };
                head.length = Some(len);
                let limit = self.shared.endpoint.limits.max_body;
                let prefix = prefix.slice(..prefix.len().min(PREFIX));
                let facts = Oversize { head, limit, prefix };
                let shared = self.shared;
                Ok(Some(Box::pin(async move {
                    let answer = within(shared, shared.service.oversize(facts)).await;
                    Said::Answer(answer.unwrap_or_else(late))
                })))
            }
            Ok(Event::NoRoom) => {
                Metrics::add(&metrics.budget_refusals, 1);
                let why = Answer::Status(500, "Out of memory for bodies".into());
                Ok(Some(Box::pin(async { Said::Answer(why) })))
            }
        }
    }

    fn next_head(&mut self, len: u64) -> Option<RequestHead> {
        let mut head = self.head.clone()?;
        head.length = Some(len);
        head.nth += self.nth;
        self.nth += 1;
        Some(head)
    }

    /// Starts the service on a message.
    fn ask(
        &mut self,
        body: Bytes,
        charge: Charge,
        holding: Option<Arc<dyn ReaderSession>>,
    ) -> BoxFuture<'a, Said> {
        let shared = self.shared;
        let Some(head) = self.next_head(body.len() as u64) else {
            let pem = shared.service.server_pem();
            return Box::pin(async { Said::Answer(Answer::Reply(pem)) });
        };
        let channel = head.channel;
        if let Err(a) = shared.service.admit(&head) {
            return Box::pin(async { Said::Answer(a) });
        }
        let request = Request { head, body, charge };
        Box::pin(async move {
            if let Err(a) = turn(shared, request.body.len()).await {
                return Said::Answer(a);
            }
            if let Some(session) = holding {
                let a = within(shared, session.message(request)).await;
                return Said::Aside(a.unwrap_or_else(late));
            }
            match channel {
                Channel::Control => {
                    let a = within(shared, shared.service.control(request)).await;
                    Said::Answer(a.unwrap_or_else(late))
                }
                Channel::Reader => match within(shared, shared.service.reader(request)).await {
                    None => Said::Answer(late()),
                    Some(ReaderAnswer::Done(a)) => Said::Answer(a),
                    Some(ReaderAnswer::Hold(h)) => Said::Hold(h),
                },
            }
        })
    }

    /// Puts what the service said on the wire.
    async fn say(&mut self, said: Said, held: &mut Option<Held<'a>>) -> Result<(), Over> {
        let reader = self.head.as_ref().is_some_and(|h| h.channel == Channel::Reader);
        match said {
            Said::Hold(Hold { first, pushes, session, .. }) => {
                let gauge = Count::of(&self.shared.endpoint.metrics.held);
                *held = Some(Held { pushes, fate: Fate::new(session), _gauge: gauge });
                match first {
                    Some(body) => self.task(0, body, held).await,
                    None => Ok(()),
                }
            }
            Said::Aside(Answer::Reply(b)) => {
                if b.is_empty() {
                    return Ok(());
                }
                self.frame(Envelope::ok(b)).await.map_err(|()| Over::Gone(End::PeerGone))
            }
            Said::Answer(Answer::Reply(b)) => {
                // A finished poll without a task: no frame, or the client would
                // come back at once.
                if !(reader && b.is_empty()) {
                    self.frame(Envelope::ok(b)).await.map_err(|()| Over::Gone(End::PeerGone))?;
                }
                if reader { Err(Over::Close(NORMAL, End::Ended)) } else { Ok(()) }
            }
            Said::Answer(Answer::Status(code, text)) | Said::Aside(Answer::Status(code, text)) => {
                Err(self.refuse(code, text).await)
            }
            // There is no Location here: the client advances and waits.
            Said::Answer(Answer::Redirect(_)) | Said::Aside(Answer::Redirect(_)) => {
                Err(self.refuse(301, "Moved".into()).await)
            }
        }
    }

    /// Any code but 200 makes the client drop the socket, so we close it too.
    async fn refuse(&mut self, code: u16, text: String) -> Over {
        match self.frame(Envelope::status(code, text)).await {
            Ok(()) => Over::Close(NORMAL, End::Refused),
            Err(()) => Over::Gone(End::PeerGone),
        }
    }

    async fn push(&mut self, push: Push, held: &mut Option<Held<'a>>) -> Result<(), Over> {
        match push {
            Push::Task { seq, body } => self.task(seq, body, held).await,
            Push::End => Err(Over::Close(NORMAL, End::Ended)),
            Push::Leave => Err(Over::Close(GOING_AWAY, End::Ended)),
            Push::Status(code, text) => Err(self.refuse(code, text).await),
            Push::Abort => Err(Over::Gone(End::Aborted)),
        }
    }

    async fn task(
        &mut self,
        seq: u64,
        body: Bytes,
        held: &mut Option<Held<'a>>,
    ) -> Result<(), Over> {
        if let Some(h) = held {
            h.fate.taken(seq);
        }
        self.frame(Envelope::ok(body)).await.map_err(|()| Over::Gone(End::PeerGone))?;
        if let Some(h) = held {
            h.fate.written();
        }
        Ok(())
    }

    /// JSON text in a binary message: what stock clients expect.
    async fn frame(&mut self, e: Envelope) -> Result<(), ()> {
        self.writer.send(Op::Binary, &e.encode()).await.map_err(|_| ())
    }
}

/// Reads until the peer has closed too, so that it sees our last frames.
async fn goodbye(reader: &mut WsReader<ReadHalf<Conn>>, most: Duration) {
    let _ = timeout(most, async {
        while !matches!(reader.next().await, Ok(Event::Close(_)) | Err(_)) {}
    })
    .await;
}

/// The next push to a held reader; waits for ever if there is none.
async fn next_push(held: &mut Option<Held<'_>>) -> Push {
    match held {
        Some(h) => h.pushes.recv().await.unwrap_or(Push::End),
        None => std::future::pending().await,
    }
}
