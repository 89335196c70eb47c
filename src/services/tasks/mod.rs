//! One client's queue of tasks, and what is known about each.
//!
//! A stock agent runs a flow again when it gets it twice, so a task is sent
//! once and sent again only when the client itself shows that it did not start.
//! What a client works on has the id that it was given: a session, which is a flow or
//! a further run of one. Pure: sessions and time are told, decisions are returned.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    /// When, microseconds.
    at: u64,
    /// The reply that carries it; `None`: another frontend process does.
    reply: Option<Reply>,
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
    tasks: BTreeMap<u64, Task>,
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
        self.tasks.insert(task.message.task_id, task);
    }

    /// Adds a task from a file of the stock queue.
    pub fn push_filed(&mut self, message: VeloMessage) {
        self.filed.insert(message.task_id, None);
        self.push(message, None, None);
    }

    /// The record in `pin` says that these may have been sent, as their files do not.
    pub fn hold(&mut self, ids: &[u64], pin: &Arc<Segment>) {
        for id in ids {
            if let Some(held) = self.filed.get_mut(id) {
                *held = Some(pin.clone());
            }
        }
    }

    /// Tasks that wait, to which nobody has the right, and whose record is in one of
    /// these.
    pub fn waiting_in(&self, old: &BTreeSet<Arc<Segment>>) -> Vec<VeloMessage> {
        let waits = |t: &&Task| {
            t.state == State::Queued
                && !t.granted
                && !t.filed
                && t.pin.as_ref().is_some_and(|p| old.contains(p))
        };
        self.tasks.values().filter(waits).map(|t| t.message.clone()).collect()
    }

    /// A task that waits has a file of the stock queue: its record is not needed. If
    /// it was sent meanwhile, the file says too little, and its record holds those that
    /// came later.
    pub fn file_made(&mut self, id: u64) {
        let pin = match self.tasks.get_mut(&id) {
            Some(t) if t.state == State::Queued && !t.granted => {
                t.pin = None;
                None
            }
            Some(t) => t.pin.clone(),
            None => None,
        };
        self.filed.insert(id, pin);
    }

    /// Files of the stock queue that say nothing any more.
    pub fn spent(&self) -> Vec<u64> {
        self.filed.keys().filter(|id| !self.tasks.contains_key(id)).copied().collect()
    }

    /// Whether it knows of files of the stock queue.
    pub fn has_files(&self) -> bool {
        !self.filed.is_empty()
    }

    /// The file of a task is gone.
    pub fn file_gone(&mut self, id: u64) {
        self.filed.remove(&id);
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

    /// After recovery: what an earlier process had the right to send, it may
    /// have sent.
    pub fn doubt_granted(&mut self) {
        self.doubt(|_| true);
    }

    /// The same of one flow, while journals are read back.
    pub fn doubt_granted_of(&mut self, flow: &str) {
        self.doubt(|t| is_of(&t.session, flow));
    }

    fn doubt(&mut self, which: impl Fn(&Task) -> bool) {
        for t in self.tasks.values_mut().filter(|t| which(t)) {
            let here = matches!(t.state, State::Queued | State::InFile);
            if t.granted && here && t.message.flow_request.is_some() {
                t.state = State::Unsure { cipher: t.cipher.unwrap_or_default(), asked: None };
            }
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
            let reply = match way {
                Way::Reply(reply) => Some(reply),
                Way::Node(_) => None,
            };
            self.add_questions(&mut batch, Asked { at: now, reply });
        }
        batch
    }

    fn add_questions(&mut self, batch: &mut Batch, question: Asked) {
        let now = question.at;
        let going: BTreeSet<String> = batch.messages.iter().map(|m| m.session_id.clone()).collect();
        let mut ids: Vec<String> = Vec::new();
        for t in self.tasks.values_mut() {
            if let State::Unsure { asked, .. } = &mut t.state
                && asked.is_none_or(|a| now > a.at + ASK_AFTER)
                && !going.contains(&t.session)
                && !ids.contains(&t.session)
            {
                *asked = Some(question);
                ids.push(t.session.clone());
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
    pub fn give_back(&mut self, reply: Hash) {
        let back: Vec<u64> = (self.tasks.iter())
            .filter(|(_, t)| matches!(&t.state, State::Sent { reply: r, .. } if r.id == reply))
            .map(|(id, _)| *id)
            .collect();
        back.into_iter().for_each(|id| self.requeue(id));
        self.not_asked(|r| r.id == reply);
    }

    /// What these replies asked nobody has read.
    fn not_asked(&mut self, which: impl Fn(&Reply) -> bool) {
        for t in self.tasks.values_mut() {
            if let State::Unsure { asked, .. } = &mut t.state
                && asked.and_then(|a| a.reply).is_some_and(|r| which(&r))
            {
                *asked = None;
            }
        }
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
    pub fn reported(&mut self, by: &ProcessId, id: u64, what: What, now: u64) {
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
                t.state = State::Unsure { cipher, asked: None };
            }
            (What::Doubt, State::Away { cipher, .. }) if theirs => {
                t.state = State::Unsure { cipher: *cipher, asked: None };
            }
            _ => {}
        }
    }

    /// What `process` has of this client's tasks after its stream was broken, and
    /// of which it has still to report: what is neither never reached it.
    pub fn reconcile(&mut self, process: &ProcessId, has: &BTreeSet<u64>, reports: &BTreeSet<u64>) {
        let lost: Vec<u64> = (self.tasks.iter())
            .filter(|(id, t)| {
                matches!(&t.state, State::Away { process: p, .. } if p == process)
                    && !has.contains(id)
                    && !reports.contains(id)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            if let Some(t) = self.tasks.get_mut(&id) {
                t.returned = Some(process.clone());
            }
            self.requeue(id);
        }
        // After our own restart all that was granted is in doubt; a process
        // that still has it will tell.
        for (_, t) in self.tasks.iter_mut().filter(|(id, _)| has.contains(id)) {
            if let State::Unsure { cipher, asked: None } = &t.state
                && t.grantee.as_ref() == Some(process)
            {
                t.state = State::Away { process: process.clone(), cipher: *cipher };
            }
        }
    }

    /// The process is gone, or cannot be asked: whether it sent what it had,
    /// only the client can tell.
    pub fn process_gone(&mut self, process: &ProcessId) {
        for t in self.tasks.values_mut() {
            if let State::Away { process: p, cipher } = &t.state
                && p == process
            {
                t.state = State::Unsure { cipher: *cipher, asked: None };
            }
        }
    }

    /// Other processes that have tasks of this client.
    pub fn away(&self) -> BTreeSet<&ProcessId> {
        let with = self.tasks.values().filter_map(|t| match &t.state {
            State::Away { process, .. } => Some(process),
            _ => None,
        });
        with.collect()
    }

    /// A new check-in of the same client process, soon after a reply: it has read
    /// it. Later it may be a second try. The same ciphertext again: it has not
    /// read the reply to it.
    pub fn checked_in(&mut self, cipher: Hash, request: Hash, now: u64) {
        let (mut proved, mut back) = (Vec::new(), Vec::new());
        for (id, t) in &mut self.tasks {
            match &t.state {
                State::Sent { reply, .. } if reply.answers(request) => back.push(*id),
                State::Sent { cipher: c, reply } if *c == cipher && reply.proved_at(now) => {
                    proved.push(*id);
                }
                // Too late to show anything, or another process of this client:
                // whether it was read, or the first one got it before it ended,
                // nobody knows.
                State::Sent { cipher: c, .. } => {
                    t.state = State::Unsure { cipher: *c, asked: None };
                }
                _ => {}
            }
        }
        for id in proved {
            self.received(id, now);
        }
        back.into_iter().for_each(|id| self.requeue(id));
        self.not_asked(|r| r.answers(request));
    }

    /// The client consumed the oldest reply that is still on its way (WebSocket
    /// clients check in once per frame).
    pub fn frame_consumed(&mut self, cipher: Hash, frame: Hash, now: u64) {
        let ids: Vec<u64> = (self.tasks.iter())
            .filter(|(_, t)| {
                matches!(&t.state, State::Sent { cipher: c, reply } if *c == cipher && reply.id == frame)
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
            let cipher = match t.state {
                State::Sent { cipher, .. }
                | State::Away { cipher, .. }
                | State::Unsure { cipher, .. } => Some(cipher),
                State::Queued | State::InFile => t.cipher,
            };
            if let Some(cipher) = cipher {
                self.runs_in.insert(t.session.clone(), cipher);
            }
            self.proved.insert(t.session.clone());
            self.inflight.insert(t.session, now);
        }
    }

    /// Something of `session` came from the client: it has started.
    pub fn evidence(&mut self, session: &str, now: u64) {
        let ids: Vec<u64> = (self.tasks.iter())
            .filter(|(_, t)| t.begins(session))
            // Granted and not sent, as far as we know: when journals are read back.
            .filter(|(_, t)| t.state != State::Queued || t.granted)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.received(id, now);
        }
        if let Some(heard) = self.inflight.get_mut(session) {
            *heard = now;
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
        let begins = |t: &&Task| t.message.flow_request.is_some();
        let unsent: BTreeSet<String> = (self.tasks.values().filter(|t| queued(t)).filter(begins))
            .map(|t| t.session.clone())
            .collect();
        self.tasks.retain(|_, t| !queued(t));
        let out = self.tasks.values().filter(|t| is_of(&t.session, flow)).filter(begins);
        let works = self.inflight.keys().filter(|s| is_of(s, flow) && !unsent.contains(*s));
        out.map(|t| t.session.clone()).chain(works.cloned()).collect()
    }

    /// The client process that a task in doubt was sent to.
    #[doc(hidden)]
    pub fn sent_to(&self, session: &str) -> Option<Hash> {
        self.tasks.values().find_map(|t| match &t.state {
            State::Unsure { cipher, .. } if t.session == session => Some(*cipher),
            _ => None,
        })
    }

    /// The client says that it does not know `session`.
    pub fn unknown(&mut self, session: &str, cipher: Hash) -> Verdict {
        let mut verdict = Verdict::NotAsked;
        let cancelled = self.cancelled(session);
        let proved = self.proved.contains(session);
        for t in self.tasks.values_mut().filter(|t| t.session == session) {
            let asked = matches!(&t.state, State::Unsure { asked: Some(_), .. });
            // An answer that a master before this one asked for, or had not acted on
            // when it ended.
            let begins = t.message.flow_request.is_some();
            let open = matches!(&t.state, State::Unsure { .. } | State::Queued | State::InFile);
            if !(asked || (begins && open && t.is_disproved_by(cipher))) {
                if verdict == Verdict::NotAsked && begins {
                    verdict = Verdict::Pending;
                }
                continue;
            }
            let sent_to = match &t.state {
                State::Unsure { cipher, .. } => Some(*cipher),
                _ => t.cipher,
            };
            if sent_to == Some(cipher) && !proved && !cancelled {
                // Granted anew when it is sent: perhaps by somebody else.
                t.returned.clone_from(&t.grantee);
                t.state = if t.filed { State::InFile } else { State::Queued };
                t.granted = false;
                verdict = Verdict::Redeliver;
            } else {
                verdict = Verdict::Lost;
            }
        }
        if verdict == Verdict::Lost {
            self.forget(session);
        }
        verdict
    }

    /// Whether the task is here, in whatever state.
    pub fn has(&self, id: u64) -> bool {
        self.tasks.contains_key(&id)
    }

    fn leavable(t: &Task, pending: &BTreeSet<String>) -> bool {
        t.state == State::Queued && !(t.message.cancel.is_some() && pending.contains(&t.session))
    }

    fn pending(&self) -> BTreeSet<String> {
        let flows = self.tasks.values().filter(|t| t.message.flow_request.is_some());
        flows.map(|t| t.session.clone()).collect()
    }

    /// Whether something could go as soon as the client comes, or may have been
    /// reached for by a minion.
    pub fn waits_for_client(&self) -> bool {
        let pending = self.pending();
        self.tasks.values().any(|t| Self::leavable(t, &pending) || Self::asks_file(t, true))
    }

    /// What could go as soon as the client comes is from now on in files: not to be
    /// sent before it was taken back.
    pub fn leave(&mut self) -> Vec<VeloMessage> {
        let pending = self.pending();
        let mut out = Vec::new();
        for t in self.tasks.values_mut().filter(|t| Self::leavable(t, &pending)) {
            (t.state, t.filed, t.returned) = (State::InFile, true, None);
            out.push(t.message.clone());
        }
        out
    }

    fn asks_file(t: &Task, claimed: bool) -> bool {
        t.filed
            && matches!(t.state, State::InFile | State::Unsure { .. })
            && (!claimed || !t.claims.is_empty() || t.returned.is_some())
            // A minion has it, and that is known.
            && (t.state == State::InFile
                || !t.claims.iter().any(|c| t.grantee.as_ref() == Some(&c.process)))
    }

    /// Tasks, of `flow` or all, of which the file has to be looked at; `claimed`: only
    /// those that a minion has reached for.
    pub fn in_files(&self, flow: Option<&str>, claimed: bool) -> Vec<u64> {
        let of =
            |t: &Task| flow.is_none_or(|f| is_of(&t.session, f)) && Self::asks_file(t, claimed);
        self.tasks.iter().filter(|(_, t)| of(t)).map(|(id, _)| *id).collect()
    }

    /// An earlier master may have left any of these in files.
    pub fn may_be_in_files(&mut self) {
        for t in self.tasks.values_mut() {
            t.filed = true;
            if t.state == State::Queued {
                t.state = State::InFile;
            }
        }
    }

    /// The tasks of this flow that wait may have been taken by a minion.
    pub fn may_be_elsewhere(&mut self, flow: &str) {
        let queued = |t: &&mut Task| is_of(&t.session, flow) && t.state == State::Queued;
        for t in self.tasks.values_mut().filter(queued) {
            (t.state, t.filed) = (State::InFile, true);
        }
    }

    /// Whether a task of this flow may have been taken by a minion.
    pub fn is_elsewhere(&self, flow: &str) -> bool {
        self.tasks.values().any(|t| is_of(&t.session, flow) && t.state == State::InFile)
    }

    /// Whether this flow itself, not a cancel of it, may have been taken by a minion.
    pub fn begins_elsewhere(&self, flow: &str) -> bool {
        let begins = |t: &Task| t.state == State::InFile && t.message.flow_request.is_some();
        self.tasks.values().any(|t| is_of(&t.session, flow) && begins(t))
    }

    /// `process` reaches for these, for the client process `cipher`. `live`: what is
    /// in a file is known.
    pub fn claimed(
        &mut self,
        ids: &[u64],
        process: &ProcessId,
        cipher: Hash,
        pin: &Arc<Segment>,
        live: bool,
    ) {
        for (_, t) in self.tasks.iter_mut().filter(|(id, _)| ids.contains(id)) {
            let open = match t.state {
                State::Queued | State::InFile => !live || t.filed,
                State::Unsure { .. } => !live || t.filed,
                State::Sent { .. } | State::Away { .. } => false,
            };
            if !open {
                continue;
            }
            if matches!(t.state, State::Queued | State::InFile) {
                (t.state, t.granted) = (State::InFile, false);
            }
            t.filed = true;
            t.claims.push(Claim { process: process.clone(), cipher, _pin: pin.clone() });
        }
    }

    /// Whether `process` had the task and has said that it did not send it.
    pub fn gave_back(&self, id: u64, process: &ProcessId) -> bool {
        self.tasks.get(&id).is_some_and(|t| t.returned.as_ref() == Some(process))
    }

    /// The file of a task is ours now, or there is none. `unsent`: before, it was
    /// nobody's.
    pub fn taken_back(&mut self, id: u64, unsent: bool) {
        let Some(t) = self.tasks.get_mut(&id) else { return };
        (t.filed, t.returned) = (false, None);
        t.claims.clear();
        if t.state == State::InFile || (unsent && matches!(t.state, State::Unsure { .. })) {
            self.requeue(id);
        }
    }

    /// The file of a task is another process's, which can be asked (`heard`) or not.
    /// `false`: it is not known for which client process it took the task.
    pub fn taken_by(&mut self, id: u64, process: &ProcessId, heard: bool) -> bool {
        let Some(t) = self.tasks.get_mut(&id) else { return true };
        let Some(claim) = t.claims.iter().rev().find(|c| c.process == *process).cloned() else {
            return false;
        };
        if !matches!(t.state, State::InFile | State::Unsure { .. }) {
            return true;
        }
        let cipher = claim.cipher;
        t.state = match heard {
            true => State::Away { process: process.clone(), cipher },
            false => State::Unsure { cipher, asked: None },
        };
        t.grant(cipher);
        t.grantee = Some(process.clone());
        // Its record stays for as long as the task is open.
        t.claims = vec![claim];
        true
    }

    /// Sessions that went to another process of the client than `cipher`, which is
    /// there now, and of which nothing was heard for so long that one would ask: that
    /// process has ended, and they with it. For agents that cannot be asked.
    pub fn orphans(&self, cipher: Hash, now: u64) -> Vec<String> {
        let gone = |flow: &String| self.runs_in.get(flow).is_some_and(|c| *c != cipher);
        let quiet = self.inflight.iter().filter(|(_, heard)| now > **heard + ASK_AFTER);
        quiet.filter(|(flow, _)| gone(flow)).map(|(flow, _)| flow.clone()).collect()
    }

    /// Sessions in doubt that this client cannot be asked about.
    pub fn unanswerable(&self) -> Vec<String> {
        let unsure = self.tasks.values().filter(|t| matches!(t.state, State::Unsure { .. }));
        unsure.filter(|t| t.message.flow_request.is_some()).map(|t| t.session.clone()).collect()
    }
}
#[cfg(test)]
mod tests;
