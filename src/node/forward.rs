//! Delivers event rows to stores outside, over HTTP: one delivery after the other, so
//! that rows arrive in order, and again until it is taken. Every row has an id that
//! stays the same, by which a store knows what it has already.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::comms::fetch::{Request, send};
use crate::config::settings;
use crate::services::Server;
use crate::services::forward::{Backlog, Batch, Line, Sink};

/// How long the first wait before another attempt is; it doubles.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait between attempts.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked for rows that nothing told of.
const LOOK: Duration = Duration::from_secs(1);
/// Largest file of headers.
const MAX_HEADERS: usize = 64 << 10;
/// Largest file of certificates.
const MAX_CA: usize = 1 << 20;
/// Bytes of an answer that are shown.
const SHOWN: usize = 300;

/// What the services know of a store.
pub(super) fn sink(s: &settings::Forward) -> Sink {
    Sink {
        name: s.name.clone(),
        artifacts: s.artifacts.clone(),
        batch_rows: s.batch_rows.max(1),
        batch_bytes: s.batch_bytes,
        backlog_bytes: s.backlog_bytes,
    }
}

/// Delivers to one store until `stop`.
pub(super) async fn run(
    server: Arc<Server>,
    backlog: Arc<Backlog>,
    to: settings::Forward,
    stop: CancellationToken,
) {
    let mut wait = AGAIN;
    let mut work: Option<Work> = None;
    while !stop.is_cancelled() {
        let left = work.as_ref().map_or(usize::MAX, Work::left);
        let turned = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            turned = turn(&server, &backlog, &to, &mut work) => turned,
        };
        match turned {
            Ok(true) => wait = AGAIN,
            Ok(false) => {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = backlog.filled() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Err(e) => {
                backlog.failures.fetch_add(1, Ordering::Relaxed);
                if work.as_ref().is_some_and(|w| w.left() < left) {
                    wait = AGAIN;
                }
                tracing::warn!(sink = to.name, error = %e, seconds = wait.as_secs(),
                    "event rows not delivered; again later");
                let pause = server.env.jitter(wait, wait / 4);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                wait = (wait * 2).min(LONGEST);
            }
        }
    }
}

/// A batch and what is left of it: ranges of its rows, the first one last.
struct Work {
    batch: Batch,
    parts: Vec<std::ops::Range<usize>>,
}

impl Work {
    fn left(&self) -> usize {
        self.parts.iter().map(std::ops::Range::len).sum()
    }
}

/// Goes on with what is under way, or with what is owed next; false when that is
/// nothing.
async fn turn(
    server: &Server,
    backlog: &Backlog,
    to: &settings::Forward,
    work: &mut Option<Work>,
) -> anyhow::Result<bool> {
    if work.is_none() {
        let Some(batch) = server.next_batch(backlog).await? else { return Ok(false) };
        let all = 0..batch.lines.len();
        *work = Some(Work { batch, parts: vec![all] });
    }
    if let Some(w) = work {
        deliver(server, backlog, to, w).await?;
        server.delivered(backlog, &w.batch).await?;
    }
    *work = None;
    Ok(true)
}

/// Delivers what is left of a batch. What a store calls wrong is delivered in smaller
/// parts, and a single row that it will not take is left out and counted: the others
/// must not wait for it, and it is in the datastore.
async fn deliver(
    server: &Server,
    backlog: &Backlog,
    to: &settings::Forward,
    work: &mut Work,
) -> anyhow::Result<()> {
    let headers = headers(server, to).await?;
    let root_ca = match to.root_ca_file.as_str() {
        "" => String::new(),
        path => text_file(server, path, MAX_CA).await?,
    };
    let url = Url::parse(&to.url)?;
    while let Some(part) = work.parts.last().cloned() {
        let lines: &[Line] = &work.batch.lines[part.clone()];
        if lines.is_empty() {
            work.parts.pop();
            continue;
        }
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(&line.json);
            body.push(b'\n');
        }
        let mut all = headers.clone();
        all.push((http::header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")));
        let id = HeaderValue::from_str(&Batch::id(lines))?;
        all.push((HeaderName::from_static("idempotency-key"), id));
        let request = Request {
            method: Method::POST,
            url: url.clone(),
            headers: all,
            body: Bytes::from(body),
            skip_verify: to.skip_verify,
            root_ca: root_ca.clone(),
            socket: None,
        };
        let limit = Duration::from_secs(to.timeout_seconds.max(1));
        let exchange = async {
            let (response, _) = send(&server.env, request).await?;
            let status = response.status();
            let text = shown(response.into_body()).await;
            Ok::<_, anyhow::Error>((status, text))
        };
        let (status, text) = tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| anyhow::anyhow!("no answer within {} s", limit.as_secs()))??;
        if status.is_success() {
            backlog.rows.fetch_add(lines.len() as u64, Ordering::Relaxed);
            backlog.batches.fetch_add(1, Ordering::Relaxed);
            work.parts.pop();
            continue;
        }
        if !is_about_rows(status) {
            anyhow::bail!("{status}: {text}");
        }
        if let [line] = lines {
            backlog.refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!(sink = to.name, id = line.id, %status, text,
                "the store does not take a row; it is left out");
            work.parts.pop();
            continue;
        }
        let middle = part.start + part.len() / 2;
        work.parts.pop();
        work.parts.extend([middle..part.end, part.start..middle]);
    }
    Ok(())
}

/// Whether another attempt with the same rows would get the same answer.
fn is_about_rows(status: StatusCode) -> bool {
    [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY]
        .contains(&status)
}

async fn shown(mut body: hyper::body::Incoming) -> String {
    let mut out = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            out.extend_from_slice(&data[..data.len().min(SHOWN - out.len())]);
        }
        if out.len() >= SHOWN {
            break;
        }
    }
    String::from_utf8_lossy(&out).replace(char::is_control, " ")
}

async fn text_file(server: &Server, path: &str, limit: usize) -> anyhow::Result<String> {
    let data = crate::env::fs::read_limited(&*server.env.fs, path, limit).await?;
    String::from_utf8(data).map_err(|_| anyhow::anyhow!("{path}: is not text"))
}

/// Further headers, one `Name: value` a line; read each time, so that tokens can be
/// changed while the server runs.
async fn headers(
    server: &Server,
    to: &settings::Forward,
) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    if to.headers_file.is_empty() {
        return Ok(Vec::new());
    }
    let text = text_file(server, &to.headers_file, MAX_HEADERS).await?;
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The value may be a secret: the error does not show it.
        let wrong = || anyhow::anyhow!("{}:{}: no `Name: value`", to.headers_file, n + 1);
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        out.push((name, value));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
