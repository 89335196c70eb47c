//! What a minion may hand to one client, and what it must say of each task.
//!
//! The master decides what is sent to which client process; this only carries
//! it out and never sends anything twice to anybody. Pure: told what happens on
//! the connection, it says what to report.

use std::collections::BTreeMap;

use velociraptor_proto::proto::VeloMessage;

use crate::services::flows::job::Hash;
use crate::services::tasks::{Reply, What};

#[derive(Clone, Debug)]
struct Given {
    message: VeloMessage,
    cipher: Hash,
    /// The reply that carries it, while it is on its way.
    reply: Option<Reply>,
}

/// One client's tasks on this node.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    given: BTreeMap<u64, Given>,
    /// Questions and event tables. Of those it is told only that a question was not sent.
    loose: Vec<Given>,
}

/// What is told of a question that was not sent: it has no number.
const NOT_ASKED: Told = (0, What::Back);

/// A task and what became of it.
pub type Told = (u64, What);

impl Outbox {
    /// The master lets us send these to the client process `cipher`.
    pub fn give(&mut self, cipher: Hash, messages: Vec<VeloMessage>) {
        for message in messages {
            let given = Given { message, cipher, reply: None };
            if given.message.task_id == 0 {
                self.loose.push(given);
            } else {
                // A task that is here already is on its way: a repeat of the
                // same frame changes nothing.
                self.given.entry(given.message.task_id).or_insert(given);
            }
        }
    }

    /// Takes what goes into the reply `reply` to the process `cipher`. Tasks
    /// for another process of the client go back: that one is over.
    pub fn take(&mut self, cipher: Hash, reply: Reply) -> (Vec<VeloMessage>, Vec<Told>) {
        let (mut out, mut told) = (Vec::new(), Vec::new());
        self.given.retain(|id, g| {
            if g.cipher != cipher {
                let what = if g.reply.is_some() { What::Doubt } else { What::Back };
                told.push((*id, what));
                return false;
            }
            if g.reply.is_none() {
                g.reply = Some(reply);
                out.push(g.message.clone());
            }
            true
        });
        told.extend(self.drop_loose(|g| g.cipher != cipher));
        for g in self.loose.iter_mut().filter(|g| g.reply.is_none()) {
            g.reply = Some(reply);
            out.push(g.message.clone());
        }
        (out, told)
    }

