//! Journals applied to memory, without a server: what is left in it is not settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;

use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Decision, Post};

use super::Unsettled;
use crate::crypto::names::NameCipher;
use crate::env::{Env, FileSystem};
use crate::services::events::EventKey;
use crate::services::fleet::{Role, facts_of, is_fact, seen_position};
use crate::services::flows::job;
use crate::services::ids::Session;
use crate::services::state::{FlowKey, OrgState, to_hash};
use crate::store::StoreError;
use crate::store::journal::{Epoch, Extent, Found, Next, Position, ProcessId, Reader, Segment};

/// The journal of one process, record by record.
pub(super) struct Stream {
    process: ProcessId,
    role: Role,
    files: VecDeque<u64>,
    open: Option<(u64, Reader)>,
    /// The next record and where it ends.
    head: Option<(Position, Box<Found>)>,
}

impl Stream {
    pub(super) fn new(process: ProcessId, role: Role, files: &[u64]) -> Self {
        let files = files.iter().copied().collect();
        Self { process, role, files, open: None, head: None }
    }

    /// Sees to it that there is a head, if there is anything. Returns how many places
    /// could not be understood.
    async fn fill(&mut self, fs: &dyn FileSystem, fleet: &str) -> Result<usize, StoreError> {
        let mut unreadable = 0;
        while self.head.is_none() {
            let Some((file, reader)) = &mut self.open else {
                let Some(file) = self.files.pop_front() else { break };
                let segment = Arc::new(Segment::journal(fleet, &self.process, file));
                match Reader::open(fs, segment, 0).await {
                    Ok(r) => self.open = Some((file, r)),
                    // Deleted by its owner meanwhile.
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) if e.kind() == ErrorKind::InvalidData => unreadable += 1,
                    Err(e) => return Err(e.into()),
                }
                continue;
            };
            match reader.next().await? {
                Next::Record(f) => {
                    self.head = Some((Position { file: *file, offset: f.end }, f));
                }
                Next::Poison { .. } => unreadable += 1,
                Next::Torn(_) => {
                    unreadable += 1;
                    self.open = None;
                }
                Next::End => self.open = None,
            }
        }
        Ok(unreadable)
    }
}

fn time_of(f: &Found) -> u64 {
    match &f.record.kind {
        Some(Kind::Post(p)) => p.received,
        Some(Kind::Decision(d)) => d.time,
        Some(Kind::Events(e)) => e.time,
        Some(Kind::Quarantine(q)) => q.received,
        None => 0,
    }
}

/// Journals, applied.
pub(super) struct Fold<'a> {
    env: &'a Env,
    fleet: &'a str,
    names: &'a NameCipher,
    orgs: BTreeMap<String, OrgState>,
    /// When the first thing came for a flow, microseconds.
    first: BTreeMap<(String, FlowKey), u64>,
    repeats: BTreeMap<(ProcessId, Position), BTreeSet<u32>>,
    /// Clients of POSTs that came before they had enrolled, by organisation.
    pub(super) waiting: Vec<(String, String)>,
    unreadable: usize,
}

impl<'a> Fold<'a> {
    pub(super) fn new(env: &'a Env, fleet: &'a str, names: &'a NameCipher) -> Self {
        Self {
            env,
            fleet,
            names,
            orgs: BTreeMap::new(),
            first: BTreeMap::new(),
            repeats: BTreeMap::new(),
            waiting: Vec::new(),
            unreadable: 0,
        }
    }

    async fn fill(&mut self, s: &mut Stream) -> Result<(), StoreError> {
        self.unreadable += s.fill(&*self.env.fs, self.fleet).await?;
        Ok(())
    }

