//! What a datastore holds that is not in stock files yet, told from its journals.
//!
//! Only reads: servers may run meanwhile, so what is told was true of some moment of
//! each journal. The records change the same state, in the same order, as when a
//! server reads its journals back.

mod fold;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;

use super::fleet::chain::Link;
use super::fleet::living::lives;
use super::fleet::{Role, running, term};
use super::ids::OrgId;
use super::server::fleet_dir;
use crate::crypto::names::NameCipher;
use crate::env::{Env, FileSystem};
use crate::store::journal::{
    Next, ProcessId, Reader, Segment, list_processes, marker_path, process_dir,
};
use crate::store::objects::read_whole;
use crate::store::paths::Client;
use crate::store::{StoreError, StoreRoot, Tree};
use fold::{Fold, Stream};

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
    let mut unsettled = fold.unsettled();
    let tree = Tree::new(env, root.clone());
    for (org, client) in &fold.waiting {
        let (org, id) = (OrgId::new(org.as_str()), client);
        // Once enrolled, what it sent before is taken up.
        if !tree.exists(&Client { org: &org, id }.key().path).await? {
            unsettled.waiting_to_enrol += 1;
        }
    }
    Ok(Report { master, processes, unsettled })
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
