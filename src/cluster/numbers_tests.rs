//! Any interleaving of changes, sends, deliveries, breaks and new masters.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use velociraptor_proto::fleet::session_change::What;
use velociraptor_proto::fleet::{Report, SessionChange};

use super::incoming::{Incoming, Seen, Verdict};
use super::outgoing::{Numbered, Outgoing, chunks};
use super::{FromMinion, Process};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many reports.
    Report(u8),
    /// A reader comes, or goes.
    Toggle(u8),
    /// The minion puts a frame on the wire.
    Send,
    /// The master takes one from it.
    Receive,
    /// An acknowledgement arrives.
    Ack,
    /// The stream breaks, losing what is under way, and there is another one.
    Break,
    /// The same, with a master that knows nothing.
    NewMaster,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..4u8).prop_map(Step::Report),
        4 => (0..6u8).prop_map(Step::Toggle),
        6 => Just(Step::Send),
        5 => Just(Step::Receive),
        4 => Just(Step::Ack),
        1 => Just(Step::Break),
        1 => Just(Step::NewMaster),
    ];
    proptest::collection::vec(step, 0..200)
}

/// An entry of either kind, as an order of all that was ever said.
#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Task(u64),
    Session(SessionChange),
}

#[derive(Default)]
struct Master {
    seen: Seen,
    got: Vec<Entry>,
    /// Open sessions, from the list and the changes.
    open: BTreeSet<u64>,
}

struct World {
    minion: Outgoing,
    said: Vec<Entry>,
    open: BTreeSet<u64>,
    dropped: usize,
    up: VecDeque<Numbered>,
    acks: VecDeque<u64>,
    stream: Incoming,
    master: Master,
    /// Entries that a master has taken over.
    safe: Vec<Entry>,
}

fn process() -> Process {
    Process { node: "a".into(), epoch: "1".into() }
}

impl World {
    fn new(window: usize, backlog: usize) -> Self {
        let mut minion = Outgoing::new(window, backlog);
        minion.connected();
        let master = Master::default();
        Self {
            minion,
            said: vec![],
            open: BTreeSet::new(),
            dropped: 0,
            up: VecDeque::new(),
            acks: VecDeque::new(),
            stream: master.seen.stream(&process()),
            master,
            safe: vec![],
        }
    }

    /// A stream ends and another begins, with the list of what is open.
    fn reconnect(&mut self) {
        self.up.clear();
        self.acks.clear();
        self.minion.connected();
        self.stream = self.master.seen.stream(&process());
        self.master.open = self.open.clone();
    }

    fn receive(&mut self) {
        let Some(n) = self.up.pop_front() else { return };
        match self.stream.judge(n.seq) {
            Verdict::Next => {}
            Verdict::Repeat => {
                self.acks.extend(self.stream.last());
                return;
            }
            other => panic!("{other:?} with one minion and one master at a time: {n:?}"),
        }
        let entries: Vec<Entry> = match n.frame {
            FromMinion::Reports(r) => r.into_iter().map(|r| Entry::Task(r.task_id)).collect(),
            FromMinion::Sessions(s) => s.into_iter().map(Entry::Session).collect(),
            other => panic!("{other:?}"),
        };
        for e in &entries {
            match e {
                Entry::Session(c) if c.what() == What::Opened => {
                    self.master.open.insert(c.session);
                }
                Entry::Session(c) => {
                    self.master.open.remove(&c.session);
                }
                Entry::Task(_) => {}
            }
        }
        self.safe.extend(entries.iter().cloned());
        self.master.got.extend(entries);
        self.master.seen.done(&process(), &mut self.stream, n.seq);
        self.acks.push_back(n.seq);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Report(n) => {
                let next = self.said.len() as u64;
                let ids: Vec<u64> = (next..next + u64::from(n)).collect();
                self.said.extend(ids.iter().map(|id| Entry::Task(*id)));
                self.minion.reports(
                    ids.iter().map(|id| Report { task_id: *id, ..Default::default() }).collect(),
                );
            }
            Step::Toggle(session) => {
                let session = u64::from(session);
                let opened = self.open.insert(session) || !self.open.remove(&session);
                let change = SessionChange {
                    session,
                    what: if opened { What::Opened } else { What::Closed }.into(),
                    time: self.said.len() as u64,
                    ..Default::default()
                };
                self.said.push(Entry::Session(change.clone()));
                self.dropped += self.minion.sessions(vec![change]);
            }
            Step::Send => self.up.extend(self.minion.next()),
            Step::Receive => self.receive(),
            Step::Ack => {
                if let Some(seq) = self.acks.pop_front() {
                    self.minion.acknowledged(seq).unwrap();
                }
            }
            Step::Break => self.reconnect(),
            Step::NewMaster => {
                self.master = Master::default();
                self.reconnect();
            }
        }
    }

    /// Lets everything arrive, over one more stream if it takes that.
    fn settle(&mut self) {
        for _ in 0..2 {
            loop {
                let before = self.minion.owed();
                self.up.extend(self.minion.next());
                self.receive();
                while let Some(seq) = self.acks.pop_front() {
                    self.minion.acknowledged(seq).unwrap();
                }
                if self.minion.owed() == before && self.up.is_empty() {
                    break;
                }
            }
            if !self.minion.is_stale() {
                break;
            }
            self.reconnect();
        }
    }
}

