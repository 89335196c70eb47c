//! Writing WebSocket frames, each within a deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::frame::{Header, Op, Role, mask};
use crate::env::Entropy;

/// The writing side of a socket.
pub struct WsWriter<W> {
    io: W,
    /// `Some` for a client, which masks.
    entropy: Option<Arc<dyn Entropy>>,
    /// Longest time the peer may take nothing.
    idle: Duration,
}

impl<W: AsyncWrite + Unpin> WsWriter<W> {
    /// A server's writer.
    pub fn server(io: W, idle: Duration) -> Self {
        Self { io, entropy: None, idle }
    }

    /// A client's writer; masks come from `entropy`.
    pub fn client(io: W, idle: Duration, entropy: Arc<dyn Entropy>) -> Self {
        Self { io, entropy: Some(entropy), idle }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        if self.entropy.is_some() { Role::Client } else { Role::Server }
    }

    /// Writes one unfragmented message or control frame and flushes it into the
    /// socket. Not to be dropped half-way: after an error or a drop the socket
    /// is unusable.
    pub async fn send(&mut self, op: Op, payload: &[u8]) -> io::Result<()> {
        let key = self.entropy.as_ref().map(|e| {
            let mut k = [0; 4];
            e.fill(&mut k);
            k
        });
        let header = Header { fin: true, op, mask: key, len: payload.len() as u64 };
        let mut out = Vec::with_capacity(payload.len() + 14);
        header.put(&mut out);
        let start = out.len();
        out.extend_from_slice(payload);
        if let Some(k) = key {
            mask(&mut out[start..], k, 0);
        }
        let mut data = &out[..];
        while !data.is_empty() {
            let n = timeout(self.idle, self.io.write(data)).await??;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = &data[n..];
        }
        timeout(self.idle, self.io.flush()).await?
    }

    /// Sends a close frame with a code and ends our side.
    pub async fn close(&mut self, code: u16) -> io::Result<()> {
        self.send(Op::Close, &code.to_be_bytes()).await?;
        timeout(self.idle, self.io.shutdown()).await?
    }
}