    /// First what masters decided, with what they had seen; then the rest by time.
    pub(super) async fn run(&mut self, mut streams: Vec<Stream>) -> Result<(), StoreError> {
        for s in &mut streams {
            self.fill(s).await?;
        }
        for (at, limit) in masters(&streams) {
            loop {
                let Some((end, f)) = streams[at].head.take() else { break };
                if limit.is_some_and(|l| end > l) {
                    streams[at].head = Some((end, f));
                    break;
                }
                if let Some(Kind::Decision(d)) = &f.record.kind {
                    for (id, to) in d.seen.iter().map(seen_position) {
                        if let Some(i) = streams.iter().position(|s| s.process == id)
                            && i != at
                        {
                            self.advance(&mut streams[i], to).await?;
                        }
                    }
                }
                let process = streams[at].process.clone();
                self.apply(&process, end, &f, true);
                self.fill(&mut streams[at]).await?;
            }
        }
        let mut heads: BTreeSet<(u64, usize)> = BTreeSet::new();
        for (i, s) in streams.iter().enumerate() {
            heads.extend(s.head.as_ref().map(|(_, f)| (time_of(f), i)));
        }
        // What may have been sent is not queued.
        for org in self.orgs.values_mut() {
            org.clients.iter_mut().for_each(|c| c.queue.doubt_granted());
        }
        while let Some((_, i)) = heads.pop_first() {
            let s = &mut streams[i];
            let Some((end, f)) = s.head.take() else { continue };
            let process = s.process.clone();
            self.apply(&process, end, &f, false);
            self.fill(s).await?;
            heads.extend(s.head.as_ref().map(|(_, f)| (time_of(f), i)));
        }
        Ok(())
    }

    async fn advance(&mut self, s: &mut Stream, to: Position) -> Result<(), StoreError> {
        while s.head.as_ref().is_some_and(|(end, _)| *end <= to) {
            let Some((end, f)) = s.head.take() else { break };
            let process = s.process.clone();
            self.apply(&process, end, &f, false);
            self.fill(s).await?;
        }
        Ok(())
    }

    fn apply(&mut self, p: &ProcessId, end: Position, f: &Found, decides: bool) {
        match &f.record.kind {
            Some(Kind::Post(post)) => self.post(p, end, post, f),
            Some(Kind::Decision(d)) if decides || is_fact(d) => {
                self.decision(d, f);
            }
            Some(Kind::Events(e)) => {
                let org = self.orgs.entry(e.org_id.clone()).or_default();
                org.apply_events(&e.client_id, &e.artifact, e.time, &f.payload, f.extent.clone());
            }
            Some(Kind::Quarantine(q)) => {
                self.waiting.push((q.org_id.clone(), q.client_id.clone()));
            }
            Some(Kind::Decision(_)) | None => {}
        }
    }

    fn post(&mut self, p: &ProcessId, end: Position, post: &Post, f: &Found) {
        let noted = self.repeats.remove(&(p.clone(), end));
        if noted.as_ref().is_some_and(BTreeSet::is_empty) {
            return;
        }
        let noted = noted.unwrap_or_default();
        let facts = facts_of(post);
        let org = self.orgs.entry(post.org_id.clone()).or_default();
        if !org.admits(&facts) {
            return;
        }
        let mut at = 0usize;
        for (i, meta) in post.jobs.iter().enumerate() {
            let to = at.saturating_add(meta.length as usize).min(f.payload.len());
            let raw = f.payload.slice(at.min(to)..to);
            let (segment, offset) = (f.extent.segment.clone(), f.extent.offset + at as u64);
            at = to;
            let extent = Extent { segment: segment.clone(), offset, len: meta.length };
            let spill =
                meta.spill.as_ref().map(|s| Extent { segment, offset: s.offset, len: s.length });
            if noted.contains(&(i as u32)) {
                continue;
            }
            let Ok(job) = job::parse(&raw, to_hash(&meta.hash), extent, spill) else {
                self.unreadable += 1;
                continue;
            };
            let m = &job.message;
            let hidden = match (&m.log_message, &m.vql_response) {
                (Some(l), _) => l.artifact.as_str(),
                (_, Some(r)) => r.query.as_ref().map_or("", |q| q.name.as_str()),
                _ => "",
            };
            let name = match hidden.starts_with('$') {
                true => self.names.reveal(hidden).unwrap_or_else(|| hidden.to_owned()),
                false => hidden.to_owned(),
            };
            let key = (facts.client.to_owned(), Session::parse(&m.session_id).flow);
            org.apply_job(&facts, &job, &name);
            if org.flows.contains_key(&key) {
                let key = (post.org_id.clone(), key);
                self.first.entry(key).or_insert(post.received);
            }
        }
    }

