//! One client's queue of tasks, and what is known about each.
//!
//! A stock agent runs a flow again when it gets it twice, so a task is sent
//! once and sent again only when the client itself shows that it did not start.
//! Pure: sessions and time are told, decisions are returned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use velociraptor_proto::proto::VeloMessage;

use super::flows::job::Hash;
use super::ids::Session;
use crate::store::journal::Segment;

/// A flow that was received but of which nothing has been heard for this long
/// is asked about, microseconds (stock's `inflight_check_time`).
pub const ASK_AFTER: u64 = 60_000_000;

/// Most flow ids in one question, so that urgent replies stay small.
const ASK_AT_ONCE: usize = 16;

/// What is known of a task's delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Never sent.
    Queued,
    /// On its way in the reply to the request `request` of cipher `cipher`.
    Sent { cipher: Hash, request: Hash, at: u64 },
    /// Sent, or granted to a process that died: only the client can tell.
    Unsure { cipher: Hash, asked: Option<u64> },
}

#[derive(Clone, Debug)]
struct Task {
    message: VeloMessage,
    flow: String,
    state: State,
    /// The record that makes the right to send durable is written.
    granted: bool,
    /// To which cipher it was granted.
    cipher: Option<Hash>,
    _pin: Option<Arc<Segment>>,
}

/// A client's tasks and the flows it is known to work on.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    tasks: BTreeMap<u64, Task>,
    /// Flows received and not ended: when something was last heard, µs.
    inflight: BTreeMap<String, u64>,
    asked: BTreeMap<String, u64>,
    /// Flows whose receipt is proved.
    proved: BTreeSet<String>,
}

/// What may go out now.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages, in order.
    pub messages: Vec<VeloMessage>,
    /// Tasks among them whose right to be sent must be made durable first.
    pub ungranted: Vec<u64>,
}

/// What an answer to "do you know this flow" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It never started: the task is queued again.
    Redeliver,
    /// Another instance of the client answered, or it ran before.
    Lost,
    /// Not a task of ours that was in doubt.
    NotAsked,
}

impl Queue {
    /// Adds a task. `granted` is the cipher to which its durable record lets it
    /// be sent.
    pub fn push(&mut self, message: VeloMessage, granted: Option<Hash>, pin: Option<Arc<Segment>>) {
        let (granted, cipher) = (granted.is_some(), granted);
        let flow = Session::parse(&message.session_id).flow;
        let task = Task { message, flow, state: State::Queued, granted, cipher, _pin: pin };
        self.tasks.insert(task.message.task_id, task);
    }

    /// The right to send these is durable; they go to this cipher.
    pub fn granted(&mut self, ids: impl Fn(u64) -> bool, cipher: Hash) {
        for (id, t) in &mut self.tasks {
            if ids(*id) {
                t.granted = true;
                t.cipher = Some(cipher);
            }
        }
    }

    /// After recovery: what an earlier process had the right to send, it may
    /// have sent.
    pub fn doubt_granted(&mut self) {
        for t in self.tasks.values_mut() {
            if t.granted && t.state == State::Queued && t.message.flow_request.is_some() {
                t.state = State::Unsure { cipher: t.cipher.unwrap_or_default(), asked: None };
            }
        }
    }

    /// Whether there is anything to send or to ask.
    pub fn has_work(&self) -> bool {
        self.tasks
            .values()
            .any(|t| t.state == State::Queued || matches!(t.state, State::Unsure { .. }))
    }

    /// Unsent tasks and their flows, for the stock record and shutdown.
    pub fn unsent(&self) -> impl Iterator<Item = &VeloMessage> {
        self.tasks.values().filter(|t| t.state == State::Queued).map(|t| &t.message)
    }

    /// Flows the client is working on.
    pub fn inflight(&self) -> &BTreeMap<String, u64> {
        &self.inflight
    }

    /// Takes what may be sent in one reply to request `request` of `cipher`.
    ///
    /// At most `cap` flows that are not urgent run at once. A cancel never goes
    /// with its flow, and not before the flow's receipt is proved.
    pub fn take(
        &mut self,
        cipher: Hash,
        request: Hash,
        now: u64,
        cap: usize,
        can_ask: bool,
    ) -> Batch {
        let mut batch = Batch::default();
        let mut busy = self.inflight.len();
        let pending: BTreeSet<String> = (self.tasks.values())
            .filter(|t| t.message.flow_request.is_some())
            .map(|t| t.flow.clone())
            .collect();
        for (id, t) in &mut self.tasks {
            if t.state != State::Queued {
                continue;
            }
            let is_flow = t.message.flow_request.is_some();
            if t.message.cancel.is_some() && pending.contains(&t.flow) {
                continue;
            }
            if is_flow && !t.message.urgent {
                if busy >= cap {
                    continue;
                }
                busy += 1;
            }
            if !t.granted {
                batch.ungranted.push(*id);
                t.granted = true;
            }
            t.state = State::Sent { cipher, request, at: now };
            batch.messages.push(t.message.clone());
        }
        if can_ask {
            self.add_questions(&mut batch, now);
        }
        batch
    }

