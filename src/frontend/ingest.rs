//! Commit, then acknowledge: from an opened POST to durable records.

use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use prost::Message;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{JobMeta, Post, PostClass, SpillRef};
use velociraptor_proto::proto::VeloMessage;

use super::Frontend;
use super::letter::{Content, Letter};
use super::open::{OpenError, Who};
use super::quarantine::Parked;
use crate::crypto::{Compression, Opened};
use crate::env::{File, Mutant};
use crate::services::Org;
use crate::services::flows::job::{self, Hash, Job};
use crate::services::ids::Session;
use crate::services::server::Counters;
use crate::services::state::{Known, PostFacts};
use crate::store::journal::{CommitError, Committed, Extent, Segment, Worth, is_full};

/// A POST that is being committed: client, class, identity.
pub(super) type PostKey = (String, i32, Hash);

/// The outcome of a POST, shared by everyone who sent it.
pub(super) type Pending = Shared<BoxFuture<'static, Result<(), IngestError>>>;

/// Why a POST is not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IngestError {
    /// Not committed, or not known to be: the client must send it again.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store could not be asked or written.
    #[error("store: {0}")]
    Store(String),
    /// It can never be stored; its bytes are in quarantine.
    #[error("{0}")]
    Never(String),
    /// There is too much to do: the client must send it again.
    #[error("too much to do at the moment")]
    Busy,
    /// Work on it broke off.
    #[error("ingest was interrupted")]
    Interrupted,
}

/// A job on its way into the journal.
struct Incoming {
    raw: Bytes,
    job: Job,
    name: String,
    session: Session,
}

fn interrupted(e: &OpenError) -> IngestError {
    match e {
        OpenError::Busy => IngestError::Busy,
        _ => IngestError::Interrupted,
    }
}

/// What a POST is worth: as little as the least of its messages, since all of
/// it is stored or nothing.
fn worth(incoming: &[Incoming]) -> Worth {
    let of = |i: &Incoming| {
        let m = &i.job.message;
        if m.file_buffer.is_some() {
            Worth::Upload
        } else if m.flow_stats.is_some() || m.status.is_some() {
            Worth::Status
        } else {
            Worth::Rows
        }
    };
    incoming.iter().map(of).min().unwrap_or(Worth::Status)
}

impl Frontend {
    /// What a POST says; read here unless that was done when it was opened.
    pub(super) async fn read(
        &self,
        class: PostClass,
        letter: Letter,
    ) -> Result<Content, IngestError> {
        let content = match letter {
            Letter::Read(content) => content,
            Letter::Opened(opened) => {
                let size = opened.lists.iter().map(Bytes::len).sum();
                let limits = self.limits.packet;
                self.heavy(class == PostClass::Urgent, size, move || {
                    Content::read(&opened, &limits)
                })
                .await
                .map_err(|e| interrupted(&e))?
            }
        };
        content.map_err(|e| IngestError::Never(e.to_string()))
    }

    /// Reads what a proved client sent if that is not done yet, and stores it.
    pub(super) async fn ingest_letter(
        self: &Arc<Self>,
        who: &Who,
        class: PostClass,
        remote: &str,
        letter: Letter,
    ) -> Result<(), IngestError> {
        let content = self.read(class, letter).await?;
        self.ingest(who, class, remote, content).await
    }

