//! Holding a client, and handing it its tasks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{FailFlow, Grant, PostClass};
use velociraptor_proto::proto::VeloMessage;

use super::open::{Sender, Who};
use super::quarantine::Parked;
use super::{Frontend, service};
use crate::comms::server::{
    Answer, End, Hold, Proof, Push, ReaderAnswer, ReaderSession, Request, Transport,
};
use crate::crypto::Opened;
use crate::crypto::envelope::inflate_lists;
use crate::services::flows::job::{Hash, hash};
use crate::services::server::Counters;
use crate::services::sessions::Held;

/// Replies a held reader may have waiting for its socket.
const DEPTH: usize = 8;
/// How often a held client's queue is looked at without a wake-up: for
/// questions about flows that have gone quiet.
const LOOK: Duration = Duration::from_secs(15);
/// Spread of a long poll's end, seconds (stock: up to 30).
const POLL_SPREAD: Duration = Duration::from_secs(30);
/// A client without an interrogation is asked again after this long.
const INTERROGATE_AGAIN: Duration = Duration::from_secs(600);

/// A reader that is held: shared by its task and the transport.
struct HeldReader {
    frontend: Arc<Frontend>,
    who: Who,
    held: Arc<Held>,
    transport: Transport,
    /// Frames handed to the transport and not known to be consumed, oldest first.
    frames: Mutex<VecDeque<(u64, Hash)>>,
    over: Notify,
}

impl Frontend {
    /// A check-in: proves receipt of earlier replies, stores what it carries,
    /// and keeps the client for its tasks.
    pub(super) async fn check_in(self: &Arc<Self>, request: Request) -> ReaderAnswer {
        let (head, body) = (request.head, request.body);
        let id = hash(&body);
        let (who, opened) = match self.open(body.clone()).await {
            Ok(Sender::Proved(who, opened)) => (who, opened),
            Ok(stranger) => {
                let parked =
                    Parked { class: PostClass::Reader, remote: head.remote, body, _pin: None };
                return ReaderAnswer::Done(self.stranger(stranger, parked).await);
            }
            Err(e) => return ReaderAnswer::Done(service::refusal(&e)),
        };
        if let Err(answer) = self.take_check_in(&who, &head.remote, opened, Some(id)).await {
            return ReaderAnswer::Done(answer);
        }
        let (held, old) =
            self.server.sessions.register(&who.org.id, &who.source, who.cipher, &head.remote);
        if let Some(old) = old {
            if old.cipher != who.cipher {
                self.conflict(&who, &head.remote, &head.user_agent).await;
            }
            old.superseded.notify_one();
        }
        let (tx, pushes) = mpsc::channel(DEPTH);
        let reader = Arc::new(HeldReader {
            frontend: self.clone(),
            who,
            held,
            transport: head.transport,
            frames: Mutex::default(),
            over: Notify::new(),
        });
        let jitter = self.server.env.jitter(Duration::from_secs(self.limits.max_poll), POLL_SPREAD);
        self.server.env.spawn(reader.clone().run(tx, id));
        ReaderAnswer::Hold(Hold {
            first: None,
            pushes,
            deadline: Instant::now() + jitter,
            session: reader,
        })
    }

    /// What every check-in does, the first of a connection or a later one.
    async fn take_check_in(
        self: &Arc<Self>,
        who: &Who,
        remote: &str,
        opened: Opened,
        request: Option<Hash>,
    ) -> Result<(), Answer> {
        let jobs = inflate_lists(&opened, &self.limits.packet)
            .map_err(|e| Answer::Status(403, e.to_string()))?;
        let claim = jobs
            .iter()
            .filter_map(|j| VeloMessage::decode(j.clone()).ok()?.foreman_checkin)
            .map(|f| f.last_event_table_version)
            .next_back();
        self.ingest(who, PostClass::Reader, remote, opened)
            .await
            .map_err(|e| service::not_stored(&e))?;
        let now = self.server.env.clock.micros();
        let mut state = who.org.state();
        let client = state.clients.entry(&who.source);
        client.info.ping = now;
        client.info.ip_address = remote.to_owned();
        if let Some(claim) = claim {
            client.table_claim = Some(claim);
        }
        if let Some(request) = request {
            client.queue.checked_in(who.cipher, request, now);
        }
        Ok(())
    }

