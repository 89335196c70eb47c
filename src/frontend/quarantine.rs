//! POSTs that cannot be stored yet, or ever, kept as they came.
//!
//! An agent counts a batch as delivered when it is told to enrol (406), so a
//! batch that meets an unknown key is journaled first and taken up again once
//! the key is enrolled.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{PostClass, Quarantine};

use super::open::{OpenError, Sender};
use super::{Frontend, IngestError};
use crate::env::Mutant;
use crate::services::flows::job::hash;
use crate::services::handover::{Handed, RecoveredPost};
use crate::services::ids::OrgId;
use crate::services::server::Counters;
use crate::store::journal::{CommitError, Extent, Worth};

/// Pause between two rounds of taking up what was kept.
const AGAIN: Duration = Duration::from_secs(1);

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

/// How long a minion remembers what it kept: by then its master has taken charge.
const ON_MINION: Duration = Duration::from_secs(600);

/// A batch that waits, in the journal.
#[derive(Clone, Debug)]
struct Kept {
    post: RecoveredPost,
    since: Instant,
}

/// What waits, by organisation and client id as stored.
#[derive(Debug, Default)]
pub struct Waiting {
    bytes: u64,
    map: BTreeMap<(OrgId, String), Vec<Kept>>,
}

impl Waiting {
    fn add(&mut self, post: RecoveredPost) {
        let key = (OrgId::new(post.about.org_id.as_str()), post.about.client_id.clone());
        self.bytes += post.body.len;
        self.map.entry(key).or_default().push(Kept { post, since: Instant::now() });
    }

    fn take(&mut self, key: &(OrgId, String)) -> Vec<RecoveredPost> {
        let out = self.map.remove(key).unwrap_or_default();
        self.bytes -= out.iter().map(|k| k.post.body.len).sum::<u64>();
        out.into_iter().map(|k| k.post).collect()
    }

    fn forget_older(&mut self, age: Duration) {
        let bytes = &mut self.bytes;
        for list in self.map.values_mut() {
            list.retain(|k| {
                let stays = k.since.elapsed() < age;
                *bytes -= if stays { 0 } else { k.post.body.len };
                stays
            });
        }
        self.map.retain(|_, list| !list.is_empty());
    }
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
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.server.is_master() {
                waiting.forget_older(ON_MINION);
            }
            let theirs = waiting.map.get(&key).map_or(0, Vec::len);
            let bytes = waiting.bytes + parked.body.len() as u64;
            if theirs >= PER_CLIENT || bytes > self.limits.quarantine_bytes as u64 {
                return Err(ParkError::Full);
            }
        }
        let about = self.describe(org, source, &parked, "");
        let len = parked.body.len() as u64;
        let kind = Kind::Quarantine(about.clone());
        let done = self.server.commit_worth(Worth::Rows, kind, vec![parked.body], vec![]).await?;
        let body = Extent { segment: done.segment, offset: done.payload, len };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.add(RecoveredPost { about, body });
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

    /// Takes over what other processes kept for clients that had not enrolled, and
    /// what waited for clients that have enrolled through others.
    pub async fn take_over(self: &Arc<Self>) {
        self.take_over_until(&CancellationToken::new()).await;
    }

    /// [`Frontend::take_over`]; after `stop` the rest stays for later. Each batch of a client
    /// that has enrolled costs an RSA operation: of ten thousand clients, half a minute.
    async fn take_over_until(self: &Arc<Self>, stop: &CancellationToken) {
        let mut list = self.server.handover().take().into_iter();
        for handed in list.by_ref() {
            match handed {
                Handed::Enrolled(org, client) => {
                    self.peers.forget(&client);
                    self.retake_all(&org, &client).await;
                }
                Handed::Post(_) if self.server.env.sabotage.is(Mutant::ForgetParked) => {}
                Handed::Post(post) => self.take_post(post).await,
            }
            if stop.is_cancelled() {
                break;
            }
        }
        for handed in list {
            match handed {
                Handed::Post(post) => self.server.handover().again(post),
                // Whoever takes up the batches looks for the key.
                Handed::Enrolled(..) => {}
            }
        }
    }

    async fn take_post(self: &Arc<Self>, post: RecoveredPost) {
        let org = OrgId::new(post.about.org_id.as_str());
        let client = post.about.client_id.clone();
        match super::stored_key(&self.server, &client, &org).await {
            Ok(None) => {
                let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting().add(post);
                // Who enrolled since it was looked for found nothing that waited.
                if !matches!(super::stored_key(&self.server, &client, &org).await, Ok(None)) {
                    self.retake_all(&org, &client).await;
                }
            }
            // Enrolled since: a repeat of what was stored is recognised.
            Ok(Some(_)) => self.retake(post).await,
            Err(e) => {
                tracing::warn!(error = e, "kept batch not looked at; tried again");
                self.server.handover().again(post);
            }
        }
    }

    /// Hands back what waits for clients that have not enrolled: this process ends.
    pub fn hand_back(&self) {
        let map = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting).map
        };
        for kept in map.into_values().flatten() {
            self.server.handover().again(kept.post);
        }
    }

    /// [`Frontend::take_over`], as often as there is something, until `stop`. Clients are served
    /// meanwhile: what they sent before they enrolled is not of the same moment anyway.
    pub async fn keep_taking_over(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.server.handover().changed() => {}
            }
            self.take_over_until(&stop).await;
            // What failed is tried again, not at once.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Takes up what waited for this client.
    pub(super) async fn retake_all(self: &Arc<Self>, org: &OrgId, source: &str) {
        let key = (org.clone(), source.to_owned());
        let posts = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take(&key);
        for post in posts {
            self.retake(post).await;
        }
    }

    /// Takes up a batch that met its client's missing key.
    async fn retake(self: &Arc<Self>, post: RecoveredPost) {
        let body = match post.body.read(&*self.server.env.fs).await {
            Ok(body) => body,
            Err(e) => {
                tracing::error!(client = post.about.client_id, error = %e, "kept batch not read; tried again");
                return self.server.handover().again(post);
            }
        };
        match self.open(body, false).await {
            Ok(Sender::Proved(who, letter)) => {
                let (class, remote) = (post.about.class(), &post.about.remote_addr);
                if let Err(e) = self.ingest_letter(&who, class, remote, letter).await {
                    tracing::error!(client = who.source, error = %e, "kept batch not stored; tried again");
                    if !matches!(e, IngestError::Never(_)) {
                        self.server.handover().again(post);
                    }
                }
            }
            Ok(Sender::Stranger { client, .. }) => {
                tracing::warn!(%client, "a kept batch was signed by another key; it stays in the journal");
            }
            Err(OpenError::Store(e)) => {
                tracing::warn!(error = e, "kept batch not opened; tried again");
                self.server.handover().again(post);
            }
            Err(e) => tracing::warn!(error = %e, "a kept batch cannot be opened"),
        }
    }
}
