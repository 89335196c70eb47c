//! Reads the journals of all processes back, through the same functions that
//! apply new records, in the order in which the masters before this one had them.
//!
//! A decision says how far its master had applied the journals of others: so before
//! it goes what it had seen. After the last decision nothing is known of an order;
//! the rest is applied by time, as new records are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Decision, EventRows, OpenFlow, Opened};
use velociraptor_proto::proto::{ArtifactCollectorContext, FlowStats};

use super::complete::COMPLETION;
use super::effects::LOST;
use super::events::EventKey;
use super::fleet::{Applied, Proc, Role, Step, facts_of, is_fact, seen_position};
use super::flows::job;
use super::flows::runs::session_of;
use super::handover::RecoveredPost;
use super::ids::OrgId;
use super::server::{Counters, Org, Server, ServiceError};
use super::state::Effect;
use crate::env::Mutant;
use crate::store::StoreError;
use crate::store::journal::{Found, Listed, Position, ProcessId};
use crate::store::paths::Client;

/// Bytes of records kept back until it is known whether a decision follows.
const KEPT_BACK: usize = 64 << 20;

/// A process that was master before.
struct Master {
    proc: Arc<Proc>,
    /// What its journal was opened with: term, time, and what it had read back.
    opened: Option<(u64, u64, BTreeMap<ProcessId, Position>)>,
    /// How far its decisions count.
    limit: Option<Position>,
}

/// Applies everything in the journals of the processes `found`, and opens this
/// one's.
pub async fn recover(server: &Arc<Server>, found: &[Listed]) -> Result<(), ServiceError> {
    for l in found {
        server.admit(l).await?;
    }
    server.bury_own();
    let mut replay = Replay { server, records: 0, bytes: 0 };
    let masters = replay.masters().await?;
    let last = masters.len().saturating_sub(1);
    for (i, m) in masters.iter().enumerate() {
        replay.master(m, i == last).await?;
    }
    for org in server.orgs() {
        if server.env.sabotage.is(Mutant::NoDoubtAfterRestart) {
            break;
        }
        let mut state = org.state();
        let ids: Vec<String> = state.clients.iter().map(|(id, _)| id.clone()).collect();
        for id in ids {
            state.clients.entry(&id).queue.doubt_granted();
        }
    }
    // Of what the rest tells of tasks in files, only what still lies there counts.
    server.find_offers().await?;
    let now = server.env.clock.micros();
    for org in server.orgs() {
        // An earlier master may have written what a later decision removed.
        org.state().clients.deleted.suspect_recent(now);
    }
    open(server, !masters.is_empty()).await?;
    replay.rest().await?;
    cover(server, &masters);
    if !found.is_empty() {
        let (records, bytes) = (replay.records, replay.bytes);
        tracing::info!(processes = found.len(), records, bytes, "journals recovered");
    }
    Ok(())
}

/// This master decides from now on.
async fn open(server: &Arc<Server>, has_predecessors: bool) -> Result<(), ServiceError> {
    let opened = Opened { term: server.standing.term().map_or(0, |t| t.number()) };
    server.decide(&server.root(), "", "", DecisionKind::Opened(opened)).await?;
    if has_predecessors {
        // That record is needed for as long as anything of them is left; what
        // follows it need not be.
        server.journal.roll().await?;
        server.processes.own().files().opening_alone = true;
    }
    Ok(())
}

/// What a master's decisions may be about goes before its journal: everything that
/// is not a later master's.
fn cover(server: &Server, masters: &[Master]) {
    let mut all = server.processes.positions.all();
    for m in masters.iter().rev() {
        all.remove(&m.proc.id);
        let mut files = m.proc.files();
        let numbers: Vec<u64> = files.journal.keys().copied().collect();
        for k in numbers {
            files.covers.insert(k, all.clone());
        }
    }
}

struct Replay<'a> {
    server: &'a Arc<Server>,
    records: u64,
    bytes: u64,
}

