//! A connection's bytes, and request bodies read within a byte budget.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::head::Framing;
use super::limits::HttpLimits;
use super::service::Charge;
use crate::env::Conn;

/// Bodies up to this are not charged: check-ins and statuses must not queue
/// behind uploads. Bounded by the number of connections.
pub(super) const FREE: u64 = 16 << 10;
/// A body is charged in full only once so much of it has come.
const FIRST: u64 = 64 << 10;
/// How much of an oversize body is kept for quarantine.
pub(super) const PREFIX: usize = 64 << 10;
/// Largest step of charges when the length is not known.
pub(super) const STEP: u64 = 256 << 10;
/// A body that comes more slowly than this, bytes a second, is not charged in full:
/// who sends slowly takes room for what it has sent, and not for what it may send.
const PACE: u64 = 16 << 10;
/// How often it is looked whether a body keeps that pace.
const PACE_EVERY: Duration = Duration::from_secs(2);
/// Longest chunk-size line or trailer section.
const MAX_LINE: usize = 8 << 10;

/// A stream with what was read too early. Holds no buffer while idle.
pub(super) struct Wire {
    pub io: Conn,
    pub input: BytesMut,
}

impl Wire {
    pub(super) fn new(io: Conn) -> Self {
        Self { io, input: BytesMut::new() }
    }

