//! The event table: queries that run for ever. It is kept in the state file and
//! started before the first contact; only a newer table replaces it, and only a
//! change of queries or variables restarts them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, FusedFuture};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use velociraptor_proto::proto::{VeloMessage, VqlCollectorArgs, VqlEventTable};
use vql::Level;

use super::artifacts::same_queries;
use super::flow::response;
use super::logs::LogBatch;
use super::outbox::Outbox;
use super::query::{self, Context, Style};
use super::responder::{Part, Responder, Stopped};
use super::writeback::Writeback;

/// The session of everything that belongs to no collection.
pub const MONITORING: &str = "F.Monitoring";
/// How often log lines are sent.
const LOG_PERIOD: Duration = Duration::from_secs(5);
/// How long a query without a period of its own runs before it starts afresh.
const REFRESH: Duration = Duration::from_secs(12 * 3600);
/// Heartbeat of an event query that names none.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Longest wait for event queries at the end.
const STOP: Duration = Duration::from_secs(5);
const LOG_SINK: u64 = 980;

/// See the module.
pub struct Events {
    cx: Context,
    out: Arc<Outbox>,
    writeback: Arc<tokio::sync::Mutex<Writeback>>,
    state: tokio::sync::Mutex<State>,
    version: Mutex<u64>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    table: VqlEventTable,
    running: CancellationToken,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl Events {
    /// Nothing runs yet.
    pub fn new(
        cx: Context,
        out: Arc<Outbox>,
        writeback: Arc<tokio::sync::Mutex<Writeback>>,
    ) -> Events {
        Events {
            cx,
            out,
            writeback,
            state: tokio::sync::Mutex::default(),
            version: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The version of the table that runs; 0 when there is none.
    pub fn version(&self) -> u64 {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_version(&self, version: u64) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Starts the table of the state file.
    pub async fn start_saved(&self) {
        let saved = self.writeback.lock().await.event_table();
        if let Some(table) = saved {
            let mut state = self.state.lock().await;
            self.set_version(table.version);
            self.replace(&mut state, table);
        }
    }

    /// Takes a table from the server.
    pub async fn update(&self, table: VqlEventTable) {
        let mut state = self.state.lock().await;
        if table.version <= self.version() {
            tracing::info!("an event table not newer than the running one is ignored");
            return;
        }
        let same = state.table.event.len() == table.event.len()
            && state.table.event.iter().zip(&table.event).all(|(a, b)| same_queries(a, b));
        self.set_version(table.version);
        let mut writeback = self.writeback.lock().await;
        let saved = match writeback.set_event_table(&table) {
            Ok(()) => writeback.save().await,
            e => e,
        };
        drop(writeback);
        if let Err(e) = saved {
            tracing::warn!("the event table is not saved: {e}");
        }
        if same {
            state.table.version = table.version;
        } else {
            self.replace(&mut state, table);
        }
    }

    /// Ends all event queries and waits, not for long, until what they gathered
    /// is queued.
    pub async fn stop(&self) {
        self.state.lock().await.running.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!("event queries do not end; what they gathered may be lost");
        }
    }

    fn replace(&self, state: &mut State, table: VqlEventTable) {
        state.running.cancel();
        state.running = CancellationToken::new();
        let mut started = 0;
        for event in &table.event {
            let Some(name) = event.query.iter().map(|q| &q.name).find(|n| !n.is_empty()) else {
                continue;
            };
            let run = Run {
                cx: self.cx.clone(),
                out: self.out.clone(),
                name: name.clone(),
                stop: state.running.clone(),
            };
            started += 1;
            self.cx.env.spawn(self.tasks.track_future(run.run(event.clone())));
        }
        tracing::info!("{started} event queries started");
        state.table = table;
    }
}

/// One event query's life.
struct Run {
    cx: Context,
    out: Arc<Outbox>,
    name: String,
    stop: CancellationToken,
}

impl Run {
    async fn run(self, args: VqlCollectorArgs) {
        let heartbeat = match args.heartbeat {
            0 => HEARTBEAT,
            n => Duration::from_secs(n),
        };
        let style = Style { is_event: true, heartbeat };
        loop {
            let period = match args.timeout {
                0 => self.cx.env.jitter(REFRESH * 9 / 10, REFRESH / 5),
                n => Duration::from_secs(n),
            };
            let event = Arc::new(EventQuery {
                out: self.out.clone(),
                clock: self.cx.env.clock.clone(),
                name: self.name.clone(),
                cancel: self.stop.child_token(),
                uploads: AtomicI64::new(0),
                logs: Mutex::default(),
                rows: tokio::sync::Mutex::default(),
            });
            let query = query::run(&self.cx, &args, event.clone(), style).fuse();
            tokio::pin!(query);
            let flush = async {
                loop {
                    tokio::time::sleep(LOG_PERIOD).await;
                    event.flush_logs().await;
                }
            };
            // One that ends by itself waits for its next turn.
            let ended = async {
                (&mut query).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(period) => {}
                () = ended => {}
                () = flush => {}
            }
            event.cancel.cancel();
            if !query.is_terminated() {
                query.await;
            }
            event.flush_logs().await;
            if self.stop.is_cancelled() {
                return;
            }
        }
    }
}

/// An event query's way to the server, from one start to the next.
struct EventQuery {
    out: Arc<Outbox>,
    clock: Arc<dyn crate::env::Clock>,
    name: String,
    cancel: CancellationToken,
    uploads: AtomicI64,
    logs: Mutex<LogBatch>,
    /// Rows sent, by query name.
    rows: tokio::sync::Mutex<std::collections::BTreeMap<String, u64>>,
}

impl EventQuery {
    fn message(&self, request_id: u64) -> VeloMessage {
        VeloMessage { session_id: MONITORING.into(), request_id, ..VeloMessage::default() }
    }

    async fn flush_logs(&self) {
        let now = self.clock.micros();
        let batches = self.logs.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        for mut batch in batches {
            batch.artifact.clone_from(&self.name);
            let mut m = self.message(LOG_SINK);
            m.log_message = Some(batch);
            self.out.post(m).await;
        }
    }
}

impl Responder for EventQuery {
    fn session(&self) -> &str {
        MONITORING
    }

    fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    fn log(&self, level: Level, message: &str) {
        let now = self.clock.unix();
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).add(level, message, now);
    }

    fn fail(&self, _message: &str) {}

    fn next_upload(&self) -> i64 {
        self.uploads.fetch_add(1, Ordering::Relaxed)
    }

    fn rows<'a>(&'a self, part: Part<'a>) -> BoxFuture<'a, Result<(), Stopped>> {
        async move {
            let mut rows = self.rows.lock().await;
            let sent = rows.entry(part.request.name.clone()).or_default();
            let mut m = self.message(0);
            m.vql_response = Some(response(&part, *sent, self.clock.micros()));
            *sent += part.rows;
            self.out.post(m).await;
            Ok(())
        }
        .boxed()
    }

    fn upload(&self, mut message: VeloMessage) -> BoxFuture<'_, Result<(), Stopped>> {
        async move {
            message.session_id = MONITORING.into();
            self.out.post(message).await;
            Ok(())
        }
        .boxed()
    }

    fn outstanding(&self, _change: i64) {}
}
