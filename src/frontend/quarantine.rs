//! POSTs that cannot be stored yet, or ever, kept as they came.
//!
//! An agent counts a batch as delivered when it is told to enrol (406), so a
//! batch that meets an unknown key is journaled first and taken up again once
//! the key is enrolled.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{PostClass, Quarantine};

use super::Frontend;
use crate::services::flows::job::hash;
use crate::services::ids::OrgId;
use crate::services::server::Counters;
use crate::store::journal::{CommitError, Segment};

/// Batches kept for one client that has not enrolled.
const PER_CLIENT: usize = 8;

/// A sealed body that waits for its sender's key.
#[derive(Clone, Debug)]
pub struct Parked {
    /// Class of the POST.
    pub class: PostClass,
    /// Peer address.
    pub remote: String,
    /// The body.
    pub body: Bytes,
    /// Keeps the journal that holds it.
    pub _pin: Option<Arc<Segment>>,
}

/// What waits, by organisation and client id as stored.
#[derive(Debug, Default)]
pub struct Waiting {
    bytes: usize,
    map: BTreeMap<(OrgId, String), Vec<Parked>>,
}

/// Why a batch could not be set aside.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// Too much waits already.
    #[error("too much waits for clients to enrol")]
    Full,
    /// It could not be made durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Frontend {
    /// Makes a body durable until its sender enrols.
    pub(super) async fn park(
        &self,
        org: &OrgId,
        source: &str,
        parked: Parked,
    ) -> Result<(), ParkError> {
        let key = (org.clone(), source.to_owned());
        {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let theirs = waiting.map.get(&key).map_or(0, Vec::len);
            if theirs >= PER_CLIENT
                || waiting.bytes + parked.body.len() > self.limits.quarantine_bytes
            {
                return Err(ParkError::Full);
            }
        }
        let about = self.describe(org, source, &parked, "");
        let done =
            self.server.commit(Kind::Quarantine(about), vec![parked.body.clone()], vec![]).await?;
        let parked = Parked { _pin: Some(done.segment), ..parked };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += parked.body.len();
        waiting.map.entry(key).or_default().push(parked);
        Ok(())
    }

    /// Keeps bytes that can never be stored, in a file of their own beside the
    /// journal, with the reason why.
    pub(super) async fn quarantine(
        &self,
        org: &OrgId,
        source: &str,
        parked: &Parked,
        reason: &str,
    ) -> Result<(), String> {
        Counters::inc(&self.server.counters.quarantined);
        let name = hex::encode(hash(&parked.body));
        let path = self.server.own_path("quarantine", &name);
        let about = self.describe(org, source, parked, reason);
        let about = velociraptor_proto::json::to_object(&about).map_err(|e| e.to_string())?;
        let fs = &*self.server.env.fs;
        for (path, data) in [(format!("{path}.json"), about.as_bytes()), (path, &parked.body[..])] {
            match crate::env::fs::create_synced(fs, &path, data).await {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(e.to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn describe(&self, org: &OrgId, source: &str, parked: &Parked, reason: &str) -> Quarantine {
        Quarantine {
            org_id: org.id().to_owned(),
            client_id: source.to_owned(),
            received: self.server.env.clock.micros(),
            remote_addr: parked.remote.clone(),
            class: parked.class.into(),
            reason: reason.to_owned(),
        }
    }

    /// Takes over what earlier processes kept for clients that had not enrolled.
    pub async fn take_over(self: &Arc<Self>) {
        for p in self.server.take_parked() {
            let org = OrgId::new(p.about.org_id.as_str());
            let source = p.about.client_id.clone();
            let parked = Parked {
                class: p.about.class(),
                remote: p.about.remote_addr,
                body: p.body,
                _pin: Some(p.pin),
            };
            match super::stored_key(&self.server, &source, &org).await {
                Ok(None) => {
                    let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.bytes += parked.body.len();
                    waiting.map.entry((org, source)).or_default().push(parked);
                }
                // Enrolled since: a repeat of what was stored is recognised.
                _ => self.retake(parked).await,
            }
        }
    }

    /// Batches kept here whose clients have enrolled at another frontend.
    pub async fn retake_enrolled(self: &Arc<Self>) {
        let enrolled: Vec<(OrgId, String)> = {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let known = |(org, source): &&(OrgId, String)| {
                self.server.org(org).is_some_and(|o| {
                    o.state().clients.get(source).is_some_and(|c| c.info.first_seen_at > 0)
                })
            };
            waiting.map.keys().filter(known).cloned().collect()
        };
        for (org, source) in enrolled {
            for parked in self.unpark(&org, &source) {
                self.retake(parked).await;
            }
        }
    }

    /// What waited for this client.
    pub(super) fn unpark(&self, org: &OrgId, source: &str) -> Vec<Parked> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let out = waiting.map.remove(&(org.clone(), source.to_owned())).unwrap_or_default();
        waiting.bytes -= out.iter().map(|p| p.body.len()).sum::<usize>();
        out
    }
}
