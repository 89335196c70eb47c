//! The interface to the policy above the wire.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use rustls::pki_types::CertificateDer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::pushes::Pushes;
use crate::comms::Channel;

/// How a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP request and response.
    Http,
    /// A message on a WebSocket.
    Ws,
}

/// What is known of a request before its body is read.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Which endpoint.
    pub channel: Channel,
    /// How it arrived.
    pub transport: Transport,
    /// The peer as `ip:port`, or the value of the configured proxy header,
    /// verbatim.
    pub remote: String,
    /// `X-Priority: urgent` was present (never on WebSocket). A hint from an
    /// unauthenticated peer: bound what it may bypass.
    pub urgent: bool,
    /// The client follows an earlier redirect (`?r=1`).
    pub redirected: bool,
    /// Number of the TCP connection, unique on its listener.
    pub connection: u64,
    /// 0 for the first request (or message) of the connection. A later one
    /// shows that the client has read the whole of the previous answer, unless
    /// a proxy stands between.
    pub nth: u64,
    /// `User-Agent`, empty if absent.
    pub user_agent: String,
    /// Declared body length in bytes, if any.
    pub length: Option<u64>,
    /// Leaf certificate of the TLS client, if it showed one that verified.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Bytes of the ingest budget held for a body; freed on drop. Keep it as long
/// as the body (or what is made of it) is in memory.
#[derive(Debug, Default)]
pub struct Charge(pub(super) Vec<OwnedSemaphorePermit>);

impl Charge {
    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|p| p.num_permits() as u64).sum()
    }

    /// Gives back all but `n` bytes.
    pub(super) fn keep(&mut self, n: u64) {
        let mut excess = self.bytes().saturating_sub(n);
        while excess > 0 {
            let Some(last) = self.0.last_mut() else { return };
            let held = last.num_permits() as u64;
            if held > excess {
                drop(last.split(excess as usize));
                return;
            }
            self.0.pop();
            excess -= held;
        }
    }
}

/// One client message.
#[derive(Debug)]
pub struct Request {
    /// What was known before the body.
    pub head: RequestHead,
    /// The opaque envelope.
    pub body: Bytes,
    /// Its share of the ingest budget.
    pub charge: Charge,
}

/// What to tell the client. How stock agents react:
///
/// | answer | agent |
/// |---|---|
/// | `Reply` | batch committed |
/// | 400 | batch dropped for ever: only after quarantine |
/// | 406 | sends a CSR; batch dropped |
/// | 408, 503 | three immediate attempts in all, then as other |
/// | other codes | next URL, fetches `server.pem` again, waits 60–90 s, resends |
/// | `Redirect` | resends to that base URL at once (HTTP; on WebSocket as "other") |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with a body (may be empty). Everything received is durable.
    Reply(Bytes),
    /// A status other than 200, with a text for logs.
    Status(u16, String),
    /// 301 to another base URL, which must end in `/`.
    Redirect(String),
}

/// What to tell a reader.
pub enum ReaderAnswer {
    /// Refuse or redirect. `Reply` ends the poll with that body (on WebSocket a
    /// non-empty one is sent as a frame and the socket is then closed).
    Done(Answer),
    /// Keep the client waiting for tasks. What it sent is durable.
    Hold(Hold),
}

/// A held reader.
pub struct Hold {
    /// Tasks known already; sent at once, as sequence number 0.
    pub first: Option<Bytes>,
    /// What to send later. When all senders are gone it ends like [`Push::End`].
    pub pushes: Pushes,
    /// When an HTTP poll ends with a pad. Ignored for WebSocket.
    pub deadline: Instant,
    /// Told what became of it.
    pub session: Arc<dyn ReaderSession>,
}

