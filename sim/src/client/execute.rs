//! What a client makes: rows, logs, uploads and reports of flows, and rows of
//! event queries. Everything is written into the book as it is queued.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use velociraptor::agent::responder::compress;
use velociraptor_proto::proto::flow_request::Compression;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::{
    FileBuffer, FlowRequest, FlowStats, LogMessage, PathSpec, VeloMessage, VeloStatus, VqlRequest,
    VqlResponse,
};

use super::process::{Known, Process};
use crate::ledger::{Content, Execution, now, upload_bytes};
use crate::plan::Plan;

/// Largest piece of an upload, bytes (stock: 1 MiB).
const CHUNK: u64 = 128 << 10;
/// How often a flow reports (stock: 5 s).
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Numbers of one execution.
struct Run {
    session: String,
    execution: u32,
    zlib: bool,
    logged: u64,
    uploads: i64,
}

/// What follows the `/` in the id of a further run.
fn child(session: &str) -> Option<&str> {
    session.split_once('/').map(|(_, child)| child)
}

/// The name of a file that a session uploads.
pub fn upload_name(session: &str, number: i64) -> String {
    match child(session) {
        Some(run) => format!("file-{run}-{number}"),
        None => format!("file-{number}"),
    }
}

impl Process {
    /// A task arrived: runs it, however often it arrives, as stock does.
    pub(super) fn run_flow(self: &Arc<Self>, session: &str, urgent: bool, request: FlowRequest) {
        let number = self.number;
        let execution = self.books.client(self.setup.book, |b| {
            let all = b.executions.entry(session.to_owned()).or_default();
            all.push(Execution {
                at: now(),
                process: number,
                over: None,
                cancelled: false,
                urgent,
            });
            all.len() as u32 - 1
        });
        let cancel = CancellationToken::new();
        let known =
            Known { execution, cancel: cancel.clone(), stats: FlowStats::default(), over: false };
        self.flows().insert(session.to_owned(), known);
        let me = self.clone();
        let session = session.to_owned();
        self.spawn(async move {
            let run = Run {
                session: session.clone(),
                execution,
                zlib: request.compression() == Compression::Zlib,
                logged: 0,
                uploads: 0,
            };
            let cancelled = tokio::select! {
                biased;
                () = cancel.cancelled() => true,
                () = me.work(run, urgent, request) => false,
            };
            me.finish(&session, execution, cancelled);
        });
    }

    fn finish(&self, session: &str, execution: u32, cancelled: bool) {
        let stats = {
            let mut flows = self.flows();
            let Some(f) = flows.get_mut(session).filter(|f| f.execution == execution) else {
                return;
            };
            f.over = true;
            for q in &mut f.stats.query_status {
                if q.status() == ReturnedStatus::Progress {
                    q.set_status(ReturnedStatus::GenericError);
                    q.error_message = "Cancelled".into();
                }
            }
            if f.stats.query_status.is_empty() {
                f.stats.query_status.push(VeloStatus {
                    status: ReturnedStatus::GenericError.into(),
                    error_message: "Cancelled".into(),
                    ..Default::default()
                });
            }
            f.stats.flow_complete = true;
            f.stats.clone()
        };
        self.books.client(self.setup.book, |b| {
            let e = b.executions.get_mut(session).and_then(|x| x.get_mut(execution as usize));
            if let Some(e) = e {
                e.over = Some(now());
                e.cancelled = cancelled;
            }
        });
        if cancelled {
            self.suppress(session);
        }
        self.report(session, execution, stats, false);
    }

    fn report(&self, session: &str, execution: u32, stats: FlowStats, urgent: bool) {
        let rows = stats.query_status.iter().map(|q| q.result_rows.max(0) as u64).sum();
        let content = Content::Stats { rows, complete: stats.flow_complete };
        let message = VeloMessage {
            session_id: session.to_owned(),
            request_id: 981,
            urgent,
            flow_stats: Some(stats),
            ..Default::default()
        };
        self.queue(message, execution, content);
    }

    /// The server asks what is known of a flow. The answer is urgent, so that it
    /// may overtake the rows it counts.
    pub(super) fn answer(&self, session: &str) {
        let known = self.flows().get(session).map(|f| (f.execution, f.stats.clone()));
        match known {
            Some((execution, stats)) => self.report(session, execution, stats, true),
            None => {
                let status = VeloStatus {
                    status: ReturnedStatus::UnknownFlow.into(),
                    error_message: "Flow not known - maybe the client crashed?".into(),
                    ..Default::default()
                };
                let stats = FlowStats {
                    query_status: vec![status],
                    flow_complete: true,
                    ..Default::default()
                };
                self.report(session, u32::MAX, stats, true);
            }
        }
    }

