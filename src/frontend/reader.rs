//! Holding a client, and handing it its tasks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::Notify;
use tokio::time::Instant;
use velociraptor_proto::journal::PostClass;
use velociraptor_proto::proto::VeloMessage;

use super::ingest::IngestError;
use super::letter::Letter;
use super::open::{Sender, Who};
use super::quarantine::Parked;
use super::steer::{LEAVING, Leave};
use super::{Frontend, service};
use crate::comms::server::{
    Answer, End, Hold, Proof, Push, Pusher, ReaderAnswer, ReaderSession, Request, Transport, pushes,
};
use crate::env::Mutant;
use crate::services::deliver::CheckIn;
use crate::services::fleet::hub::Order;
use crate::services::fleet::relay::Opening;
use crate::services::flows::job::{Hash, hash};
use crate::services::server::Counters;
use crate::services::sessions::{Held, Key};
use crate::services::tasks::{Reply, Way};

/// Replies a held reader may have waiting for its socket.
const DEPTH: usize = 8;
/// How often a held client's queue is looked at without a wake-up: for
/// questions about flows that have gone quiet.
const LOOK: Duration = Duration::from_secs(15);
/// Longest that a client which is to leave may take to show that it has the tasks it
/// was sent on its socket.
const LAST_FRAMES: Duration = Duration::from_secs(10);
/// Spread of a long poll's end, seconds (stock: up to 30).
const POLL_SPREAD: Duration = Duration::from_secs(30);

/// A reader that is held: shared by its task and the transport.
pub(super) struct HeldReader {
    frontend: Arc<Frontend>,
    who: Who,
    held: Arc<Held>,
    transport: Transport,
    agent: String,
    /// Frames handed to the transport and not known to be consumed, oldest first.
    frames: Mutex<VecDeque<(u64, Hash)>>,
    /// When tasks in frames became durable, microseconds, until they are written.
    durable: Mutex<VecDeque<(u64, u64)>>,
    over: Notify,
    /// The client is to go to another frontend.
    leave: Notify,
    told: AtomicBool,
    /// It came by a redirect.
    redirected: bool,
}

impl Frontend {
    /// A check-in: proves receipt of earlier replies, stores what it carries,
    /// and keeps the client for its tasks.
    pub(super) async fn check_in(self: &Arc<Self>, request: Request) -> ReaderAnswer {
        let (head, body) = (request.head, request.body);
        let id = hash(&body);
        let (who, letter) = match self.open(body.clone(), false).await {
            Ok(Sender::Proved(who, letter)) => (who, letter),
            Ok(stranger) => {
                let parked = Parked { class: PostClass::Reader, remote: head.remote, body };
                return ReaderAnswer::Done(self.stranger(stranger, parked).await);
            }
            Err(e) => return ReaderAnswer::Done(service::refusal(&e)),
        };
        if let Some(refused) = self.too_old(&who) {
            return ReaderAnswer::Done(refused);
        }
        let claim = match self.take_check_in(&who, &head.remote, letter, Some(id)).await {
            Ok(claim) => claim,
            Err(answer) => return ReaderAnswer::Done(answer),
        };
        if let Some(answer) = self.elsewhere(&who.key(), head.transport) {
            return ReaderAnswer::Done(answer);
        }
        let (held, old) =
            self.server.sessions.register(&who.org.id, &who.source, who.cipher, &head.remote);
        if let Some(old) = old {
            if old.cipher != who.cipher && self.server.relay().is_none() {
                let (org, source) = (&who.org, &who.source);
                self.server.note_conflict(org, source, &head.remote, &head.user_agent).await;
            }
            old.supersede();
        }
        let (tx, queue) = pushes(DEPTH);
        let reader = Arc::new(HeldReader {
            frontend: self.clone(),
            who,
            held,
            transport: head.transport,
            agent: head.user_agent,
            frames: Mutex::default(),
            durable: Mutex::default(),
            over: Notify::new(),
            leave: Notify::new(),
            told: AtomicBool::new(false),
            redirected: head.redirected,
        });
        self.steered().held(reader.held.id, &reader);
        reader.tell_master(claim, Some(id), &head.remote);
        let jitter = self.server.env.jitter(Duration::from_secs(self.limits.max_poll), POLL_SPREAD);
        self.server.env.spawn(reader.clone().run(tx, id));
        ReaderAnswer::Hold(Hold {
            first: None,
            pushes: queue,
            deadline: Instant::now() + jitter,
            session: reader,
        })
    }

