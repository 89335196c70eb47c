//! Runs one request: builds its scope, checks the precondition, evaluates the
//! queries in order and hands their rows over in batches.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::{UploadTransaction, VqlCollectorArgs, VqlRequest};
use vql::{Dict, Level, Limits, Registry, Scope, ScopeBuilder, Value};

use super::artifacts::Artifacts;
use super::responder::{Part, Responder, Stopped};
use super::settings::Settings;
use super::throttle::{CpuClock, Throttle};
use super::uploads::FlowUploader;
use crate::env::Env;
use crate::plugins::common::{Host, Uploader, spill};

/// What all queries of an agent share.
#[derive(Clone)]
pub struct Context {
    /// The world.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Functions and plugins.
    pub registry: Arc<Registry>,
    /// The machine queries look at.
    pub host: Arc<Host>,
    /// When the agent was first started, unix seconds.
    pub install_time: u64,
    /// Cores a processor limit refers to.
    pub cores: usize,
    /// What a processor limit is measured by.
    pub cpu: CpuClock,
    /// Adds to the scope of each request.
    pub extend: Option<Extend>,
}

/// Adds to the scope of a request of the session that is named.
pub type Extend = Arc<dyn Fn(ScopeBuilder, &str, &VqlCollectorArgs) -> ScopeBuilder + Send + Sync>;

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("cores", &self.cores).finish_non_exhaustive()
    }
}

/// How a request differs between a collection and the event table.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// The query is restarted instead of failing when its time is up.
    pub is_event: bool,
    /// Silence after which a line tells that the query still runs.
    pub heartbeat: Duration,
}

/// Stock defaults of a request.
const TIMEOUT: u64 = 600;
/// Longest wait for gathered rows to be queued when a query is ended.
const FLUSH: Duration = Duration::from_secs(60);
const MAX_ROW: u64 = 10_000;
const ROW_BUFFER: u64 = 5 << 20;