    pub(super) fn cancel_flow(&self, session: &str) {
        if let Some(f) = self.flows().get(session)
            && !f.over
        {
            f.cancel.cancel();
        }
    }

    fn update(&self, session: &str, execution: u32, change: impl FnOnce(&mut FlowStats)) {
        let mut flows = self.flows();
        if let Some(f) = flows.get_mut(session).filter(|f| f.execution == execution) {
            change(&mut f.stats);
        }
    }

    async fn work(self: &Arc<Self>, mut run: Run, urgent: bool, request: FlowRequest) {
        let _slot = match urgent {
            true => None,
            false => self.slots.acquire().await.ok(),
        };
        let micros = self.env.clock.micros();
        let (session, execution) = (run.session.clone(), run.execution);
        self.update(&session, execution, |s| {
            for _ in &request.vql_client_actions {
                s.query_status.push(VeloStatus {
                    status: ReturnedStatus::Progress.into(),
                    first_active: micros,
                    last_active: micros,
                    ..Default::default()
                });
            }
        });
        let queries = async {
            for (i, action) in request.vql_client_actions.iter().enumerate() {
                let plan = action.env.iter().find(|e| e.key == "Plan");
                let plan = plan.map(|e| Plan::parse(&e.value)).unwrap_or_else(|| Plan::rows(1, 1));
                let query = action.query.iter().rev().find(|q| !q.name.is_empty());
                let Some(query) = query.cloned() else { continue };
                self.query(&mut run, i, &query, &plan).await;
            }
        };
        let ticker = async {
            loop {
                tokio::time::sleep(REPORT_EVERY).await;
                let stats = self.flows().get(&session).map(|f| f.stats.clone());
                if let Some(mut stats) = stats {
                    stats.flow_complete = false;
                    self.report(&session, execution, stats, false);
                }
            }
        };
        tokio::select! {
            biased;
            () = queries => {}
            () = ticker => {}
        }
    }

    async fn query(self: &Arc<Self>, run: &mut Run, index: usize, query: &VqlRequest, plan: &Plan) {
        let mut row = 0;
        for part in 0..plan.parts {
            tokio::time::sleep(Duration::from_millis(plan.pause_ms)).await;
            self.part(run, index, query, part, row, plan.rows);
            row += plan.rows;
            if plan.logs > 0 {
                self.log(run, index, plan.logs);
            }
        }
        for size in &plan.uploads {
            self.upload(run, index, *size).await;
        }
        self.update(&run.session, run.execution, |s| {
            let Some(q) = s.query_status.get_mut(index) else { return };
            if plan.fails {
                q.set_status(ReturnedStatus::GenericError);
                q.error_message = "it was to fail".into();
            } else {
                q.set_status(ReturnedStatus::Ok);
            }
        });
    }

    fn part(&self, run: &Run, index: usize, query: &VqlRequest, part: u64, start: u64, rows: u64) {
        let (book, execution, of) = (self.setup.book, run.execution, child(&run.session));
        let of = of.map(|r| format!(",\"r\":{r}")).unwrap_or_default();
        let lines: Vec<String> = (start..start + rows)
            .map(|n| format!("{{\"c\":{book},\"x\":{execution},\"n\":{n}{of}}}"))
            .collect();
        let jsonl = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        let micros = self.env.clock.micros();
        let mut response = VqlResponse {
            columns: vec!["c".into(), "x".into(), "n".into()],
            query: Some(query.clone()),
            timestamp: micros,
            query_id: index as u64,
            part,
            total_rows: rows,
            query_start_row: start,
            ..Default::default()
        };
        if run.zlib {
            response.uncompressed_size = jsonl.len() as u64;
            response.compressed_json_response = compress(jsonl.as_bytes());
        } else {
            response.jsonl_response = jsonl;
        }
        self.update(&run.session, run.execution, |s| {
            if let Some(q) = s.query_status.get_mut(index) {
                q.result_rows += rows as i64;
                q.last_active = micros;
                if !q.names_with_response.contains(&query.name) {
                    q.names_with_response.push(query.name.clone());
                }
            }
        });
        let message = VeloMessage {
            session_id: run.session.clone(),
            vql_response: Some(response),
            ..Default::default()
        };
        self.queue(message, run.execution, Content::Rows { set: query.name.clone(), lines });
    }

