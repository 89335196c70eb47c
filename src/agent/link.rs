//! The secured way to the server: keeps the session, wraps what is sent, opens
//! what comes back and proves who sent it. Policy (what to send when) is not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use prost::Message;
use tokio::sync::Mutex;
use velociraptor_proto::proto::VeloMessage;
use velociraptor_proto::proto::velo_message::AuthorizationState;

use super::writeback::Writeback;
use crate::comms::Channel;
use crate::comms::agent::{Connector, Outcome};
use crate::crypto::certs::{Certificate, verify_server_pem};
use crate::crypto::envelope::{Packet, jobs, open_with, parse, unwrap_session};
use crate::crypto::{
    Compression, EnvelopeError, Limits, PrivateKey, PublicKey, SessionCipher, SessionKeys,
};
use crate::env::Env;

/// Who we are and whom we trust.
#[derive(Clone)]
pub struct Identity {
    /// Our key.
    pub key: PrivateKey,
    /// Our id.
    pub id: String,
    /// The deployment's CA.
    pub ca: Certificate,
    /// The name its servers bear.
    pub pinned: String,
    /// The deployment's secret.
    pub nonce: String,
    /// Whether lists are compressed.
    pub compression: Compression,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What became of a batch.
#[derive(Debug)]
pub enum Posted {
    /// Acknowledged; these messages came back.
    Done(Vec<VeloMessage>),
    /// The server does not know our key; the batch is still ours.
    Enrol,
    /// Not acknowledged; the wait is over, post it again.
    Retry,
}

/// A session with one server key.
struct Session {
    cipher: SessionCipher,
    server: PublicKey,
    /// The server's session towards us, once it was seen.
    incoming: Option<(Bytes, Arc<SessionKeys>)>,
}

/// See the module.
pub struct Link {
    env: Env,
    identity: Identity,
    connector: Connector,
    writeback: Arc<Mutex<Writeback>>,
    /// Both loops use one session: a server keeps only the last it saw.
    session: Mutex<Option<Session>>,
    unknown: AtomicBool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("id", &self.identity.id).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("a message in it: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the packet is not signed by the server")]
    Forged,
    #[error("the session is gone")]
    NoSession,
}

impl Link {
    /// Contacts nobody yet.
    pub fn new(
        env: Env,
        identity: Identity,
        connector: Connector,
        writeback: Arc<Mutex<Writeback>>,
    ) -> Link {
        Link {
            env,
            identity,
            connector,
            writeback,
            session: Mutex::default(),
            unknown: AtomicBool::new(false),
        }
    }

    /// Whether the server said that it does not know us, and nothing since.
    pub fn is_unknown(&self) -> bool {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Posts serialised `MessageList`s and waits for what it leads to, which
    /// includes the wait after a failure.
    pub async fn post(&self, channel: Channel, lists: Vec<Vec<u8>>, urgent: bool) -> Posted {
        let body = match self.seal(lists).await {
            Ok(b) => b,
            Err(why) => {
                tracing::error!("{why}");
                self.connector.pause(channel).await;
                return Posted::Retry;
            }
        };
        match self.connector.post(channel, body, urgent).await {
            Outcome::Ok(answer) => {
                self.unknown.store(false, Ordering::Relaxed);
                match self.open(answer).await {
                    Ok(jobs) => Posted::Done(jobs),
                    Err(e) => {
                        tracing::warn!("answer of {}: {e}", self.connector.current_url());
                        self.connector.pause(channel).await;
                        Posted::Retry
                    }
                }
            }
            Outcome::Enrol => {
                self.unknown.store(true, Ordering::Relaxed);
                Posted::Enrol
            }
            Outcome::Drop(why) => {
                tracing::error!("the server refuses data for good: {why}");
                Posted::Done(Vec::new())
            }
            Outcome::Redirected => Posted::Retry,
            Outcome::Failed(f) => {
                tracing::info!("{channel:?}: {}", f.why);
                self.connector.pause(channel).await;
                Posted::Retry
            }
        }
    }

    async fn seal(&self, lists: Vec<Vec<u8>>) -> Result<Bytes, String> {
        let cipher = self.cipher().await?;
        let entropy = self.env.entropy.clone();
        let now = self.env.clock.micros();
        let (nonce, compression) = (self.identity.nonce.clone(), self.identity.compression);
        let seal = move || cipher.seal(&*entropy, &lists, compression, &nonce, now);
        match self.env.offload(seal).await {
            Some(Ok(body)) => Ok(body.into()),
            Some(Err(e)) => Err(format!("wrapping a message: {e}")),
            None => Err("wrapping a message was aborted".into()),
        }
    }

    /// The session's cipher; with a new server key, that of a new session.
    async fn cipher(&self) -> Result<SessionCipher, String> {
        let mut session = self.session.lock().await;
        let i = &self.identity;
        let now = self.env.clock.now();
        let accepted = self
            .connector
            .ensure_server_pem(|pem| {
                let text = String::from_utf8_lossy(pem).into_owned();
                verify_server_pem(&text, &i.ca, &i.pinned, now).map(|cert| (cert, text))
            })
            .await;
        if let Some((cert, text)) = accepted {
            let server = cert.public_key().clone();
            if session.as_ref().is_none_or(|s| s.server != server) {
                let cipher = SessionCipher::new(&*self.env.entropy, &i.id, &i.key, &server)
                    .map_err(|e| format!("new session: {e}"))?;
                *session = Some(Session { cipher, server, incoming: None });
            }
            let mut writeback = self.writeback.lock().await;
            if writeback.set_last_server_pem(&text)
                && let Err(e) = writeback.save().await
            {
                tracing::warn!("{e}");
            }
        }
        session.as_ref().map(|s| s.cipher.clone()).ok_or_else(|| "no session".into())
    }

    /// Opens an answer. Nothing in it counts unless the server signed it.
    async fn open(&self, body: Bytes) -> Result<Vec<VeloMessage>, OpenError> {
        let Packet::Sealed(packet) = parse(body)? else { return Ok(Vec::new()) };
        let keys = {
            let mut session = self.session.lock().await;
            let session = session.as_mut().ok_or(OpenError::NoSession)?;
            match &session.incoming {
                Some((id, keys)) if id == packet.cipher_id() => keys.clone(),
                _ => {
                    let keys = std::slice::from_ref(&self.identity.key);
                    let opened = unwrap_session(keys, &packet)?;
                    if opened.source != self.identity.pinned || !opened.verify(&session.server) {
                        return Err(OpenError::Forged);
                    }
                    let keys = Arc::new(opened.keys);
                    session.incoming = Some((packet.cipher_id().clone(), keys.clone()));
                    keys
                }
            }
        };
        let opened = open_with(&keys, packet)?;
        opened.check_nonce(&self.identity.nonce)?;
        let mut out = Vec::new();
        for list in &opened.lists {
            let limit = Limits::default().list_bytes;
            let list = crate::crypto::envelope::inflate_list(list, opened.compression, limit)?;
            for job in jobs(&list) {
                let mut job = VeloMessage::decode(job?)?;
                job.set_auth_state(AuthorizationState::Authenticated);
                job.source.clone_from(&self.identity.pinned);
                out.push(job);
            }
        }
        Ok(out)
    }
}
