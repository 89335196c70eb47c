//! Acts on what the server sends: starts, cancels and reports collections,
//! replaces the event table. A task runs once: a repeated one is answered with
//! the state of the first. Only authenticated messages count.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::json;
use velociraptor_proto::proto::velo_message::AuthorizationState;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::{
    FlowRequest, FlowStats, LogMessage, ResumeTransactions, VeloMessage, VeloStatus,
    VqlCollectorArgs,
};
use vql::Level;

use super::checkpoint::Checkpoint;
use super::events::Events;
use super::flow::{Flow, FlowQuery};
use super::logs::LogBatch;
use super::outbox::Outbox;
use super::query::{self, Context, Style};

/// Ended collections that can still be asked about.
const FINISHED: usize = 20;
/// Task ids remembered.
const TASKS: usize = 1000;
/// Longest wait for a slot.
const SLOT_WAIT: Duration = Duration::from_secs(3600);
/// Log and report period when the request names none.
const LOG_BATCH: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(30);
const RESUMED: &str = "Server.Internal.ResumedUploads";
const STATS_SINK: u64 = 981;

/// See the module.
pub struct Executor {
    cx: Context,
    out: Arc<Outbox>,
    events: Arc<Events>,
    slots: Arc<Semaphore>,
    table: Mutex<Table>,
    checkpoint: Checkpoint,
    /// Cancelled when the server wants this process to end.
    pub killed: CancellationToken,
}