    fn decision(&mut self, d: &Decision, f: &Found) {
        let org = self.orgs.entry(d.org_id.clone()).or_default();
        let client = d.client_id.as_str();
        let pin = &f.extent.segment;
        match &d.kind {
            Some(DecisionKind::OpenFlow(o)) => {
                org.open_flow(client, o, None, BTreeMap::new(), pin.clone());
            }
            Some(DecisionKind::SettledFlow(s)) => {
                org.settled_flow(client, &s.flow_id, d.time, s.goes_on);
                let key = (client.to_owned(), s.flow_id.clone());
                self.first.remove(&(d.org_id.clone(), key));
            }
            Some(DecisionKind::SettledEvents(s)) => {
                let key = EventKey {
                    client: client.to_owned(),
                    artifact: s.artifact.clone(),
                    day: s.day.clone(),
                    logs: s.logs,
                };
                org.settled_events(&key, d.time, s.filed);
            }
            Some(DecisionKind::Repeats(r)) => {
                for r in &r.repeats {
                    let id = ProcessId::new(r.node.as_str(), r.epoch.as_str());
                    let end = Position { file: r.file, offset: r.offset };
                    self.repeats.insert((id, end), r.job.iter().copied().collect());
                }
            }
            _ => org.apply_decision(d, pin),
        }
    }

    pub(super) fn unsettled(&self) -> Unsettled {
        let mut out = Unsettled { unreadable: self.unreadable, ..Unsettled::default() };
        let mut oldest = u64::MAX;
        for (id, state) in &self.orgs {
            for (key, f) in &state.flows {
                out.flows += 1;
                out.open_flows += usize::from(!f.over());
                out.rows += f.results.values().map(|s| s.rows() - s.base).sum::<u64>();
                for u in f.uploads.values() {
                    let whole = u.winner().is_some();
                    out.uploads += usize::from(whole);
                    out.partial_uploads += usize::from(!whole);
                }
                let asked = f.context.as_ref().map(|c| c.create_time).filter(|t| *t > 0);
                let came = self.first.get(&(id.clone(), key.clone())).copied();
                oldest = oldest.min(asked.into_iter().chain(came).min().unwrap_or(u64::MAX));
            }
            for (key, set) in &state.events.sets {
                *out.event_days.entry(key.day.clone()).or_default() += 1;
                out.event_rows += set.rows();
                let first = set.parts.iter().map(|p| p.received).min();
                oldest = oldest.min(first.unwrap_or(u64::MAX));
            }
            out.tasks += state.clients.iter().map(|(_, c)| c.queue.unsent().count()).sum::<usize>();
        }
        out.oldest = (oldest < u64::MAX).then_some(oldest / 1_000_000);
        out
    }
}

/// Which of the journals are masters', in order, and how far their decisions count.
fn masters(streams: &[Stream]) -> Vec<(usize, Option<Position>)> {
    struct Master {
        at: usize,
        opened: Option<(u64, u64)>,
        seen: BTreeMap<ProcessId, Position>,
    }
    let of = |(at, s): (usize, &Stream)| {
        let mut m = Master { at, opened: None, seen: BTreeMap::new() };
        if let Some((_, f)) = &s.head
            && let Some(Kind::Decision(d)) = &f.record.kind
            && let Some(DecisionKind::Opened(o)) = &d.kind
        {
            m.opened = Some((o.term, d.time));
            m.seen = d.seen.iter().map(seen_position).collect();
        }
        (s.role == Role::Master && s.head.is_some()).then_some(m)
    };
    let mut all: Vec<Master> = streams.iter().enumerate().filter_map(of).collect();
    let process = |m: &Master| &streams[m.at].process;
    all.sort_by_key(|m| (m.opened, Epoch::parse(&process(m).epoch), process(m).clone()));
    let limit = |i: usize| {
        let next = all[i + 1..].iter().find(|m| m.opened.is_some())?;
        Some(next.seen.get(process(&all[i])).copied().unwrap_or_default())
    };
    (0..all.len()).map(|i| (all[i].at, limit(i))).collect()
}