    fn add_questions(&mut self, batch: &mut Batch, now: u64) {
        let going: BTreeSet<String> =
            batch.messages.iter().map(|m| Session::parse(&m.session_id).flow).collect();
        let mut ids: Vec<String> = Vec::new();
        for t in self.tasks.values_mut() {
            if let State::Unsure { asked, .. } = &mut t.state
                && asked.is_none_or(|at| now > at + ASK_AFTER)
                && !going.contains(&t.flow)
                && !ids.contains(&t.flow)
            {
                *asked = Some(now);
                ids.push(t.flow.clone());
            }
        }
        for (flow, heard) in &self.inflight {
            let last = self.asked.get(flow).copied().unwrap_or(0).max(*heard);
            if now > last + ASK_AFTER && !ids.contains(flow) {
                self.asked.insert(flow.clone(), now);
                ids.push(flow.clone());
            }
        }
        ids.truncate(ASK_AT_ONCE);
        if !ids.is_empty() {
            batch.messages.push(VeloMessage {
                session_id: "F.Status".into(),
                flow_stats_request: Some(velociraptor_proto::proto::FlowStatsRequest {
                    flow_id: ids,
                }),
                urgent: true,
                ..Default::default()
            });
        }
    }

    /// The record that grants `ids` could not be written, or the connection
    /// broke before all bytes were handed over: they were not sent.
    pub fn give_back(&mut self, request: Hash) {
        for t in self.tasks.values_mut() {
            if matches!(&t.state, State::Sent { request: r, .. } if *r == request) {
                t.state = State::Queued;
            }
        }
    }

    /// A new check-in of the same client process: it has read earlier replies.
    /// The same ciphertext again: it has not read the reply to it.
    pub fn checked_in(&mut self, cipher: Hash, request: Hash, now: u64) {
        let mut proved = Vec::new();
        for (id, t) in &mut self.tasks {
            match &t.state {
                State::Sent { request: r, .. } if *r == request => t.state = State::Queued,
                State::Sent { cipher: c, .. } if *c == cipher => proved.push(*id),
                // Another process of this client: whether the first one got it
                // before it ended, nobody knows.
                State::Sent { cipher: c, .. } => {
                    t.state = State::Unsure { cipher: *c, asked: None };
                }
                _ => {}
            }
        }
        for id in proved {
            self.received(id, now);
        }
    }

    /// The client consumed the oldest reply that is still on its way (WebSocket
    /// clients check in once per frame).
    pub fn frame_consumed(&mut self, cipher: Hash, request: Hash, now: u64) {
        let ids: Vec<u64> = (self.tasks.iter())
            .filter(|(_, t)| {
                matches!(&t.state, State::Sent { cipher: c, request: r, .. } if *c == cipher && *r == request)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.received(id, now);
        }
    }

    fn received(&mut self, id: u64, now: u64) {
        if let Some(t) = self.tasks.remove(&id)
            && t.message.flow_request.is_some()
        {
            self.proved.insert(t.flow.clone());
            self.inflight.insert(t.flow, now);
        }
    }

    /// Something of `flow` came from the client: it has started.
    pub fn evidence(&mut self, flow: &str, now: u64) {
        let ids: Vec<u64> = (self.tasks.iter())
            .filter(|(_, t)| t.flow == flow && t.message.flow_request.is_some())
            .filter(|(_, t)| t.state != State::Queued)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.received(id, now);
        }
        if let Some(heard) = self.inflight.get_mut(flow) {
            *heard = now;
        }
    }

    /// The flow has ended.
    pub fn ended(&mut self, flow: &str) {
        self.inflight.remove(flow);
        self.asked.remove(flow);
        self.proved.remove(flow);
        self.tasks.retain(|_, t| t.flow != flow || t.message.flow_request.is_none());
    }

    /// Withdraws what was not sent of `flow`. Returns whether the client may
    /// have it, so that a cancel must follow.
    pub fn withdraw(&mut self, flow: &str) -> bool {
        let queued = |t: &Task| t.flow == flow && t.state == State::Queued;
        let unsent = self.tasks.values().any(|t| queued(t) && t.message.flow_request.is_some());
        self.tasks.retain(|_, t| !queued(t));
        let out = self.tasks.values().any(|t| t.flow == flow && t.message.flow_request.is_some());
        out || (!unsent && self.inflight.contains_key(flow))
    }

    /// The client says that it does not know `flow`.
    pub fn unknown(&mut self, flow: &str, cipher: Hash) -> Verdict {
        let mut verdict = Verdict::NotAsked;
        for t in self.tasks.values_mut().filter(|t| t.flow == flow) {
            if let State::Unsure { cipher: sent_to, asked: Some(_) } = &t.state {
                if *sent_to == cipher && !self.proved.contains(flow) {
                    t.state = State::Queued;
                    verdict = Verdict::Redeliver;
                } else {
                    verdict = Verdict::Lost;
                }
            }
        }
        if verdict == Verdict::Lost {
            self.ended(flow);
        }
        verdict
    }