    /// What every check-in does, the first of a connection or a later one.
    /// Returns the event table version that the client claims to have.
    async fn take_check_in(
        self: &Arc<Self>,
        who: &Who,
        remote: &str,
        letter: Letter,
        request: Option<Hash>,
    ) -> Result<Option<u64>, Answer> {
        let content = match self.read(PostClass::Reader, letter).await {
            Ok(content) => content,
            Err(IngestError::Never(why)) => return Err(Answer::Status(403, why)),
            Err(e) => return Err(service::not_stored(&e)),
        };
        let claim = content.table_claim();
        self.ingest(who, PostClass::Reader, remote, content)
            .await
            .map_err(|e| service::not_stored(&e))?;
        let now = self.server.env.clock.micros();
        if let Some(relay) = self.server.relay() {
            if let Some(request) = request {
                relay.checked_in(&who.key(), who.cipher, request, now);
            }
            return Ok(claim);
        }
        let check_in = CheckIn { time: now, remote: remote.to_owned(), table_claim: claim };
        self.server.note_check_in(&who.org, &who.source, &check_in);
        if let Some(request) = request {
            let elsewhere = {
                let mut state = who.org.state();
                let queue = &mut state.clients.entry(&who.source).queue;
                queue.checked_in(who.cipher, request, now);
                !queue.away().is_empty()
            };
            if elsewhere {
                // It was held by another frontend a moment ago.
                self.server.order(Order::Recall(who.key(), Some((who.cipher, request))));
            }
        }
        Ok(claim)
    }
}

