//! One client's queue of tasks, and what is known about each.
//!
//! A stock agent runs a flow again when it gets it twice, so a task is sent
//! once and sent again only when the client itself shows that it did not start.
//! What a client works on has the id that it was given: a session, which is a flow or
//! a further run of one. Pure: sessions and time are told, decisions are returned.
//!
//! What is in files is in [`filed`], what shows that a task came in [`doubt`].

mod doubt;
mod filed;
mod reply;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use velociraptor_proto::proto::VeloMessage;

use super::flows::job::Hash;
use crate::store::journal::{ProcessId, Segment};

pub use reply::Reply;

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
    /// Never sent by us, and in a file that another process may have taken.
    InFile,
    /// On its way to cipher `cipher` in a reply.
    Sent { cipher: Hash, reply: Reply },
    /// Delegated to another frontend process, for the client process `cipher`.
    Away { process: ProcessId, cipher: Hash },
    /// Sent, or granted to a process that died: only the client can tell.
    Unsure { cipher: Hash, asked: Option<Asked> },
}

/// A question about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    /// When, microseconds.
    at: u64,
    by: Asks,
}

/// What carries a question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asks {
    /// A reply of ours.
    Reply(Reply),
    /// Another frontend process, which reports a question that it never sent.
    Node(ProcessId),
}

/// Whose hands a batch goes through.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// Ours: it is in this reply.
    Reply(Reply),
    /// Those of another frontend process, which reports what became of each task.
    Node(&'a ProcessId),
}

#[derive(Clone, Debug)]
struct Task {
    message: VeloMessage,
    /// The session it begins or cancels.
    session: String,
    state: State,
    /// The record that makes the right to send durable is written.
    granted: bool,
    /// To which cipher it was granted.
    cipher: Option<Hash>,
    /// How often that was, and to which others before.
    grants: u32,
    former: Vec<Hash>,
    /// To which other frontend process it was granted.
    grantee: Option<ProcessId>,
    /// There may be a file of it in another name than ours.
    filed: bool,
    /// Minions that reached for its file, the last one last.
    claims: Vec<Claim>,
    /// Who had it and gave it back: the file may still say otherwise.
    returned: Option<ProcessId>,
    pin: Option<Arc<Segment>>,
}

/// A minion has written that it reaches for a task.
#[derive(Clone, Debug)]
struct Claim {
    process: ProcessId,
    /// For which client process.
    cipher: Hash,
    /// The record that says so.
    _pin: Arc<Segment>,
}

/// A client's tasks and the flows it is known to work on.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Boxed: a map has room for eleven values as soon as it has one, and one takes kilobytes.
    tasks: BTreeMap<u64, Box<Task>>,
    /// Sessions received and not ended: when something was last heard, µs.
    inflight: BTreeMap<String, u64>,
    asked: BTreeMap<String, u64>,
    /// Which client process got each of them, where that is known.
    runs_in: BTreeMap<String, Hash>,
    /// Sessions whose receipt is proved.
    proved: BTreeSet<String>,
    /// Tasks that came from a file of the stock queue, which goes when the task is
    /// queued no more; with the journal that says that it may have been sent.
    filed: BTreeMap<u64, Option<Arc<Segment>>>,
}

/// What may go out now.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages, in order.
    pub messages: Vec<VeloMessage>,
    /// Tasks among them whose right to be sent must be made durable first.
    pub ungranted: Vec<u64>,
}

/// What a frontend process reports of a task it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The client has it.
    Received,
    /// It was not sent, and this process never will.
    Back,
    /// It was sent; whether the client got it is not known.
    Doubt,
}

/// What an answer to "do you know this flow" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It never started: the task is queued again.
    Redeliver,
    /// Another instance of the client answered, or it ran before.
    Lost,
    /// It is on its way, or waits for that: an answer to an earlier question.
    Pending,
    /// Not a task of ours that was in doubt.
    NotAsked,
}

