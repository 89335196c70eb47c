//! A held HTTP reader: status line at once, pads while waiting, one reply.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::body::Wire;
use super::gate::Count;
use super::http::{self, Next};
use super::router::Shared;
use super::service::{End, Hold, Proof, Push, ReaderSession};
use crate::comms::PAD;

/// Input kept while a poll is held; a peer that pipelines more waits.
const MAX_EARLY: usize = 64 << 10;

/// How a held response is delimited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Headers at once, chunked body.
    Streamed,
    /// Everything in one piece with its length: with an HTTP/1.0 hop on the
    /// way, a broken chunked body would reach the client as a clean end.
    Whole,
}

/// Makes sure that the session hears of the end exactly once, and of every task
/// taken, also when the connection's task is cut.
pub(super) struct Fate {
    session: Arc<dyn ReaderSession>,
    in_flight: Option<u64>,
    end: End,
}

impl Fate {
    pub(super) fn new(session: Arc<dyn ReaderSession>) -> Self {
        Self { session, in_flight: None, end: End::Stopping }
    }

    pub(super) fn session(&self) -> Arc<dyn ReaderSession> {
        self.session.clone()
    }

    pub(super) fn taken(&mut self, seq: u64) {
        self.in_flight = Some(seq);
    }

    pub(super) fn written(&mut self) {
        if let Some(seq) = self.in_flight.take() {
            self.session.delivered(seq, Proof::Written);
        }
    }

    pub(super) fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        if let Some(seq) = self.in_flight.take() {
            self.session.delivered(seq, Proof::Lost);
        }
        self.session.ended(self.end);
    }
}

/// What to do next with a held poll.
enum Step {
    Reply(u64, bytes::Bytes),
    Pad,
    Finish(End),
    /// The same, and the connection is closed.
    Leave,
    Abort,
    Gone,
}

/// Serves one held poll to its end.
pub(super) async fn poll(
    shared: &Shared,
    wire: &mut Wire,
    drain: &CancellationToken,
    hold: Hold,
    how: Delivery,
    keep: bool,
) -> Next {
    let Hold { first, mut pushes, deadline, session } = hold;
    let mut fate = Fate::new(session);
    let _held = Count::of(&shared.endpoint.metrics.held);
    let l = &shared.endpoint.limits;
    let next = |keep: bool| if keep { Next::Again } else { Next::Close };
    if let Some(body) = first {
        fate.taken(0);
        if http::reply(shared, wire, &body, keep).await.is_err() {
            fate.end(End::PeerGone);
            return Next::Close;
        }
        fate.written();
        fate.end(End::Replied);
        return next(keep);
    }
    let streamed = how == Delivery::Streamed;
    let now = Instant::now();
    let deadline = if streamed { deadline } else { deadline.min(now + l.sized_poll) };
    if streamed {
        let close = if keep { "" } else { "Connection: close\r\n" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Accel-Buffering: no\r\n{close}Transfer-Encoding: chunked\r\n\r\n"
        );
        if wire.send(head.as_bytes(), l.write_idle).await.is_err() {
            fate.end(End::PeerGone);
            return Next::Close;
        }
    }
    let mut pad_at = now + l.pad_every;
    loop {
        let step = tokio::select! {
            biased;
            p = pushes.recv() => match p {
                Some(Push::Task { seq, body }) => Step::Reply(seq, body),
                Some(Push::Abort) => Step::Abort,
                Some(Push::Leave) => Step::Leave,
                Some(Push::End | Push::Status(..)) | None => Step::Finish(End::Ended),
            },
            () = drain.cancelled() => Step::Finish(End::Stopping),
            n = wire.fill(), if wire.input.len() < MAX_EARLY => match n {
                Ok(1..) => continue,
                _ => Step::Gone,
            },
            () = sleep_until(deadline.min(pad_at)) => {
                if Instant::now() >= deadline {
                    // A task handed over at this very moment still goes.
                    pushes.close();
                    match pushes.try_recv() {
                        Some(Push::Task { seq, body }) => Step::Reply(seq, body),
                        _ => Step::Finish(End::Ended),
                    }
                } else {
                    pad_at += l.pad_every;
                    if streamed { Step::Pad } else { continue }
                }
            }
        };
        match step {
            Step::Pad => {
                if wire.send(&chunk(&PAD, false), l.write_idle).await.is_err() {
                    fate.end(End::PeerGone);
                    return Next::Close;
                }
            }
            Step::Reply(seq, body) => {
                fate.taken(seq);
                let sent = if streamed {
                    wire.send(&chunk(&body, true), l.write_idle).await
                } else {
                    http::reply(shared, wire, &body, keep).await
                };
                if sent.is_err() {
                    fate.end(End::PeerGone);
                    return Next::Close;
                }
                fate.written();
                fate.end(End::Replied);
                return next(keep);
            }
            Step::Finish(end) => {
                let sent = if streamed {
                    wire.send(&chunk(&PAD, true), l.write_idle).await
                } else {
                    http::reply(shared, wire, &PAD, keep).await
                };
                fate.end(if sent.is_ok() { end } else { End::PeerGone });
                return next(keep && sent.is_ok() && end != End::Stopping);
            }
            Step::Leave => {
                let sent = if streamed {
                    wire.send(&chunk(&PAD, true), l.write_idle).await
                } else {
                    http::reply(shared, wire, &PAD, false).await
                };
                fate.end(if sent.is_ok() { End::Ended } else { End::PeerGone });
                return Next::Close;
            }
            Step::Abort => {
                fate.end(End::Aborted);
                return Next::Close;
            }
            Step::Gone => {
                fate.end(End::PeerGone);
                return Next::Close;
            }
        }
    }
}

/// One chunk of a chunked body, perhaps with the end behind it.
fn chunk(data: &[u8], last: bool) -> BytesMut {
    let mut out = BytesMut::with_capacity(data.len() + 20);
    // A chunk of no bytes would be the end.
    if !data.is_empty() {
        out.put_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.put_slice(data);
        out.put_slice(b"\r\n");
    }
    if last {
        out.put_slice(b"0\r\n\r\n");
    }
    out
}
