//! What a datastore holds that is not in stock files yet, told from its journals.
//!
//! Only reads: servers may run meanwhile, so what is told was true of some moment of
//! each journal. The records change the same state, in the same order, as when a
//! server reads its journals back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Decision, Post};

use super::events::EventKey;
use super::fleet::chain::Link;
use super::fleet::living::lives;
use super::fleet::{Role, facts_of, running, seen_position, term};
use super::flows::job;
use super::ids::Session;
use super::server::fleet_dir;
use super::state::{FlowKey, OrgState, to_hash};
use crate::crypto::names::NameCipher;
use crate::env::{Env, FileSystem};
use crate::store::journal::{
    Epoch, Extent, Found, Next, Position, ProcessId, Reader, Segment, list_processes, marker_path,
    process_dir,
};
use crate::store::objects::read_whole;
use crate::store::{StoreError, StoreRoot};

/// Longest marker read, bytes.
const MARKER: usize = 4096;

/// Whether a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It shows that it does.
    Alive,
    /// It showed nothing while it was watched, and did not say that it ended.
    Silent,
    /// It has ended.
    Ended,
}

/// One process that left something.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// Its node.
    pub node: String,
    /// Which start of the node.
    pub epoch: String,
    /// `master` or `minion`.
    pub role: &'static str,
    /// Whether it lives.
    pub state: Life,
    /// Which process where, if it said so.
    pub running: String,
    /// Journal files.
    pub journal_files: usize,
    /// Bytes in them.
    pub journal_bytes: u64,
    /// Files with data of uploads.
    pub spill_files: usize,
    /// Bytes in them.
    pub spill_bytes: u64,
}

/// What is in journals alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unsettled {
    /// Flows.
    pub flows: usize,
    /// Of them those that have not ended.
    pub open_flows: usize,
    /// Their rows.
    pub rows: u64,
    /// Files that are there as a whole.
    pub uploads: usize,
    /// Files of which a part is there.
    pub partial_uploads: usize,
    /// Sets of events (one client, artifact and day), by day.
    pub event_days: BTreeMap<String, usize>,
    /// Rows in them.
    pub event_rows: u64,
    /// Tasks that were not sent.
    pub tasks: usize,
    /// POSTs of clients that have not enrolled, which have no stock form.
    pub waiting_to_enrol: usize,
    /// When the oldest flow or event came, seconds since the epoch.
    pub oldest: Option<u64>,
    /// Bytes that could not be understood: ends that were being written, and damage.
    pub unreadable: usize,
}

impl Unsettled {
    /// Sets of events.
    pub fn event_sets(&self) -> usize {
        self.event_days.values().sum()
    }
}

/// Who is master.
#[derive(Clone, Debug, Serialize)]
pub struct MasterReport {
    /// Its node.
    pub node: String,
    /// Which start of the node.
    pub epoch: String,
    /// Counts masters.
    pub term: u64,
    /// Whether it lives.
    pub state: Life,
}

/// Everything there is to tell.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Who has the master role, or had it last and did not give it up.
    pub master: Option<MasterReport>,
    /// Processes that live, or left something, by node and start.
    pub processes: Vec<ProcessReport>,
    /// What is not in stock files.
    pub unsettled: Unsettled,
}

/// Whether the journals hold nothing that a server of ours would have to settle: they
/// are gone, or hold sealed POSTs alone.
pub async fn is_settled(env: &Env, root: &StoreRoot) -> Result<bool, StoreError> {
    let fleet = fleet_dir(root);
    for l in list_processes(env, &fleet).await? {
        for path in l.paths(&fleet) {
            let mut reader = match Reader::open(&*env.fs, Arc::new(Segment::of_path(path)), 0).await
            {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                r => r?,
            };
            loop {
                match reader.next().await? {
                    Next::Record(f) => match &f.record.kind {
                        Some(Kind::Quarantine(_)) => {}
                        Some(Kind::Decision(d))
                            if matches!(d.kind, Some(DecisionKind::Opened(_))) => {}
                        _ => return Ok(false),
                    },
                    Next::Poison { .. } => return Ok(false),
                    Next::End | Next::Torn(_) => break,
                }
            }
        }
    }
    Ok(true)
}

/// The process that has the master role, or had it last and did not give it up.
pub async fn master(env: &Env, fleet: &str) -> Result<Option<ProcessId>, StoreError> {
    Ok(top(&*env.fs, &term::dir(fleet)).await?.and_then(|l| l.holder))
}

