//! Pushing event rows and watching events.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use velociraptor_proto::proto::{EventRequest, EventResponse, PushEventRequest};

use super::status::status;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::events::{EventBatch, decorate};
use crate::services::repository::Kind;
use crate::store::journal::Worth;

/// A watcher that takes longer than this for one message is cut off.
const SLOW: Duration = Duration::from_secs(5);
/// Messages a watcher may be behind before that time starts.
const AHEAD: usize = 16;
/// The queue that answers at once with what the master listens to.
const REGISTRATIONS: &str = "Server.Internal.MasterRegistrations";

/// Event batches on their way to a watcher.
pub type Watched = Pin<Box<dyn Stream<Item = Result<EventResponse, Status>> + Send>>;

impl Api {
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
