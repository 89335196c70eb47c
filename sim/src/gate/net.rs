//! Sockets through a gate. What is counted: listening, connecting, and each
//! piece of data handed to the network.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use velociraptor::env::{Conn, Listener, Net};

use super::Gate;

pub(super) struct GatedNet {
    inner: Arc<dyn Net>,
    gate: Gate,
}

impl GatedNet {
    pub(super) fn new(inner: Arc<dyn Net>, gate: Gate) -> GatedNet {
        GatedNet { inner, gate }
    }
}

impl Net for GatedNet {
    fn bind(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move {
            let inner = self.gate.through(self.inner.bind(addr)).await?;
            Ok(Box::new(GatedListener { inner, gate: self.gate.clone() }) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Conn>> {
        async move {
            let inner = self.gate.through(self.inner.connect(host, port)).await?;
            Ok(Box::pin(GatedConn::new(inner, self.gate.clone())) as Conn)
        }
        .boxed()
    }

    fn simulated(&self) -> bool {
        self.inner.simulated()
    }
}

struct GatedListener {
    inner: Box<dyn Listener>,
    gate: Gate,
}

impl Listener for GatedListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Conn, SocketAddr)>> {
        async move {
            let (inner, peer) = self.inner.accept().await?;
            poll_fn(|cx| self.gate.poll_open(cx)).await;
            Ok((Box::pin(GatedConn::new(inner, self.gate.clone())) as Conn, peer))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

struct GatedConn {
    inner: Conn,
    gate: Gate,
    /// The write under way has been counted.
    counted: bool,
}

impl GatedConn {
    fn new(inner: Conn, gate: Gate) -> GatedConn {
        GatedConn { inner, gate, counted: false }
    }
}

impl AsyncRead for GatedConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(cx));
        self.inner.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for GatedConn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.counted {
            ready!(self.gate.poll_open(cx));
        } else {
            ready!(self.gate.poll_count(cx));
            self.counted = true;
        }
        let done = ready!(self.inner.as_mut().poll_write(cx, buf));
        self.counted = false;
        Poll::Ready(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(cx));
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.gate.poll_open(cx));
        self.inner.as_mut().poll_shutdown(cx)
    }
}
