//! Limits that hold before any policy runs, and what they counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::gate::Gate;

/// Limits of a listening socket.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// Connections open at once; more are closed before TLS.
    pub max_connections: usize,
    /// New connections a second over the long run; 0 is unlimited.
    pub connections_per_second: u32,
    /// New connections accepted at once after a quiet time.
    pub connection_burst: u32,
    /// How long one beyond that waits for its turn, before TLS; those for whom it
    /// would take longer are closed.
    pub connection_wait: Duration,
    /// From its turn to the end of the PROXY header and TLS handshake.
    pub handshake_timeout: Duration,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            connections_per_second: 100,
            connection_burst: 1_000,
            connection_wait: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(20),
        }
    }
}

/// Limits of the client protocol.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Largest body or WebSocket message, bytes.
    pub max_body: u64,
    /// Bytes of bodies in memory, all connections together.
    pub body_budget: u32,
    /// Bytes of bodies a second, all connections together; 0 is unlimited
    /// (`Frontend.resources.global_upload_rate`). Small bodies are exempt.
    pub bytes_per_second: u64,
    /// How long a request waits for its share of the budget, and again for its
    /// turn under the rate, then 500.
    pub budget_wait: Duration,
    /// Longest pause inside a request head or body.
    pub read_idle: Duration,
    /// Longest time for a whole body (500 s is what stock servers allow).
    pub read_total: Duration,
    /// Keep-alive connections without a request are closed after this.
    pub keep_alive: Duration,
    /// Longest pause of a reader of our output.
    pub write_idle: Duration,
    /// How long the service may take, then 500.
    pub service: Duration,
    /// Distance between pads of a held HTTP poll.
    pub pad_every: Duration,
    /// A poll whose response must carry a length (HTTP/1.0 on the way) is
    /// answered after this, since nothing can be sent meanwhile.
    pub sized_poll: Duration,
    /// Distance of pings (`Client.ws_ping_wait_sec`); silence of 1.1 × this
    /// ends a socket.
    pub ws_ping: Duration,
    /// Write deadline of WebSocket frames.
    pub ws_write: Duration,
    /// How long input is drained after an early answer, so that the client
    /// reads it instead of seeing a reset.
    pub linger: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_body: 64 << 20,
            body_budget: 512 << 20,
            bytes_per_second: 0,
            budget_wait: Duration::from_secs(20),
            read_idle: Duration::from_secs(60),
            read_total: Duration::from_secs(500),
            keep_alive: Duration::from_secs(150),
            write_idle: Duration::from_secs(60),
            service: Duration::from_secs(20),
            pad_every: Duration::from_secs(10),
            sized_poll: Duration::from_secs(50),
            ws_ping: Duration::from_secs(60),
            ws_write: Duration::from_secs(10),
            linger: Duration::from_secs(30),
        }
    }
}

/// Counters of one listening socket.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Accepted connections that were not shed.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// As many may be.
    pub most: AtomicU64,
    /// Closed before TLS: rate or number of connections.
    pub shed: AtomicU64,
    /// Turns under the connection rate.
    pub turns: Gate,
    /// TLS or PROXY header failed or took too long.
    pub handshake_failures: AtomicU64,
    /// HTTP requests and WebSocket messages.
    pub requests: AtomicU64,
    /// Requests refused because the body budget stayed full.
    pub budget_refusals: AtomicU64,
    /// Turns of bodies under the upload rate.
    pub rate: Gate,
    /// Bodies over the limit.
    pub oversize: AtomicU64,
    /// Requests whose service did not answer in time.
    pub service_timeouts: AtomicU64,
    /// Readers held now.
    pub held: AtomicU64,
    /// WebSockets open now.
    pub websockets: AtomicU64,
    /// Body bytes received.
    pub body_bytes: AtomicU64,
}

impl Metrics {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
