//! One client connection: HTTP/1.1 requests in turn, or an upgrade.
//!
//! Written here rather than on a general server, because acknowledgement hangs
//! on details: when the status line leaves, that a broken body is never closed
//! cleanly, that an early answer is not lost to a reset, and that tens of
//! thousands of waiting connections hold no buffers.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::accept::Accepted;
use super::body::{self, BodyError, Wire};
use super::head::{self, Framing, Head};
use super::hold::{self, Delivery};
use super::limits::Metrics;
use super::router::{Route, Shared, route};
use super::service::{Answer, Oversize, PublicFile, ReaderAnswer, Request, RequestHead, Transport};
use super::socket;
use crate::comms::Channel;

const TEXT: &str = "text/plain; charset=utf-8";

/// What happens to the connection after an exchange.
pub(super) enum Next {
    Again,
    /// Close after draining input, which may still be arriving.
    Linger,
    Close,
    Upgrade(Option<RequestHead>),
}

/// Facts of a connection.
pub(super) struct Origin {
    pub id: u64,
    pub peer: String,
    pub certificate: Option<rustls::pki_types::CertificateDer<'static>>,
    pub drain: CancellationToken,
}

pub(super) async fn connection(shared: Arc<Shared>, conn: Accepted) {
    let Accepted { io, peer, id, certificate, drain, .. } = conn;
    let origin = Origin { id, peer: peer.to_string(), certificate, drain };
    let mut wire = Wire::new(io);
    let mut nth = 0;
    loop {
        let head = match next_head(&shared, &mut wire, &origin.drain, nth).await {
            Ok(Some(h)) => h,
            Ok(None) => return,
            Err(head::HeadError(status, text)) => {
                let _ =
                    respond(&shared, &mut wire, &Answer::Status(status, text.into()), false).await;
                return wire.linger(shared.endpoint.limits.linger).await;
            }
        };
        wire.relax();
        Metrics::add(&shared.endpoint.metrics.requests, 1);
        // Boxed: the idle state of a connection stays small.
        match Box::pin(exchange(&shared, &mut wire, &origin, head, nth)).await {
            Next::Again => nth += 1,
            Next::Close => return,
            Next::Linger => return wire.linger(shared.endpoint.limits.linger).await,
            Next::Upgrade(head) => {
                return Box::pin(socket::run(&shared, wire, origin.drain, head)).await;
            }
        }
    }
}

/// The next request head; `None` when the connection is over.
async fn next_head(
    shared: &Shared,
    wire: &mut Wire,
    drain: &CancellationToken,
    nth: u64,
) -> Result<Option<Head>, head::HeadError> {
    let l = &shared.endpoint.limits;
    let idle_end = Instant::now() + if nth == 0 { l.read_idle } else { l.keep_alive };
    let mut end = idle_end;
    let mut begun = false;
    loop {
        if !wire.input.is_empty() {
            if let Some(h) = head::take(&mut wire.input, shared.endpoint.proxy_header.as_deref())? {
                return Ok(Some(h));
            }
            if !begun && !wire.input.is_empty() {
                begun = true;
                end = Instant::now() + l.read_idle;
            }
        }
        tokio::select! {
            biased;
            n = wire.fill() => if !matches!(n, Ok(1..)) { return Ok(None) },
            () = drain.cancelled(), if !begun => return Ok(None),
            () = sleep_until(end) => return Ok(None),
        }
    }
}

async fn exchange(
    shared: &Arc<Shared>,
    wire: &mut Wire,
    origin: &Origin,
    head: Head,
    nth: u64,
) -> Next {
    let e = &shared.endpoint;
    let empty_body = head.framing == Framing::Sized(0);
    let keep = head.keep_alive && !origin.drain.is_cancelled();
    let simple = |sent: std::io::Result<()>| match sent {
        Err(_) => Next::Close,
        Ok(()) if !empty_body => Next::Linger,
        Ok(()) if keep => Next::Again,
        Ok(()) => Next::Close,
    };
    // A body nobody reads cannot be followed by another request.
    let keep_simple = keep && empty_body;
    match route(&e.base_path, &head.path) {
        None => {
            let a = Answer::Status(404, "Not found".into());
            simple(respond(shared, wire, &a, keep_simple).await)
        }
        Some(Route::ServerPem) if head.websocket.is_some() => {
            upgrade(shared, wire, &head, None).await
        }
        Some(Route::ServerPem) => {
            let pem = shared.service.server_pem();
            let body = if head.head_only { &[][..] } else { &pem[..] };
            simple(send(shared, wire, 200, TEXT, "", pem.len() as u64, body, keep_simple).await)
        }
        Some(Route::Health) => {
            let (status, text) = match shared.service.health() {
                // To HAProxy (`http-check disable-on-404`): no new clients, those that
                // are there stay. To all others: not healthy.
                Ok(()) if shared.service.draining() => (404, "draining\n".to_owned()),
                Ok(()) => (200, String::new()),
                Err(why) => (503, why + "\n"),
            };
            let body = if head.head_only { "" } else { &text };
            let len = text.len() as u64;
            simple(send(shared, wire, status, TEXT, "", len, body.as_bytes(), keep_simple).await)
        }
        Some(Route::Public(path)) => {
            let file = if head.get || head.head_only {
                within(shared, shared.service.public_file(&path)).await
            } else {
                Some(None)
            };
            match file {
                None => simple(respond(shared, wire, &late(), keep_simple).await),
                Some(Some(f)) => public(shared, wire, f, head.head_only, keep_simple, simple).await,
                Some(None) => {
                    let a = Answer::Status(404, "Not found".into());
                    simple(respond(shared, wire, &a, keep_simple).await)
                }
            }
        }
        Some(Route::Post(channel)) => {
            let request = request_head(&head, origin, channel, nth);
            if head.websocket.is_some() {
                return upgrade(shared, wire, &head, Some(request)).await;
            }
            post(shared, wire, origin, head, request).await
        }
    }
}

