//! Pushing event rows and watching events.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use velociraptor_proto::proto::{
    Artifact, AvailableEvent, EventRequest, EventResponse, GetTableRequest, GetTableResponse,
    ListAvailableEventResultsRequest, ListAvailableEventResultsResponse, PushEventRequest,
};

use super::status::status;
use super::table::align;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::events::{EventBatch, EventKey, decorate};
use crate::services::repository::Kind;
use crate::store::journal::Worth;

/// A watcher that takes longer than this for one message is cut off.
const SLOW: Duration = Duration::from_secs(5);
/// Event rows of one answer at most.
const MAX_EVENTS: u64 = 10_000;
/// Messages a watcher may be behind before that time starts.
const AHEAD: usize = 16;
/// The queue that answers at once with what the master listens to.
const REGISTRATIONS: &str = "Server.Internal.MasterRegistrations";

/// Event batches on their way to a watcher.
pub type Watched = Pin<Box<dyn Stream<Item = Result<EventResponse, Status>> + Send>>;

/// The server's own events have a client's place.
fn event_client(id: &str) -> String {
    if id.is_empty() { "server".to_owned() } else { id.to_owned() }
}

/// Midnight of a day, Unix seconds.
fn midnight(day: &str) -> Option<i32> {
    let day: jiff::civil::Date = day.parse().ok()?;
    let at = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    i32::try_from(at).ok()
}

