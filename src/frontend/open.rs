//! From bytes to a sender that is proved, or is not.

use std::sync::Arc;

use bytes::Bytes;

use super::letter::{Content, Letter};
use super::peers::Known;
use super::{Frontend, stored_key};
use crate::crypto::envelope::{self, Packet};
use crate::crypto::{ClientId, EnvelopeError, Opened, PublicKey};
use crate::services::Org;
use crate::services::flows::job::{Hash, hash};
use crate::services::ids;

/// Bodies larger than this are opened off the reactor.
const OFFLOAD: usize = 32 << 10;

/// A sender whose signature was verified with its enrolled key.
#[derive(Clone)]
pub struct Who {
    /// Its organisation.
    pub org: Arc<Org>,
    /// The id it is stored under.
    pub source: String,
    /// The session that speaks: one client process.
    pub cipher: Hash,
    /// Protocol version it speaks.
    pub api_version: u32,
    /// Its enrolled key.
    pub key: PublicKey,
    /// When that was made, seconds: tells its life from those that were deleted.
    pub life: u64,
}

impl Who {
    /// The client as services name it.
    pub fn key(&self) -> (crate::services::ids::OrgId, String) {
        (self.org.id.clone(), self.source.clone())
    }
}

impl std::fmt::Debug for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Who").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Why a packet is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It holds nothing: no one speaks.
    #[error("the packet is empty")]
    Empty,
    /// It is not a packet for us.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its nonce belongs to no organisation.
    #[error("unknown nonce: the client's configuration is not of this deployment")]
    Nonce,
    /// The sender's name is not a client id.
    #[error("sender {0:?} is not a client id")]
    Source(String),
    /// The store did not answer whether the sender's key exists.
    #[error("client key: {0}")]
    Store(String),
    /// What is stored of the sender is being deleted.
    #[error("the client was deleted; it can enrol again soon")]
    Deleted,
    /// There is too much to do.
    #[error("too much to do at the moment")]
    Busy,
    /// The work was interrupted.
    #[error("opening was interrupted")]
    Interrupted,
}

/// An opened packet.
#[derive(Debug)]
pub enum Sender {
    /// The signature matches the enrolled key.
    Proved(Who, Letter),
    /// No key is enrolled for this client, or another one is.
    Stranger {
        /// The organisation its nonce names.
        org: Arc<Org>,
        /// Who it claims to be.
        client: ClientId,
        /// Whether a key is enrolled that does not match.
        wrong_key: bool,
        /// The session.
        session: envelope::Session,
        /// What it sent.
        opened: Opened,
    },
}

impl Frontend {
    /// Opens a body and finds out who sent it.
    pub(super) async fn open(&self, body: Bytes, urgent: bool) -> Result<Sender, OpenError> {
        let packet = match envelope::parse(body)? {
            Packet::Empty => return Err(OpenError::Empty),
            Packet::Sealed(p) => p,
        };
        let cipher = hash(packet.cipher_id());
        let api_version = packet.api_version();
        if let Some(known) = self.peers.inbound(&cipher) {
            let keys = known.keys.clone();
            let size = packet.payload_len();
            // What has to wait for its turn waits as it came, and not ten times as large.
            let wait = self.admission.paces(size as u64);
            let (nonce, limits) = (known.who.org.nonce.clone(), self.limits.packet);
            let letter = self
                .heavy(urgent, size, move || {
                    let opened = envelope::open_with(&keys, packet)?;
                    if opened.nonce != nonce {
                        return Err(OpenError::Nonce);
                    }
                    Ok(if wait {
                        Letter::Opened(opened)
                    } else {
                        Letter::Read(Content::read(&opened, &limits))
                    })
                })
                .await??;
            self.check_alive(&known.who)?;
            return Ok(Sender::Proved(known.who.clone(), letter));
        }
        let keys = self.identity.keys.clone();
        // Until it is known who speaks: a herd of new sessions, or of strangers, has
        // so many of these at once.
        let lookup = self.admission.lookup().await.ok_or(OpenError::Busy)?;
        let slot = self.admission.slot(urgent).await.ok_or(OpenError::Busy)?;
        let opened = self
            .server
            .env
            .offload(move || {
                let session = envelope::unwrap_session(&keys, &packet)?;
                let opened = envelope::open_with(&session.keys, packet)?;
                Ok::<_, EnvelopeError>((session, opened))
            })
            .await;
        drop(slot);
        let (session, opened) = opened.ok_or(OpenError::Interrupted)??;
        let org = self.server.org_by_nonce(&opened.nonce).ok_or(OpenError::Nonce)?;
        let client: ClientId =
            session.source.parse().map_err(|_| OpenError::Source(session.source.clone()))?;
        let source = ids::source(&org.id, &client.to_string());
        let key = stored_key(&self.server, &source, &org.id).await.map_err(OpenError::Store)?;
        drop(lookup);
        match key {
            Some((key, life)) if session.verify(&key) => {
                let who = Who { org, source, cipher, api_version, key, life };
                self.check_alive(&who)?;
                let known = Known { keys: session.keys.clone(), who: who.clone() };
                self.peers.set_inbound(cipher, Arc::new(known));
                Ok(Sender::Proved(who, Letter::Opened(opened)))
            }
            key => Ok(Sender::Stranger { org, client, wrong_key: key.is_some(), session, opened }),
        }
    }

    /// Whether the client was deleted since it enrolled: it is not heard until its
    /// key is gone, and then enrols again. A minion knows as soon as its master tells;
    /// what comes before that is dropped there.
    fn check_alive(&self, who: &Who) -> Result<(), OpenError> {
        if who.org.state().clients.deleted.enrolled(&who.source, who.life) {
            return Ok(());
        }
        self.peers.forget(&who.source);
        Err(OpenError::Deleted)
    }

    /// Runs `work` here when it is small, on the CPU pool otherwise.
    pub(super) async fn heavy<T: Send + 'static>(
        &self,
        urgent: bool,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, OpenError> {
        if bytes < OFFLOAD {
            return Ok(work());
        }
        let _slot = self.admission.slot(urgent).await.ok_or(OpenError::Busy)?;
        self.server.env.offload(work).await.ok_or(OpenError::Interrupted)
    }
}