/// Runs a request to its end. What goes wrong is told to `responder`.
pub async fn run(
    cx: &Context,
    args: &VqlCollectorArgs,
    responder: Arc<dyn Responder>,
    style: Style,
) {
    if args.expiry > 0 && cx.env.clock.unix() > args.expiry {
        responder.log(Level::Error, "Query expired.");
        return responder.fail("Query expired.");
    }
    let stop = responder.cancel().child_token();
    let _stop_with_us = stop.clone().drop_guard();
    let throttle = Arc::new(throttle(cx, args));
    let uploader = Arc::new(FlowUploader::new(cx.env.clone(), responder.clone()));
    let scope = scope(cx, args, &responder, &throttle, &uploader, stop.clone());

    let timeout = match args.timeout {
        _ if style.is_event => None,
        0 => Some(TIMEOUT),
        n => Some(n),
    };
    let deadline = async {
        match timeout {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let ending = CancellationToken::new();
    let work = async {
        let ending = &ending;
        Work { args, responder: &*responder, scope: &scope, cx, style, ending }.all().await;
        tokio::select! {
            biased;
            () = ending.cancelled() => {}
            () = uploader.drain(&scope) => {}
        }
    };
    tokio::pin!(work);
    let flush = tokio::select! {
        biased;
        // What a cancelled collection gathered is not wanted any more.
        () = stop.cancelled() => style.is_event,
        () = &mut work => false,
        () = deadline => {
            let text = format!("Query timed out after {} seconds", timeout.unwrap_or(0));
            responder.log(Level::Error, &text);
            responder.fail(&text);
            true
        }
        () = stalled(args.progress_timeout, &throttle) => {
            let text = format!("No progress made in {} seconds", args.progress_timeout);
            responder.log(Level::Error, &format!("ERROR:{text}"));
            responder.fail(&text);
            true
        }
    };
    if flush {
        ending.cancel();
        // The queue may be full; a cancelled collection does not wait for it.
        tokio::select! {
            biased;
            () = work => {}
            () = tokio::time::sleep(FLUSH) => {}
        }
    }
    scope.close();
}

/// Takes up uploads of an earlier run; each gives a row of `name`.
pub async fn resume(
    cx: &Context,
    responder: Arc<dyn Responder>,
    name: &str,
    transactions: Vec<UploadTransaction>,
) {
    let args = VqlCollectorArgs::default();
    let stop = responder.cancel().child_token();
    let _stop_with_us = stop.clone().drop_guard();
    let throttle = Arc::new(throttle(cx, &args));
    let uploader = Arc::new(FlowUploader::new(cx.env.clone(), responder.clone()));
    let scope = scope(cx, &args, &responder, &throttle, &uploader, stop);
    let request = VqlRequest { vql: String::new(), name: name.to_owned() };
    let mut batch = Batch::new(&args, cx.settings.default_max_wait);
    for t in transactions {
        let mut row = Dict::new().with("Filename", &t.filename).with("UploadId", t.upload_id);
        let result = uploader.resume(&scope, t).await;
        responder.outstanding(-1);
        match result {
            Ok(()) => row.set("Error", ""),
            Err(vql::Error::Stopped) => return,
            Err(e) => row.set("Error", e.to_string()),
        }
        batch.add(row.into());
    }
    if let Some((jsonl, columns, rows)) = batch.take() {
        let (request, jsonl, columns) = (&request, &*jsonl, &*columns);
        let part = Part { request, query_index: 0, part: 0, rows, jsonl, columns };
        // At the end anyway.
        let _ = responder.rows(part).await;
    }
}

/// Resolves when no operation was charged for `seconds`; 0 never does.
async fn stalled(seconds: f32, throttle: &Throttle) {
    let period = Duration::try_from_secs_f32(seconds).unwrap_or_default();
    if period.is_zero() {
        return std::future::pending().await;
    }
    let mut seen = throttle.ops();
    loop {
        tokio::time::sleep(period).await;
        let now = throttle.ops();
        if now == seen {
            return;
        }
        seen = now;
    }
}

fn throttle(cx: &Context, args: &VqlCollectorArgs) -> Throttle {
    let ops = f64::from(args.ops_per_second);
    let mut cpu = f64::from(args.cpu_limit);
    if cpu <= 0.0 && ops > 0.0 && ops < 100.0 {
        cpu = ops; // the older way of asking for a share
    }
    if cx.cores < 2 && (cpu <= 0.0 || cpu > 50.0) {
        cpu = 50.0;
    }
    Throttle::new(cpu, f64::from(args.iops_limit), cx.cores, cx.cpu.clone())
}

fn scope(
    cx: &Context,
    args: &VqlCollectorArgs,
    responder: &Arc<dyn Responder>,
    throttle: &Arc<Throttle>,
    uploader: &Arc<FlowUploader>,
    stop: CancellationToken,
) -> Scope {
    let log = responder.clone();
    let clock = cx.env.clock.clone();
    let builder = ScopeBuilder::new(cx.registry.clone())
        .log(move |level: Level, message: &str| log.log(level, message))
        .clock(move || vql::Time::try_from(clock.now()).unwrap_or(vql::Time::UNIX_EPOCH))
        .cancel(stop)
        .throttle(throttle.clone())
        .extension(Arc::new(Artifacts::new(&args.artifacts)))
        .extension(cx.host.clone())
        .extension(Arc::new(cx.env.clone()))
        .extension(spill::spill(&cx.env, spill::MEMORY, Arc::default()))
        .extension(Arc::new(Uploader(uploader.clone())));
    let scope = match &cx.extend {
        Some(extend) => extend(builder, responder.session(), args).build(),
        None => builder.build(),
    };
    let list = |items: &[String]| -> Value { items.iter().collect() };
    // Queries use the names of the file and those of the stock program alike.
    let mut version = Dict::new();
    for (name, value) in [
        ("name", &cx.settings.client_name),
        ("Name", &cx.settings.client_name),
        ("version", &cx.settings.client_version),
        ("Version", &cx.settings.client_version),
    ] {
        version.set(name, value);
    }
    for name in ["build_time", "BuildTime", "ci_build_url", "commit", "Commit"] {
        version.set(name, "");
    }
    version.set("install_time", cx.install_time);
    let (urls, labels) = (list(&cx.settings.server_urls), list(&cx.settings.labels));
    let config = Dict::new()
        .with("server_urls", urls.clone())
        .with("ServerUrls", urls)
        .with("labels", labels.clone())
        .with("Labels", labels)
        .with("nonce", &cx.settings.nonce)
        .with("version", version.clone())
        .with("Version", version);
    scope.set("config", config);
    scope.set("_SessionId", responder.session());
    scope.set("NULL", Value::Null);
    for e in &args.env {
        scope.set(e.key.clone(), e.value.as_str());
    }
    scope
}

struct Work<'a> {
    args: &'a VqlCollectorArgs,
    responder: &'a dyn Responder,
    scope: &'a Scope,
    cx: &'a Context,
    style: Style,
    /// No more rows are wanted; those gathered are.
    ending: &'a CancellationToken,
}

impl Work<'_> {
    async fn all(&self) {
        if !self.args.precondition.trim().is_empty() {
            let passed = tokio::select! {
                biased;
                () = self.ending.cancelled() => false,
                passed = self.precondition() => passed,
            };
            if !passed {
                return;
            }
        }
        for (index, request) in self.args.query.iter().enumerate() {
            if self.one(index as u64, request).await.is_err() {
                return;
            }
        }
    }

    fn parse(&self, text: &str) -> Option<Vec<vql::syntax::ast::Statement>> {
        match vql::parse(text) {
            Ok(statements) => Some(statements),
            Err(e) => {
                let text = format!("While parsing query: {e}");
                self.responder.log(Level::Error, &text);
                self.responder.fail(&text);
                None
            }
        }
    }

    /// Any row of any statement lets the queries run.
    async fn precondition(&self) -> bool {
        let Some(statements) = self.parse(&self.args.precondition) else { return false };
        let mut rows = vql::eval(statements, self.scope, Limits::default());
        let passed = rows.next().await.is_some();
        if !passed {
            let name = self.name();
            let text = format!("Skipping query {name} due to preconditions");
            self.responder.log(Level::Info, &text);
        }
        passed
    }

    /// The first named query, for log lines.
    fn name(&self) -> &str {
        let mut names = self.args.query.iter().map(|q| q.name.as_str());
        names.find(|n| !n.is_empty()).unwrap_or("query")
    }

    async fn one(&self, index: u64, request: &VqlRequest) -> Result<(), Stopped> {
        let Some(statements) = self.parse(&request.vql) else { return Err(Stopped) };
        let named = !request.name.is_empty();
        let start = Instant::now();
        if named {
            let text = format!("Starting query execution for {}.", request.name);
            self.responder.log(Level::Info, &text);
        }
        let mut batch = Batch::new(self.args, self.cx.settings.default_max_wait);
        let mut rows = vql::eval_shown(statements, self.scope, Limits::default());
        let mut beat = tokio::time::interval_at(start + self.style.heartbeat, self.style.heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let row = tokio::select! {
                biased;
                () = self.ending.cancelled() => {
                    self.send(index, request, &mut batch).await?;
                    return Err(Stopped);
                }
                () = batch.due() => {
                    self.send(index, request, &mut batch).await?;
                    continue;
                }
                row = rows.next() => row,
                _ = beat.tick() => {
                    if named {
                        let seconds = start.elapsed().as_secs();
                        let text = format!("Time {seconds}: {}: Waiting for rows.", request.name);
                        self.responder.log(Level::Default, &text);
                    }
                    continue;
                }
            };
            let Some(row) = row else { break };
            batch.add(row);
            if batch.is_full() {
                self.send(index, request, &mut batch).await?;
            }
        }
        self.send(index, request, &mut batch).await?;
        if named {
            let seconds = start.elapsed().as_secs_f64();
            let text = format!("Collection {} is done after {seconds:.3}s", request.name);
            self.responder.log(Level::Info, &text);
        }
        Ok(())
    }

    async fn send(
        &self,
        query_index: u64,
        request: &VqlRequest,
        batch: &mut Batch,
    ) -> Result<(), Stopped> {
        let Some((jsonl, columns, rows)) = batch.take() else { return Ok(()) };
        let part =
            Part { request, query_index, part: batch.part, rows, jsonl: &jsonl, columns: &columns };
        batch.part += 1;
        self.responder.rows(part).await
    }
}