    fn log(&self, run: &mut Run, index: usize, lines: u64) {
        let id = run.logged;
        run.logged += lines;
        let seconds = self.env.clock.unix();
        let of = child(&run.session).map(|r| format!(" of run {r}")).unwrap_or_default();
        let texts: Vec<String> = (id..id + lines)
            .map(|n| format!("line {n} of {} in {}{of}", run.execution, self.setup.book))
            .collect();
        let jsonl = texts
            .iter()
            .map(|t| {
                let t = serde_json::Value::from(t.as_str());
                format!("{{\"client_time\":{seconds},\"level\":\"INFO\",\"message\":{t}}}\n")
            })
            .collect();
        self.update(&run.session, run.execution, |s| {
            if let Some(q) = s.query_status.get_mut(index) {
                q.log_rows += lines as i64;
            }
        });
        let message = VeloMessage {
            session_id: run.session.clone(),
            request_id: 980,
            log_message: Some(LogMessage {
                timestamp: self.env.clock.micros(),
                id: id as i64,
                number_of_rows: lines,
                jsonl,
                ..Default::default()
            }),
            ..Default::default()
        };
        self.queue(message, run.execution, Content::Logs(texts));
    }

    async fn upload(&self, run: &mut Run, index: usize, size: u64) {
        let number = run.uploads;
        run.uploads += 1;
        let book = self.setup.book;
        let data = upload_bytes(book, &run.session, run.execution, number, size);
        let key = (book, run.session.clone(), run.execution, number);
        self.books.lock().sizes.insert(key, size);
        let name = upload_name(&run.session, number);
        let mut offset = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let len = CHUNK.min(size - offset);
            let piece = data.slice(offset as usize..(offset + len) as usize);
            let eof = len == 0;
            self.chunk(run, index, number, &name, offset, size, piece);
            offset += len;
            if eof {
                return;
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn chunk(
        &self,
        run: &Run,
        index: usize,
        number: i64,
        name: &str,
        offset: u64,
        size: u64,
        piece: Bytes,
    ) {
        let len = piece.len() as u64;
        let zlib = run.zlib && len > 0;
        let buffer = FileBuffer {
            pathspec: Some(PathSpec {
                path: format!("/sim/{name}"),
                components: vec!["sim".into(), name.to_owned()],
                accessor: "file".into(),
            }),
            offset,
            size,
            stored_size: offset + len,
            uncompressed_length: if zlib { len } else { 0 },
            data: if zlib { compress(&piece).into() } else { piece },
            data_length: len,
            upload_number: number,
            eof: len == 0,
            ..Default::default()
        };
        self.update(&run.session, run.execution, |s| {
            if let Some(q) = s.query_status.get_mut(index) {
                q.uploaded_bytes += len as i64;
                if offset == 0 {
                    q.uploaded_files += 1;
                    q.expected_uploaded_bytes += size as i64;
                }
            }
        });
        let message = VeloMessage {
            session_id: run.session.clone(),
            request_id: 5,
            file_buffer: Some(buffer),
            ..Default::default()
        };
        let content = Content::Chunk { number, offset, len, eof: len == 0 };
        self.queue(message, run.execution, content);
    }

    /// Rows of event queries, until dropped.
    pub(super) async fn events(self: Arc<Self>, names: Vec<String>, table: Option<u64>) {
        if names.is_empty() {
            return std::future::pending().await;
        }
        let mut n = 0u64;
        loop {
            let least = self.setup.events.as_millis() as u64;
            let wait = least + self.env.entropy.below(6 * least);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            for name in &names {
                let lines: Vec<String> = (0..1 + n % 3)
                    .map(|i| {
                        format!(
                            "{{\"c\":{},\"p\":{},\"t\":{},\"n\":{n},\"i\":{i}}}",
                            self.setup.book,
                            self.number,
                            table.unwrap_or(0)
                        )
                    })
                    .collect();
                let jsonl = lines.iter().map(|l| format!("{l}\n")).collect();
                let message = VeloMessage {
                    session_id: "F.Monitoring".into(),
                    vql_response: Some(VqlResponse {
                        query: Some(VqlRequest { name: name.clone(), ..Default::default() }),
                        timestamp: self.env.clock.micros(),
                        total_rows: lines.len() as u64,
                        jsonl_response: jsonl,
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                let content = Content::Events { artifact: name.clone(), lines };
                self.queue(message, 0, content);
            }
            n += 1;
        }
    }
}