impl HeldReader {
    /// What is done now and then is in boxes of its own: the memory of this task is there as
    /// long as its client is held, nearly always to wait.
    async fn run(self: Arc<Self>, tx: Pusher, request: Hash) {
        if self.frontend.server.relay().is_none() {
            let (server, who) = (&self.frontend.server, &self.who);
            Box::pin(server.meet(&who.org, &who.source)).await;
            Box::pin(server.end_orphans(&who.org, &who.source, who.cipher)).await;
        }
        let sabotage = self.frontend.server.env.sabotage;
        let deaf = sabotage.is(Mutant::IgnoreWake);
        let mut first = true;
        let mut seq = 0u64;
        loop {
            // Over HTTP the reply belongs to the request; over a WebSocket each
            // frame is a reply of its own.
            let id = reply_id(self.held.id, seq);
            let reply = match self.transport {
                Transport::Http => Reply::http(id, request, self.frontend.limits.max_poll),
                Transport::Ws => Reply::frame(id),
            };
            let skip = first && sabotage.is(Mutant::NothingOnArrival);
            first = false;
            let (jobs, durable) = match skip {
                true => (vec![], None),
                false => Box::pin(self.next(reply)).await,
            };
            if let Some(t) = durable {
                let mut all = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
                all.push_back((seq, t));
                if all.len() > DEPTH {
                    all.pop_front();
                }
            }
            if !jobs.is_empty() {
                match Box::pin(self.frontend.seal(&self.who, &jobs)).await {
                    Ok(body) => {
                        self.frames
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push_back((seq, reply.id));
                        if tx.send(Push::Task { seq, body }).await.is_err() {
                            self.give_back(reply.id);
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
                        self.give_back(reply.id);
                    }
                }
            }
            tokio::select! {
                biased;
                () = self.over.notified() => return,
                () = self.held.superseded() => {
                    let _ = tx.send(Push::End).await;
                    self.over.notified().await;
                    return;
                }
                () = self.leave.notified() => return Box::pin(self.let_go(&tx)).await,
                () = self.held.woken(), if !deaf => {}
                () = tokio::time::sleep(LOOK) => {
                    if self.frontend.server.relay().is_none() {
                        let (server, who) = (&self.frontend.server, &self.who);
                        Box::pin(server.end_orphans(&who.org, &who.source, who.cipher)).await;
                    }
                }
            }
        }
    }

    /// Whose it is.
    pub(super) fn key(&self) -> Key {
        self.who.key()
    }

    /// Whether it was told to let its client go.
    pub(super) fn told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Whether its client would follow a redirect at once.
    pub(super) fn can_be_redirected(&self) -> bool {
        self.transport == Transport::Http && !self.redirected
    }

    /// Lets the client go to another frontend.
    pub(super) fn leave(&self) {
        self.told.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }

    async fn let_go(&self, tx: &Pusher) {
        let how = self.frontend.way_out(self.transport);
        if self.transport == Transport::Ws {
            // A task on its way would be in doubt.
            let end = Instant::now() + LAST_FRAMES;
            let waits = || !self.frames.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            while waits() && Instant::now() < end {
                tokio::select! {
                    biased;
                    () = self.over.notified() => return,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        }
        self.frontend.has_left(&self.key(), how);
        let push = match how {
            Leave::Redirect => Push::End,
            Leave::Status => Push::Status(500, LEAVING.into()),
            Leave::Close => Push::Leave,
        };
        let _ = tx.send(push).await;
        self.over.notified().await;
    }

    /// What may go out now, serialized; everything that needs a durable grant
    /// has it. With the time at which the last of it became durable.
    async fn next(&self, reply: Reply) -> (Vec<Vec<u8>>, Option<u64>) {
        let server = &self.frontend.server;
        let messages = match server.relay() {
            Some(relay) => relay.take(&self.who.key(), self.who.cipher, reply),
            None => {
                let way = Way::Reply(reply);
                server.next_tasks(&self.who.org, &self.who.source, self.who.cipher, way).await
            }
        };
        let ids = messages.iter().map(|m| m.task_id).filter(|id| *id > 0);
        let durable = server.delivery().take(ids);
        let jobs = match self.who.api_version < 4 {
            true => messages.iter().flat_map(for_old_agents).collect(),
            false => messages.iter().map(Message::encode_to_vec).collect(),
        };
        (jobs, durable)
    }

    /// Over HTTP a reply on the socket is proved by what the client does next.
    fn written(&self, seq: u64) {
        if self.transport != Transport::Http {
            return;
        }
        let (server, id) = (&self.frontend.server, reply_id(self.held.id, seq));
        let now = server.env.clock.micros();
        match server.relay() {
            Some(relay) => relay.written(&self.who.key(), id, now),
            None => self.who.org.state().clients.entry(&self.who.source).queue.written(id, now),
        }
    }

    fn give_back(&self, reply: Hash) {
        let server = &self.frontend.server;
        match server.relay() {
            Some(relay) => relay.give_back(&self.who.key(), reply),
            None => self.who.org.state().clients.entry(&self.who.source).queue.give_back(reply),
        }
    }

    /// On a minion: this reader is held, and what its client said.
    fn tell_master(&self, table_claim: Option<u64>, request: Option<Hash>, remote: &str) {
        let Some(relay) = self.frontend.server.relay() else { return };
        relay.opened(Opening {
            org: self.who.org.id.clone(),
            client: self.who.source.clone(),
            session: self.held.id,
            cipher: self.who.cipher,
            request,
            remote: remote.to_owned(),
            agent: self.agent.clone(),
            api_version: self.who.api_version,
            table_claim,
            time: self.frontend.server.env.clock.micros(),
        });
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

fn reply_id(session: u64, seq: u64) -> Hash {
    let mut b = [0; 16];
    b[..8].copy_from_slice(&session.to_le_bytes());
    b[8..].copy_from_slice(&seq.to_le_bytes());
    hash(&b)
}

impl ReaderSession for HeldReader {
    fn delivered(&self, seq: u64, proof: Proof) {
        if proof == Proof::Written {
            self.written(seq);
            let mut all = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(i) = all.iter().position(|d| d.0 == seq)
                && let Some((_, durable)) = all.remove(i)
            {
                let server = &self.frontend.server;
                server.delivery().delivered(durable, server.env.clock.micros());
            }
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
            let (who, letter) = match self.frontend.open(body, false).await {
                Ok(Sender::Proved(who, letter)) => (who, letter),
                Ok(Sender::Stranger { .. }) => return Answer::Status(406, "Please Enrol".into()),
                Err(e) => return service::refusal(&e),
            };
            if who.source != self.who.source {
                return Answer::Status(403, "another client speaks on this socket".into());
            }
            let claim = match self.frontend.take_check_in(&who, &head.remote, letter, None).await {
                Ok(claim) => claim,
                Err(a) => return a,
            };
            // One check-in follows each frame that was consumed.
            let front = self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some((_, reply)) = front {
                let server = &self.frontend.server;
                match server.relay() {
                    Some(relay) => relay.consumed(&who.key(), reply),
                    None => {
                        let now = server.env.clock.micros();
                        let mut state = self.who.org.state();
                        let queue = &mut state.clients.entry(&self.who.source).queue;
                        queue.frame_consumed(self.who.cipher, reply, now);
                    }
                }
            }
            self.tell_master(claim, None, &head.remote);
            self.held.wake();
            Answer::Reply(Bytes::new())
        })
    }

    fn ended(&self, end: End) {
        let server = &self.frontend.server;
        if !server.env.sabotage.is(Mutant::KeepSessions) {
            server.sessions.unregister(&self.who.org.id, &self.who.source, self.held.id);
        }
        if let Some(relay) = server.relay() {
            relay.closed(&self.who.key(), self.held.id);
        }
        self.frontend.steered().gone(self.held.id);
        if self.transport == Transport::Http && matches!(end, End::Replied | End::Ended) {
            self.frontend.comes_back(self.key());
        }
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
