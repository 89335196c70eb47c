//! Reads the journals of earlier processes back, record by record, through the
//! same functions that apply new ones.

use std::collections::BTreeMap;

use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Decision, OpenFlow, Post};
use velociraptor_proto::proto::{ArtifactCollectorContext, FlowStats};

use super::flows::job::{self, Job};
use super::ids::{OrgId, Session};
use super::server::{Counters, Org, RecoveredPost, Server, ServiceError};
use super::state::{Effect, FlowKey, MONITORING, PostFacts, STATUS, to_hash};
use crate::store::StoreError;
use crate::store::journal::{Found, Piece, scan};
use crate::store::paths::Client;

/// How often it is looked whether a flow is done settling.
const SETTLING: std::time::Duration = std::time::Duration::from_millis(20);

/// Applies everything in the journals at `paths`, oldest first.
pub async fn recover(server: &Server, paths: Vec<String>) -> Result<(), ServiceError> {
    let (mut records, mut bytes) = (0u64, 0u64);
    for path in &paths {
        let mut found = Vec::new();
        let torn =
            scan(&*server.env.fs, path, |f| found.push(f)).await.map_err(StoreError::from)?;
        if let Some(t) = torn {
            tracing::warn!(
                path = t.path,
                offset = t.offset,
                ignored = t.ignored,
                reason = t.reason,
                "torn journal tail ignored: it was never acknowledged"
            );
        }
        for f in found {
            records += 1;
            bytes += f.payload.len() as u64;
            server.note_recovered(path, f.end);
            apply(server, f).await?;
        }
    }
    for org in server.orgs() {
        let mut state = org.state();
        let ids: Vec<String> = state.clients.iter().map(|(id, _)| id.clone()).collect();
        for id in ids {
            state.clients.entry(&id).queue.doubt_granted();
        }
    }
    if !paths.is_empty() {
        tracing::info!(files = paths.len(), records, bytes, "journals recovered");
    }
    Ok(())
}

async fn apply(server: &Server, f: Found) -> Result<(), ServiceError> {
    server.note_segment(&f.pin.segment());
    match f.record.kind.clone() {
        Some(Kind::Post(post)) => {
            let Some(org) = server.org(&OrgId::new(post.org_id.as_str())) else { return Ok(()) };
            apply_post(server, &org, &post, &f);
        }
        Some(Kind::Decision(d)) => {
            let Some(org) = server.org(&OrgId::new(d.org_id.as_str())) else { return Ok(()) };
            apply_decision(server, &org, &d, &f).await?;
        }
        Some(Kind::Events(e)) => {
            if let Some(org) = server.org(&OrgId::new(e.org_id.as_str())) {
                let mut s = org.state();
                s.apply_events(&e.client_id, &e.artifact, e.time, &f.payload, f.extent());
            }
        }
        Some(Kind::Quarantine(about)) => {
            server.park(RecoveredPost { about, body: f.payload.clone(), pin: f.pin.clone() })
        }
        None => {}
    }
    Ok(())
}

/// Applies a record of another process, and what follows from it.
pub(super) async fn apply_remote(server: &Server, f: Found) -> Result<(), ServiceError> {
    let Some(Kind::Post(post)) = &f.record.kind else {
        if let Some(Kind::Events(e)) = &f.record.kind
            && let Some(org) = server.org(&OrgId::new(e.org_id.as_str()))
        {
            server.bus.publish(super::events::EventBatch {
                org: org.id.clone(),
                client: e.client_id.clone(),
                artifact: e.artifact.clone(),
                rows: f.payload.clone(),
            });
        }
        return apply(server, f).await;
    };
    let Some(org) = server.org(&OrgId::new(post.org_id.as_str())) else { return Ok(()) };
    let facts = facts_of(post);
    if org.state().clients.entry(facts.client).ring(facts.class).has(&facts.post) {
        Counters::inc(&server.counters.duplicates);
        return Ok(());
    }
    let mut jobs: Vec<Job> = jobs_of(server, post, &f)
        .into_iter()
        .filter_map(|job| match job {
            Ok(j) => Some(j),
            Err(e) => {
                Counters::inc(&server.counters.quarantined);
                tracing::warn!(client = post.client_id, error = %e, "journaled job cannot be read; kept");
                None
            }
        })
        .collect();
    // Nothing is settled while something is added to it.
    let quiet = Committing::begin(&org, facts.client, &jobs).await;
    let mut effects = Vec::with_capacity(jobs.len());
    org.state().note_post(&facts);
    for job in &mut jobs {
        let name = server.read_job(job);
        let flow = Session::parse(&job.message.session_id).flow;
        if flow.starts_with("F.") && flow != MONITORING && flow != STATUS {
            server.open_if_stored(&org, facts.client, &flow, std::slice::from_ref(&name)).await?;
        }
        let effect = org.state().apply_job(&facts, job, &name);
        effects.push((effect, f_rows(&f, job)));
    }
    drop(quiet);
    for (effect, raw) in effects {
        server.act(&org, post.received, effect, &raw).await;
    }
    Ok(())
}