    /// Stores what a proved client sent. Returns once it is durable.
    ///
    /// The same POST arriving again while it is being committed waits for that
    /// commit; one that was committed before is acknowledged without work.
    pub(super) async fn ingest(
        self: &Arc<Self>,
        who: &Who,
        class: PostClass,
        remote: &str,
        content: Content,
    ) -> Result<(), IngestError> {
        if content.jobs.is_empty() {
            return Ok(());
        }
        let post = content.post;
        // A reader's check-in repeats by nature; only what else it carries counts.
        let known = who.org.state().clients.entry(&who.source).ring(class).has(&post);
        let known = known && !self.server.env.sabotage.is(Mutant::ForgetRing);
        if known && !self.tells_of_loss(who, &content) {
            Counters::inc(&self.server.counters.duplicates);
            return Ok(());
        }
        let key = (who.source.clone(), class as i32, post);
        let pending = {
            let mut inflight = self.inflight.lock().unwrap_or_else(PoisonError::into_inner);
            match inflight.get(&key) {
                Some(p) => {
                    Counters::inc(&self.server.counters.duplicates);
                    if self.server.env.sabotage.is(Mutant::JoinWithoutWaiting) {
                        return Ok(());
                    }
                    p.clone()
                }
                None => {
                    let (this, who, remote, k) =
                        (self.clone(), who.clone(), remote.to_owned(), key.clone());
                    let work = async move {
                        let done = this.store(&who, class, &remote, content).await;
                        this.inflight.lock().unwrap_or_else(PoisonError::into_inner).remove(&k);
                        done
                    };
                    let pending = work.boxed().shared();
                    inflight.insert(key, pending.clone());
                    // The client may go away; what was begun is finished.
                    self.server.env.spawn(pending.clone().map(drop));
                    pending
                }
            }
        };
        pending.await
    }

    /// Whether a POST that came before may tell of a lost flow all the same; see
    /// [`OrgState::tells_of_loss`](crate::services::state::OrgState::tells_of_loss). On a
    /// minion that is for the master to know.
    fn tells_of_loss(&self, who: &Who, content: &Content) -> bool {
        let unknown = content.unknown_flows();
        match self.server.is_master() {
            true => who.org.state().tells_of_loss(&who.source, who.cipher, &unknown),
            false => !unknown.is_empty(),
        }
    }

    /// Stores what an agent inside of this process says for `source`, which no
    /// client can be.
    pub async fn ingest_own(
        self: &Arc<Self>,
        org: &Arc<Org>,
        source: &str,
        cipher: Hash,
        lists: &[Vec<u8>],
        urgent: bool,
    ) -> Result<(), IngestError> {
        let who = Who {
            org: org.clone(),
            source: source.to_owned(),
            cipher,
            api_version: u32::MAX,
            key: self.identity.keys[0].public().clone(),
            life: 0,
        };
        let opened = Opened {
            lists: lists.iter().cloned().map(Bytes::from).collect(),
            compression: Compression::None,
            timestamp_us: self.server.env.clock.micros(),
            nonce: String::new(),
        };
        let class = if urgent { PostClass::Urgent } else { PostClass::Normal };
        self.ingest_letter(&who, class, "", Letter::Opened(opened)).await
    }