#[derive(Default)]
struct Table {
    running: BTreeMap<String, Arc<Flow>>,
    finished: VecDeque<(String, FlowStats)>,
    tasks: VecDeque<u64>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    /// Nothing runs yet.
    pub fn new(
        cx: Context,
        out: Arc<Outbox>,
        events: Arc<Events>,
        checkpoint: Checkpoint,
    ) -> Arc<Executor> {
        Arc::new(Executor {
            slots: Arc::new(Semaphore::new(cx.settings.concurrency.max(1))),
            cx,
            out,
            events,
            table: Mutex::default(),
            checkpoint,
            killed: CancellationToken::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the collections of the previous process; those it left
    /// unfinished are reported as failed.
    pub async fn recover(&self) {
        for (id, mut stats) in self.checkpoint.load().await {
            if !stats.flow_complete {
                interrupted(&mut stats);
                self.out.post(stats_message(&id, stats.clone(), false)).await;
            }
            remember(&mut self.table(), &id, stats);
        }
        self.save().await;
    }

    async fn save(&self) {
        let all: Vec<(String, FlowStats)> = {
            let table = self.table();
            let running = table
                .running
                .iter()
                .map(|(id, f)| (id.clone(), FlowStats { flow_complete: false, ..f.stats() }));
            table.finished.iter().cloned().chain(running).collect()
        };
        self.checkpoint.save(&all).await;
    }

    /// Acts on one message. Long work goes on in tasks of its own.
    pub async fn handle(self: &Arc<Self>, job: VeloMessage) {
        if job.auth_state() != AuthorizationState::Authenticated {
            tracing::warn!("{}: a message that is not authentic is ignored", job.session_id);
            return;
        }
        if job.kill_kill_kill.is_some() {
            tracing::warn!("the server asks this process to end");
            self.killed.cancel();
        } else if job.cancel.is_some() {
            self.cancel(&job.session_id).await;
        } else if let Some(request) = job.flow_request {
            self.flow(&job.session_id, job.task_id, job.urgent, request).await;
        } else if let Some(request) = job.resume_transactions {
            self.resume(&job.session_id, request).await;
        } else if let Some(table) = job.update_event_table {
            self.events.update(table).await;
        } else if job.vql_client_action.is_some() || job.update_foreman.is_some() {
            // For older clients.
        } else if let Some(request) = job.flow_stats_request {
            for id in &request.flow_id {
                self.report(id).await;
            }
        } else {
            self.unsupported(&job).await;
        }
    }

    /// Tells the state of a collection.
    async fn report(&self, id: &str) {
        let stats = {
            let table = self.table();
            let finished = || table.finished.iter().find(|(f, _)| f == id).map(|(_, s)| s.clone());
            table.running.get(id).map(|f| f.stats()).or_else(finished)
        };
        let stats = stats.unwrap_or_else(|| FlowStats {
            query_status: vec![VeloStatus {
                status: ReturnedStatus::UnknownFlow.into(),
                error_message: "Flow not known - maybe the client crashed?".into(),
                ..VeloStatus::default()
            }],
            flow_complete: true,
            ..FlowStats::default()
        });
        self.out.post(stats_message(id, stats, true)).await;
    }

    async fn unsupported(&self, job: &VeloMessage) {
        let shown = json::to_sparse_row(job).map(|v| v.to_string()).unwrap_or_default();
        let text = format!("Unsupported payload for message: {shown}");
        let mut logs = LogBatch::default();
        logs.add(Level::Error, &text, self.cx.env.clock.unix());
        for batch in logs.take(self.cx.env.clock.micros()) {
            self.out
                .post(VeloMessage {
                    session_id: job.session_id.clone(),
                    request_id: 980,
                    log_message: Some(LogMessage { error_message: text.clone(), ..batch }),
                    ..VeloMessage::default()
                })
                .await;
        }
    }

    async fn cancel(&self, id: &str) {
        let flow = self.table().running.get(id).cloned();
        let Some(flow) = flow else { return };
        let text = format!("Cancelled all in-flight queries for flow {id}");
        if flow.cancel_with("Cancelled", &text) {
            self.out.suppress(id);
            flow.finish("Cancelled").await;
        }
    }

    /// Enters a new collection into the table; `None` when it is known already.
    fn enter(&self, id: &str, task_id: u64, request: &FlowRequest) -> Option<Arc<Flow>> {
        let mut table = self.table();
        let known = table.running.contains_key(id)
            || table.finished.iter().any(|(f, _)| f == id)
            || (task_id != 0 && table.tasks.contains(&task_id));
        if known {
            return None;
        }
        if task_id != 0 {
            table.tasks.push_back(task_id);
            if table.tasks.len() > TASKS {
                table.tasks.pop_front();
            }
        }
        let clock = self.cx.env.clock.clone();
        let flow = Arc::new(Flow::new(id, request, self.out.clone(), clock));
        table.running.insert(id.to_owned(), flow.clone());
        Some(flow)
    }

    async fn flow(self: &Arc<Self>, id: &str, task_id: u64, urgent: bool, request: FlowRequest) {
        let Some(flow) = self.enter(id, task_id, &request) else {
            tracing::info!("{id}: the task came before and is not run again");
            return self.report(id).await;
        };
        self.save().await;
        let me = self.clone();
        self.cx.env.spawn(async move {
            let tick = ticker(&flow, log_batch(&request), me.cx.settings.stats_period);
            let body = me.collect(&flow, &request, urgent);
            let reason = tokio::select! {
                biased;
                reason = body => reason,
                () = tick => "",
            };
            me.end(&flow, reason).await;
        });
    }

    async fn end(&self, flow: &Flow, reason: &str) {
        flow.finish(reason).await;
        {
            let mut table = self.table();
            table.running.remove(flow.id());
            let stats = FlowStats { flow_complete: true, ..flow.stats() };
            remember(&mut table, flow.id(), stats);
        }
        self.save().await;
    }

    /// Runs the queries of a collection; gives the reason for those that were
    /// never started.
    async fn collect(&self, flow: &Arc<Flow>, request: &FlowRequest, urgent: bool) -> &'static str {
        let slot = async {
            if urgent {
                return Ok(None);
            }
            match tokio::time::timeout(SLOT_WAIT, self.slots.clone().acquire_owned()).await {
                Ok(permit) => Ok(permit.ok()),
                Err(_) => Err(()),
            }
        };
        let _slot = tokio::select! {
            biased;
            () = flow.cancel.cancelled() => return "Cancelled",
            slot = slot => match slot {
                Ok(slot) => slot,
                Err(()) => {
                    flow.log(None, Level::Error, "Timed out in concurrency control");
                    return "Timed out in concurrency control";
                }
            },
        };
        // All are entered before the first runs, so that none is missed.
        let main: Vec<_> =
            request.vql_client_actions.iter().map(|a| (flow.start_query(), a)).collect();
        let trace: Vec<_> = request.trace.iter().map(|a| (flow.start_query(), a)).collect();
        let traces = async {
            join_all(trace.iter().map(|(i, args)| self.query(flow, *i, args))).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = join_all(main.iter().map(|(i, args)| self.query(flow, *i, args))) => {}
            () = traces => {}
        }
        for (index, _) in trace {
            flow.end_query(index);
        }
        ""
    }

    async fn query(&self, flow: &Arc<Flow>, index: usize, args: &VqlCollectorArgs) {
        let heartbeat = match args.heartbeat {
            0 => HEARTBEAT,
            n => Duration::from_secs(n),
        };
        let style = Style { is_event: false, heartbeat };
        let responder = Arc::new(FlowQuery { flow: flow.clone(), index });
        let run = AssertUnwindSafe(query::run(&self.cx, args, responder, style));
        if run.catch_unwind().await.is_err() {
            let text = "The query crashed; this is a defect of the agent";
            flow.log(Some(index), Level::Error, text);
        }
        flow.end_query(index);
    }

    async fn resume(self: &Arc<Self>, id: &str, request: ResumeTransactions) {
        let limits = FlowRequest {
            max_upload_bytes: request.max_upload_bytes,
            compression: request.compression,
            ..FlowRequest::default()
        };
        {
            let mut table = self.table();
            if table.running.contains_key(id) {
                return;
            }
            table.finished.retain(|(f, _)| f != id);
        }
        self.out.unsuppress(id);
        let Some(flow) = self.enter(id, 0, &limits) else { return };
        self.save().await;
        let me = self.clone();
        self.cx.env.spawn(async move {
            let tick = ticker(&flow, LOG_BATCH, me.cx.settings.stats_period);
            let body = me.resume_uploads(&flow, request);
            tokio::select! {
                biased;
                () = body => {}
                () = tick => {}
            }
            me.end(&flow, "").await;
        });
    }

    async fn resume_uploads(&self, flow: &Arc<Flow>, request: ResumeTransactions) {
        let mut own = None;
        let mut seeded = Vec::new();
        for status in request.query_stats {
            let is_own = status.names_with_response.iter().any(|n| n == RESUMED);
            let index = flow.seed_query(status);
            seeded.push(index);
            if is_own {
                own = Some(index);
            }
        }
        let index = own.unwrap_or_else(|| {
            let index = flow.start_query();
            seeded.push(index);
            index
        });
        let next = request.transactions.iter().map(|t| t.upload_id + 1).max();
        flow.seed_uploads(next.unwrap_or(0));
        flow.outstanding(i64::try_from(request.transactions.len()).unwrap_or(0));
        let timeout = match request.timeout {
            0 => Duration::from_secs(600),
            n => Duration::from_secs(n),
        };
        let responder = Arc::new(FlowQuery { flow: flow.clone(), index });
        let work = query::resume(&self.cx, responder, RESUMED, request.transactions);
        tokio::select! {
            biased;
            () = flow.cancel.cancelled() => {}
            () = work => {}
            () = tokio::time::sleep(timeout) => {
                let text = format!("Uploads timed out after {} seconds", timeout.as_secs());
                flow.log(Some(index), Level::Error, &text);
            }
        }
        for index in seeded {
            flow.end_query(index);
        }
    }

    /// Collections that run or wait.
    pub fn running(&self) -> usize {
        self.table().running.len()
    }
}

fn remember(table: &mut Table, id: &str, stats: FlowStats) {
    table.finished.push_back((id.to_owned(), stats));
    if table.finished.len() > FINISHED {
        table.finished.pop_front();
    }
}

fn interrupted(stats: &mut FlowStats) {
    let text = "The agent was restarted while the collection was running";
    if stats.query_status.is_empty() {
        stats.query_status.push(VeloStatus::default());
    }
    for s in &mut stats.query_status {
        let ended = matches!(s.status(), ReturnedStatus::Ok) && s.last_active > 0;
        if !ended {
            s.set_status(ReturnedStatus::GenericError);
            if s.error_message.is_empty() {
                s.error_message = text.into();
            }
        }
    }
    stats.flow_complete = true;
}

fn stats_message(id: &str, stats: FlowStats, urgent: bool) -> VeloMessage {
    VeloMessage {
        session_id: id.to_owned(),
        request_id: STATS_SINK,
        flow_stats: Some(stats),
        urgent,
        ..VeloMessage::default()
    }
}

/// The request's period. Stock servers send a number of seconds in this field
/// of milliseconds, 2 unless configured; nobody means so few milliseconds. Our own
/// sends 50 and means them.
fn log_batch(request: &FlowRequest) -> Duration {
    match request.log_batch_time {
        0 => LOG_BATCH,
        n if n < 20 => Duration::from_secs(n),
        n => Duration::from_millis(n),
    }
}

/// Sends logs a `batch` after the first of them, and reports: the first after one
/// `batch`, then every `period`. Rests while there is neither: with thousands of
/// collections in a process, turns in which nothing is done are all that it does.
async fn ticker(flow: &Flow, batch: Duration, period: Duration) {
    let mut report = Instant::now() + batch;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(report) => {}
            () = flow.logged() => tokio::time::sleep(batch).await,
        }
        flow.flush_logs().await;
        if Instant::now() >= report {
            report = Instant::now() + period;
            flow.send_progress().await;
        }
    }
}

#[cfg(test)]
mod tests;