impl Replay<'_> {
    /// Who was master, in order, and how far the decisions of each count.
    async fn masters(&self) -> Result<Vec<Master>, ServiceError> {
        let mut all = Vec::new();
        for proc in self.server.processes.others() {
            if proc.role == Role::Master {
                let opened = self.opened(&proc).await?;
                all.push(Master { proc, opened, limit: None });
            }
        }
        // One whose opening is gone came before all others: it is kept while a
        // predecessor has anything.
        let order = |m: &Master| {
            let opened = m.opened.as_ref().map(|o| (o.0, o.1));
            (opened, m.proc.epoch.clone(), m.proc.id.clone())
        };
        all.sort_by_key(order);
        for i in 0..all.len() {
            let id = all[i].proc.id.clone();
            let next = all[i + 1..].iter().find_map(|m| m.opened.as_ref());
            // What a successor did not know of, it did not respect.
            let limit = next.map(|(_, _, seen)| seen.get(&id).copied().unwrap_or_default());
            all[i].limit = limit;
        }
        let mut names: Vec<ProcessId> = all.iter().map(|m| m.proc.id.clone()).collect();
        names.push(self.server.process());
        self.server.processes.set_masters(names);
        Ok(all)
    }

    /// The record with which a master opened its journal, if it is still there.
    async fn opened(
        &self,
        p: &Arc<Proc>,
    ) -> Result<Option<(u64, u64, BTreeMap<ProcessId, Position>)>, ServiceError> {
        let mut tail = p.tail.lock().await;
        let at = self.server.processes.positions.of(&p.id);
        if at != Position::START {
            return Ok(None);
        }
        let step = tail.peek(&*self.server.env.fs, p, at).await.map_err(StoreError::from)?;
        let Some(Step::Record(f, end)) = step else { return Ok(None) };
        let Some(Kind::Decision(d)) = &f.record.kind else { return Ok(None) };
        let Some(DecisionKind::Opened(o)) = &d.kind else { return Ok(None) };
        let seen = d.seen.iter().map(seen_position).collect();
        let (opened, end) = ((o.term, d.time, seen), *end);
        // Whether it is alone in its file.
        tail.next(&*self.server.env.fs, p, at).await.map_err(StoreError::from)?;
        let next = tail.next(&*self.server.env.fs, p, end).await.map_err(StoreError::from)?;
        p.files().opening_alone = matches!(next, Some(Step::NextFile(None, _)));
        tail.reset();
        Ok(Some(opened))
    }

    fn position(&self, p: &Proc) -> Position {
        self.server.processes.positions.of(&p.id)
    }

    fn passed(&mut self, p: &Proc, step: &Step) {
        self.server.processes.positions.advance(&p.id, step.end());
    }

    /// Replays what a master decided, and before each decision what it had seen.
    async fn master(&mut self, m: &Master, last: bool) -> Result<(), ServiceError> {
        let fs = self.server.env.fs.clone();
        let mut tail = m.proc.tail.lock().await;
        let mut at = self.position(&m.proc);
        let (mut kept, mut bytes) = (VecDeque::new(), 0usize);
        loop {
            let step = tail.next(&*fs, &m.proc, at).await.map_err(StoreError::from)?;
            let Some(step) = step else { break };
            at = step.end();
            if m.limit.is_some_and(|limit| at > limit) {
                break;
            }
            let decision = matches!(&step, Step::Record(f, _) if decides(f));
            if let Step::Record(f, _) = &step {
                bytes += f.payload.len() + 256;
            }
            kept.push_back(step);
            if !decision && bytes < KEPT_BACK {
                continue;
            }
            bytes = 0;
            // Facts too say what had been applied before them: what one of them told,
            // the decisions after it do not tell again.
            for step in &kept {
                if let Step::Record(f, _) = step
                    && let Some(Kind::Decision(d)) = &f.record.kind
                {
                    self.see(d).await?;
                }
            }
            for step in kept.drain(..) {
                self.apply(&m.proc, &step, true).await?;
            }
        }
        // What came after its last decision: its successor tells how far it had
        // read, or it is part of the rest.
        tail.reset();
        drop(tail);
        if let (Some(limit), false) = (m.limit, last) {
            tracing::debug!(process = %m.proc.id, limit = %limit, "decisions count up to there");
        }
        Ok(())
    }

    /// Applies what the master that decided this had applied before.
    async fn see(&mut self, d: &Decision) -> Result<(), ServiceError> {
        if self.server.options.fleet.danger.ignore_seen {
            return Ok(());
        }
        for (id, to) in d.seen.iter().map(seen_position) {
            // Nothing is left of one that is not known.
            if let Some(p) = self.server.processes.get(&id) {
                self.advance(&p, to).await?;
            }
        }
        Ok(())
    }

    async fn advance(&mut self, p: &Arc<Proc>, to: Position) -> Result<(), ServiceError> {
        let fs = self.server.env.fs.clone();
        let mut tail = p.tail.lock().await;
        loop {
            let at = self.position(p);
            if at >= to {
                return Ok(());
            }
            let step = tail.next(&*fs, p, at).await.map_err(StoreError::from)?;
            let Some(step) = step else {
                tracing::error!(process = %p.id, at = %at, seen = %to,
                    "a journal is shorter than a master had seen it");
                return Ok(());
            };
            self.apply(p, &step, false).await?;
        }
    }

    /// Applies what was read back; `decides`: decisions of this process count.
    async fn apply(
        &mut self,
        p: &Arc<Proc>,
        step: &Step,
        decides: bool,
    ) -> Result<(), ServiceError> {
        match step {
            Step::Record(f, end) => {
                self.records += 1;
                self.bytes += f.payload.len() as u64;
                self.record(p, f, *end, decides).await?;
            }
            Step::Poison { end, reason, .. } => {
                // It was set aside when it was met first.
                Applied::add(&self.server.processes.applied.poison, 1);
                tracing::error!(process = %p.id, place = %end, reason,
                    "a journal record cannot be read; passed over");
            }
            Step::NextFile(Some(t), _) => {
                tracing::warn!(
                    path = t.path,
                    offset = t.offset,
                    ignored = t.ignored,
                    reason = t.reason,
                    "torn journal tail ignored: it was never acknowledged"
                );
            }
            Step::NextFile(None, _) => {}
        }
        self.passed(p, step);
        Ok(())
    }

    async fn record(
        &self,
        p: &Arc<Proc>,
        f: &Found,
        end: Position,
        decides: bool,
    ) -> Result<(), ServiceError> {
        let server = self.server;
        let org = |id: &str| server.org(&OrgId::new(id));
        match &f.record.kind {
            Some(Kind::Post(post)) => {
                let noted = server.processes.take_repeat(&p.id, end);
                if noted.as_ref().is_some_and(BTreeSet::is_empty) {
                    return Ok(());
                }
                let Some(org) = org(&post.org_id) else { return Ok(()) };
                let facts = facts_of(post);
                if !org.state().admits(&facts) {
                    Counters::inc(&server.counters.dropped);
                    return Ok(());
                }
                let skip = noted.unwrap_or_default();
                let jobs = server.jobs_of(p, post, f);
                if !server.env.sabotage.is(Mutant::RingNotRecovered) {
                    org.state().note_post(&facts, &f.extent.segment);
                }
                for j in jobs.into_iter().filter(|j| !skip.contains(&j.index)) {
                    let effect = org.state().apply_job(&facts, &j.job, &j.name);
                    match effect {
                        Effect::ClientInfo(client) => {
                            server.apply_client_info(&org, &client, &j.raw);
                        }
                        // Ended by a decision that follows, or was not stored: by
                        // housekeeping, then.
                        Effect::FlowLost(session) => {
                            org.state().lost.insert(session, LOST.to_owned());
                        }
                        _ => {}
                    }
                }
            }
            Some(Kind::Decision(d)) => {
                if !decides && !is_fact(d) {
                    server.refuse_decision(p, d, end);
                } else if let Some(org) = org(&d.org_id) {
                    decision(server, &org, d, f).await?;
                }
            }
            Some(Kind::Events(e)) => {
                if let Some(org) = org(&e.org_id) {
                    let mut s = org.state();
                    let (extent, rows) = (f.extent.clone(), &f.payload);
                    s.apply_events(&e.client_id, &e.artifact, e.time, rows, extent);
                    for flow in announced(e, rows) {
                        s.announced(&e.client_id, &flow);
                    }
                }
            }
            Some(Kind::Quarantine(about)) => {
                server.park(RecoveredPost { about: about.clone(), body: f.extent.clone() });
            }
            None => {}
        }
        Ok(())
    }

    /// What no decision had seen, by time across all processes, as new records.
    async fn rest(&mut self) -> Result<(), ServiceError> {
        let fs = self.server.env.fs.clone();
        let others = self.server.processes.others();
        let mut heads = BTreeSet::new();
        for (i, p) in others.iter().enumerate() {
            heads.extend(self.head(p).await?.map(|t| (t, i)));
        }
        while let Some((_, i)) = heads.pop_first() {
            let p = &others[i];
            let at = self.position(p);
            let mut tail = p.tail.lock().await;
            let step = tail.next(&*fs, p, at).await.map_err(StoreError::from)?;
            let Some(step) = step else { continue };
            if let Step::Record(f, _) = &step {
                self.records += 1;
                self.bytes += f.payload.len() as u64;
            }
            self.server.apply_step(p, step).await?;
            drop(tail);
            heads.extend(self.head(p).await?.map(|t| (t, i)));
        }
        for p in &others {
            p.tail.lock().await.reset();
            p.life().read_out = true;
        }
        Ok(())
    }

    /// When the next record of a process was received; `None`: there is none.
    async fn head(&self, p: &Arc<Proc>) -> Result<Option<u64>, ServiceError> {
        let at = self.position(p);
        let mut tail = p.tail.lock().await;
        let step = tail.peek(&*self.server.env.fs, p, at).await.map_err(StoreError::from)?;
        Ok(step.map(|s| match s {
            Step::Record(f, _) => time_of(f),
            _ => 0,
        }))
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

/// Whether a record is a decision, of those that only a master takes.
fn decides(f: &Found) -> bool {
    matches!(&f.record.kind, Some(Kind::Decision(d)) if !is_fact(d))
}

/// Flows whose end these rows announce.
fn announced(e: &EventRows, rows: &[u8]) -> Vec<String> {
    if e.artifact != COMPLETION {
        return vec![];
    }
    let flow = |row: &[u8]| {
        let row: serde_json::Value = serde_json::from_slice(row).ok()?;
        row["FlowId"].as_str().map(str::to_owned)
    };
    job::lines(rows).filter_map(flow).collect()
}

async fn decision(
    server: &Arc<Server>,
    org: &Org,
    d: &Decision,
    f: &Found,
) -> Result<(), ServiceError> {
    let pin = &f.extent.segment;
    match &d.kind {
        Some(DecisionKind::Cancel(_)) if server.env.sabotage.is(Mutant::ForgetCancel) => {}
        Some(DecisionKind::Cancel(c)) => {
            // What was granted may have been sent by then: the client is asked, and gets
            // its cancel if it has it.
            let mut state = org.state();
            state.clients.entry(&d.client_id).queue.doubt_granted_of(&c.flow_id);
            state.apply_decision(d, pin);
        }
        Some(DecisionKind::Label(_)) if server.env.sabotage.is(Mutant::ForgetLabels) => {}
        Some(DecisionKind::HuntDone(_)) if server.env.sabotage.is(Mutant::ForgetHuntEnds) => {}
        Some(DecisionKind::OpenFlow(o)) => {
            let (context, reports) = stored_flow(server, &org.id, &d.client_id, &o.flow_id).await?;
            let o = super::part_uploads::located(server, o.clone());
            org.state().open_flow(&d.client_id, &o, context, reports, pin.clone());
        }
        Some(DecisionKind::SettledFlow(s)) => {
            org.state().settled_flow(&d.client_id, &s.flow_id, d.time, s.goes_on);
        }
        Some(DecisionKind::SettledEvents(s)) => {
            let key = EventKey {
                client: d.client_id.clone(),
                artifact: s.artifact.clone(),
                day: s.day.clone(),
                logs: s.logs,
            };
            org.state().settled_events(&key, d.time, s.filed);
        }
        Some(DecisionKind::Repeats(r)) => {
            for r in &r.repeats {
                let id = ProcessId::new(r.node.as_str(), r.epoch.as_str());
                let end = Position { file: r.file, offset: r.offset };
                server.processes.note_repeat(id, end, r.job.iter().copied());
            }
        }
        _ => org.state().apply_decision(d, pin),
    }
    Ok(())
}

/// A flow's context and last report as stock files have them.
pub async fn stored_flow(
    server: &Server,
    org: &OrgId,
    client: &str,
    flow: &str,
) -> Result<(Option<ArtifactCollectorContext>, BTreeMap<String, FlowStats>), ServiceError> {
    let path = Client { org, id: client };
    let path = path.flow(flow);
    let mut context = server.tree.get(&path.context()).await?;
    // Earlier requests are with the full one.
    if let Some(c) = context.as_mut().filter(|c| !session_of(c).child.is_empty())
        && let Some(full) = server.tree.get(&path.requests()).await?
    {
        c.previous_flows = full.previous_flows;
    }
    Ok((context, stored_reports(server, org, client, flow).await?))
}

/// What the file of a flow's last report says, by child flow.
pub async fn stored_reports(
    server: &Server,
    org: &OrgId,
    client: &str,
    flow: &str,
) -> Result<BTreeMap<String, FlowStats>, ServiceError> {
    let path = Client { org, id: client };
    let path = path.flow(flow);
    let mut reports = BTreeMap::new();
    if let Some(stats) = server.tree.get(&path.stats()).await? {
        let over = matches!(
            stats.state(),
            velociraptor_proto::proto::artifact_collector_context::State::Finished
                | velociraptor_proto::proto::artifact_collector_context::State::Error
        );
        reports.insert(
            String::new(),
            FlowStats {
                query_status: stats.query_stats,
                flow_complete: over,
                transactions_outstanding: stats.transactions_outstanding,
                ..Default::default()
            },
        );
    }
    Ok(reports)
}

/// What the stock files of a flow hold, for a flow that more came for.
/// `None` when no stock file of it exists.
pub async fn describe_stored(
    server: &Server,
    org: &OrgId,
    client: &str,
    flow: &str,
    names: &[String],
) -> Result<Option<OpenFlow>, ServiceError> {
    let (context, reports) = stored_flow(server, org, client, flow).await?;
    let parts = super::part_uploads::kept(server, org, client, flow).await?;
    let path = Client { org, id: client };
    let path = path.flow(flow);
    let mut all: Vec<String> = names.to_vec();
    all.extend(context.iter().flat_map(|c| c.artifacts_with_results.iter().cloned()));
    all.extend(
        reports.values().flat_map(|r| &r.query_status).flat_map(|q| q.names_with_response.clone()),
    );
    let mut open = OpenFlow { flow_id: flow.to_owned(), parts, ..Default::default() };
    let runs = super::part_runs::kept(server, org, client, flow).await?;
    all.extend(runs.iter().flat_map(|r| r.rows.keys().cloned()));
    for name in all.into_iter().map(|n| server.reveal(&n)) {
        if !name.is_empty() && !open.base_rows.contains_key(&name) {
            let rows = server.stored_rows(&path.results_of(&name)).await?;
            open.base_rows.insert(name, rows);
        }
    }
    let forget = server.env.sabotage.is(Mutant::ForgetRuns);
    open.runs = match super::part_runs::are_all(&runs, &open.base_rows) && !forget {
        true => runs,
        false => super::part_runs::one(&reports),
    };
    open.base_logs = server.stored_rows(&path.logs()).await?;
    open.base_transactions = server.stored_rows(&path.upload_transactions()).await?;
    open.base_uploads = server.stored_rows(&path.uploads()).await?;
    // One that nobody asked for has rows, and nothing else, before its first report.
    let rows = [open.base_logs, open.base_transactions, open.base_uploads];
    let nothing = open.base_rows.values().chain(&rows).all(|n| *n == 0);
    if context.is_none() && reports.is_empty() && open.parts.is_empty() && nothing {
        return Ok(None);
    }
    Ok(Some(open))
}