    /// Waits for input and appends it; 0 is the end. Safe to drop at any time.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); 8 << 10];
            let mut buf = ReadBuf::uninit(&mut space);
            match self.io.as_mut().poll_read(cx, &mut buf) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                Poll::Ready(Ok(())) => {
                    self.input.extend_from_slice(buf.filled());
                    Poll::Ready(Ok(buf.filled().len()))
                }
            }
        })
        .await
    }

    /// Writes everything and flushes it into the socket. Fails when the peer
    /// takes nothing for `idle`.
    pub(super) async fn send(&mut self, mut data: &[u8], idle: Duration) -> io::Result<()> {
        while !data.is_empty() {
            let n = timeout(idle, self.io.write(data)).await??;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = &data[n..];
        }
        timeout(idle, self.io.flush()).await?
    }

    /// Ends our side, then discards input until the peer closes: without this
    /// a peer still sending would see a reset instead of our answer.
    pub(super) async fn linger(mut self, most: Duration) {
        let end = Instant::now() + most;
        let _ = timeout_at(end, async {
            poll_fn(|cx| self.io.as_mut().poll_shutdown(cx)).await?;
            loop {
                self.input.clear();
                if self.fill().await? == 0 {
                    return io::Result::Ok(());
                }
            }
        })
        .await;
    }

    /// Gives back the buffer's memory when nothing is in it.
    pub(super) fn relax(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Over the limit; its first bytes.
    #[error("body over the limit")]
    Oversize(Bytes),
    /// The byte budget stayed full.
    #[error("body budget exhausted")]
    Budget,
    /// Chunk framing is broken.
    #[error("malformed chunked body")]
    Malformed,
    /// Too slow, or the connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The budget that bodies are charged to.
#[derive(Clone)]
pub(super) struct Budget {
    pub bytes: Arc<Semaphore>,
    /// Its whole size: no single request asks for more.
    pub all: u32,
    pub wait: Duration,
}

impl Budget {
    pub(super) fn new(limits: &HttpLimits) -> Self {
        let all = limits.body_budget.max(1);
        Self { bytes: Arc::new(Semaphore::new(all as usize)), all, wait: limits.budget_wait }
    }

    /// Makes `charge` one of `n` bytes in all; false if they were not free in time.
    async fn charge_up_to(&self, charge: &mut Charge, n: u64) -> bool {
        let held = charge.bytes();
        n <= held || self.charge(charge, n - held).await
    }

    /// Adds `n` bytes to `charge`; false if they were not free in time.
    pub(super) async fn charge(&self, charge: &mut Charge, n: u64) -> bool {
        let most = u64::from(self.all).saturating_sub(charge.bytes());
        let n = u32::try_from(n.min(most)).unwrap_or(self.all);
        if n == 0 {
            return true;
        }
        match timeout(self.wait, self.bytes.clone().acquire_many_owned(n)).await {
            Ok(Ok(p)) => {
                charge.0.push(p);
                true
            }
            _ => false,
        }
    }
}

/// Reads a whole body.
pub(super) async fn read(
    wire: &mut Wire,
    framing: Framing,
    limits: &HttpLimits,
    budget: &Budget,
) -> Result<(Bytes, Charge), BodyError> {
    let end = Instant::now() + limits.read_total;
    let work = async {
        match framing {
            Framing::Sized(n) => sized(wire, n, limits, budget).await,
            Framing::Chunked => chunked(wire, limits, budget).await,
        }
    };
    timeout_at(end, work).await.unwrap_or_else(|e| Err(io::Error::from(e).into()))
}

async fn sized(
    wire: &mut Wire,
    n: u64,
    limits: &HttpLimits,
    budget: &Budget,
) -> Result<(Bytes, Charge), BodyError> {
    let mut body = BytesMut::new();
    let mut charge = Charge::default();
    if n > limits.max_body {
        read_until(wire, &mut body, PREFIX.min(limits.max_body as usize), limits.read_idle).await?;
        return Err(BodyError::Oversize(body.freeze()));
    }
    if n <= FREE {
        read_until(wire, &mut body, n as usize, limits.read_idle).await?;
        return Ok((body.freeze(), charge));
    }
    let mut looked = (Instant::now(), 0u64);
    let mut idle_since = looked.0;
    let mut keeps_pace = true;
    while (body.len() as u64) < n {
        let came = body.len() as u64;
        let next = match came {
            0 => FREE,
            _ if came >= FIRST && keeps_pace => n,
            _ => n.min(2 * came.max(FREE)),
        };
        if next > FREE {
            if !budget.charge_up_to(&mut charge, next).await {
                return Err(BodyError::Budget);
            }
            // Nothing was read meanwhile.
            (looked, idle_since) = ((Instant::now(), came), Instant::now());
        }
        body.reserve((next - came) as usize);
        while (body.len() as u64) < next {
            let idle = (idle_since + limits.read_idle).saturating_duration_since(Instant::now());
            let read = read_until(wire, &mut body, next as usize, idle);
            if let Ok(done) = timeout_at(looked.0 + PACE_EVERY, read).await {
                done?;
                continue;
            }
            let came = body.len() as u64;
            keeps_pace = came - looked.1 >= PACE * PACE_EVERY.as_secs();
            if came > looked.1 {
                idle_since = Instant::now();
            }
            looked = (Instant::now(), came);
            if !keeps_pace && next == n && n > came {
                charge.keep(came);
                break;
            }
        }
    }
    Ok((body.freeze(), charge))
}

/// Extends `body` to `len` bytes. Safe to drop at any time: what came is in `body`.
async fn read_until(
    wire: &mut Wire,
    body: &mut BytesMut,
    len: usize,
    idle: Duration,
) -> io::Result<()> {
    body.reserve(len - body.len());
    let early = wire.input.len().min(len - body.len());
    body.extend_from_slice(&wire.input[..early]);
    wire.input.advance(early);
    while body.len() < len {
        let room = len - body.len();
        let mut space = (&mut *body).limit(room);
        if timeout(idle, wire.io.read_buf(&mut space)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn more(wire: &mut Wire, idle: Duration) -> io::Result<()> {
    match timeout(idle, wire.fill()).await?? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn chunked(
    wire: &mut Wire,
    limits: &HttpLimits,
    budget: &Budget,
) -> Result<(Bytes, Charge), BodyError> {
    let mut body = BytesMut::new();
    let mut charge = Charge::default();
    let mut charged = FREE;
    loop {
        let mut left = loop {
            match httparse::parse_chunk_size(&wire.input) {
                Ok(httparse::Status::Complete((used, size))) => {
                    wire.input.advance(used);
                    break size;
                }
                Ok(httparse::Status::Partial) if wire.input.len() <= MAX_LINE => {
                    more(wire, limits.read_idle).await?;
                }
                _ => return Err(BodyError::Malformed),
            }
        };
        if left == 0 {
            break;
        }
        if left > limits.max_body.saturating_sub(body.len() as u64) {
            body.truncate(PREFIX);
            return Err(BodyError::Oversize(body.freeze()));
        }
        while left > 0 {
            if wire.input.is_empty() {
                more(wire, limits.read_idle).await?;
            }
            let n = wire.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            while (body.len() + n) as u64 > charged {
                let step = (body.len() as u64).clamp(FREE, STEP);
                if !budget.charge(&mut charge, step).await {
                    return Err(BodyError::Budget);
                }
                charged += step;
            }
            body.extend_from_slice(&wire.input[..n]);
            wire.input.advance(n);
            left -= n as u64;
        }
        while wire.input.len() < 2 {
            more(wire, limits.read_idle).await?;
        }
        if !wire.input.starts_with(b"\r\n") {
            return Err(BodyError::Malformed);
        }
        wire.input.advance(2);
    }
    // Trailers, up to the empty line.
    let mut seen = 0;
    loop {
        match wire.input.iter().position(|b| *b == b'\n') {
            Some(i) => {
                let blank = wire.input[..i].trim_ascii().is_empty();
                wire.input.advance(i + 1);
                seen += i;
                if blank {
                    return Ok((body.freeze(), charge));
                }
            }
            None if wire.input.len() <= MAX_LINE => more(wire, limits.read_idle).await?,
            None => return Err(BodyError::Malformed),
        }
        if seen > MAX_LINE {
            return Err(BodyError::Malformed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> HttpLimits {
        HttpLimits { max_body: 1 << 20, body_budget: 1 << 20, ..Default::default() }
    }

    fn run<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(f)
    }

    async fn feed(pieces: Vec<Vec<u8>>) -> Wire {
        let (a, mut b) = tokio::io::duplex(4 << 20);
        for p in pieces {
            b.write_all(&p).await.unwrap();
        }
        b.shutdown().await.unwrap();
        Wire::new(Box::pin(a))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() })]
        #[test]
        fn chunks_join(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40_000), 0..6),
                       trailer in any::<bool>()) {
            let mut raw = Vec::new();
            for p in &parts {
                raw.extend(format!("{:x};ext=1\r\n", p.len()).into_bytes());
                raw.extend(p);
                raw.extend(b"\r\n");
            }
            raw.extend(if trailer { &b"0\r\nA: b\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            raw.extend(b"NEXT");
            let (body, rest) = run(async {
                let mut w = feed(vec![raw]).await;
                let l = limits();
                let b = Budget::new(&l);
                let (body, charge) = read(&mut w, Framing::Chunked, &l, &b).await.unwrap();
                assert!(body.len() as u64 <= FREE || charge.0.iter().map(|p| p.num_permits()).sum::<usize>() as u64 + FREE >= body.len() as u64);
                drop(charge);
                assert_eq!(b.bytes.available_permits(), 1 << 20);
                while w.fill().await.unwrap() > 0 {}
                (body, w.input)
            });
            prop_assert_eq!(&body[..], &parts.concat()[..]);
            prop_assert_eq!(&rest[..], b"NEXT");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sizes_and_faults() {
        let l = limits();
        let b = Budget::new(&l);
        let mut w = feed(vec![vec![7; 300_000]]).await;
        let (body, charge) = read(&mut w, Framing::Sized(300_000), &l, &b).await.unwrap();
        assert_eq!(body.len(), 300_000);
        assert_eq!(b.bytes.available_permits(), (1 << 20) - 300_000);
        // The budget is full: small bodies pass, a big one is refused in time.
        let hog = b.bytes.clone().acquire_many_owned((1 << 20) - 300_000).await.unwrap();
        let mut w = feed(vec![vec![7; 16_000]]).await;
        assert!(read(&mut w, Framing::Sized(16_000), &l, &b).await.is_ok());
        let mut w = feed(vec![vec![7; 20_000]]).await;
        let e = read(&mut w, Framing::Sized(20_000), &l, &b).await.unwrap_err();
        assert!(matches!(e, BodyError::Budget));
        drop((hog, charge));
        let mut w = feed(vec![vec![7; 100]]).await;
        let e = read(&mut w, Framing::Sized(101), &l, &b).await.unwrap_err();
        assert!(matches!(e, BodyError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof));
        let mut w = feed(vec![vec![7; 2 << 20]]).await;
        let e = read(&mut w, Framing::Sized(2 << 20), &l, &b).await.unwrap_err();
        assert!(matches!(e, BodyError::Oversize(p) if p.len() == PREFIX));
        let mut w = feed(vec![b"zz\r\n".to_vec()]).await;
        let e = read(&mut w, Framing::Chunked, &l, &b).await.unwrap_err();
        assert!(matches!(e, BodyError::Malformed));
        assert_eq!(b.bytes.available_permits(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn who_trickles_takes_no_room_from_those_who_send() {
        const LEN: u64 = 5 << 20;
        let l = HttpLimits { body_budget: 64 << 20, ..Default::default() };
        let b = Budget::new(&l);
        // Each begins as a large upload does, and then sends a byte every ten seconds.
        let mut tasks = Vec::new();
        for _ in 0..60 {
            let (a, mut peer) = tokio::io::duplex(256 << 10);
            tokio::spawn(async move {
                peer.write_all(&[7; 70 << 10]).await.unwrap();
                while peer.write_all(&[7]).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            });
            let (l, b) = (l.clone(), b.clone());
            tasks.push(tokio::spawn(async move {
                let mut w = Wire::new(Box::pin(a));
                read(&mut w, Framing::Sized(LEN), &l, &b).await.map(|_| ())
            }));
        }
        tokio::time::sleep(Duration::from_secs(18)).await;
        let taken = (64 << 20) - b.bytes.available_permits() as u64;
        assert!(taken <= 60 * (150 << 10), "{taken} bytes are taken for 60 × 70 KiB");
        let mut w = feed(vec![vec![7; 2 << 20]]).await;
        let began = Instant::now();
        let (body, charge) = read(&mut w, Framing::Sized(2 << 20), &l, &b).await.unwrap();
        assert_eq!((body.len(), began.elapsed()), (2 << 20, Duration::ZERO));
        assert_eq!(charge.bytes(), 2 << 20);
        // They end as every body does that takes longer than the limit.
        for t in tasks {
            assert!(matches!(t.await.unwrap(), Err(BodyError::Io(_) | BodyError::Budget)));
        }
        drop(charge);
        assert_eq!(b.bytes.available_permits(), 64 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_line_is_served_to_the_end() {
        let (a, mut peer) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            for _ in 0..300 {
                peer.write_all(&[7; 2 << 10]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let l = limits();
        let b = Budget::new(&l);
        let mut w = Wire::new(Box::pin(a));
        let (body, charge) = read(&mut w, Framing::Sized(600 << 10), &l, &b).await.unwrap();
        assert_eq!((body.len(), charge.bytes()), (600 << 10, 600 << 10));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let (a, _b) = tokio::io::duplex(64);
        let mut w = Wire::new(Box::pin(a));
        let l = limits();
        let t = Instant::now();
        let e = read(&mut w, Framing::Sized(5), &l, &Budget::new(&l)).await.unwrap_err();
        assert!(matches!(e, BodyError::Io(e) if e.kind() == io::ErrorKind::TimedOut));
        assert_eq!(t.elapsed().as_secs(), l.read_idle.as_secs());
    }
}
