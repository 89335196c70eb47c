//! A network in memory, and a raw HTTP client to poke at servers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::env::{Conn, Env, Listener, Net};

type Queue = mpsc::UnboundedSender<(Conn, SocketAddr)>;

#[derive(Default)]
struct MemNet(Mutex<BTreeMap<u16, Queue>>);
struct MemListener(mpsc::UnboundedReceiver<(Conn, SocketAddr)>, u16);

impl Net for MemNet {
    fn bind(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let mut ports = self.0.lock().unwrap();
        let port = 1 + ports.len() as u16;
        let (tx, rx) = mpsc::unbounded_channel();
        ports.insert(port, tx);
        async move { Ok(Box::new(MemListener(rx, port)) as Box<dyn Listener>) }.boxed()
    }

    fn connect<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Conn>> {
        async move {
            let (a, b) = tokio::io::duplex(64 << 10);
            let from = ([192, 0, 2, 1], 5000).into();
            let ports = self.0.lock().unwrap();
            let queue = ports.get(&port).ok_or(io::ErrorKind::ConnectionRefused)?;
            queue
                .send((Box::pin(b), from))
                .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(Box::pin(a) as Conn)
        }
        .boxed()
    }
}

impl Listener for MemListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Conn, SocketAddr)>> {
        async { self.0.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into()) }.boxed()
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], self.1).into())
    }
}

/// The real environment on a network in memory.
pub(crate) fn memory() -> Env {
    Env { net: Arc::new(MemNet::default()), ..crate::env::real::env() }
}

/// A raw connection.
pub(super) struct Raw(pub Conn, pub Vec<u8>);

impl Raw {
    pub(super) async fn connect(env: &Env, port: u16) -> Self {
        Self(env.net.connect("127.0.0.1", port).await.unwrap(), Vec::new())
    }

    pub(super) async fn write(&mut self, data: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_all(data.as_ref()).await?;
        self.0.flush().await
    }

    /// Sends a POST with a length.
    pub(super) async fn post(&mut self, path: &str, headers: &str, body: &[u8]) {
        let len = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len}\r\n\r\n");
        self.write([head.as_bytes(), body].concat()).await.unwrap();
    }

    /// Reads until `end` has come; the text up to it.
    pub(super) async fn until(&mut self, end: &str) -> String {
        loop {
            let at = self.1.windows(end.len()).position(|w| w == end.as_bytes());
            if let Some(i) = at {
                let rest = self.1.split_off(i + end.len());
                let got = std::mem::replace(&mut self.1, rest);
                return String::from_utf8_lossy(&got).into_owned();
            }
            let mut b = [0; 4096];
            let n = timeout(Duration::from_secs(200), self.0.read(&mut b)).await;
            let n = n.expect("nothing came").unwrap();
            assert_ne!(n, 0, "closed; had {:?}", String::from_utf8_lossy(&self.1));
            self.1.extend(&b[..n]);
        }
    }

    /// Reads a response with a length: status, head and body.
    pub(super) async fn response(&mut self) -> (u16, String, String) {
        let head = self.until("\r\n\r\n").await;
        let status = head[9..12].parse().unwrap();
        let len = head.split("Content-Length: ").nth(1).expect("a length");
        let len: usize = len.split("\r\n").next().unwrap().parse().unwrap();
        while self.1.len() < len {
            let mut b = [0; 4096];
            let n = self.0.read(&mut b).await.unwrap();
            assert_ne!(n, 0, "body ended early");
            self.1.extend(&b[..n]);
        }
        let rest = self.1.split_off(len);
        let body = std::mem::replace(&mut self.1, rest);
        (status, head, String::from_utf8_lossy(&body).into_owned())
    }

    /// Everything until the peer closes.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.1);
        let _ = timeout(Duration::from_secs(200), self.0.read_to_end(&mut out))
            .await
            .expect("not closed");
        out
    }
}