impl Api {
    /// Event artifacts of which there is something; of one that is named the days.
    pub(super) async fn available_events(
        &self,
        caller: &Caller,
        r: &ListAvailableEventResultsRequest,
    ) -> Result<ListAvailableEventResultsResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let client = event_client(&r.client_id);
        if r.artifact.is_empty() {
            let found = self.server.event_names(&caller.org, &client).await;
            let names = found.map_err(|e| status(&e))?;
            let logs = names.into_keys().map(|artifact| {
                let of = artifact.split('/').next().unwrap_or_default();
                let definition = caller.org.repository.get(of).map(|a| Artifact::clone(&a));
                AvailableEvent { artifact, definition, ..AvailableEvent::default() }
            });
            return Ok(ListAvailableEventResultsResponse { logs: logs.collect() });
        }
        let mut days = [Vec::new(), Vec::new()];
        for (logs, days) in [false, true].into_iter().zip(&mut days) {
            let key = EventKey {
                client: client.clone(),
                artifact: r.artifact.clone(),
                day: String::new(),
                logs,
            };
            let found = self.server.event_days(&caller.org, &key).await;
            days.extend(found.map_err(|e| status(&e))?.iter().filter_map(|d| midnight(d)));
        }
        let [row_timestamps, log_timestamps] = days;
        let one = AvailableEvent {
            artifact: r.artifact.clone(),
            row_timestamps,
            log_timestamps,
            ..AvailableEvent::default()
        };
        Ok(ListAvailableEventResultsResponse { logs: vec![one] })
    }

    /// Event rows from a time on, as stock pages ask for them.
    pub(super) async fn event_table(
        &self,
        caller: &Caller,
        r: &GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let key = EventKey {
            client: event_client(&r.client_id),
            artifact: r.artifact.clone(),
            day: String::new(),
            logs: r.r#type.ends_with("_LOGS"),
        };
        let nanos = |s: i64| s.saturating_mul(1_000_000_000);
        let to = if r.end_time == 0 { i64::MAX } else { nanos(r.end_time) };
        let most = if r.rows == 0 { 10 } else { r.rows.min(MAX_EVENTS) };
        let span = (nanos(r.start_time), to);
        let found = self.server.event_range(&caller.org, &key, span, most as usize).await;
        let rows = found.map_err(|e| status(&e))?.rows;
        let rows: Vec<_> = rows.iter().filter_map(|r| serde_json::from_slice(r).ok()).collect();
        let total = rows.len() as u64;
        Ok(align(rows, total))
    }

    pub(super) async fn push(
        &self,
        caller: Caller,
        r: PushEventRequest,
    ) -> Result<Response<()>, Status> {
        let denied = || {
            let text =
                format!("PermissionDenied: user {} may not publish to {}", caller.name, r.artifact);
            Status::permission_denied(text)
        };
        if !caller.policy.may_publish(&r.artifact) {
            return Err(denied());
        }
        let super_user = caller.policy.is_super_user();
        let kind = caller.org.repository.kind_of(&r.artifact);
        let kind = kind.ok_or_else(|| {
            Status::invalid_argument(format!("artifact {} is not known", r.artifact))
        })?;
        let client = match kind {
            Kind::ServerEvent if matches!(r.client_id.as_str(), "" | "server") => "server",
            Kind::ClientEvent if r.client_id.starts_with("C.") => r.client_id.as_str(),
            Kind::Internal if super_user => r.client_id.as_str(),
            Kind::Internal => return Err(denied()),
            Kind::ClientEvent | Kind::ServerEvent => {
                let text = format!("`{}` is no client for {}", r.client_id, r.artifact);
                return Err(Status::invalid_argument(text));
            }
            Kind::Client | Kind::Server | Kind::Notebook => {
                let text = format!("{} is of type {}, not an event", r.artifact, kind.name());
                return Err(Status::invalid_argument(text));
            }
        };
        let sender = if super_user && !r.username.is_empty() { &r.username } else { &caller.name };
        let mut members = format!("\"_Sender\":{}", serde_json::Value::from(sender.as_str()));
        if kind == Kind::ClientEvent {
            members += &format!(",\"ClientId\":{}", serde_json::Value::from(client));
        }
        let rows = decorate(&checked_rows(&r.jsonl)?, &members);
        let broadcast_only = kind == Kind::Internal || (super_user && !r.write);
        if broadcast_only {
            self.server.bus.publish(EventBatch {
                org: caller.org.id.clone(),
                client: client.to_owned(),
                artifact: r.artifact.clone(),
                rows,
            });
            return Ok(Response::new(()));
        }
        let worth = Worth::Rows;
        let pushed = self.server.push_rows(worth, &caller.org, client, &r.artifact, rows).await;
        pushed.map_err(|e| status(&e.into()))?;
        Ok(Response::new(()))
    }

    pub(super) fn watch(&self, caller: &Caller, r: EventRequest) -> Result<Watched, Status> {
        caller.require(Permission::AnyQuery)?;
        let (tx, rx) = mpsc::channel(AHEAD);
        let mut events = self.server.bus.subscribe();
        let org = caller.org.id.clone();
        self.server.env.spawn_gui(async move {
            if r.queue == REGISTRATIONS {
                let jsonl = b"{\"Events\":[]}\n".to_vec();
                let _ = tx.send(Ok(EventResponse { source: r.queue.clone(), jsonl })).await;
            }
            loop {
                let event = tokio::select! {
                    biased;
                    () = tx.closed() => return,
                    event = events.recv() => event,
                };
                let message = match event {
                    Ok(e) if e.org == org && e.artifact == r.queue => {
                        Ok(EventResponse { source: e.artifact, jsonl: e.rows.to_vec() })
                    }
                    Ok(_) => continue,
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(n)) => {
                        Err(Status::data_loss(format!("the watcher missed {n} batches")))
                    }
                };
                let last = message.is_err();
                let sent = tokio::time::timeout(SLOW, tx.send(message)).await;
                if last || !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(rx)))
    }
}

/// The rows, if each line is a JSON object.
fn checked_rows(jsonl: &[u8]) -> Result<Bytes, Status> {
    for line in jsonl.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.is_empty()) {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line)
            .map_err(|e| Status::invalid_argument(format!("row: {e}")))?;
    }
    Ok(Bytes::copy_from_slice(jsonl))
}