fn request_head(head: &Head, origin: &Origin, channel: Channel, nth: u64) -> RequestHead {
    RequestHead {
        channel,
        transport: if head.websocket.is_some() { Transport::Ws } else { Transport::Http },
        remote: head.forwarded.clone().unwrap_or_else(|| origin.peer.clone()),
        urgent: head.urgent,
        redirected: head.query.split('&').any(|p| p == "r=1"),
        connection: origin.id,
        nth,
        user_agent: head.user_agent.clone(),
        length: match head.framing {
            Framing::Sized(n) => Some(n),
            Framing::Chunked => None,
        },
        certificate: origin.certificate.clone(),
    }
}

async fn post(
    shared: &Arc<Shared>,
    wire: &mut Wire,
    origin: &Origin,
    head: Head,
    request: RequestHead,
) -> Next {
    let e = &shared.endpoint;
    let refuse = async |wire: &mut Wire, a: Answer| match respond(shared, wire, &a, false).await {
        Ok(()) => Next::Linger,
        Err(_) => Next::Close,
    };
    if let Err(answer) = shared.service.admit(&request) {
        return refuse(wire, answer).await;
    }
    if head.expect_continue
        && wire.send(b"HTTP/1.1 100 Continue\r\n\r\n", e.limits.write_idle).await.is_err()
    {
        return Next::Close;
    }
    let (body, charge) = match body::read(wire, head.framing, &e.limits, &shared.budget).await {
        Ok(b) => b,
        Err(BodyError::Io(_)) => return Next::Close,
        Err(BodyError::Malformed) => {
            return refuse(wire, Answer::Status(500, "Malformed body".into())).await;
        }
        Err(BodyError::Budget) => {
            Metrics::add(&e.metrics.budget_refusals, 1);
            return refuse(wire, Answer::Status(500, "Out of memory for bodies".into())).await;
        }
        Err(BodyError::Oversize(prefix)) => {
            Metrics::add(&e.metrics.oversize, 1);
            let facts = Oversize { head: request, limit: e.limits.max_body, prefix };
            let answer = within(shared, shared.service.oversize(facts)).await;
            return refuse(wire, answer.unwrap_or_else(late)).await;
        }
    };
    wire.relax();
    Metrics::add(&e.metrics.body_bytes, body.len() as u64);
    let keep = head.keep_alive && !origin.drain.is_cancelled();
    if let Err(answer) = turn(shared, body.len()).await {
        return match respond(shared, wire, &answer, keep).await {
            Ok(()) if keep => Next::Again,
            _ => Next::Close,
        };
    }
    let channel = request.channel;
    let request = Request { head: request, body, charge };
    let keep = head.keep_alive && !origin.drain.is_cancelled();
    let answer = match channel {
        Channel::Control => within(shared, shared.service.control(request)).await,
        Channel::Reader => match within(shared, shared.service.reader(request)).await {
            None => None,
            Some(ReaderAnswer::Done(a)) => Some(a),
            Some(ReaderAnswer::Hold(h)) => {
                let how = if head.old_hop { Delivery::Whole } else { Delivery::Streamed };
                return hold::poll(shared, wire, &origin.drain, h, how, keep).await;
            }
        },
    };
    let keep = keep && !origin.drain.is_cancelled();
    match respond(shared, wire, &answer.unwrap_or_else(late), keep).await {
        Ok(()) if keep => Next::Again,
        _ => Next::Close,
    }
}

/// The service's answer within its deadline.
pub(super) async fn within<T>(shared: &Shared, work: impl Future<Output = T>) -> Option<T> {
    let r = timeout(shared.endpoint.limits.service, work).await.ok();
    if r.is_none() {
        Metrics::add(&shared.endpoint.metrics.service_timeouts, 1);
    }
    r
}

