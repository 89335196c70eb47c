//! One record of another process's journal, applied to memory.
//!
//! What its frontend would have done here after its commit: the POST is looked up
//! in the client's rings, its messages change their flows, and what follows from
//! them is acted on. The position moves together with memory, under the gates of
//! the flows concerned, so that a decision knows exactly what it had seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Decision, EventRows, Post, Repeat, Repeats};

use super::table::{Applied, Proc};
use crate::services::events::EventBatch;
use crate::services::flows::job::{self, Job};
use crate::services::flows::unknown_in;
use crate::services::handover::RecoveredPost;
use crate::services::ids::{OrgId, Session};
use crate::services::server::{Counters, Org, Server, ServiceError};
use crate::services::state::{Effect, FlowKey, Known, MONITORING, PostFacts, STATUS, to_hash};
use crate::store::journal::{Extent, Found, Position};

/// Jobs of at least this many bytes are parsed off the reactor.
const HEAVY: usize = 64 << 10;

/// Why a record was not applied.
#[derive(Debug, thiserror::Error)]
pub(in crate::services) enum ApplyError {
    /// It never will be.
    #[error("{0}")]
    Poison(String),
    /// It may be, later.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Identity and circumstances of a journaled POST.
pub(in crate::services) fn facts_of(post: &Post) -> PostFacts<'_> {
    PostFacts {
        client: &post.client_id,
        class: post.class(),
        received: post.received,
        post: to_hash(&post.post_hash),
        cipher: to_hash(&post.cipher_hash),
        life: post.life,
    }
}

/// A job of a journaled POST.
pub(in crate::services) struct Parsed {
    /// Its place among the jobs of the record.
    pub index: u32,
    /// The job.
    pub job: Job,
    /// Its bytes.
    pub raw: Bytes,
    /// Its readable query or event name.
    pub name: String,
    /// The flow it belongs to.
    pub session: Session,
}

/// The messages of a record as they stand in it.
fn raw_jobs(post: &Post, f: &Found) -> impl Iterator<Item = Bytes> {
    let mut at = 0usize;
    post.jobs.iter().map(move |meta| {
        let end = at.saturating_add(meta.length as usize).min(f.payload.len());
        let raw = f.payload.slice(at.min(end)..end);
        at = end;
        raw
    })
}

impl Server {
    /// The jobs of a journaled POST of `p`, parsed again. Those that cannot be
    /// parsed are counted and left.
    pub(in crate::services) fn jobs_of(&self, p: &Proc, post: &Post, f: &Found) -> Vec<Parsed> {
        let mut at = 0usize;
        let mut out = Vec::with_capacity(post.jobs.len());
        for (index, (meta, raw)) in post.jobs.iter().zip(raw_jobs(post, f)).enumerate() {
            let segment = f.extent.segment.clone();
            let offset = f.extent.offset + at as u64;
            let extent = Extent { segment, offset, len: meta.length };
            let spill = meta.spill.as_ref().map(|s| Extent {
                segment: p.spill(&s.file),
                offset: s.offset,
                len: s.length,
            });
            at += raw.len();
            match job::parse(&raw, to_hash(&meta.hash), extent, spill) {
                Ok(mut job) => {
                    let name = self.read_job(&mut job);
                    let session = Session::parse(&job.message.session_id);
                    out.push(Parsed { index: index as u32, job, raw, name, session });
                }
                Err(e) => {
                    Counters::inc(&self.counters.quarantined);
                    tracing::warn!(client = post.client_id, error = %e, "journaled job cannot be read; kept");
                }
            }
        }
        out
    }

