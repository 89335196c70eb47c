//! Agent half of the client protocol: where to post, how to get there, and what
//! an answer means for the data that was sent. Envelopes are opaque; loops,
//! queues and keys belong to the agent.
//!
//! ```text
//! loop {
//!     connector.ensure_server_pem(|pem| verify(pem)).await;  // after every URL change
//!     match connector.post(channel, encrypt(lists), urgent).await {
//!         Outcome::Ok(body) => …commit, run what is in body…
//!         Outcome::Enrol => …queue a CSR (at most one a minute), keep or drop…
//!         Outcome::Drop(why) => …commit, log why…
//!         Outcome::Redirected => continue,                     // encrypt and post again
//!         Outcome::Failed(f) => connector.pause(channel).await // keep, then again
//!     }
//! }
//! ```

mod connector;
mod dial;
mod http;
mod proxy;
mod socket;
mod urls;
mod verify;

use std::collections::BTreeMap;
use std::time::Duration;

pub use connector::Connector;
pub use dial::ConnectError;
pub use proxy::{Proxies, ProxyRule};
pub use verify::{Thumbprint, Verification};

use super::tls::Identity;

/// How waits after failures grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// `max_poll` plus up to `max_poll_std` after every failure, and once more
    /// whenever the list of URLs was walked.
    Stock,
    /// Jittered, doubling from 1 s, at most `max_poll + max_poll_std`.
    Growing,
}

/// What a [`Connector`] needs from the client configuration.
#[derive(Clone, Debug)]
pub struct ConnectorConfig {
    /// Base URLs (`http`, `https`, `ws`, `wss`), each ending in `/`.
    pub server_urls: Vec<String>,
    /// PEM of the deployment CA.
    pub ca_certificate: String,
    /// More trusted roots, PEM.
    pub root_certs: String,
    /// Trust the operating system's roots, too.
    pub native_roots: bool,
    /// TLS server name is the pinned name (`https` only).
    pub use_self_signed_ssl: bool,
    /// The pinned name.
    pub pinned_server_name: String,
    /// How server certificates are judged.
    pub verification: Verification,
    /// SHA-256 of accepted leaf certificates, for the thumbprint modes.
    pub thumbprints: Vec<Thumbprint>,
    /// Certificate to show if the server asks.
    pub identity: Option<Identity>,
    /// Limit of connecting, of the TLS handshake, and of waiting for response
    /// headers.
    pub connection_timeout: Duration,
    /// Longest silence within a response body. Servers pad a held poll every 10 s,
    /// so a longer one means a host that lost its power or a network that lost the
    /// connection: nothing else would tell for a client that only listens.
    pub body_silence: Duration,
    /// HTTP proxies.
    pub proxies: Proxies,
    /// `host:port` to dial when dialling `host:port` fails (`http`, `https`).
    pub fallback_addresses: BTreeMap<String, String>,
    /// `Client.ws_ping_wait_sec`: silence of 1.1 × this ends a socket.
    pub ws_ping_wait: Duration,
    /// Base of waits.
    pub max_poll: Duration,
    /// Upper bound of what is added to waits at random.
    pub max_poll_std: Duration,
    /// How waits grow.
    pub backoff: Backoff,
    /// Longest response body, bytes.
    pub max_response: u64,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self {
            server_urls: Vec::new(),
            ca_certificate: String::new(),
            root_certs: String::new(),
            native_roots: true,
            use_self_signed_ssl: false,
            pinned_server_name: "VelociraptorServer".into(),
            verification: Verification::Pki,
            thumbprints: Vec::new(),
            identity: None,
            connection_timeout: Duration::from_secs(300),
            body_silence: Duration::from_secs(45),
            proxies: Proxies::default(),
            fallback_addresses: BTreeMap::new(),
            ws_ping_wait: Duration::from_secs(60),
            max_poll: Duration::from_secs(60),
            max_poll_std: Duration::from_secs(30),
            backoff: Backoff::Growing,
            max_response: 64 << 20,
        }
    }
}

/// What an answer means for what was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 and the whole body, cleanly ended: acknowledged. Pads are still in
    /// it; it may be empty.
    Ok(bytes::Bytes),
    /// 406: the server does not know our key.
    Enrol,
    /// 400: the server will never take this; its reason.
    Drop(String),
    /// 301: post again at once, to what is now the current URL.
    Redirected,
    /// Not acknowledged: keep the data, [`Connector::pause`], post again.
    Failed(Failure),
}

/// A post that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For logs.
    pub why: String,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// Whether the current URL is another one now, so that `server.pem` must
    /// be fetched again.
    pub advanced: bool,
}