    /// Two processes speak for one client. The newest is served.
    async fn conflict(&self, who: &Who, remote: &str, agent: &str) {
        tracing::warn!(client = who.source, remote, "two processes use this client id");
        let row = serde_json::json!({
            "ClientId": who.source, "RemoteAddr": remote, "UserAgent": agent,
        });
        let rows = Bytes::from(format!("{row}\n"));
        let stored =
            self.server.push_events(&who.org, "server", "Server.Internal.ClientConflict", rows);
        if let Err(e) = stored.await {
            tracing::warn!(error = %e, "conflict event not stored");
        }
    }
}

impl HeldReader {
    async fn run(self: Arc<Self>, tx: mpsc::Sender<Push>, request: Hash) {
        self.meet().await;
        let mut seq = 0u64;
        loop {
            // Over HTTP the reply belongs to the request; over a WebSocket each
            // frame is a reply of its own.
            let reply = match self.transport {
                Transport::Http => request,
                Transport::Ws => frame_id(self.held.id, seq),
            };
            let jobs = self.next(reply).await;
            if !jobs.is_empty() {
                match self.frontend.seal(&self.who, &jobs).await {
                    Ok(body) => {
                        self.frames
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push_back((seq, reply));
                        if tx.send(Push::Task { seq, body }).await.is_err() {
                            self.give_back(reply);
                            return;
                        }
                        seq += 1;
                        if self.transport == Transport::Http {
                            self.over.notified().await;
                            return;
                        }
                    }
                    Err(e) => {
                        tracing::error!(client = self.who.source, error = e, "tasks not sealed");
                        self.give_back(reply);
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.over.notified() => return,
                () = self.held.superseded.notified() => {
                    let _ = tx.send(Push::End).await;
                    self.over.notified().await;
                    return;
                }
                () = self.held.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// On a client's arrival: asks a new client what it is, and ends flows in
    /// doubt that an old agent cannot be asked about.
    async fn meet(&self) {
        let server = &self.frontend.server;
        let (new, lost) = {
            let mut state = self.who.org.state();
            let client = state.clients.entry(&self.who.source);
            let new = client.info.last_interrogate_flow_id.is_empty() && !client.interrogating;
            client.interrogating |= new;
            let lost = if client.can_ask() { vec![] } else { client.queue.unanswerable() };
            (new, lost)
        };
        if new {
            match server.interrogate(&self.who.org, &self.who.source).await {
                Ok(flow) => {
                    tracing::info!(client = self.who.source, flow, "interrogation scheduled");
                    self.interrogate_again_later();
                }
                Err(e) => {
                    tracing::error!(client = self.who.source, error = %e, "interrogation not scheduled");
                    self.who.org.state().clients.entry(&self.who.source).interrogating = false;
                }
            }
        }
        for flow_id in lost {
            let reason = "This server restarted while the task was being sent, and the agent is \
                          too old to say whether it got it"
                .to_owned();
            let kind = Kind::FailFlow(FailFlow { flow_id, reason });
            if let Err(e) = server.decide(&self.who.org, &self.who.source, "", kind).await {
                tracing::error!(client = self.who.source, error = %e, "end of a flow not stored");
            }
        }
    }

    fn interrogate_again_later(&self) {
        let (org, source) = (self.who.org.clone(), self.who.source.clone());
        self.frontend.server.env.spawn(async move {
            tokio::time::sleep(INTERROGATE_AGAIN).await;
            org.state().clients.entry(&source).interrogating = false;
        });
    }

    /// What may go out now, serialized; everything that needs a durable grant
    /// has it.
    async fn next(&self, reply: Hash) -> Vec<Vec<u8>> {
        let server = &self.frontend.server;
        let (org, source) = (&self.who.org, &self.who.source);
        let now = server.env.clock.micros();
        let (batch, claim) = {
            let mut state = org.state();
            let client = state.clients.entry(source);
            let can_ask = client.can_ask();
            let cap = server.options.flows_in_flight;
            let batch = client.queue.take(self.who.cipher, reply, now, cap, can_ask);
            (batch, client.table_claim)
        };
        if !batch.ungranted.is_empty() {
            let grant = Grant {
                task_id: batch.ungranted.clone(),
                cipher_hash: self.who.cipher.to_vec(),
                ..Default::default()
            };
            if let Err(e) = server.decide(org, source, "", Kind::Grant(grant)).await {
                tracing::warn!(client = source, error = %e, "grant not stored; tasks stay queued");
                self.give_back(reply);
                return vec![];
            }
        }
        let mut out: Vec<Vec<u8>> = batch.messages.iter().map(Message::encode_to_vec).collect();
        server
            .counters
            .tasks_sent
            .fetch_add(out.len() as u64, std::sync::atomic::Ordering::Relaxed);
        if let Some(claim) = claim {
            match server.event_table(org, source, claim).await {
                Ok(Some(table)) => {
                    out.push(table.encode_to_vec());
                    // Until the client says otherwise.
                    let version = table.update_event_table.map(|t| t.version);
                    org.state().clients.entry(source).table_claim = version;
                }
                Ok(None) => {}
                Err(e) => tracing::warn!(client = source, error = %e, "event table not made"),
            }
        }
        if self.who.api_version < 4 {
            out = batch.messages.iter().flat_map(for_old_agents).collect();
        }
        out
    }

    fn give_back(&self, reply: Hash) {
        self.who.org.state().clients.entry(&self.who.source).queue.give_back(reply);
    }
}

/// Agents of protocol 3 know no flow requests: each query is a job of its own.
fn for_old_agents(m: &VeloMessage) -> Vec<Vec<u8>> {
    let Some(flow) = &m.flow_request else { return vec![m.encode_to_vec()] };
    flow.vql_client_actions
        .iter()
        .enumerate()
        .map(|(i, action)| {
            VeloMessage {
                session_id: m.session_id.clone(),
                request_id: i as u64 + 1,
                task_id: m.task_id,
                vql_client_action: Some(action.clone()),
                urgent: m.urgent,
                ..Default::default()
            }
            .encode_to_vec()
        })
        .collect()
}

fn frame_id(session: u64, seq: u64) -> Hash {
    let mut b = [0; 16];
    b[..8].copy_from_slice(&session.to_le_bytes());
    b[8..].copy_from_slice(&seq.to_le_bytes());
    hash(&b)
}

impl ReaderSession for HeldReader {
    fn delivered(&self, seq: u64, proof: Proof) {
        if proof == Proof::Written {
            return;
        }
        let lost = {
            let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            let at = frames.iter().position(|f| f.0 == seq);
            at.and_then(|i| frames.remove(i))
        };
        if let Some((_, reply)) = lost {
            self.give_back(reply);
        }
    }

    fn message(&self, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let (head, body) = (request.head, request.body);
            let (who, opened) = match self.frontend.open(body).await {
                Ok(Sender::Proved(who, opened)) => (who, opened),
                Ok(Sender::Stranger { .. }) => return Answer::Status(406, "Please Enrol".into()),
                Err(e) => return service::refusal(&e),
            };
            if who.source != self.who.source {
                return Answer::Status(403, "another client speaks on this socket".into());
            }
            if let Err(a) = self.frontend.take_check_in(&who, &head.remote, opened, None).await {
                return a;
            }
            // One check-in follows each frame that was consumed.
            let front = self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some((_, reply)) = front {
                let now = self.frontend.server.env.clock.micros();
                let mut state = self.who.org.state();
                let queue = &mut state.clients.entry(&self.who.source).queue;
                queue.frame_consumed(self.who.cipher, reply, now);
            }
            self.held.wake.notify_one();
            Answer::Reply(Bytes::new())
        })
    }

    fn ended(&self, end: End) {
        let server = &self.frontend.server;
        server.sessions.unregister(&self.who.org.id, &self.who.source, self.held.id);
        tracing::debug!(client = self.who.source, ?end, "reader over");
        self.over.notify_one();
    }
}

impl Frontend {
    /// Counts a POST that was refused, for the metrics.
    pub(super) fn count_refused(&self) {
        Counters::inc(&self.server.counters.refused);
    }
}
