//! Changes as they happen: server-sent events for one page.
//!
//! A page says what it shows. It gets `vitals` of the deployment, `flow` and
//! `client` when they change, at most four times a second, and nothing else. State
//! is in memory, so that looking costs little.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::Status;
use velociraptor_proto::json::to_sparse_row;

use super::{Rest, failed, parameters};
use crate::api::Caller;
use crate::services::acl::Permission;

/// How often state is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the deployment's numbers are looked at.
const VITALS: Duration = Duration::from_secs(2);
/// Between two polls a client is nowhere for a moment: it has gone when it was for so long.
const GONE: Duration = Duration::from_secs(15);
/// Something is sent at least so often, or proxies cut the stream.
const QUIET: Duration = Duration::from_secs(15);
/// Rights are looked at again after this time.
const RIGHTS: Duration = Duration::from_secs(30);

pub(super) fn routes(rest: &Rest) -> Router {
    let rest = rest.clone();
    Router::new().route(
        "/fleet/live",
        get(move |r: Request| async move { rest.live(r).await.unwrap_or_else(|e| failed(&e)) }),
    )
}

struct Watch {
    rest: Rest,
    caller: Caller,
    client: String,
    flow: String,
    /// What was sent last, by event.
    sent: [String; 3],
    vitals_at: Option<Instant>,
    /// How many clients were held, for as long as [`GONE`].
    held: VecDeque<(Instant, usize)>,
    /// Since when the client is not held.
    left_at: Option<Instant>,
    said_at: Instant,
    rights_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Rest {
    async fn live(&self, request: Request) -> Result<Response, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::ReadResults)?;
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            let most = self.options.live_streams;
            Status::resource_exhausted(format!("{most} pages watch already (gui.live_streams)"))
        })?;
        let mut watch = Watch {
            rest: self.clone(),
            caller,
            client: String::new(),
            flow: String::new(),
            sent: Default::default(),
            vitals_at: None,
            held: VecDeque::new(),
            left_at: None,
            said_at: Instant::now(),
            rights_at: Instant::now(),
            _permit: permit,
        };
        for (k, v) in parameters(&request) {
            match k.as_str() {
                "client_id" => watch.client = v,
                "flow_id" => watch.flow = v,
                _ => {}
            }
        }
        let events = stream::unfold(watch, |mut w| async move {
            let piece = w.next().await?;
            Some((Ok::<_, Infallible>(piece), w))
        });
        let kind =
            [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
        let proxies = [("x-accel-buffering", "no")];
        Ok((kind, proxies, Body::from_stream(events)).into_response())
    }
}

impl Watch {
    /// The next events; `None` when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        let stop = self.rest.stop.clone();
        let mut first = self.vitals_at.is_none();
        loop {
            if !first {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            first = false;
            if self.rights_at.elapsed() >= RIGHTS {
                let (name, org) = (self.caller.name.clone(), self.caller.org.id.id().to_owned());
                let caller = self.rest.api.user(&name, &org).await.ok()?;
                caller.require(Permission::ReadResults).ok()?;
                self.rights_at = Instant::now();
            }
            let mut out = String::new();
            if self.vitals_at.is_none_or(|t| t.elapsed() >= VITALS) {
                self.vitals_at = Some(Instant::now());
                let held = self.held();
                let vitals = self.rest.vitals(&self.caller, held);
                self.say(&mut out, 0, "vitals", &vitals);
            }
            if !self.flow.is_empty() {
                let flow = self.flow().await;
                self.say(&mut out, 1, "flow", &flow);
            }
            if !self.client.is_empty() {
                let client = self.rest.connection(&self.caller, &self.client);
                if self.is_so(&client) {
                    self.say(&mut out, 2, "client", &client);
                }
            }
            if out.is_empty() && self.said_at.elapsed() >= QUIET {
                out.push_str(":\n\n");
            }
            if !out.is_empty() {
                self.said_at = Instant::now();
                return Some(out.into());
            }
        }
    }

    /// Clients that are held, or were a moment ago.
    fn held(&mut self) -> usize {
        self.held.push_back((Instant::now(), self.rest.api.server.sessions.len()));
        while self.held.front().is_some_and(|(at, _)| at.elapsed() > GONE) {
            self.held.pop_front();
        }
        self.held.iter().map(|(_, n)| *n).max().unwrap_or_default()
    }

    /// Whether a client's connection is as it says, and not about to come back.
    fn is_so(&mut self, client: &Value) -> bool {
        if client["connected"] == true {
            self.left_at = None;
            return true;
        }
        let left = *self.left_at.get_or_insert_with(Instant::now);
        self.sent[2].is_empty() || left.elapsed() >= GONE
    }

    /// JSON has no newline, so that one `data` line holds it.
    fn say(&mut self, out: &mut String, slot: usize, event: &str, data: &Value) {
        let data = data.to_string();
        if self.sent[slot] != data {
            out.push_str(&format!("event: {event}\ndata: {data}\n\n"));
            self.sent[slot] = data;
        }
    }

    async fn flow(&self) -> Value {
        let found = self.rest.api.server.flow(&self.caller.org, &self.client, &self.flow).await;
        match found {
            Ok(Some(mut context)) => {
                context.previous_flows.clear();
                if let Some(r) = &mut context.request {
                    r.compiled_collector_args.clear();
                }
                to_sparse_row(&context).unwrap_or(Value::Null)
            }
            Ok(None) => Value::Null,
            Err(e) => json!({ "error": e.to_string() }),
        }
    }
}
