//! WebSocket posts: one socket per URL, opened when first used.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::dial::{Dialer, url_authority};
use crate::comms::ws::{Envelope, Event, Op, Role, WsReader, WsWriter, accept_key, new_key};
use crate::env::Conn;

/// Frames kept for posts to come; a server that pushes more waits.
const AHEAD: usize = 32;
/// Longest answer to the handshake, bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest time the server may take none of our bytes.
const WRITE_IDLE: Duration = Duration::from_secs(60);

type Writer = Arc<AsyncMutex<WsWriter<WriteHalf<Conn>>>>;
type Frames = mpsc::Receiver<io::Result<Envelope>>;

/// An open socket. Dropping it closes the connection.
struct Open {
    writer: Writer,
    frames: Frames,
    _stop: DropGuard,
}

type Slot = Arc<AsyncMutex<Option<Open>>>;

#[derive(Default)]
pub(super) struct Sockets(Mutex<BTreeMap<String, Slot>>);

impl Sockets {
    fn slot(&self, url: &str) -> Slot {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(url.to_owned()).or_default().clone()
    }

    /// Closes every socket but those of `base`.
    pub(super) fn keep_only(&self, base: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|url, _| url.starts_with(base));
    }

    /// Sends a message and waits for the next frame. Any outcome but a 200
    /// closes the socket, and so does dropping the future.
    ///
    /// `frames_ahead`: frames may have come unasked (a reader's tasks); they
    /// answer the posts to come. Otherwise such a frame spoils the socket.
    pub(super) async fn exchange(
        &self,
        dialer: &Arc<Dialer>,
        url: &str,
        body: &[u8],
        frames_ahead: bool,
        heard: impl Fn() + Send + Sync + 'static + Clone,
    ) -> io::Result<Envelope> {
        let slot = self.slot(url);
        let mut slot = slot.lock().await;
        let mut ready = None;
        let mut open = match slot.take() {
            Some(mut open) => match open.frames.try_recv() {
                Err(TryRecvError::Empty) => Some(open),
                Ok(Ok(e)) if frames_ahead => {
                    ready = Some(e);
                    Some(open)
                }
                _ => None,
            },
            None => None,
        };
        let mut open = match open.take() {
            Some(o) => o,
            None => open_socket(dialer, url, heard).await?,
        };
        open.writer.lock().await.send(Op::Binary, body).await?;
        let envelope = match ready {
            Some(e) => e,
            None => match open.frames.recv().await {
                Some(e) => e?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
        };
        if envelope.code == 200 {
            *slot = Some(open);
        }
        Ok(envelope)
    }
}

async fn open_socket(
    dialer: &Arc<Dialer>,
    url: &str,
    heard: impl Fn() + Send + Sync + 'static,
) -> io::Result<Open> {
    let url = Url::parse(url).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let mut io = dialer.dial(&url).await?.io;
    let input =
        timeout(dialer.config.connection_timeout, handshake(dialer, &mut io, &url)).await??;
    let (r, w) = tokio::io::split(io);
    let writer = WsWriter::client(w, WRITE_IDLE, dialer.env.entropy.clone());
    let writer = Arc::new(AsyncMutex::new(writer));
    let reader = WsReader::new(r, Role::Server, input, dialer.config.max_response, None);
    let (tx, frames) = mpsc::channel(AHEAD);
    let stop = CancellationToken::new();
    let ping = dialer.config.ws_ping_wait;
    let work = pump(reader, writer.clone(), tx, ping + ping / 10, heard);
    let stopped = stop.clone();
    dialer.env.spawn(async move {
        tokio::select! {
            biased;
            () = stopped.cancelled() => {}
            () = work => {}
        }
    });
    Ok(Open { writer, frames, _stop: stop.drop_guard() })
}

/// Reads frames and answers pings until the socket ends; the reason is the last
/// thing sent.
async fn pump(
    mut reader: WsReader<ReadHalf<Conn>>,
    writer: Writer,
    frames: mpsc::Sender<io::Result<Envelope>>,
    silence: Duration,
    heard: impl Fn(),
) {
    let end = loop {
        let dead = reader.heard() + silence;
        let event = tokio::select! {
            biased;
            e = reader.next() => e,
            () = sleep_until(dead) => break io::ErrorKind::TimedOut.into(),
        };
        heard();
        match event {
            Err(e) => break io::Error::other(e),
            Ok(Event::Message(text, _)) => {
                // Text that is no envelope counts as 503, as in stock clients.
                let e = Envelope::decode(&text)
                    .unwrap_or_else(|e| Envelope::status(503, e.to_string()));
                if frames.send(Ok(e)).await.is_err() {
                    return;
                }
                reader.touch();
            }
            Ok(Event::TooBig { len, .. }) => {
                break io::Error::other(format!("server message of {len} bytes"));
            }
            Ok(Event::Ping(payload)) => {
                if let Err(e) = writer.lock().await.send(Op::Pong, &payload).await {
                    break e;
                }
            }
            Ok(Event::Pong | Event::NoRoom) => {}
            Ok(Event::Close(code)) => {
                let _ = writer.lock().await.close(code.unwrap_or(1000)).await;
                break io::Error::other(format!("server closed the socket ({code:?})"));
            }
        }
    };
    let _ = frames.send(Err(end)).await;
}

/// The HTTP upgrade; returns what came behind it.
async fn handshake(dialer: &Dialer, io: &mut Conn, url: &Url) -> io::Result<BytesMut> {
    let mut random = [0; 16];
    dialer.env.entropy.fill(&mut random);
    let key = new_key(random);
    let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
    let request = format!(
        "GET {}{query} HTTP/1.1\r\nHost: {}\r\nUser-Agent: Velociraptor\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        url.path(),
        url_authority(url)?
    );
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut head = BytesMut::new();
    let size = loop {
        if let Some(i) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break i + 4;
        }
        if head.len() > MAX_HEAD {
            return Err(io::Error::other("handshake answer is too long"));
        }
        if io.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let rest = head.split_off(size);
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(&head).map_err(io::Error::other)?;
    if answer.code != Some(101) {
        let code = answer.code.unwrap_or_default();
        return Err(io::Error::other(format!("handshake answered by status {code}")));
    }
    let want = accept_key(&key);
    let accepted = answer.headers.iter().any(|h| {
        h.name.eq_ignore_ascii_case("sec-websocket-accept")
            && h.value.trim_ascii() == want.as_bytes()
    });
    if !accepted {
        return Err(io::Error::other("handshake answer does not match our key"));
    }
    Ok(rest)
}

/// Fetches `server.pem` over a socket of its own.
pub(super) async fn fetch_pem(dialer: &Arc<Dialer>, url: &str) -> io::Result<Bytes> {
    let mut open = open_socket(dialer, url, || {}).await?;
    open.writer.lock().await.send(Op::Binary, b"").await?;
    let limit = dialer.config.connection_timeout;
    match timeout(limit, open.frames.recv()).await? {
        Some(Ok(e)) if e.code == 200 => Ok(e.data),
        Some(Ok(e)) => Err(io::Error::other(format!("status {} {}", e.code, e.err))),
        Some(Err(e)) => Err(e),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