/// Each entry of `said` is in `got`, in order, with repeats only as whole stretches
/// that begin again.
fn first_times(got: &[Entry]) -> Vec<Entry> {
    let mut out: Vec<Entry> = vec![];
    for e in got {
        if !out.contains(e) {
            out.push(e.clone());
        }
    }
    out
}

fn tasks(entries: &[Entry]) -> Vec<Entry> {
    entries.iter().filter(|e| matches!(e, Entry::Task(_))).cloned().collect()
}

proptest! {
    /// One master process: exactly once, in order. Over several: nothing is missing, and
    /// each has a stretch without gaps or repeats.
    #[test]
    fn everything_arrives(steps in steps(), window in 1..5usize) {
        let mut w = World::new(window, usize::MAX);
        let mut masters = 1;
        for s in steps {
            masters += usize::from(matches!(s, Step::NewMaster));
            w.step(s);
            let got = &w.master.got;
            let at = got.first().and_then(|f| w.said.iter().position(|e| e == f)).unwrap_or(0);
            prop_assert_eq!(&w.said[at..at + got.len()], &got[..], "a stretch of what was said");
        }
        w.settle();
        prop_assert_eq!(w.minion.owed(), (0, 0));
        prop_assert_eq!(&first_times(&w.safe), &w.said);
        if masters == 1 {
            prop_assert_eq!(&w.master.got, &w.said);
        }
        prop_assert_eq!(&w.master.open, &w.open);
    }

    /// With a small backlog changes of sessions are dropped; reports never are, and the
    /// master ends with the right list.
    #[test]
    fn dropping_changes_does_not_undo_the_list(
        steps in steps(), window in 1..5usize, backlog in 0..6usize,
    ) {
        let mut w = World::new(window, backlog);
        for s in steps {
            w.step(s);
            if w.minion.is_stale() && matches!(s, Step::Send) {
                w.reconnect();
            }
        }
        w.settle();
        prop_assert_eq!(w.minion.owed(), (0, 0));
        prop_assert_eq!(&w.master.open, &w.open);
        prop_assert_eq!(tasks(&first_times(&w.safe)), tasks(&w.said));
    }

    #[test]
    fn lists_are_cut_without_loss(sizes in proptest::collection::vec(0..3000usize, 0..30)) {
        let of = |n: usize| SessionChange { user_agent: "x".repeat(n * 100), ..Default::default() };
        let all: Vec<SessionChange> = sizes.iter().map(|n| of(*n)).collect();
        let parts = chunks(all.clone());
        prop_assert!(parts.iter().all(|p| !p.is_empty()));
        for p in &parts {
            let bytes: usize = p.iter().map(prost::Message::encoded_len).sum();
            let last = p.last().map_or(0, prost::Message::encoded_len);
            prop_assert!(bytes - last < 1 << 20, "only the last entry passes the limit");
        }
        prop_assert_eq!(parts.concat(), all);
    }
}

#[test]
fn a_frame_keeps_its_number_and_what_waits_is_joined() {
    let report = |id| vec![Report { task_id: id, ..Default::default() }];
    let mut o = Outgoing::new(1, 10);
    o.reports(report(1));
    let one = o.next().unwrap();
    assert_eq!((one.seq, one.again), (1, false));
    o.reports(report(2));
    o.reports(report(3));
    assert_eq!(o.next(), None, "the window is full");
    assert_eq!(o.owed(), (1, 1), "two reports in one frame");
    o.connected();
    let again = o.next().unwrap();
    assert_eq!((again.seq, again.again, again.frame), (1, true, one.frame));
    assert!(o.acknowledged(2).is_err(), "it was never sent");
    o.acknowledged(1).unwrap();
    o.acknowledged(1).unwrap();
    let two = o.next().unwrap();
    assert_eq!(two.frame, FromMinion::Reports([report(2), report(3)].concat()));
    assert_eq!(
        chunks(vec![Report::default(); 2001]).iter().map(Vec::len).collect::<Vec<_>>(),
        [1000, 1000, 1]
    );
}

#[test]
fn a_master_knows_what_it_had() {
    let p = |node: &str, epoch: usize| Process { node: node.into(), epoch: epoch.to_string() };
    let mut seen = Seen::default();
    let mut s = seen.stream(&p("a", 1));
    assert_eq!(s.judge(7), Verdict::Next, "earlier ones went to another master");
    seen.done(&p("a", 1), &mut s, 7);
    assert_eq!(s.judge(9), Verdict::Gap);
    let mut s = seen.stream(&p("a", 1));
    assert_eq!(s.judge(7), Verdict::Repeat);
    let mut s = seen.stream(&p("a", 1));
    assert_eq!(s.judge(10), Verdict::Skip(2), "another master had 8 and 9");
    seen.done(&p("a", 1), &mut s, 10);
    assert_eq!(s.judge(11), Verdict::Next);
    // Many starts of one node do not add up, and leave other nodes alone.
    for epoch in 2..100 {
        let mut s = seen.stream(&p("b", epoch));
        assert_eq!(s.judge(1), Verdict::Next);
        seen.done(&p("b", epoch), &mut s, 1);
    }
    assert_eq!(seen.last(&p("b", 99)), Some(1));
    assert_eq!(seen.last(&p("b", 2)), None);
    assert_eq!(seen.last(&p("a", 1)), Some(10));
}