/// Rows gathered for one part.
struct Batch {
    max_row: u64,
    max_bytes: usize,
    max_wait: Duration,
    part: u64,
    jsonl: String,
    columns: Vec<String>,
    rows: u64,
    deadline: Option<Instant>,
}

impl Batch {
    fn new(args: &VqlCollectorArgs, default_wait: Duration) -> Batch {
        let or = |n: u64, default: u64| if n == 0 { default } else { n };
        Batch {
            max_row: or(args.max_row, MAX_ROW),
            max_bytes: or(args.max_row_buffer_size, ROW_BUFFER) as usize,
            max_wait: match args.max_wait {
                0 => default_wait,
                n => Duration::from_secs(n),
            },
            part: 0,
            jsonl: String::new(),
            columns: Vec::new(),
            rows: 0,
            deadline: None,
        }
    }

    fn add(&mut self, row: Value) {
        let row = row.into_row();
        if self.rows == 0 {
            self.deadline = Some(Instant::now() + self.max_wait);
            self.columns = row.keys().map(|k| k.to_string()).collect();
        }
        row.write_json(&mut self.jsonl);
        self.jsonl.push('\n');
        self.rows += 1;
    }

    fn is_full(&self) -> bool {
        self.rows >= self.max_row || self.jsonl.len() > self.max_bytes
    }

    /// Resolves when the rows have waited long enough.
    async fn due(&self) {
        match self.deadline {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self) -> Option<(String, Vec<String>, u64)> {
        self.deadline = None;
        let rows = std::mem::take(&mut self.rows);
        let taken = (std::mem::take(&mut self.jsonl), std::mem::take(&mut self.columns), rows);
        (rows > 0).then_some(taken)
    }
}
