//! POSTs that cannot be stored yet, or ever, kept as they came.
//!
//! An agent counts a batch as delivered when it is told to enrol (406), so a
//! batch that meets an unknown key is journaled first and taken up again once
//! the key is enrolled.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use bytes::Bytes;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{PostClass, Quarantine};

use super::Frontend;
use crate::services::ids::OrgId;
use crate::services::server::Counters;
use crate::store::journal::CommitError;

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
        self.quarantine(org, source, &parked, "").await?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += parked.body.len();
        waiting.map.entry(key).or_default().push(parked);
        Ok(())
    }

    /// Journals a body with the reason why it is not stored.
    pub(super) async fn quarantine(
        &self,
        org: &OrgId,
        source: &str,
        parked: &Parked,
        reason: &str,
    ) -> Result<(), CommitError> {
        Counters::inc(&self.server.counters.quarantined);
        let record = Quarantine {
            org_id: org.id().to_owned(),
            client_id: source.to_owned(),
            received: self.server.env.clock.micros(),
            remote_addr: parked.remote.clone(),
            class: parked.class.into(),
            reason: reason.to_owned(),
        };
        self.server.commit(Kind::Quarantine(record), vec![parked.body.clone()], vec![]).await?;
        Ok(())
    }

    /// What waited for this client.
    pub(super) fn unpark(&self, org: &OrgId, source: &str) -> Vec<Parked> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let out = waiting.map.remove(&(org.clone(), source.to_owned())).unwrap_or_default();
        waiting.bytes -= out.iter().map(|p| p.body.len()).sum::<usize>();
        out
    }
}