    async fn jobs_off_reactor(
        self: &Arc<Self>,
        p: &Arc<Proc>,
        post: &Arc<Post>,
        f: &Arc<Found>,
    ) -> Result<Vec<Parsed>, ApplyError> {
        let (this, p, post, f) = (self.clone(), p.clone(), post.clone(), f.clone());
        // A panic in it must not end everything: the record is set aside.
        let heavy = f.payload.len() >= HEAVY;
        let work = move || {
            let parse = std::panic::AssertUnwindSafe(|| this.jobs_of(&p, &post, &f));
            std::panic::catch_unwind(parse)
        };
        let parsed = if heavy { self.env.offload(work).await } else { Some(work()) };
        match parsed {
            Some(Ok(jobs)) => Ok(jobs),
            Some(Err(_)) => Err(ApplyError::Poison("it cannot be parsed without a panic".into())),
            None => Err(ServiceError::Timeout("parsing was interrupted".into()).into()),
        }
    }

    /// Applies a record of `p` that ends at `end`, and moves its position there.
    pub(in crate::services) async fn apply_record(
        self: &Arc<Self>,
        p: &Arc<Proc>,
        f: Found,
        end: Position,
    ) -> Result<(), ApplyError> {
        let org = |id: &str| {
            let org = self.org(&OrgId::new(id));
            org.ok_or_else(|| ApplyError::Poison(format!("organisation {id:?} is not known")))
        };
        let size = f.end - f.start;
        let Found { record, payload, extent, .. } = &f;
        match &record.kind {
            Some(Kind::Post(post)) => {
                let (org, post) = (org(&post.org_id)?, Arc::new(post.clone()));
                self.apply_post(p, org, post, Arc::new(f), end).await?;
            }
            Some(Kind::Decision(d)) => {
                self.apply_foreign_decision(p, d, &f, end)?;
                self.processes.positions.advance(&p.id, end);
            }
            Some(Kind::Events(e)) => {
                self.apply_rows(&*org(&e.org_id)?, e, payload, extent.clone()).await;
                self.processes.positions.advance(&p.id, end);
            }
            Some(Kind::Quarantine(about)) => {
                self.park(RecoveredPost { about: about.clone(), body: extent.clone() });
                self.processes.positions.advance(&p.id, end);
            }
            None => return Err(ApplyError::Poison("it is of an unknown kind".into())),
        }
        Applied::add(&self.processes.applied.records, 1);
        Applied::add(&self.processes.applied.bytes, size);
        Ok(())
    }

    /// What the master alone decides counts only as far as its successor has
    /// recorded; that was read back at the start. A fact is a fact.
    fn apply_foreign_decision(
        &self,
        p: &Proc,
        d: &Decision,
        f: &Found,
        end: Position,
    ) -> Result<(), ApplyError> {
        if !is_fact(d) {
            self.refuse_decision(p, d, end);
            return Ok(());
        }
        let Some(org) = self.org(&OrgId::new(d.org_id.as_str())) else {
            return Err(ApplyError::Poison(format!("organisation {:?} is not known", d.org_id)));
        };
        if let Some(DecisionKind::Claim(g)) = &d.kind {
            org.state().claimed(&d.client_id, g, &f.extent.segment, true);
            self.offers.look_at((org.id.clone(), d.client_id.clone()));
            return Ok(());
        }
        org.state().apply_decision(d, &f.extent.segment);
        self.enrolled(&org.id, &d.client_id);
        Ok(())
    }

    /// A decision of a process that was not, or no longer, the master.
    pub(in crate::services) fn refuse_decision(&self, p: &Proc, d: &Decision, end: Position) {
        Applied::add(&self.processes.applied.refused_decisions, 1);
        tracing::warn!(
            process = %p.id,
            place = %end,
            client = d.client_id,
            kind = kind_of(d),
            "a decision of a process that is not the master any more does not count"
        );
    }

    async fn apply_rows(&self, org: &Org, e: &EventRows, rows: &Bytes, extent: Extent) {
        let _open = org.gates.enter(vec![(e.client_id.clone(), MONITORING.to_owned())]).await;
        org.state().apply_events(&e.client_id, &e.artifact, e.time, rows, extent);
        self.bus.publish(EventBatch {
            org: org.id.clone(),
            client: e.client_id.clone(),
            artifact: e.artifact.clone(),
            rows: rows.clone(),
        });
    }