/// Looks at the datastore. `watch`: how long processes on other machines are watched
/// for a sign of life.
pub async fn inspect(
    env: &Env,
    root: &StoreRoot,
    names: &NameCipher,
    watch: Duration,
) -> Result<Report, StoreError> {
    let fleet = fleet_dir(root);
    let listed = list_processes(env, &fleet).await?;
    let nodes: BTreeSet<String> = listed.iter().map(|l| l.process.node.clone()).collect();
    let mut dirs: Vec<String> = nodes.iter().map(|n| super::beat::dir(&fleet, n)).collect();
    dirs.push(term::dir(&fleet));
    let mut held = holders(env, &fleet, &dirs, watch).await?;
    let master = held.pop().flatten().and_then(|(link, state)| {
        let p = link.holder?;
        Some(MasterReport { node: p.node, epoch: p.epoch, term: link.term, state })
    });
    let held: BTreeMap<ProcessId, Life> =
        held.into_iter().flatten().filter_map(|(l, s)| Some((l.holder?, s))).collect();
    let mut processes = Vec::new();
    let mut streams = Vec::new();
    for l in &listed {
        let role = role_of(env, &fleet, &l.process).await?;
        let state = held.get(&l.process).copied().unwrap_or(Life::Ended);
        let journal = l.paths(&fleet);
        let (journal_files, journal_bytes) = sizes(&*env.fs, &journal).await?;
        let spills = format!("{}/spill", process_dir(&fleet, &l.process));
        let spills: Vec<String> = (env.fs.list(&spills).await?.into_iter())
            .map(|e| format!("{spills}/{}", e.name))
            .collect();
        let (spill_files, spill_bytes) = sizes(&*env.fs, &spills).await?;
        if journal_files > 0 || spill_files > 0 || state != Life::Ended {
            let said = running::of(env, &fleet, &l.process).await?;
            processes.push(ProcessReport {
                node: l.process.node.clone(),
                epoch: l.process.epoch.clone(),
                role: if role == Role::Master { "master" } else { "minion" },
                state,
                running: said.map(|r| r.describe()).unwrap_or_default(),
                journal_files,
                journal_bytes,
                spill_files,
                spill_bytes,
            });
        }
        streams.push(Stream::new(l.process.clone(), role, &l.files));
    }
    let mut fold = Fold::new(env, &fleet, names);
    fold.run(streams).await?;
    Ok(Report { master, processes, unsettled: fold.unsettled() })
}

async fn role_of(env: &Env, fleet: &str, p: &ProcessId) -> Result<Role, StoreError> {
    let marker = read_whole(&*env.fs, &marker_path(fleet, p), MARKER).await?;
    Ok(marker.map_or(Role::Minion, |m| Role::of_marker(&m)))
}

/// How many of these files there are, and their bytes.
async fn sizes(fs: &dyn FileSystem, paths: &[String]) -> Result<(usize, u64), StoreError> {
    let (mut files, mut bytes) = (0, 0);
    for path in paths {
        match fs.stat(path).await {
            Ok(m) => (files, bytes) = (files + 1, bytes + m.len),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok((files, bytes))
}

async fn top(fs: &dyn FileSystem, dir: &str) -> Result<Option<Link>, StoreError> {
    Ok(fs.list(dir).await?.iter().filter_map(|e| Link::parse(&e.name)).max())
}

/// Who holds the chains in these directories, and whether they live.
async fn holders(
    env: &Env,
    fleet: &str,
    dirs: &[String],
    watch: Duration,
) -> Result<Vec<Option<(Link, Life)>>, StoreError> {
    let mut out = Vec::new();
    let mut unclear = false;
    for dir in dirs {
        let Some(link) = top(&*env.fs, dir).await? else {
            out.push(None);
            continue;
        };
        let life = match lives(env, fleet, &link).await? {
            Some(true) => Life::Alive,
            Some(false) => Life::Ended,
            None => Life::Silent,
        };
        unclear |= life == Life::Silent;
        out.push(Some((link, life)));
    }
    if unclear {
        tokio::time::sleep(watch).await;
        for (dir, seen) in dirs.iter().zip(&mut out) {
            let Some((link, life)) = seen else { continue };
            if *life == Life::Silent && top(&*env.fs, dir).await?.as_ref() != Some(link) {
                *life = Life::Alive;
            }
        }
    }
    Ok(out)
}

/// The journal of one process, record by record.
struct Stream {
    process: ProcessId,
    role: Role,
    files: VecDeque<u64>,
    open: Option<(u64, Reader)>,
    /// The next record and where it ends.
    head: Option<(Position, Box<Found>)>,
}

impl Stream {
    fn new(process: ProcessId, role: Role, files: &[u64]) -> Self {
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
struct Fold<'a> {
    env: &'a Env,
    fleet: &'a str,
    names: &'a NameCipher,
    orgs: BTreeMap<String, OrgState>,
    /// When the first thing came for a flow, microseconds.
    first: BTreeMap<(String, FlowKey), u64>,
    repeats: BTreeMap<(ProcessId, Position), BTreeSet<u32>>,
    waiting: usize,
    unreadable: usize,
}

impl<'a> Fold<'a> {
    fn new(env: &'a Env, fleet: &'a str, names: &'a NameCipher) -> Self {
        Self {
            env,
            fleet,
            names,
            orgs: BTreeMap::new(),
            first: BTreeMap::new(),
            repeats: BTreeMap::new(),
            waiting: 0,
            unreadable: 0,
        }
    }

    async fn fill(&mut self, s: &mut Stream) -> Result<(), StoreError> {
        self.unreadable += s.fill(&*self.env.fs, self.fleet).await?;
        Ok(())
    }

    /// First what masters decided, with what they had seen; then the rest by time.
    async fn run(&mut self, mut streams: Vec<Stream>) -> Result<(), StoreError> {
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
            Some(Kind::Decision(d))
                if decides || matches!(d.kind, Some(DecisionKind::Enrol(_))) =>
            {
                self.decision(d, f);
            }
            Some(Kind::Events(e)) => {
                let org = self.orgs.entry(e.org_id.clone()).or_default();
                org.apply_events(&e.client_id, &e.artifact, e.time, &f.payload, f.extent.clone());
            }
            Some(Kind::Quarantine(_)) => self.waiting += 1,
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
                org.settled_flow(client, &s.flow_id, d.time);
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

    fn unsettled(&self) -> Unsettled {
        let mut out = Unsettled {
            waiting_to_enrol: self.waiting,
            unreadable: self.unreadable,
            ..Unsettled::default()
        };
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