    /// Flows in doubt that this client cannot be asked about.
    pub fn unanswerable(&self) -> Vec<String> {
        let unsure = self.tasks.values().filter(|t| matches!(t.state, State::Unsure { .. }));
        unsure.filter(|t| t.message.flow_request.is_some()).map(|t| t.flow.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::{Cancel, FlowRequest};

    const A: Hash = [1; 16];
    const B: Hash = [2; 16];

    fn flow(id: u64) -> VeloMessage {
        VeloMessage {
            session_id: format!("F.{id}"),
            task_id: id,
            flow_request: Some(FlowRequest::default()),
            ..Default::default()
        }
    }

    fn cancel(id: u64, of: u64) -> VeloMessage {
        VeloMessage {
            session_id: format!("F.{of}"),
            task_id: id,
            cancel: Some(Cancel::default()),
            urgent: true,
            ..Default::default()
        }
    }

    fn ids(b: &Batch) -> Vec<u64> {
        b.messages.iter().map(|m| m.task_id).collect()
    }

    #[test]
    fn sent_once_and_proved_by_the_next_request() {
        let mut q = Queue::default();
        q.push(flow(1), None, None);
        let b = q.take(A, [10; 16], 1, 4, true);
        assert_eq!((ids(&b), b.ungranted.clone()), (vec![1], vec![1]));
        assert!(ids(&q.take(A, [11; 16], 2, 4, false)).is_empty());
        q.checked_in(A, [11; 16], 2);
        assert!(q.inflight().contains_key("F.1") && !q.has_work());
    }

    #[test]
    fn a_repeated_request_gets_its_reply_again() {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.take(A, [10; 16], 1, 4, true);
        q.checked_in(A, [10; 16], 2);
        assert_eq!(ids(&q.take(A, [10; 16], 2, 4, true)), [1]);
    }

    #[test]
    fn a_restarted_client_is_asked_and_never_given_it_twice() {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.take(A, [10; 16], 1, 4, true);
        q.checked_in(B, [20; 16], 2);
        let b = q.take(B, [20; 16], 2, 4, true);
        assert_eq!(b.messages[0].flow_stats_request.as_ref().unwrap().flow_id, ["F.1"]);
        assert_eq!(q.unknown("F.1", B), Verdict::Lost);
        assert!(!q.has_work());
    }

    #[test]
    fn after_our_restart_the_same_client_process_may_get_it_again() {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.doubt_granted();
        let b = q.take(A, [10; 16], 1, 4, true);
        assert!(b.messages[0].flow_stats_request.is_some() && b.messages.len() == 1);
        assert_eq!(q.unknown("F.1", A), Verdict::Redeliver);
        assert_eq!(ids(&q.take(A, [11; 16], 2, 4, true)), [1]);
        // Rows came after all: the doubt is over.
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.doubt_granted();
        q.evidence("F.1", 5);
        assert!(q.inflight().contains_key("F.1"));
        assert_eq!(q.unknown("F.1", A), Verdict::NotAsked);
    }

    #[test]
    fn a_cancel_waits_for_proof_and_unsent_work_is_withdrawn() {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        assert!(!q.withdraw("F.1"), "never sent: nothing to cancel");
        q.push(flow(2), Some(A), None);
        q.take(A, [10; 16], 1, 4, true);
        assert!(q.withdraw("F.2"));
        q.push(cancel(3, 2), Some(A), None);
        assert!(ids(&q.take(A, [10; 16], 1, 4, true)).is_empty(), "not in doubt of receipt");
        q.checked_in(A, [11; 16], 2);
        assert_eq!(ids(&q.take(A, [11; 16], 2, 4, true)), [3]);
    }

    #[test]
    fn only_so_many_at_once_but_urgent_goes() {
        let mut q = Queue::default();
        for id in 1..=6 {
            q.push(flow(id), Some(A), None);
        }
        q.push(VeloMessage { urgent: true, ..flow(7) }, Some(A), None);
        assert_eq!(ids(&q.take(A, [1; 16], 1, 4, true)), [1, 2, 3, 4, 7]);
        q.checked_in(A, [2; 16], 2);
        assert!(ids(&q.take(A, [2; 16], 2, 4, true)).is_empty());
        q.ended("F.1");
        q.ended("F.7");
        assert_eq!(ids(&q.take(A, [2; 16], 2, 4, true)), [5]);
    }

    #[test]
    fn silence_is_asked_about_after_a_minute() {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.take(A, [1; 16], 1, 4, true);
        q.checked_in(A, [2; 16], 1);
        assert!(q.take(A, [2; 16], ASK_AFTER, 4, true).messages.is_empty());
        assert_eq!(q.take(A, [2; 16], ASK_AFTER + 2, 4, true).messages.len(), 1);
        assert!(q.take(A, [3; 16], ASK_AFTER + 3, 4, true).messages.is_empty());
    }
}
