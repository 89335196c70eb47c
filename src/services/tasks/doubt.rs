//! What shows whether a client got a task: that it came again, that it consumed a
//! frame, what it says of a flow, and who of those that were to send it is still there.

use std::collections::BTreeSet;

use velociraptor_proto::proto::VeloMessage;

use super::{ASK_AFTER, ASK_AT_ONCE, Asked, Asks, Batch, Queue, State, Task, Verdict, is_of};
use crate::services::flows::job::Hash;
use crate::store::journal::ProcessId;

impl Queue {
    /// After recovery: what an earlier process had the right to send, it may
    /// have sent.
    pub fn doubt_granted(&mut self) {
        self.doubt(|_| true);
    }

    /// The same of one flow, while journals are read back.
    pub fn doubt_granted_of(&mut self, flow: &str) {
        self.doubt(|t| is_of(&t.session, flow));
    }

    pub(super) fn doubt(&mut self, which: impl Fn(&Task) -> bool) {
        for t in self.tasks.values_mut().filter(|t| which(t)) {
            let here = matches!(t.state, State::Queued | State::InFile);
            if t.granted && here && t.message.flow_request.is_some() {
                t.state = State::Unsure { cipher: t.cipher.unwrap_or_default(), asked: None };
            }
        }
    }

    /// It was sent, and whether the client process `cipher` got it only that can tell. A
    /// cancel may come twice, so it goes out again instead, whoever else has its file.
    pub(super) fn unsure(&mut self, id: u64, cipher: Hash) {
        let Some(t) = self.tasks.get_mut(&id) else { return };
        if t.message.cancel.is_some() {
            (t.state, t.filed, t.returned) = (State::Queued, false, None);
            t.claims.clear();
        } else {
            t.state = State::Unsure { cipher, asked: None };
        }
    }

    pub(super) fn add_questions(&mut self, batch: &mut Batch, question: &Asked) {
        let now = question.at;
        let going: BTreeSet<String> = batch.messages.iter().map(|m| m.session_id.clone()).collect();
        let mut ids: Vec<String> = Vec::new();
        for t in self.tasks.values_mut() {
            if let State::Unsure { asked, .. } = &mut t.state
                && asked.as_ref().is_none_or(|a| now > a.at + ASK_AFTER)
                && !going.contains(&t.session)
                && !ids.contains(&t.session)
            {
                *asked = Some(question.clone());
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

    /// What these asked nobody has read.
    pub(super) fn not_asked(&mut self, which: impl Fn(&Asks) -> bool) {
        for t in self.tasks.values_mut() {
            if let State::Unsure { asked, .. } = &mut t.state
                && asked.as_ref().is_some_and(|a| which(&a.by))
            {
                *asked = None;
            }
        }
    }

    /// Questions that were left to `process` may never have got to the client. To be asked
    /// twice does no harm.
    pub(super) fn not_asked_through(&mut self, process: &ProcessId) {
        self.not_asked(|by| matches!(by, Asks::Node(p) if p == process));
    }

    /// What `process` has of this client's tasks after its stream was broken, and
    /// of which it has still to report: what is neither never reached it.
    pub fn reconcile(&mut self, process: &ProcessId, has: &BTreeSet<u64>, reports: &BTreeSet<u64>) {
        self.not_asked_through(process);
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
        self.not_asked_through(process);
        let had = self.tasks.iter().filter_map(|(id, t)| match &t.state {
            State::Away { process: p, cipher } if p == process => Some((*id, *cipher)),
            _ => None,
        });
        let had: Vec<(u64, Hash)> = had.collect();
        had.into_iter().for_each(|(id, cipher)| self.unsure(id, cipher));
    }

    /// Other processes that have tasks of this client, or questions.
    pub fn away(&self) -> BTreeSet<&ProcessId> {
        let with = self.tasks.values().filter_map(|t| match &t.state {
            State::Away { process, .. }
            | State::Unsure { asked: Some(Asked { by: Asks::Node(process), .. }), .. } => {
                Some(process)
            }
            _ => None,
        });
        with.collect()
    }

    /// A new check-in of the same client process, soon after a reply: it has read
    /// it. Later it may be a second try. The same ciphertext again: it has not
    /// read the reply to it.
    pub fn checked_in(&mut self, cipher: Hash, request: Hash, now: u64) {
        let (mut proved, mut back, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
        for (id, t) in &self.tasks {
            match &t.state {
                State::Sent { reply, .. } if reply.answers(request) => back.push(*id),
                State::Sent { cipher: c, reply } if *c == cipher && reply.proved_at(now) => {
                    proved.push(*id);
                }
                // Too late to show anything, or another process of this client:
                // whether it was read, or the first one got it before it ended,
                // nobody knows.
                State::Sent { cipher: c, .. } => unsure.push((*id, *c)),
                _ => {}
            }
        }
        for id in proved {
            self.received(id, now);
        }
        unsure.into_iter().for_each(|(id, cipher)| self.unsure(id, cipher));
        back.into_iter().for_each(|id| self.requeue(id));
        self.not_asked(|by| matches!(by, Asks::Reply(r) if r.answers(request)));
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

    pub(super) fn received(&mut self, id: u64, now: u64) {
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

    /// Whether another process of the client than `cipher` got this session: it has
    /// ended if that does not know it, however often the same was said before.
    pub fn ran_in_another(&self, session: &str, cipher: Hash) -> bool {
        let other = self.runs_in.get(session).is_some_and(|c| *c != cipher);
        other && !self.tasks.values().any(|t| t.begins(session))
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