/// Whether a session is a flow, or a run of it.
fn is_of(session: &str, flow: &str) -> bool {
    session.strip_prefix(flow).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Task {
    /// A flow that is not urgent, of which the client may have begun: it was sent, or is
    /// being sent, and nobody knows yet whether it came.
    fn may_run(&self) -> bool {
        let out = match self.state {
            State::Sent { .. } | State::Away { .. } | State::Unsure { .. } => true,
            State::Queued | State::InFile => false,
        };
        out && self.message.flow_request.is_some() && !self.message.urgent
    }

    fn begins(&self, session: &str) -> bool {
        self.session == session && self.message.flow_request.is_some()
    }

    /// It may go to the client process `cipher`.
    fn grant(&mut self, cipher: Hash) {
        self.former.extend(self.cipher.filter(|c| *c != cipher));
        self.former.retain(|c| *c != cipher);
        (self.granted, self.cipher) = (true, Some(cipher));
        self.grants += 1;
    }

    /// Whether that the client process `cipher` does not know it can only mean that it
    /// was never begun by that process, whatever of its sending we remember: it was
    /// sent under one right alone, and one asks after that; or the right before was
    /// another process's.
    fn is_disproved_by(&self, cipher: Hash) -> bool {
        let granted = self.granted || matches!(self.state, State::Unsure { .. });
        let only =
            if self.cipher == Some(cipher) { self.grants == 1 } else { self.cipher.is_some() };
        granted && only && !self.former.contains(&cipher)
    }
}

impl Queue {
    /// Adds a task. `granted` is the cipher to which its durable record lets it
    /// be sent.
    pub fn push(&mut self, message: VeloMessage, granted: Option<Hash>, pin: Option<Arc<Segment>>) {
        let (granted, cipher) = (granted.is_some(), granted);
        let session = message.session_id.clone();
        let task = Task {
            message,
            session,
            state: State::Queued,
            granted,
            cipher,
            grants: u32::from(granted),
            former: Vec::new(),
            grantee: None,
            filed: false,
            claims: Vec::new(),
            returned: None,
            pin,
        };
        self.tasks.insert(task.message.task_id, Box::new(task));
    }

    /// The client may be working on a session of which something was heard at `at`,
    /// microseconds.
    pub fn working_on(&mut self, session: &str, at: u64) {
        self.inflight.insert(session.to_owned(), at);
    }

    /// When something was last heard of a flow that the client works on, microseconds.
    pub fn heard_of(&self, flow: &str) -> Option<u64> {
        let runs = self.inflight.range(flow.to_owned()..);
        let runs = runs.take_while(|(s, _)| s.starts_with(flow)).filter(|(s, _)| is_of(s, flow));
        runs.map(|(_, at)| *at).max()
    }

    /// The server ends: what is queued has files. Of what may have been sent all that
    /// is remembered is that the client may be working on it.
    pub fn put_down(&mut self, now: u64) {
        for t in std::mem::take(&mut self.tasks).into_values() {
            if t.state != State::Queued && t.message.flow_request.is_some() {
                self.inflight.entry(t.session).or_insert(now);
            }
        }
        self.filed.clear();
    }

    /// The right to send these is durable; they go to this cipher, through this
    /// other frontend process or through us.
    pub fn granted(
        &mut self,
        ids: impl Fn(u64) -> bool,
        cipher: Hash,
        grantee: Option<&ProcessId>,
    ) {
        for (id, t) in &mut self.tasks {
            if ids(*id) {
                t.grant(cipher);
                t.grantee = grantee.cloned();
                // Who reached for it before was too late.
                t.claims.clear();
            }
        }
    }

    /// The right that `id` was pushed with is this other frontend process's.
    pub fn granted_to(&mut self, id: u64, grantee: Option<&ProcessId>) {
        if let Some(t) = self.tasks.get_mut(&id) {
            t.grantee = grantee.cloned();
        }
    }

    /// Whether there is anything to send or to ask.
    pub fn has_work(&self) -> bool {
        let due = |s: &State| matches!(s, State::Queued | State::InFile | State::Unsure { .. });
        self.tasks.values().any(|t| due(&t.state))
    }

    /// Unsent tasks and their flows, for the stock record and shutdown.
    pub fn unsent(&self) -> impl Iterator<Item = &VeloMessage> {
        self.tasks.values().filter(|t| t.state == State::Queued).map(|t| &t.message)
    }

    /// Sessions the client is working on.
    pub fn inflight(&self) -> &BTreeMap<String, u64> {
        &self.inflight
    }

    /// Takes what may be sent on `way` to the client process `cipher`.
    ///
    /// At most `cap` flows that are not urgent run at once. A cancel never goes
    /// with its flow, and not before the flow's receipt is proved.
    pub fn take(
        &mut self,
        cipher: Hash,
        way: Way<'_>,
        now: u64,
        cap: usize,
        can_ask: bool,
    ) -> Batch {
        let mut batch = Batch::default();
        let mut busy = self.inflight.len() + self.tasks.values().filter(|t| t.may_run()).count();
        let pending = self.pending();
        for (id, t) in &mut self.tasks {
            if t.state != State::Queued {
                continue;
            }
            let is_flow = t.message.flow_request.is_some();
            if t.message.cancel.is_some() && pending.contains(&t.session) {
                continue;
            }
            if is_flow && !t.message.urgent {
                if busy >= cap {
                    continue;
                }
                busy += 1;
            }
            let (grantee, state) = match way {
                Way::Reply(reply) => (None, State::Sent { cipher, reply }),
                Way::Node(p) => (Some(p), State::Away { process: p.clone(), cipher }),
            };
            // A flow's durable record names who may send it to whom.
            let named = t.cipher == Some(cipher) && t.grantee.as_ref() == grantee;
            if !t.granted || (is_flow && !named) {
                // Granted once that is durable, not before.
                batch.ungranted.push(*id);
            }
            t.state = state;
            batch.messages.push(t.message.clone());
        }
        if can_ask {
            let by = match way {
                Way::Reply(reply) => Asks::Reply(reply),
                Way::Node(p) => Asks::Node(p.clone()),
            };
            self.add_questions(&mut batch, &Asked { at: now, by });
        }
        batch
    }

    /// The record that grants `ids` could not be written, or the connection
    /// broke before all bytes were handed over: they were not sent.
    pub fn give_back(&mut self, reply: Hash) {
        let back: Vec<u64> = (self.tasks.iter())
            .filter(|(_, t)| matches!(&t.state, State::Sent { reply: r, .. } if r.id == reply))
            .map(|(id, _)| *id)
            .collect();
        back.into_iter().for_each(|id| self.requeue(id));
        self.not_asked(|by| matches!(by, Asks::Reply(r) if r.id == reply));
    }

    /// The reply is on the socket since `now`, microseconds.
    pub fn written(&mut self, id: Hash, now: u64) {
        for t in self.tasks.values_mut() {
            if let State::Sent { reply, .. } = &mut t.state
                && reply.id == id
            {
                reply.wrote(now);
            }
        }
    }

    /// The right to send these on `way` did not become durable: nobody was handed
    /// them. What somebody else was given meanwhile is not ours to take back.
    pub fn not_granted(&mut self, ids: &[u64], way: Way<'_>) {
        for id in ids {
            let ours = match (self.tasks.get(id).map(|t| &t.state), way) {
                (Some(State::Sent { reply, .. }), Way::Reply(r)) => reply.id == r.id,
                (Some(State::Away { process, .. }), Way::Node(p)) => process == p,
                _ => false,
            };
            if ours {
                self.requeue(*id);
            }
        }
    }

    /// The task was certainly not sent. It waits again, unless its session was
    /// cancelled meanwhile: then neither it nor the cancel is sent.
    fn requeue(&mut self, id: u64) {
        let Some(t) = self.tasks.get_mut(&id) else { return };
        t.state = if t.filed { State::InFile } else { State::Queued };
        let (session, is_flow) = (t.session.clone(), t.message.flow_request.is_some());
        if is_flow {
            // Whoever reads journals back is to see that it was sent once more.
            t.granted = false;
        }
        if is_flow && self.cancelled(&session) {
            self.tasks.retain(|_, t| t.session != session);
        }
    }

    fn cancelled(&self, session: &str) -> bool {
        self.tasks.values().any(|t| t.session == session && t.message.cancel.is_some())
    }

    /// What the frontend process `by`, which was given a task, says of it.
    ///
    /// Questions have no number: of those it says that one was not sent.
    pub fn reported(&mut self, by: &ProcessId, id: u64, what: What, now: u64) {
        if id == 0 {
            return self.not_asked_through(by);
        }
        let Some(t) = self.tasks.get_mut(&id) else { return };
        // Proof is proof, whatever we believed; the rest only a grantee can say. Of
        // a task in a file only the minion speaks that has taken it.
        let theirs = t.grantee.as_ref() == Some(by);
        match (what, &t.state) {
            (What::Received, State::Away { .. } | State::Unsure { .. } | State::InFile) => {
                self.received(id, now);
            }
            // It never was and never will be sent by that process.
            (What::Back, State::InFile) => t.returned = Some(by.clone()),
            (What::Back, State::Away { .. } | State::Unsure { .. }) if theirs => {
                t.returned = Some(by.clone());
                self.requeue(id);
            }
            (What::Doubt, State::InFile) => {
                let claim = t.claims.iter().rev().find(|c| c.process == *by);
                let cipher = claim.map(|c| c.cipher).unwrap_or_default();
                t.grantee = Some(by.clone());
                self.unsure(id, cipher);
            }
            (What::Doubt, State::Away { cipher, .. }) if theirs => {
                let cipher = *cipher;
                self.unsure(id, cipher);
            }
            _ => {}
        }
    }

    /// The session has ended.
    pub fn ended(&mut self, session: &str) {
        self.inflight.remove(session);
        self.asked.remove(session);
        self.runs_in.remove(session);
        self.proved.remove(session);
        self.tasks.retain(|_, t| !t.begins(session));
    }

    /// The sessions of a flow that are known here.
    fn sessions_of(&self, flow: &str) -> BTreeSet<String> {
        let tasks = self.tasks.values().map(|t| &t.session);
        let all = tasks.chain(self.inflight.keys()).chain(self.runs_in.keys()).chain(&self.proved);
        all.filter(|s| is_of(s, flow)).cloned().collect()
    }

    /// The flow is over and in stock files. Where it was cancelled before anybody knew
    /// whether the client has it, both stay: the cancel goes out if the client shows
    /// that it does, and neither if it does not.
    pub fn settled(&mut self, flow: &str) {
        for session in self.sessions_of(flow) {
            let waits = self.tasks.values().any(|t| t.begins(&session));
            if !(waits && self.cancelled(&session)) {
                self.ended(&session);
            }
        }
    }

    /// The session was never begun by this client, or nobody will ever know: nothing of
    /// it goes out any more, its cancel included.
    pub fn forget(&mut self, session: &str) {
        self.ended(session);
        self.tasks.retain(|_, t| t.session != session);
    }

    /// Withdraws what was not sent of `flow`. Returns the sessions that the client may
    /// have, so that a cancel must follow.
    pub fn withdraw(&mut self, flow: &str) -> BTreeSet<String> {
        let queued = |t: &Task| is_of(&t.session, flow) && t.state == State::Queued;
        let begins = |t: &Task| t.message.flow_request.is_some();
        let unsent: BTreeSet<String> = (self.tasks.values().filter(|t| queued(t) && begins(t)))
            .map(|t| t.session.clone())
            .collect();
        self.tasks.retain(|_, t| !queued(t));
        let out = self.tasks.values().filter(|t| is_of(&t.session, flow) && begins(t));
        let works = self.inflight.keys().filter(|s| is_of(s, flow) && !unsent.contains(*s));
        out.map(|t| t.session.clone()).chain(works.cloned()).collect()
    }

    /// Whether the task is here, in whatever state.
    pub fn has(&self, id: u64) -> bool {
        self.tasks.contains_key(&id)
    }

    fn pending(&self) -> BTreeSet<String> {
        let flows = self.tasks.values().filter(|t| t.message.flow_request.is_some());
        flows.map(|t| t.session.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
