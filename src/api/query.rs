//! The `Query` call: VQL on the server, rows and log lines streamed back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use velociraptor_proto::proto::{VqlCollectorArgs, VqlRequest, VqlResponse};
use vql::syntax::ast::Statement;
use vql::{Level, Limits, Registry, Scope, Value};

use crate::env::Env;
use crate::plugins::server::{self, Session};

/// Seconds a row waits for others when the request does not say.
const MAX_WAIT: u64 = 10;
/// Packets of rows a query may be ahead of its reader.
const AHEAD: usize = 8;
/// Log lines a query may be ahead of its reader; more are counted, not kept.
const LOGS_AHEAD: usize = 10_000;
/// A packet is sent when it is this large, whatever its rows: readers accept
/// 4 MiB.
const MAX_BYTES: usize = 3 << 20;

/// One message on its way, and the place it takes in the queue.
type Item = (VqlResponse, Option<OwnedSemaphorePermit>);

/// The response stream of a query. Dropping it ends the query.
pub struct Responses {
    items: UnboundedReceiver<Item>,
    logs: Arc<AtomicUsize>,
    cancel: CancellationToken,
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Stream for Responses {
    type Item = Result<VqlResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.items.poll_recv(cx));
        Poll::Ready(item.map(|(response, permit)| {
            if permit.is_none() {
                self.logs.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(response)
        }))
    }
}

/// Starts a query of `session` on the GUI side.
pub fn run(registry: Arc<Registry>, session: Arc<Session>, args: VqlCollectorArgs) -> Responses {
    let (tx, items) = unbounded_channel();
    let cancel = CancellationToken::new();
    let logs = Arc::new(AtomicUsize::new(0));
    let env = session.server.env.clone();
    let out = Out {
        tx,
        places: Arc::new(Semaphore::new(AHEAD)),
        logs: logs.clone(),
        lost: Arc::default(),
        env: env.clone(),
    };
    let sink = out.clone();
    let log = move |level: Level, text: &str| sink.log(level, text);
    let scope = server::scope(registry, session, log, cancel.clone());
    let ended = cancel.clone();
    env.spawn_gui(async move {
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = execute(&scope, &args, &out) => {}
        }
        out.report_lost();
        scope.close();
    });
    Responses { items, logs, cancel }
}

/// The sending side.
#[derive(Clone)]
struct Out {
    tx: UnboundedSender<Item>,
    places: Arc<Semaphore>,
    logs: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    env: Env,
}

impl Out {
    /// Sends a log line; when far too many wait it is only counted.
    fn log(&self, level: Level, text: &str) {
        if self.logs.load(Ordering::Relaxed) >= LOGS_AHEAD {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let line = match level {
            Level::Default => format!("{text}\n"),
            level => format!("{}:{text}\n", level.name()),
        };
        self.line(line);
    }

    fn line(&self, log: String) {
        self.logs.fetch_add(1, Ordering::Relaxed);
        let timestamp = self.env.clock.micros();
        let _ = self.tx.send((VqlResponse { log, timestamp, ..Default::default() }, None));
    }

    fn report_lost(&self) {
        match self.lost.swap(0, Ordering::Relaxed) {
            0 => {}
            n => self.line(format!("WARN:{n} log lines were not sent: the reader is too slow\n")),
        }
    }

    /// Sends rows, once there is a place.
    async fn rows(&self, response: VqlResponse) {
        if let Ok(place) = self.places.clone().acquire_owned().await {
            let _ = self.tx.send((response, Some(place)));
        }
    }
}

async fn execute(scope: &Scope, args: &VqlCollectorArgs, out: &Out) {
    for env in &args.env {
        scope.set(env.key.clone(), env.value.clone());
    }
    out.log(Level::Default, "Starting query execution.");
    let limit = (args.timeout > 0).then(|| Duration::from_secs(args.timeout));
    let work = async {
        for request in &args.query {
            let statements = match vql::parse(&request.vql) {
                Ok(statements) => statements,
                Err(e) => return out.log(Level::Default, &format!("VQL Error: {e}")),
            };
            for (id, statement) in statements.into_iter().enumerate() {
                let mut batch = Batch::new(args, request, id as u64, out);
                batch.run(statement, scope).await;
            }
        }
    };
    let timeout = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = timeout => {
            out.log(Level::Error, &format!("Query timed out after {} seconds", args.timeout));
        }
    }
}

/// Rows of one statement on their way into packets.
struct Batch<'a> {
    request: &'a VqlRequest,
    out: &'a Out,
    query_id: u64,
    max_row: u64,
    max_wait: Duration,
    part: u64,
    json: String,
    rows: u64,
    columns: Vec<String>,
    started: Instant,
}

impl<'a> Batch<'a> {
    fn new(
        args: &VqlCollectorArgs,
        request: &'a VqlRequest,
        query_id: u64,
        out: &'a Out,
    ) -> Batch<'a> {
        let wait = if args.max_wait == 0 { MAX_WAIT } else { args.max_wait };
        Batch {
            request,
            out,
            query_id,
            max_row: args.max_row,
            max_wait: Duration::from_secs(wait),
            part: 0,
            json: String::new(),
            rows: 0,
            columns: Vec::new(),
            started: Instant::now(),
        }
    }

    /// A SELECT ends with a packet even if it is empty; a LET sends none.
    async fn run(&mut self, statement: Statement, scope: &Scope) {
        let is_select = matches!(statement, Statement::Select(_));
        let mut rows = vql::eval_shown(vec![statement], scope, Limits::default());
        let mut tick = tokio::time::interval_at(Instant::now() + self.max_wait, self.max_wait);
        loop {
            let row = tokio::select! {
                biased;
                row = rows.next() => row,
                _ = tick.tick() => {
                    if self.rows > 0 {
                        self.ship().await;
                    }
                    continue;
                }
            };
            match row {
                Some(row) => self.add(row).await,
                None => break,
            }
        }
        if is_select {
            self.ship().await;
        }
    }

    async fn add(&mut self, row: Value) {
        if self.rows >= self.max_row || self.json.len() >= MAX_BYTES {
            self.ship().await;
        }
        if self.rows == 0 {
            self.columns = columns(&row);
        } else {
            self.json.push(',');
        }
        self.json.push_str(&row.to_json());
        self.rows += 1;
    }

    async fn ship(&mut self) {
        let response = format!("[{}]", std::mem::take(&mut self.json));
        let text = format!(
            "Time {}: {}: Sending response part {} {} B ({} rows).",
            self.started.elapsed().as_secs(),
            self.request.name,
            self.part,
            response.len(),
            self.rows
        );
        self.out.log(Level::Default, &text);
        let message = VqlResponse {
            response,
            columns: std::mem::take(&mut self.columns),
            query: Some(self.request.clone()),
            query_id: self.query_id,
            part: self.part,
            timestamp: self.out.env.clock.micros(),
            ..Default::default()
        };
        self.part += 1;
        self.rows = 0;
        self.out.rows(message).await;
    }
}

fn columns(row: &Value) -> Vec<String> {
    row.as_dict().map(|d| d.keys().map(ToString::to_string).collect()).unwrap_or_default()
}