    async fn store(
        self: &Arc<Self>,
        who: &Who,
        class: PostClass,
        remote: &str,
        content: Content,
    ) -> Result<(), IngestError> {
        let received = self.server.env.clock.micros();
        let post = content.post;
        let incoming = self.sift(who, remote, content).await?;
        if !self.server.is_master() {
            return self.store_for_master(who, class, remote, received, post, incoming).await;
        }
        let keys = incoming.iter().map(|i| (who.source.clone(), i.session.flow.clone()));
        let open = who.org.gates.enter(keys.collect()).await;
        let mut fresh = Vec::with_capacity(incoming.len());
        {
            let state = who.org.state();
            let twice = state.sabotage.is(Mutant::CountDuplicates);
            for mut i in incoming {
                match state.known(&who.source, &i.session, &i.job, &i.name, received) {
                    Known::No => fresh.push(i),
                    _ if twice => {
                        i.job.hash[0] ^= 1;
                        fresh.push(i);
                    }
                    _ => Counters::inc(&self.server.counters.duplicates),
                }
            }
        }
        if self.server.env.sabotage.is(Mutant::DropLateRows) {
            let state = who.org.state();
            fresh.retain(|i| {
                let key = (who.source.clone(), i.session.flow.clone());
                state.flows.get(&key).is_none_or(|f| !f.announced)
            });
        }
        if fresh.is_empty() {
            return Ok(());
        }
        self.server
            .open_flows_of(&who.org, &who.source, fresh.iter().map(|i| (&i.session, &i.name)))
            .await
            .map_err(|e| IngestError::Store(e.to_string()))?;
        let facts = PostFacts {
            client: &who.source,
            class,
            received,
            post,
            cipher: who.cipher,
            life: who.life,
        };
        if self.server.env.sabotage.is(Mutant::RingBeforeCommit) {
            let early = Arc::new(Segment::of_path(""));
            who.org.state().note_post(&facts, &early);
        }
        let under_way = self.server.backlogs.begin(self.server.journal.end());
        let committed = self.commit(who, &facts, remote, &mut fresh).await?;
        let mut at = committed.payload;
        let mut effects = Vec::new();
        {
            let mut state = who.org.state();
            // Deleted while this was being committed: it is dropped, as it will be by
            // whoever reads the journal.
            let kept = state.admits(&facts);
            if kept {
                state.note_post(&facts, &committed.segment);
            } else {
                Counters::inc(&self.server.counters.dropped);
            }
            for i in fresh.iter_mut().filter(|_| kept) {
                let len = i.raw.len() as u64;
                i.job.extent = Extent { segment: committed.segment.clone(), offset: at, len };
                at += len;
                self.count(&i.job);
                effects.push((state.apply_job(&facts, &i.job, &i.name), i.raw.clone()));
            }
        }
        drop((open, under_way));
        for (effect, raw) in effects {
            self.server.act(&who.org, received, effect, &raw).await;
        }
        Ok(())
    }

    /// On a minion: the master applies it from this process's journal.
    async fn store_for_master(
        &self,
        who: &Who,
        class: PostClass,
        remote: &str,
        received: u64,
        post: Hash,
        mut incoming: Vec<Incoming>,
    ) -> Result<(), IngestError> {
        if incoming.is_empty() {
            return Ok(());
        }
        // Refused, never dropped; statuses last, since they end things.
        let owed = self.server.unreplicated_bytes();
        let room = self.server.options.unreplicated_bytes;
        let room = if class == PostClass::Urgent { room.saturating_mul(2) } else { room };
        if owed > room {
            return Err(IngestError::Store(format!(
                "{owed} bytes wait for the master, more than cluster.unreplicated_bytes allows"
            )));
        }
        let facts = PostFacts {
            client: &who.source,
            class,
            received,
            post,
            cipher: who.cipher,
            life: who.life,
        };
        let done = self.commit(who, &facts, remote, &mut incoming).await?;
        who.org.state().note_post(&facts, &done.segment);
        for i in &incoming {
            self.count(&i.job);
            if let Some(spill) = &i.job.spill {
                self.server.note_spill_record(&spill.segment, done.end);
            }
        }
        Ok(())
    }

    async fn commit(
        &self,
        who: &Who,
        facts: &PostFacts<'_>,
        remote: &str,
        fresh: &mut [Incoming],
    ) -> Result<Committed, IngestError> {
        let worth = worth(fresh);
        // Before anything is written beside the journal.
        self.server.journal.space().admit(worth).map_err(CommitError::from)?;
        let (record, payload, spills) = self.record(who, facts, remote, fresh).await?;
        match self.server.commit_worth(worth, Kind::Post(record), payload, spills).await {
            Ok(c) => Ok(c),
            Err(e) => {
                self.spills.abandon(&who.source);
                Err(e.into())
            }
        }
    }

    fn count(&self, job: &Job) {
        use std::sync::atomic::Ordering::Relaxed;
        let c = &self.server.counters;
        c.jobs.fetch_add(1, Relaxed);
        if job.message.vql_response.is_some() {
            c.rows.fetch_add(job.rows, Relaxed);
        }
        if job.message.file_buffer.is_some() {
            c.upload_bytes.fetch_add(job.bytes, Relaxed);
        }
    }

