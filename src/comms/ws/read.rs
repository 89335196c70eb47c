//! Reading WebSocket frames: messages reassembled within limits.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::frame::{Header, Op, Role, mask};

/// How much of a message that is not kept is shown.
const PREFIX: usize = 64 << 10;

/// What came.
#[derive(Debug)]
pub enum Event {
    /// A whole text or binary message, with its share of the budget.
    Message(Bytes, Vec<OwnedSemaphorePermit>),
    /// A message over the limit, read to its end but not kept.
    TooBig {
        /// Its first bytes.
        prefix: Bytes,
        /// Its length in bytes.
        len: u64,
    },
    /// A message for which the budget had no room in time; not kept.
    NoRoom,
    /// Answer with a pong of the same payload.
    Ping(Bytes),
    /// An answer to a ping.
    Pong,
    /// The peer closes, with its code.
    Close(Option<u16>),
}

/// Why a socket is over.
#[derive(Debug, thiserror::Error)]
pub enum WsError {
    /// The connection failed or ended without a close frame.
    #[error("WebSocket: {0}")]
    Io(#[from] io::Error),
    /// The peer broke the framing rules.
    #[error("WebSocket protocol: {0}")]
    Protocol(&'static str),
}

/// Charging of assembled bytes to a shared budget.
#[derive(Clone, Debug)]
pub struct Charging {
    /// The budget, in bytes.
    pub budget: Arc<Semaphore>,
    /// Its whole size.
    pub all: u32,
    /// Bytes of a message that are free.
    pub free: u64,
    /// Largest size of one charge.
    pub step: u64,
    /// Longest wait for a charge.
    pub wait: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    TooBig,
    NoRoom,
}

/// The message being assembled.
struct Partial {
    data: BytesMut,
    total: u64,
    keep: Keep,
    charged: u64,
    permits: Vec<OwnedSemaphorePermit>,
    begun: Instant,
}

/// The reading side of a socket. Holds no buffer while idle.
pub struct WsReader<R> {
    io: R,
    from: Role,
    max: u64,
    charging: Option<Charging>,
    input: BytesMut,
    /// The data frame being read: what is left, and how far it is.
    frame: Option<(Header, u64)>,
    message: Option<Partial>,
    heard: Instant,
}

impl<R: AsyncRead + Unpin> WsReader<R> {
    /// Reads frames sent by a `from`; `input` is what was read already. Data
    /// messages over `max` bytes are skipped.
    pub fn new(io: R, from: Role, input: BytesMut, max: u64, charging: Option<Charging>) -> Self {
        let heard = Instant::now();
        Self { io, from, max, charging, input, frame: None, message: None, heard }
    }

    /// When bytes last came.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Counts as having heard from the peer, after a time without reading.
    pub fn touch(&mut self) {
        self.heard = Instant::now();
    }

    /// When the message being assembled began.
    pub fn begun(&self) -> Option<Instant> {
        self.message.as_ref().map(|m| m.begun)
    }

    /// The next event. May be dropped at any time without loss.
    pub async fn next(&mut self) -> Result<Event, WsError> {
        loop {
            if let Some(e) = self.step().map_err(WsError::Protocol)? {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                return Ok(e);
            }
            self.charge().await;
            self.fill().await?;
        }
    }

    /// Makes sure that what may be assembled next is paid for.
    async fn charge(&mut self) {
        let (Some(c), Some(m)) = (&self.charging, &mut self.message) else { return };
        if m.keep != Keep::Yes || m.data.len() as u64 + (8 << 10) <= c.free.max(m.charged) {
            return;
        }
        let held: usize = m.permits.iter().map(|p| p.num_permits()).sum();
        let room = u64::from(c.all).saturating_sub(held as u64);
        // In proportion to what has come: who trickles takes little.
        let step = (m.data.len() as u64).clamp(c.free.min(c.step), c.step);
        let n = u32::try_from(step.min(room)).unwrap_or(u32::MAX);
        match timeout(c.wait, c.budget.clone().acquire_many_owned(n)).await {
            Ok(Ok(p)) => {
                m.permits.push(p);
                m.charged = c.free.max(m.charged) + step;
            }
            _ => {
                m.keep = Keep::NoRoom;
                m.data = BytesMut::new();
                m.permits.clear();
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let n = poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); 8 << 10];
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                Poll::Ready(Ok(())) => {
                    self.input.extend_from_slice(buf.filled());
                    Poll::Ready(Ok(buf.filled().len()))
                }
            }
        })
        .await?;
        self.heard = Instant::now();
        if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// One event out of the input, if it holds one.
    fn step(&mut self) -> Result<Option<Event>, &'static str> {
        loop {
            let Some((header, mut pos)) = self.frame else {
                let Some((h, size)) = Header::parse(&self.input, self.from)? else {
                    return Ok(None);
                };
                if h.op.is_control() {
                    let whole = size + h.len as usize;
                    if self.input.len() < whole {
                        return Ok(None);
                    }
                    self.input.advance(size);
                    let mut payload = self.input.split_to(h.len as usize);
                    if let Some(k) = h.mask {
                        mask(&mut payload, k, 0);
                    }
                    return Ok(Some(match h.op {
                        Op::Ping => Event::Ping(payload.freeze()),
                        Op::Pong => Event::Pong,
                        _ => {
                            Event::Close(payload.first_chunk::<2>().map(|c| u16::from_be_bytes(*c)))
                        }
                    }));
                }
                match (h.op, &self.message) {
                    (Op::Continue, None) => return Err("continuation of nothing"),
                    (Op::Text | Op::Binary, Some(_)) => return Err("message within a message"),
                    (Op::Continue, Some(_)) => {}
                    _ => {
                        self.message = Some(Partial {
                            data: BytesMut::new(),
                            total: 0,
                            keep: Keep::Yes,
                            charged: 0,
                            permits: Vec::new(),
                            begun: Instant::now(),
                        });
                    }
                }
                self.input.advance(size);
                self.frame = Some((h, 0));
                continue;
            };
            let Some(m) = &mut self.message else { return Err("frame without a message") };
            let n = usize::try_from(header.len - pos).unwrap_or(usize::MAX).min(self.input.len());
            let mut piece = self.input.split_to(n);
            if let Some(k) = header.mask {
                mask(&mut piece, k, pos);
            }
            pos += n as u64;
            m.total = m.total.saturating_add(n as u64);
            if m.total > self.max && m.keep == Keep::Yes {
                m.keep = Keep::TooBig;
                m.permits.clear();
                m.data.truncate(PREFIX);
                m.data = BytesMut::from(&m.data[..]);
            }
            match m.keep {
                Keep::Yes => m.data.extend_from_slice(&piece),
                Keep::TooBig => {
                    let room = PREFIX.saturating_sub(m.data.len()).min(piece.len());
                    m.data.extend_from_slice(&piece[..room]);
                }
                Keep::NoRoom => {}
            }
            if pos < header.len {
                self.frame = Some((header, pos));
                return Ok(None);
            }
            self.frame = None;
            if !header.fin {
                continue;
            }
            let Some(m) = self.message.take() else { continue };
            return Ok(Some(match m.keep {
                Keep::Yes => Event::Message(m.data.freeze(), m.permits),
                Keep::TooBig => Event::TooBig { prefix: m.data.freeze(), len: m.total },
                Keep::NoRoom => Event::NoRoom,
            }));
        }
    }
}