/// Waits until a body of `len` bytes may go on under the upload rate. The wait
/// holds back a stock agent's only sender.
pub(super) async fn turn(shared: &Shared, len: usize) -> Result<(), Answer> {
    let l = &shared.endpoint.limits;
    if len as u64 <= body::FREE {
        return Ok(());
    }
    match shared.pacer.reserve(len as u64, l.budget_wait) {
        Some(wait) => {
            shared.endpoint.metrics.rate.wait(wait).await;
            Ok(())
        }
        None => {
            shared.endpoint.metrics.rate.refuse();
            Err(Answer::Status(500, "Over the upload rate".into()))
        }
    }
}

/// The answer when the service did not give one: a stock agent keeps its data,
/// tries once, rotates and waits.
pub(super) fn late() -> Answer {
    Answer::Status(500, "Not finished in time".into())
}

/// Sends a whole answer.
async fn respond(
    shared: &Shared,
    wire: &mut Wire,
    answer: &Answer,
    keep: bool,
) -> std::io::Result<()> {
    match answer {
        Answer::Reply(b) => reply(shared, wire, b, keep).await,
        Answer::Status(code, text) => {
            // 101 would promise another protocol, 204 and 304 have no body; a
            // policy that asks for them made a mistake.
            let code = if (200..=599).contains(code) { *code } else { 500 };
            let text = format!("{text}\n");
            let len = text.len() as u64;
            send(shared, wire, code, TEXT, "", len, text.as_bytes(), keep).await
        }
        Answer::Redirect(url) => {
            let clean: String = url.chars().filter(|c| c.is_ascii_graphic()).collect();
            let location = format!("Location: {clean}\r\n");
            send(shared, wire, 301, TEXT, &location, 0, b"", keep).await
        }
    }
}

/// 200 with an envelope.
pub(super) async fn reply(
    shared: &Shared,
    wire: &mut Wire,
    body: &[u8],
    keep: bool,
) -> std::io::Result<()> {
    send(shared, wire, 200, TEXT, "X-Accel-Buffering: no\r\n", body.len() as u64, body, keep).await
}

#[allow(clippy::too_many_arguments)]
async fn send(
    shared: &Shared,
    wire: &mut Wire,
    status: u16,
    mime: &str,
    extra: &str,
    len: u64,
    body: &[u8],
    keep: bool,
) -> std::io::Result<()> {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    let close = if keep { "" } else { "Connection: close\r\n" };
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {mime}\r\n{extra}{close}Content-Length: {len}\r\n\r\n",
        reason.unwrap_or("Status")
    );
    // One write for small answers: one packet, one TLS record.
    let mut out = BytesMut::with_capacity(head.len() + body.len().min(64 << 10));
    out.put_slice(head.as_bytes());
    let idle = shared.endpoint.limits.write_idle;
    if body.len() <= 64 << 10 {
        out.put_slice(body);
        wire.send(&out, idle).await
    } else {
        wire.send(&out, idle).await?;
        wire.send(body, idle).await
    }
}

async fn public(
    shared: &Shared,
    wire: &mut Wire,
    file: PublicFile,
    head_only: bool,
    keep: bool,
    simple: impl FnOnce(std::io::Result<()>) -> Next,
) -> Next {
    let PublicFile { name, len, mut body } = file;
    let clean: String =
        name.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { '_' }).collect();
    let extra = format!("Content-Disposition: attachment; filename=\"{clean}\"\r\n");
    let mime = "binary/octet-stream";
    if let Err(e) = send(shared, wire, 200, mime, &extra, len, b"", keep).await {
        return simple(Err(e));
    }
    if head_only {
        return simple(Ok(()));
    }
    let mut left = len;
    loop {
        let piece: Bytes = match within(shared, body.next()).await {
            Some(None) => break,
            Some(Some(Ok(p))) if p.len() as u64 <= left => p,
            // The length is promised: anything else, or a stalled store, breaks
            // the connection.
            _ => return Next::Close,
        };
        left -= piece.len() as u64;
        if wire.send(&piece, shared.endpoint.limits.write_idle).await.is_err() {
            return Next::Close;
        }
    }
    if left > 0 {
        return Next::Close;
    }
    simple(Ok(()))
}

async fn upgrade(
    shared: &Shared,
    wire: &mut Wire,
    head: &Head,
    request: Option<RequestHead>,
) -> Next {
    let key = head.websocket.as_deref().unwrap_or_default();
    let text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        crate::comms::ws::accept_key(key)
    );
    match wire.send(text.as_bytes(), shared.endpoint.limits.write_idle).await {
        Ok(()) => Next::Upgrade(request),
        Err(_) => Next::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tens of thousands of these wait at once: what each holds besides its
    /// socket and TLS state is counted here, in bytes.
    #[test]
    fn waiting_connections_are_small() {
        fn size<A, B, C, R>(_: impl Fn(A, B) -> C, _: impl Fn(C) -> R) -> usize {
            size_of::<C>()
        }
        let idle = size(connection, |_| ());
        assert!(idle <= 1500, "idle connection: {idle}");
    }
}