/// Keeps the flows of a POST from being settled while it is applied.
struct Committing<'a> {
    org: &'a Org,
    keys: Vec<FlowKey>,
}

impl<'a> Committing<'a> {
    async fn begin(org: &'a Org, client: &str, jobs: &[Job]) -> Self {
        let flow = |j: &Job| Session::parse(&j.message.session_id).flow;
        let mut keys: Vec<FlowKey> = jobs.iter().map(|j| (client.to_owned(), flow(j))).collect();
        keys.sort();
        keys.dedup();
        while !org.state().begin_commit(&keys) {
            tokio::time::sleep(SETTLING).await;
        }
        Self { org, keys }
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.org.state().end_commit(&self.keys);
    }
}

fn facts_of(post: &Post) -> PostFacts<'_> {
    PostFacts {
        client: &post.client_id,
        class: post.class(),
        received: post.received,
        post: to_hash(&post.post_hash),
        cipher: to_hash(&post.cipher_hash),
    }
}

/// The jobs of a journaled POST, parsed again.
fn jobs_of(server: &Server, post: &Post, f: &Found) -> Vec<Result<Job, job::JobError>> {
    let mut at = 0usize;
    let mut out = Vec::with_capacity(post.jobs.len());
    for meta in &post.jobs {
        let len = meta.length as usize;
        let raw = f.payload.slice(at.min(f.payload.len())..(at + len).min(f.payload.len()));
        let extent = f.pin.extent(at as u64, meta.length);
        let spill = meta.spill.as_ref().map(|s| Piece {
            segment: server.recovered_spill(&s.file),
            offset: s.offset,
            len: s.length,
        });
        out.push(job::parse(&raw, to_hash(&meta.hash), extent, spill));
        at += len;
    }
    out
}

fn apply_post(server: &Server, org: &Org, post: &Post, f: &Found) {
    let facts = facts_of(post);
    org.state().note_post(&facts);
    for job in jobs_of(server, post, f) {
        let mut job = match job {
            Ok(j) => j,
            Err(e) => {
                Counters::inc(&server.counters.quarantined);
                tracing::warn!(client = post.client_id, error = %e, "journaled job cannot be read; kept");
                continue;
            }
        };
        let name = server.read_job(&mut job);
        let effect = org.state().apply_job(&facts, &job, &name);
        if let Effect::ClientInfo(client) = effect {
            server.apply_client_info(org, &client, &f_rows(f, &job));
        }
    }
}

/// The payload bytes of a job found in a journal.
fn f_rows(f: &Found, job: &Job) -> bytes::Bytes {
    let at = job.extent.offset as usize;
    let end = (at + job.extent.len as usize).min(f.payload.len());
    f.payload.slice(at.min(end)..end)
}

async fn apply_decision(
    server: &Server,
    org: &Org,
    d: &Decision,
    f: &Found,
) -> Result<(), ServiceError> {
    let pin = &f.pin;
    match &d.kind {
        Some(DecisionKind::OpenFlow(o)) => {
            let (context, reports) = stored_flow(server, &org.id, &d.client_id, &o.flow_id).await?;
            org.state().open_flow(&d.client_id, o, context, reports, pin.clone());
        }
        Some(DecisionKind::SettledFlow(s)) => org.state().settled_flow(&d.client_id, &s.flow_id),
        Some(DecisionKind::SettledEvents(s)) => {
            let mut state = org.state();
            state.events.sets.retain(|k, _| {
                !(k.client == d.client_id
                    && k.artifact == s.artifact
                    && k.day == s.day
                    && k.logs == s.logs)
            });
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
    let context = server.tree.get(&path.context()).await?;
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
    Ok((context, reports))
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
    if context.is_none() && reports.is_empty() {
        return Ok(None);
    }
    let path = Client { org, id: client };
    let path = path.flow(flow);
    let mut all: Vec<String> = names.to_vec();
    all.extend(context.iter().flat_map(|c| c.artifacts_with_results.iter().cloned()));
    all.extend(
        reports.values().flat_map(|r| &r.query_status).flat_map(|q| q.names_with_response.clone()),
    );
    let mut open = OpenFlow { flow_id: flow.to_owned(), ..Default::default() };
    for name in all.into_iter().map(|n| server.reveal(&n)) {
        if !name.is_empty() && !open.base_rows.contains_key(&name) {
            let rows = server.stored_rows(&path.results_of(&name)).await?;
            open.base_rows.insert(name, rows);
        }
    }
    open.base_logs = server.stored_rows(&path.logs()).await?;
    open.base_transactions = server.stored_rows(&path.upload_transactions()).await?;
    open.base_uploads = server.stored_rows(&path.uploads()).await?;
    Ok(Some(open))
}