    async fn apply_post(
        self: &Arc<Self>,
        p: &Arc<Proc>,
        org: Arc<Org>,
        post: Arc<Post>,
        f: Arc<Found>,
        end: Position,
    ) -> Result<(), ApplyError> {
        let facts = facts_of(&post);
        let noted = self.processes.take_repeat(&p.id, end);
        if noted.as_ref().is_some_and(BTreeSet::is_empty) {
            Counters::inc(&self.counters.duplicates);
            self.processes.positions.advance(&p.id, end);
            return Ok(());
        }
        if !org.state().admits(&facts) {
            Counters::inc(&self.counters.dropped);
            self.processes.positions.advance(&p.id, end);
            return Ok(());
        }
        let repeats = org.state().clients.entry(facts.client).ring(facts.class).has(&facts.post);
        // Its messages are looked at without what parsing them brings along: it repeats.
        let tells = || {
            let unknown = unknown_in(raw_jobs(&post, &f));
            org.state().tells_of_loss(facts.client, facts.cipher, &unknown)
        };
        if repeats && !tells() {
            Counters::inc(&self.counters.duplicates);
            self.note_repeats(p, end, vec![]).await?;
            self.processes.positions.advance(&p.id, end);
            return Ok(());
        }
        let mut jobs = self.jobs_off_reactor(p, &post, &f).await?;
        let keys = jobs.iter().map(|j| (facts.client.to_owned(), j.session.flow.clone()));
        let open = org.gates.enter(keys.collect()).await;
        let gone = self.drop_known(&org, &facts, &mut jobs, noted.as_ref());
        if !gone.is_empty() {
            self.note_repeats(p, end, gone).await?;
        }
        self.open_flows_of(&org, facts.client, jobs.iter().map(|j| (&j.session, &j.name))).await?;
        let effects: Vec<(Effect, Bytes)> = {
            let mut state = org.state();
            let mut effects = Vec::new();
            // The client may have been deleted meanwhile.
            if state.admits(&facts) {
                state.note_post(&facts, &f.extent.segment);
                let apply = |j: Parsed| (state.apply_job(&facts, &j.job, &j.name), j.raw);
                effects.extend(jobs.into_iter().map(apply));
            } else {
                Counters::inc(&self.counters.dropped);
            }
            self.processes.positions.advance(&p.id, end);
            effects
        };
        drop(open);
        self.act_later(&org, post.received, effects).await;
        Ok(())
    }

    /// Drops what was taken before. Returns the jobs that only memory knows.
    fn drop_known(
        &self,
        org: &Org,
        facts: &PostFacts<'_>,
        jobs: &mut Vec<Parsed>,
        noted: Option<&BTreeSet<u32>>,
    ) -> Vec<u32> {
        let mut state = org.state();
        let mut gone = Vec::new();
        jobs.retain(|j| {
            let known = state.known(facts.client, &j.session, &j.job, &j.name, facts.received);
            if known == Known::Live {
                state.pin_spill(facts.client, &j.session, &j.job);
            }
            let was_noted = noted.is_some_and(|n| n.contains(&j.index));
            if known == Known::Settled && !was_noted {
                gone.push(j.index);
            }
            let new = known == Known::No && !was_noted && !j.session.flow.is_empty();
            if !new {
                Counters::inc(&self.counters.duplicates);
            }
            new
        });
        gone
    }

    /// Makes it durable that a record repeats what is in stock files: a later
    /// recovery may not find what it repeats.
    async fn note_repeats(
        &self,
        p: &Proc,
        end: Position,
        job: Vec<u32>,
    ) -> Result<(), ServiceError> {
        let repeat = Repeat {
            node: p.id.node.clone(),
            epoch: p.id.epoch.clone(),
            file: end.file,
            offset: end.offset,
            job,
        };
        let kind = DecisionKind::Repeats(Repeats { repeats: vec![repeat] });
        Ok(self.decide(&self.root(), "", "", kind).await?)
    }

