//! Tasks that lie in files: those of the stock queue, and those left for minions, who
//! reach for them by a claim. What the files say is told; nothing is read here.

use std::collections::BTreeSet;
use std::sync::Arc;

use velociraptor_proto::proto::VeloMessage;

use super::{Claim, Queue, State, Task, is_of};
use crate::services::flows::job::Hash;
use crate::store::journal::{ProcessId, Segment};

impl Queue {
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
        let waits = |t: &Task| {
            t.state == State::Queued
                && !t.granted
                && !t.filed
                && t.pin.as_ref().is_some_and(|p| old.contains(p))
        };
        self.tasks.values().filter(|t| waits(t)).map(|t| t.message.clone()).collect()
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

    fn leavable(t: &Task, pending: &BTreeSet<String>) -> bool {
        t.state == State::Queued && !(t.message.cancel.is_some() && pending.contains(&t.session))
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
        let queued = |t: &Task| is_of(&t.session, flow) && t.state == State::Queued;
        for t in self.tasks.values_mut().filter(|t| queued(t)) {
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
        t.state = State::Away { process: process.clone(), cipher };
        t.grant(cipher);
        t.grantee = Some(process.clone());
        // Its record stays for as long as the task is open.
        t.claims = vec![claim];
        if !heard {
            self.unsure(id, cipher);
        }
        true
    }
}
