//! One accept loop for client comms, gRPC and the GUI: queue, shedding and limits
//! come before TLS, TLS before HTTP. Knows nothing of what is served.
//!
//! A connection over the rate waits for its turn, which costs a socket and a timer,
//! and no computing: clients that were closed instead would be back at once, twice,
//! and then stay away for a minute and more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::Count;
use super::limits::{AcceptLimits, Metrics};
use super::pace::Pacer;
use super::proxy;
use crate::env::{Conn, Env, Listener, Side};

/// Pause after a failed accept (out of descriptors, mostly).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection ready for HTTP.
pub struct Accepted {
    /// The stream, decrypted.
    pub io: Conn,
    /// The TCP peer.
    pub tcp_peer: SocketAddr,
    /// The peer, or what the PROXY header said of it.
    pub peer: SocketAddr,
    /// Counts from 1; unique among listeners that share a [`Metrics`].
    pub id: u64,
    /// Leaf of the verified client certificate.
    pub certificate: Option<CertificateDer<'static>>,
    /// ALPN chose HTTP/2.
    pub http2: bool,
    /// Cancelled when the server drains: finish what is under way and return.
    pub drain: CancellationToken,
}

/// What happens on a connection. The future ends with the connection.
pub trait ConnHandler: Send + Sync + 'static {
    /// Serves one connection.
    fn handle(&self, conn: Accepted) -> BoxFuture<'static, ()>;

    /// Where it is served, if not on [`Serve::side`]: known once TLS is up.
    fn side(&self, _: &Accepted) -> Option<Side> {
        None
    }
}

/// How to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled: accept no more, drain connections.
    pub token: CancellationToken,
    /// Connections still open this long after are cut.
    pub grace: Duration,
}

/// What to serve.
pub struct Serve {
    /// `None` is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Expect a PROXY protocol version 2 header on every connection.
    pub proxy_protocol: bool,
    /// Connection limits.
    pub limits: AcceptLimits,
    /// Counters, shared with whoever shows them.
    pub metrics: Arc<Metrics>,
    /// Which runtime connections run on.
    pub side: Side,
    /// How to stop.
    pub stop: Stop,
}

/// Accepts connections until stopped and every connection has ended or was cut.
/// Never fails by itself: accept errors are logged and retried.
pub async fn serve(
    env: Env,
    mut listener: Box<dyn Listener>,
    serve: Serve,
    handler: Arc<dyn ConnHandler>,
) {
    let Serve { tls, proxy_protocol, limits, metrics, side, stop } = serve;
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    metrics.most.store(limits.max_connections as u64, Ordering::Relaxed);
    // The one whose turn it is goes too, so one less may come before.
    let burst = limits.connection_burst.saturating_sub(1);
    let rate = Pacer::new(limits.connections_per_second.into(), burst.into());
    metrics.turns.limit.store(limits.connections_per_second.into(), Ordering::Relaxed);
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.token.cancelled() => break,
            a = listener.accept() => a,
        };
        let (tcp, tcp_peer) = match accepted {
            Ok(a) => a,
            Err(e) => {
                tracing::warn!(error = %e, "accept");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let slot = slots.clone().try_acquire_owned().ok();
        let turn = slot.and_then(|s| Some((s, rate.reserve(1, limits.connection_wait)?)));
        let Some((slot, turn)) = turn else {
            Metrics::add(&metrics.shed, 1);
            metrics.turns.refuse();
            tracing::debug!(peer = %tcp_peer, "connection shed");
            continue; // dropping the stream refuses the peer before TLS costs anything
        };
        let id = 1 + metrics.connections.fetch_add(1, Ordering::Relaxed);
        let (acceptor, metrics, handler) = (acceptor.clone(), metrics.clone(), handler.clone());
        let (drain, cut, tasks) = (stop.token.clone(), cut.clone(), env.tasks.clone());
        let task = async move {
            let _slot = slot;
            let _open = Count::of(&metrics.open);
            tokio::select! {
                biased;
                () = drain.cancelled(), if !turn.is_zero() => return,
                () = metrics.turns.wait(turn) => {}
            }
            let ready = timeout(
                limits.handshake_timeout,
                prepare(tcp, tcp_peer, id, acceptor.as_ref(), proxy_protocol, drain),
            );
            let conn = match ready.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(c) => c,
                Err(e) => {
                    Metrics::add(&metrics.handshake_failures, 1);
                    tracing::debug!(peer = %tcp_peer, error = %e, "handshake");
                    return;
                }
            };
            let elsewhere = handler.side(&conn).filter(|s| *s != side);
            let work = handler.handle(conn);
            drop(handler);
            let work = async move {
                tokio::select! {
                    biased;
                    () = cut.cancelled() => {}
                    () = work => {}
                }
            };
            let Some(elsewhere) = elsewhere else { return work.await };
            let (done, over) = tokio::sync::oneshot::channel::<()>();
            let work = async move {
                work.await;
                drop(done);
            };
            tasks.spawn(elsewhere, Box::pin(work));
            let _ = over.await;
        };
        env.tasks.spawn(side, Box::pin(tracker.track_future(task)));
    }
    drop(listener);
    tracker.close();
    if timeout(stop.grace, tracker.wait()).await.is_err() {
        tracing::debug!(open = tracker.len(), "cutting connections");
        cut.cancel();
        tracker.wait().await;
    }
}

async fn prepare(
    mut tcp: Conn,
    tcp_peer: SocketAddr,
    id: u64,
    acceptor: Option<&TlsAcceptor>,
    proxy_protocol: bool,
    drain: CancellationToken,
) -> io::Result<Accepted> {
    let peer = if proxy_protocol {
        proxy::read_header(&mut tcp).await?.unwrap_or(tcp_peer)
    } else {
        tcp_peer
    };
    let Some(acceptor) = acceptor else {
        return Ok(Accepted {
            io: tcp,
            tcp_peer,
            peer,
            id,
            certificate: None,
            http2: false,
            drain,
        });
    };
    let tls = Box::pin(acceptor.accept(tcp)).await?;
    let session = tls.get_ref().1;
    let certificate =
        session.peer_certificates().and_then(|c| c.first()).map(|c| c.clone().into_owned());
    let http2 = session.alpn_protocol() == Some(b"h2");
    Ok(Accepted { io: Box::pin(tls), tcp_peer, peer, id, certificate, http2, drain })
}
