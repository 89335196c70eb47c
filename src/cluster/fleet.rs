//! The master's end: who may speak, and one conversation for each stream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::BoxStream;
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use velociraptor_proto::fleet::fleet_server::{self, FleetServer};
use velociraptor_proto::fleet::{CheckReply, CheckRequest, Down, Refused, Up, down};

use super::incoming::Seen;
use super::seats::Seats;
use super::{Counters, Limits, MasterSide, StreamInfo, VERSION};
use crate::comms::server::PeerInfo;
use crate::env::{Env, Side};

/// Why a certificate does not prove a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unproved {
    /// For people.
    pub reason: String,
    /// It will not get better: revoked, or not a node's.
    pub permanent: bool,
}

/// Finds the node's name in a certificate (DER) that TLS has accepted, if it holds now.
/// Called once for each stream and again with each beat.
pub type Verify = Arc<dyn Fn(&[u8]) -> Result<String, Unproved> + Send + Sync>;

/// The gRPC service of a master. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub env: Env,
    pub limits: Limits,
    pub master: Arc<dyn MasterSide>,
    pub verify: Verify,
    pub seats: Arc<Seats>,
    seen: Mutex<Seen>,
    pub counters: Arc<Counters>,
    pub stop: CancellationToken,
    tasks: TaskTracker,
}

impl Inner {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

/// One stream, before it has introduced itself.
pub(super) struct Caller {
    pub node: String,
    pub certificate: Arc<CertificateDer<'static>>,
    pub addr: SocketAddr,
    pub from: Streaming<Up>,
    pub to: mpsc::Sender<Result<Down, Status>>,
}

impl Fleet {
    /// A master that hands what nodes say to `master`. Once `stop` is cancelled all
    /// streams end and no new ones are taken.
    pub fn new(
        env: Env,
        limits: Limits,
        master: Arc<dyn MasterSide>,
        verify: Verify,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            env,
            limits,
            master,
            verify,
            seats: Arc::default(),
            seen: Mutex::default(),
            counters: Arc::default(),
            stop,
            tasks: TaskTracker::new(),
        }))
    }

    /// To be added to the routes of a listener that demands client certificates and
    /// tells requests who is there ([`PeerInfo`]).
    pub fn service(&self) -> FleetServer<Fleet> {
        let most = self.0.limits.frame_bytes.saturating_add(super::FRAME_OVERHEAD);
        FleetServer::new(self.clone()).max_decoding_message_size(most)
    }

    /// The service alone, as a router for the accept loop.
    pub fn router(&self) -> axum::Router {
        tonic::service::Routes::new(self.service()).into_axum_router()
    }

    /// The streams there are now, by node.
    pub fn streams(&self) -> Vec<StreamInfo> {
        self.0.seats.all()
    }

    /// What was counted.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Returns when every stream has ended after the stop, `gone` included.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

#[tonic::async_trait]
impl fleet_server::Fleet for Fleet {
    type StreamStream = BoxStream<'static, Result<Down, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<Up>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        if self.0.stop.is_cancelled() {
            return Err(Status::unavailable("the master stops"));
        }
        let (addr, certificate) = shown(&request)?;
        let (to, answers) = mpsc::channel(1);
        match (self.0.verify)(&certificate) {
            Ok(node) => {
                let from = request.into_inner();
                let caller = Caller { node, certificate, addr, from, to };
                let task = super::conversation::converse(self.0.clone(), caller);
                let task = self.0.tasks.track_future(task);
                self.0.env.tasks.spawn(Side::Frontend, Box::pin(task));
            }
            Err(Unproved { reason, permanent }) => {
                Counters::add(&self.0.counters.refused, 1);
                tracing::warn!(peer = %addr, reason, "a certificate is not that of a node");
                let reason = format!("the certificate does not prove a node: {reason}");
                // The channel is empty: there is room for one.
                let _ = to.try_send(Ok(refusal(Refused { reason, permanent })));
            }
        }
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn check(&self, r: Request<CheckRequest>) -> Result<Response<CheckReply>, Status> {
        let (_, certificate) = shown(&r)?;
        let node = (self.0.verify)(&certificate).map_err(|e| {
            let reason = format!("the certificate does not prove a node: {e}");
            Status::permission_denied(reason)
        })?;
        let connected = self.streams().iter().any(|s| s.process.node == node);
        let product = format!("{} {}", crate::PRODUCT, env!("CARGO_PKG_VERSION"));
        Ok(Response::new(CheckReply { node, version: VERSION, product, connected }))
    }
}

/// Address and certificate of a caller.
type Shown = (SocketAddr, Arc<CertificateDer<'static>>);

fn shown<T>(request: &Request<T>) -> Result<Shown, Status> {
    let peer = request.extensions().get::<PeerInfo>();
    peer.and_then(|p| Some((p.addr, p.certificate.clone()?)))
        .ok_or_else(|| Status::unauthenticated("a node certificate is needed"))
}

pub(super) fn refusal(r: Refused) -> Down {
    Down { seq: 1, kind: Some(down::Kind::Refused(r)) }
}