    /// Flows that are not live may have stock files: notes what those hold, before
    /// something is added. The caller is inside their gates.
    pub async fn open_flows_of<'a>(
        &self,
        org: &Org,
        client: &str,
        what: impl Iterator<Item = (&'a Session, &'a String)>,
    ) -> Result<(), ServiceError> {
        let mut flows = std::collections::BTreeMap::<String, Vec<String>>::new();
        for (session, name) in what {
            let flow = session.flow.as_str();
            if flow.starts_with("F.") && flow != MONITORING && flow != STATUS {
                let names = flows.entry(flow.to_owned()).or_default();
                if !name.is_empty() && !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        for (flow, names) in flows {
            self.open_if_stored(org, client, &flow, &names).await?;
        }
        Ok(())
    }

    /// Acts on what follows from a record. What needs a commit of its own does not
    /// hold up the records behind it.
    async fn act_later(
        self: &Arc<Self>,
        org: &Arc<Org>,
        received: u64,
        effects: Vec<(Effect, Bytes)>,
    ) {
        for (effect, raw) in effects {
            let slow = match &effect {
                Effect::Progress(key) => self.end_is_due(org, key),
                Effect::FlowLost(_) => true,
                _ => false,
            };
            if !slow {
                self.act(org, received, effect, &raw).await;
                continue;
            }
            // Closed never: the table lives as long as the server.
            let Ok(permit) = self.processes.acting.clone().acquire_owned().await else { return };
            let (this, org) = (self.clone(), org.clone());
            self.env.spawn(async move {
                this.act(&org, received, effect, &raw).await;
                drop(permit);
            });
        }
    }

    fn end_is_due(&self, org: &Org, key: &FlowKey) -> bool {
        let now = self.env.clock.micros();
        org.state().flows.get(key).is_some_and(|f| f.ready_to_announce(now))
    }
}

/// Whether a record tells what a minion did, not what a master decided.
pub(in crate::services) fn is_fact(d: &Decision) -> bool {
    matches!(d.kind, Some(DecisionKind::Enrol(_) | DecisionKind::Claim(_)))
}

fn kind_of(d: &Decision) -> &'static str {
    match &d.kind {
        Some(DecisionKind::Schedule(_)) => "schedule",
        Some(DecisionKind::Grant(_)) => "grant",
        Some(DecisionKind::Cancel(_)) => "cancel",
        Some(DecisionKind::Enrol(_)) => "enrol",
        Some(DecisionKind::Label(_)) => "label",
        Some(DecisionKind::OpenFlow(_)) => "open flow",
        Some(DecisionKind::SettledFlow(_)) => "settled flow",
        Some(DecisionKind::FilingEvents(_)) => "filing events",
        Some(DecisionKind::SettledEvents(_)) => "settled events",
        Some(DecisionKind::ClientInfo(_)) => "client info",
        Some(DecisionKind::FailFlow(_)) => "fail flow",
        Some(DecisionKind::DeleteClient(_)) => "delete client",
        Some(DecisionKind::DeleteFlow(_)) => "delete flow",
        Some(DecisionKind::DeleteHuntFlows(_)) => "delete flows of a hunt",
        Some(DecisionKind::Opened(_)) => "opened",
        Some(DecisionKind::Repeats(_)) => "repeats",
        Some(DecisionKind::SetHunt(_)) => "hunt",
        Some(DecisionKind::HuntFlow(_)) => "flow of a hunt",
        Some(DecisionKind::HuntDone(_)) => "end of a hunt's flow",
        Some(DecisionKind::Claim(_)) => "claim",
        None => "unknown",
    }
}