    /// Drops what is no data (check-ins) and sets aside what can never be stored.
    async fn sift(
        &self,
        who: &Who,
        remote: &str,
        content: Content,
    ) -> Result<Vec<Incoming>, IngestError> {
        let mut out = Vec::with_capacity(content.jobs.len());
        for (raw, job) in content.jobs {
            match job {
                Ok(mut job) => {
                    if job.message.foreman_checkin.is_some() || job.message.csr.is_some() {
                        continue;
                    }
                    let name = self.server.read_job(&mut job);
                    let session = Session::parse(&job.message.session_id);
                    if session.flow.is_empty() {
                        Counters::inc(&self.server.counters.ignored);
                        continue;
                    }
                    out.push(Incoming { raw, job, name, session });
                }
                Err(e) => {
                    tracing::warn!(client = who.source, error = %e, bytes = raw.len(), "job set aside");
                    let parked =
                        Parked { class: PostClass::Normal, remote: remote.to_owned(), body: raw };
                    self.quarantine(&who.org.id, &who.source, &parked, &e.to_string())
                        .await
                        .map_err(IngestError::Store)?;
                }
            }
        }
        Ok(out)
    }

    /// Builds the record. Bulk data goes to spill files, which are written now
    /// and synced with the group.
    async fn record(
        &self,
        who: &Who,
        facts: &PostFacts<'_>,
        remote: &str,
        fresh: &mut [Incoming],
    ) -> Result<(Post, Vec<Bytes>, Vec<Arc<dyn File>>), IngestError> {
        let mut spills = Vec::new();
        let mut metas = Vec::with_capacity(fresh.len());
        let mut payload = Vec::with_capacity(fresh.len());
        for i in fresh.iter_mut() {
            if i.job.message.file_buffer.is_some()
                && let Some(file) = self.spill(who, i).await?
            {
                spills.push(file);
            }
            metas.push(JobMeta {
                hash: i.job.hash.to_vec(),
                length: i.raw.len() as u64,
                spill: i.job.spill.as_ref().map(|s| SpillRef {
                    file: s.segment.path.clone(),
                    offset: s.offset,
                    length: s.len,
                }),
            });
            payload.push(i.raw.clone());
        }
        let post = Post {
            org_id: who.org.id.id().to_owned(),
            client_id: who.source.clone(),
            class: facts.class.into(),
            received: facts.received,
            remote_addr: remote.to_owned(),
            post_hash: facts.post.to_vec(),
            cipher_hash: facts.cipher.to_vec(),
            life: who.life,
            jobs: metas,
        };
        Ok((post, payload, spills))
    }

    async fn spill(
        &self,
        who: &Who,
        i: &mut Incoming,
    ) -> Result<Option<Arc<dyn File>>, IngestError> {
        let mut full =
            VeloMessage::decode(i.raw.clone()).map_err(|e| IngestError::Never(e.to_string()))?;
        let Some(b) = &mut full.file_buffer else { return Ok(None) };
        let data = job::buffer_data(b).map_err(|e| IngestError::Never(e.to_string()))?;
        let session = &i.job.message.session_id;
        let spilled = self.spills.take(&self.server, &who.source, session, b, data).await;
        let spilled = match spilled {
            Ok(s) => s,
            Err(e) => {
                self.spills.abandon(&who.source);
                if is_full(&e) {
                    self.server.journal.space().met_full().await;
                }
                return Err(IngestError::Store(e.to_string()));
            }
        };
        let Some((extent, file)) = spilled else { return Ok(None) };
        b.data = Bytes::new();
        let mut small = BytesMut::with_capacity(full.encoded_len());
        full.encode(&mut small).map_err(|e| IngestError::Never(e.to_string()))?;
        i.raw = small.freeze();
        i.job.spill = Some(extent);
        Ok(Some(file))
    }
}