/// An instruction to a held reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// Send this envelope. HTTP: ends the poll. WebSocket: one frame.
    Task {
        /// Chosen by the service, returned in [`ReaderSession::delivered`].
        seq: u64,
        /// The envelope.
        body: Bytes,
    },
    /// End without a task. HTTP: pad and clean end. WebSocket: close.
    End,
    /// End without a task, and close the connection also over HTTP, so that the
    /// client's next one may go to another frontend.
    Leave,
    /// WebSocket: send this status as a frame, then close. HTTP: like `End`,
    /// since the status line is out.
    Status(u16, String),
    /// Break the connection without a clean end. A stock agent keeps its data
    /// and comes back after 60–90 s without rotating.
    Abort,
}

/// How far a task frame got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every byte of it, and for HTTP the clean end of the body, was taken by
    /// the local socket. Not yet receipt by the client.
    Written,
    /// It was not, or not wholly, written: the client cannot have decoded it
    /// over HTTP with an intact connection; over WebSocket likewise.
    Lost,
}

/// Why a held reader is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// HTTP: one reply, clean end.
    Replied,
    /// HTTP deadline, or `Push::End`, or all senders gone.
    Ended,
    /// `Push::Status` was sent.
    Refused,
    /// `Push::Abort`.
    Aborted,
    /// The client closed, or its connection failed or fell silent.
    PeerGone,
    /// This process is stopping.
    Stopping,
}

/// Receives the fate of a held reader.
pub trait ReaderSession: Send + Sync {
    /// Called once per `first` (sequence 0) or [`Push::Task`] taken from the
    /// channel. Tasks still in the channel at the end get no call.
    fn delivered(&self, seq: u64, proof: Proof);

    /// A later message on a WebSocket reader (HTTP never calls this). An empty
    /// `Reply` sends nothing, since any frame would be taken as the answer to
    /// the next check-in; a non-empty one is sent as a task frame; a status is
    /// sent and closes the socket.
    fn message(&self, request: Request) -> BoxFuture<'_, Answer>;

    /// Called exactly once, last.
    fn ended(&self, end: End);
}

/// A body that is over the limit, seen by its beginning.
#[derive(Clone, Debug)]
pub struct Oversize {
    /// The request.
    pub head: RequestHead,
    /// The limit it broke, bytes.
    pub limit: u64,
    /// Its first bytes, for quarantine.
    pub prefix: Bytes,
}

/// A file of the unauthenticated `public` directory.
pub struct PublicFile {
    /// Name for `Content-Disposition`.
    pub name: String,
    /// Exact length in bytes.
    pub len: u64,
    /// The bytes; an error or a wrong total breaks the connection.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

/// Policy for one frontend's clients. Every future may be dropped (deadline,
/// shutdown); what it had begun may still take effect.
pub trait ClientService: Send + Sync + 'static {
    /// PEM text of the comms certificate.
    fn server_pem(&self) -> Bytes;

    /// Whether `/healthz` says 200; the error is shown to the caller.
    fn health(&self) -> Result<(), String>;

    /// Whether clients are sent to other frontends: a healthy `/healthz` says 404 then.
    fn draining(&self) -> bool {
        false
    }

    /// Asked before a body is read, so that shedding is cheap.
    fn admit(&self, _head: &RequestHead) -> Result<(), Answer> {
        Ok(())
    }

    /// Handles results. Whatever a `Reply` acknowledges must be durable.
    fn control(&self, request: Request) -> BoxFuture<'_, Answer>;

    /// Handles a check-in. Whatever it carried must be durable on return.
    fn reader(&self, request: Request) -> BoxFuture<'_, ReaderAnswer>;

    /// A body over the limit. The default makes the client drop it, without
    /// which it would resend for ever.
    fn oversize(&self, body: Oversize) -> BoxFuture<'_, Answer> {
        let text = format!("Body is larger than {} bytes", body.limit);
        Box::pin(async move { Answer::Status(400, text) })
    }

    /// A file below `/public/`, by decoded path components (never empty, `.`,
    /// `..`, nor containing `/` or NUL).
    fn public_file<'a>(&'a self, path: &'a [String]) -> BoxFuture<'a, Option<PublicFile>>;
}