    fn drop_loose(&mut self, which: impl Fn(&Given) -> bool) -> Option<Told> {
        let unsent = |g: &Given| g.reply.is_none() && g.message.flow_stats_request.is_some();
        let lost = self.loose.iter().any(|g| which(g) && unsent(g));
        self.loose.retain(|g| !which(g));
        lost.then_some(NOT_ASKED)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Given> {
        self.given.values_mut().chain(&mut self.loose)
    }

    /// The reply did not go out whole: nothing of it was sent.
    pub fn give_back(&mut self, reply: Hash) {
        for g in self.all_mut().filter(|g| g.reply.is_some_and(|r| r.id == reply)) {
            g.reply = None;
        }
    }

    /// The reply is on the socket since `now`, microseconds.
    pub fn written(&mut self, id: Hash, now: u64) {
        for r in self.all_mut().filter_map(|g| g.reply.as_mut()) {
            if r.id == id {
                r.wrote(now);
            }
        }
    }

    /// A new check-in. The same bytes again show that the reply to them was not
    /// read; other bytes of the same process soon after, that it was. `now` is in
    /// microseconds.
    pub fn checked_in(&mut self, cipher: Hash, request: Hash, now: u64) -> Vec<Told> {
        let mut told = Vec::new();
        self.given.retain(|id, g| match g.reply {
            None => true,
            Some(r) if r.answers(request) => {
                g.reply = None;
                true
            }
            Some(r) => {
                let read = g.cipher == cipher && r.proved_at(now);
                told.push((*id, if read { What::Received } else { What::Doubt }));
                false
            }
        });
        self.loose.retain_mut(|g| match g.reply {
            Some(r) if r.answers(request) => {
                g.reply = None;
                true
            }
            sent => sent.is_none(),
        });
        told
    }

    /// The client consumed this reply (WebSocket clients say so).
    pub fn consumed(&mut self, reply: Hash) -> Vec<Told> {
        self.loose.retain(|g| g.reply.is_none_or(|r| r.id != reply));
        self.remove(|g| g.reply.is_some_and(|r| r.id == reply), What::Received)
    }

    /// The client process `cipher` has checked in elsewhere with other bytes or the
    /// same as here: what that shows, then [`Outbox::surrender`].
    pub fn recall(&mut self, elsewhere: Option<(Hash, Hash)>, now: u64) -> Vec<Told> {
        let mut told = Vec::new();
        if let Some((cipher, request)) = elsewhere {
            told = self.checked_in(cipher, request, now);
        }
        told.extend(self.surrender());
        told
    }

    /// The client is served elsewhere, or has not been seen here for some time.
    pub fn surrender(&mut self) -> Vec<Told> {
        let mut told = self.remove(|g| g.reply.is_none(), What::Back);
        told.extend(self.drop_loose(|_| true));
        told.extend(self.remove(|_| true, What::Doubt));
        told
    }

    fn remove(&mut self, which: impl Fn(&Given) -> bool, what: What) -> Vec<Told> {
        let mut told = Vec::new();
        self.given.retain(|id, g| {
            let gone = which(g);
            if gone {
                told.push((*id, what));
            }
            !gone
        });
        told
    }

    /// Tasks here, and whether each was handed to a socket.
    pub fn holdings(&self) -> impl Iterator<Item = (u64, bool)> {
        self.given.iter().map(|(id, g)| (*id, g.reply.is_some()))
    }

    /// Whether a reply could be made now.
    pub fn has_work(&self) -> bool {
        self.given.values().chain(&self.loose).any(|g| g.reply.is_none())
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.loose.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Hash = [1; 16];
    const B: Hash = [2; 16];

    fn task(id: u64) -> VeloMessage {
        VeloMessage { task_id: id, ..Default::default() }
    }

    /// The answer over HTTP to the request with this hash, of the same name.
    fn reply(request: Hash) -> Reply {
        let mut r = Reply::http(request, request, 60);
        r.wrote(1);
        r
    }

    #[test]
    fn a_check_in_that_may_be_a_second_try_proves_nothing() {
        for (r, now) in [(reply([10; 16]), 60_000_000), (Reply::frame([10; 16]), 2)] {
            let mut o = Outbox::default();
            o.give(A, vec![task(1)]);
            o.take(A, r);
            assert_eq!(o.checked_in(A, [11; 16], now), [(1, What::Doubt)]);
        }
    }

    #[test]
    fn sent_once_and_received_with_the_next_request() {
        let mut o = Outbox::default();
        o.give(A, vec![task(1), task(0)]);
        let (out, told) = o.take(A, reply([10; 16]));
        assert_eq!((out.len(), told.len()), (2, 0));
        assert!(o.take(A, reply([11; 16])).0.is_empty());
        assert_eq!(o.checked_in(A, [11; 16], 2), [(1, What::Received)]);
        assert!(o.is_empty());
    }

    #[test]
    fn a_reply_that_was_not_read_is_given_again() {
        let mut o = Outbox::default();
        o.give(A, vec![task(1)]);
        o.take(A, reply([10; 16]));
        assert!(o.checked_in(A, [10; 16], 2).is_empty());
        assert_eq!(o.take(A, reply([10; 16])).0.len(), 1);
    }

    fn question() -> VeloMessage {
        VeloMessage { flow_stats_request: Some(Default::default()), ..Default::default() }
    }

    #[test]
    fn a_question_that_was_not_sent_is_told_of() {
        let mut o = Outbox::default();
        o.give(A, vec![question()]);
        assert_eq!(o.surrender(), [NOT_ASKED]);
        assert!(o.is_empty());

        o.give(A, vec![question()]);
        assert_eq!(o.take(B, reply([20; 16])).1, [NOT_ASKED], "it asked another process");

        o.give(A, vec![question()]);
        assert_eq!(o.take(A, reply([10; 16])).0.len(), 1);
        assert_eq!(o.surrender(), [], "it is on its way");
        assert!(o.is_empty());

        // An event table is sent again when the client shows that it has it not.
        o.give(A, vec![task(0)]);
        assert_eq!(o.surrender(), []);
    }

    #[test]
    fn a_question_that_was_not_read_is_sent_again() {
        let mut o = Outbox::default();
        o.give(A, vec![question()]);
        o.take(A, reply([10; 16]));
        assert!(!o.has_work());
        o.give_back([10; 16]);
        assert!(o.has_work());
        o.take(A, reply([10; 16]));
        assert!(o.checked_in(A, [10; 16], 2).is_empty(), "the same request again");
        assert_eq!(o.take(A, reply([10; 16])).0.len(), 1);
        assert!(o.checked_in(A, [11; 16], 2).is_empty());
        assert!(o.is_empty(), "it was read");
        o.give(A, vec![question()]);
        o.take(A, Reply::frame([12; 16]));
        o.consumed([12; 16]);
        assert!(o.is_empty());
    }

    #[test]
    fn another_process_of_the_client_gets_nothing() {
        let mut o = Outbox::default();
        o.give(A, vec![task(1), task(2)]);
        o.take(A, reply([10; 16]));
        o.give(A, vec![task(3)]);
        let mut told = o.checked_in(B, [20; 16], 2);
        let (out, more) = o.take(B, reply([20; 16]));
        told.extend(more);
        assert!(out.is_empty() && o.is_empty());
        assert_eq!(told, [(1, What::Doubt), (2, What::Doubt), (3, What::Back)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Give(u64),
        Take(bool, u8),
        GiveBack(u8),
        CheckIn(bool, u8),
        Surrender,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..20u64).prop_map(Step::Give),
            (any::<bool>(), 0..6u8).prop_map(|(a, r)| Step::Take(a, r)),
            (0..6u8).prop_map(Step::GiveBack),
            (any::<bool>(), 0..6u8).prop_map(|(a, r)| Step::CheckIn(a, r)),
            Just(Step::Surrender),
        ]
    }

    proptest! {
        /// Every task is told about at most once; one that was told of, or that
        /// is for another process, is never sent; `Back` means never sent.
        #[test]
        fn nothing_is_sent_after_it_was_told(steps in prop::collection::vec(step(), 0..60)) {
            let mut o = Outbox::default();
            let (mut told, mut sent) = (BTreeMap::new(), BTreeMap::<u64, Hash>::new());
            let mut given = std::collections::BTreeSet::new();
            for s in steps {
                let new = match s {
                    Step::Give(id) => {
                        if given.insert(id) { o.give(A, vec![task(id)]); }
                        vec![]
                    }
                    Step::Take(a, r) => {
                        let (out, t) = o.take(if a { A } else { B }, reply([r; 16]));
                        for m in out {
                            prop_assert!(a && !told.contains_key(&m.task_id));
                            prop_assert!(!sent.contains_key(&m.task_id), "on its way already");
                            sent.insert(m.task_id, [r; 16]);
                        }
                        t
                    }
                    Step::GiveBack(r) => {
                        o.give_back([r; 16]);
                        sent.retain(|_, x| *x != [r; 16]);
                        vec![]
                    }
                    Step::CheckIn(a, r) => {
                        let t = o.checked_in(if a { A } else { B }, [r; 16], 2);
                        sent.retain(|id, x| *x != [r; 16] || t.iter().any(|t| t.0 == *id));
                        t
                    }
                    Step::Surrender => o.surrender(),
                };
                for (id, what) in new {
                    prop_assert!(told.insert(id, what).is_none());
                    prop_assert_eq!(what == What::Back, !sent.contains_key(&id));
                    sent.remove(&id);
                }
            }
        }
    }
}
