//! One frontend's life: who is speaking, what they send, what they are given.
//!
//! The policy above the client wire: opens envelopes, enrols clients, commits
//! what they send before it is acknowledged, and hands them their tasks.

pub mod admit;
mod enrol;
mod ingest;
mod letter;
mod open;
mod peers;
mod public;
mod quarantine;
mod reader;
mod service;
mod spill;
mod steer;
mod ways;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::crypto::certs::Certificate;
use crate::crypto::{PrivateKey, PublicKey};
use crate::services::Server;

#[cfg(test)]
mod deletion_tests;
#[cfg(test)]
mod early_tests;
#[cfg(test)]
mod event_table_tests;
#[cfg(test)]
mod full_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod old_agent_tests;
#[cfg(test)]
mod runs_tests;
#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod survival_tests;
#[cfg(test)]
mod tests;

pub use admit::{Admission, AdmissionLimits};
pub use ingest::IngestError;
pub use open::{OpenError, Who};
pub use peers::Peers;
pub use service::Clients;
pub use steer::{SentAway, SteerLimits};
pub use ways::Ways;

/// The comms identity: what `server.pem` serves, and the keys that open packets.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM text of the certificate.
    pub pem: String,
    /// The certificate's CN, which signs everything sent to clients.
    pub name: String,
    /// The current key first, then those of earlier rotations.
    pub keys: Vec<PrivateKey>,
}

impl Identity {
    /// From the configuration's PEM texts.
    pub fn new(pem: &str, key: &str, older: &[String]) -> Result<Self, String> {
        let cert = Certificate::from_pem(pem).map_err(|e| format!("Frontend.certificate: {e}"))?;
        let name = cert.name().ok_or("Frontend.certificate: it has no name")?.to_owned();
        let mut keys =
            vec![PrivateKey::from_pem(key).map_err(|e| format!("Frontend.private_key: {e}"))?];
        for k in older {
            keys.push(PrivateKey::from_pem(k).map_err(|e| format!("earlier private key: {e}"))?);
        }
        if cert.public_key() != keys[0].public() {
            return Err("Frontend.certificate is not for Frontend.private_key".into());
        }
        Ok(Self { pem: pem.to_owned(), name, keys })
    }

    fn key(&self) -> &PrivateKey {
        &self.keys[0]
    }
}

/// How this frontend treats clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions whose keys are remembered (`resources.expected_clients`).
    pub sessions: usize,
    /// Longest an HTTP reader is held, seconds, before up to 30 s of jitter
    /// (`Client.max_poll`).
    pub max_poll: u64,
    /// Agents of protocol 3 and older are served
    /// (`security.allow_ancient_clients`).
    pub ancient_clients: bool,
    /// What a packet may grow to.
    pub packet: crate::crypto::Limits,
    /// What is taken on at once.
    pub admission: AdmissionLimits,
    /// Bytes of POSTs of clients not enrolled yet that are kept.
    pub quarantine_bytes: usize,
    /// How clients are sent to other nodes.
    pub steer: SteerLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 30_000,
            max_poll: 60,
            ancient_clients: true,
            packet: crate::crypto::Limits::default(),
            admission: AdmissionLimits::default(),
            quarantine_bytes: 64 << 20,
            steer: SteerLimits::default(),
        }
    }
}

/// A frontend. Serves clients through [`crate::comms::server::ClientService`].
pub struct Frontend {
    server: Arc<Server>,
    identity: Identity,
    admission: Admission,
    limits: Limits,
    peers: Peers,
    inflight: Mutex<BTreeMap<ingest::PostKey, ingest::Pending>>,
    waiting: Mutex<quarantine::Waiting>,
    spills: spill::Spills,
    health: Mutex<Result<(), String>>,
    steered: steer::Steered,
}

impl std::fmt::Debug for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontend").field("name", &self.identity.name).finish_non_exhaustive()
    }
}

impl Frontend {
    /// A frontend on `server`, speaking as `identity`.
    pub fn new(server: Arc<Server>, identity: Identity, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            peers: Peers::new(limits.sessions),
            spills: spill::Spills::default(),
            health: Mutex::new(Ok(())),
            steered: steer::Steered::default(),
            inflight: Mutex::default(),
            waiting: Mutex::default(),
            server,
            identity,
            admission: Admission::new(limits.admission.clone()),
            limits,
        })
    }

    /// What it takes on at once, and how much that is.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The server it works for.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Forgets the key and the sessions of a client that was deleted or has
    /// another key.
    pub fn forget(&self, source: &str) {
        self.peers.forget(source);
    }

    /// What `/healthz` is to say from now on.
    pub fn set_health(&self, health: Result<(), String>) {
        *self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = health;
    }

    /// An envelope for a client, holding these serialized jobs.
    async fn seal(&self, who: &Who, jobs: &[Vec<u8>]) -> Result<Bytes, String> {
        let mut list = Vec::new();
        for j in jobs {
            crate::crypto::envelope::pack_job(&mut list, j);
        }
        let cipher = match self.peers.outbound(&who.source) {
            Some(c) => c,
            None => {
                let key = who.key.clone();
                let (entropy, name, ours) = (
                    self.server.env.entropy.clone(),
                    self.identity.name.clone(),
                    self.identity.key().clone(),
                );
                let made = self.server.env.offload(move || {
                    crate::crypto::SessionCipher::new(&*entropy, &name, &ours, &key)
                });
                let cipher = made.await.ok_or("sealing was interrupted")?;
                let cipher = Arc::new(cipher.map_err(|e| e.to_string())?);
                self.peers.set_outbound(&who.source, cipher.clone());
                cipher
            }
        };
        let env = &self.server.env;
        cipher
            .seal(
                &*env.entropy,
                &[list],
                crate::crypto::Compression::None,
                &who.org.nonce,
                env.clock.micros(),
            )
            .map(Bytes::from)
            .map_err(|e| e.to_string())
    }
}

/// The stored key of a client, and when it was made, seconds.
async fn stored_key(
    server: &Server,
    who: &str,
    org: &crate::services::ids::OrgId,
) -> Result<Option<(PublicKey, u64)>, String> {
    let key =
        crate::services::load::client_key(server, org, who).await.map_err(|e| e.to_string())?;
    match key {
        None => Ok(None),
        Some(k) => {
            let text = String::from_utf8_lossy(&k.pem).into_owned();
            let key =
                PublicKey::from_pem(&text).map_err(|e| format!("stored key of {who}: {e}"))?;
            Ok(Some((key, k.enroll_time)))
        }
    }
}
