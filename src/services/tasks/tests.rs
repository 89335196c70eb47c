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

/// The answer over HTTP to the request with this hash, of the same name.
fn http(request: Hash) -> Reply {
    Reply::http(request, request, 60)
}

fn reply(request: Hash) -> Way<'static> {
    Way::Reply(http(request))
}

/// Sends and lets the socket have it.
fn sends(q: &mut Queue, request: Hash, now: u64) -> Batch {
    let b = q.take(A, reply(request), now, 4, true);
    q.written(request, now);
    b
}

fn ids(b: &Batch) -> Vec<u64> {
    b.messages.iter().map(|m| m.task_id).collect()
}

#[test]
fn sent_once_and_proved_by_the_next_request() {
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    let b = sends(&mut q, [10; 16], 1);
    assert_eq!((ids(&b), b.ungranted.clone()), (vec![1], vec![1]));
    assert!(ids(&q.take(A, reply([11; 16]), 2, 4, false)).is_empty());
    q.checked_in(A, [11; 16], 2);
    assert!(q.inflight().contains_key("F.1") && !q.has_work());
}

#[test]
fn flows_that_nobody_knows_to_have_come_count_as_running() {
    let mut q = Queue::default();
    (1..=6).for_each(|id| q.push(flow(id), None, None));
    assert_eq!(ids(&sends(&mut q, [10; 16], 1)), [1, 2, 3, 4]);
    // On their way.
    assert!(ids(&q.take(A, reply([11; 16]), 2, 4, false)).is_empty());
    // In doubt: the client came too late to prove anything.
    q.checked_in(A, [12; 16], 60_000_000);
    assert!(ids(&q.take(A, reply([12; 16]), 60_000_000, 4, false)).is_empty());
    // One of them never came: it goes again, and nothing else with it.
    assert!(
        q.take(A, reply([13; 16]), 60_000_001, 4, true).messages[0].flow_stats_request.is_some()
    );
    assert_eq!(q.unknown("F.2", A), Verdict::Redeliver);
    assert_eq!(ids(&q.take(A, reply([14; 16]), 60_000_002, 4, false)), [2]);
    // At another frontend process it is the same.
    let mut q = Queue::default();
    (1..=3).for_each(|id| q.push(flow(id), None, None));
    let minion = ProcessId::new("m", "1");
    assert_eq!(ids(&q.take(A, Way::Node(&minion), 1, 2, false)), [1, 2]);
    assert!(ids(&q.take(A, Way::Node(&minion), 2, 2, false)).is_empty());
    q.reported(&minion, 1, What::Received, 3);
    q.ended("F.1");
    assert_eq!(ids(&q.take(A, Way::Node(&minion), 4, 2, false)), [3]);
}

#[test]
fn a_check_in_that_may_be_a_second_try_proves_nothing() {
    let late = 60_000_000;
    for (sent, written, now) in [
        (http([10; 16]), Some(1), late),
        (http([10; 16]), None, 2),
        (Reply::frame([10; 16]), Some(1), 2),
        // Its clock was set back.
        (http([10; 16]), Some(late), 2),
    ] {
        let mut q = Queue::default();
        q.push(flow(1), None, None);
        q.take(A, Way::Reply(sent), 1, 4, true);
        written.into_iter().for_each(|at| q.written([10; 16], at));
        q.checked_in(A, [11; 16], now);
        assert!(q.inflight().is_empty() && q.has_work(), "{sent:?}");
        let b = q.take(A, reply([11; 16]), late, 4, true);
        assert_eq!(b.messages[0].flow_stats_request.as_ref().unwrap().flow_id, ["F.1"]);
        assert_eq!(q.unknown("F.1", A), Verdict::Redeliver);
    }
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    q.take(A, Way::Reply(Reply::frame([10; 16])), 1, 4, true);
    q.frame_consumed(A, [10; 16], late);
    assert!(q.inflight().contains_key("F.1"));
}

#[test]
fn a_reply_that_is_given_up_leaves_what_another_one_carries() {
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    // The same request twice: the first connection broke while the right to
    // send was being stored.
    let (one, two) = (Reply::http([1; 16], [10; 16], 60), Reply::http([2; 16], [10; 16], 60));
    q.take(A, Way::Reply(one), 1, 4, true);
    q.checked_in(A, [10; 16], 2);
    assert_eq!(ids(&q.take(A, Way::Reply(two), 2, 4, true)), [1]);
    q.give_back(one.id);
    q.not_granted(&[1], Way::Reply(one));
    assert!(ids(&q.take(A, Way::Reply(two), 3, 4, true)).is_empty());
}

#[test]
fn a_right_that_did_not_become_durable_is_asked_for_again() {
    let p = ProcessId::new("m1", "1");
    for way in [reply([10; 16]), Way::Node(&p)] {
        let mut q = Queue::default();
        q.push(flow(1), None, None);
        q.take(A, way, 1, 4, true);
        q.not_granted(&[1], way);
        let b = q.take(A, way, 2, 4, true);
        assert_eq!((ids(&b), b.ungranted), (vec![1], vec![1]));
    }
}

#[test]
fn a_repeated_request_gets_its_reply_again() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.take(A, reply([10; 16]), 1, 4, true);
    q.checked_in(A, [10; 16], 2);
    assert_eq!(ids(&q.take(A, reply([10; 16]), 2, 4, true)), [1]);
}

#[test]
fn a_restarted_client_is_asked_and_never_given_it_twice() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.take(A, reply([10; 16]), 1, 4, true);
    q.checked_in(B, [20; 16], 2);
    let b = q.take(B, reply([20; 16]), 2, 4, true);
    assert_eq!(b.messages[0].flow_stats_request.as_ref().unwrap().flow_id, ["F.1"]);
    assert_eq!(q.unknown("F.1", B), Verdict::Lost);
    assert!(!q.has_work());
}

#[test]
fn after_our_restart_the_same_client_process_may_get_it_again() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted();
    let b = q.take(A, reply([10; 16]), 1, 4, true);
    assert!(b.messages[0].flow_stats_request.is_some() && b.messages.len() == 1);
    assert_eq!(q.unknown("F.1", A), Verdict::Redeliver);
    assert_eq!(ids(&q.take(A, reply([11; 16]), 2, 4, true)), [1]);
    // Rows came after all: the doubt is over.
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted();
    q.evidence("F.1", 5);
    assert!(q.inflight().contains_key("F.1"));
    assert_eq!(q.unknown("F.1", A), Verdict::NotAsked);
}

#[test]
fn what_came_before_a_restart_proves_receipt_when_it_is_read_back() {
    // As live: sent, heard of, and forgotten by the client.
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.evidence("F.1", 5);
    assert_eq!(q.unknown("F.1", A), Verdict::NotAsked);
    assert!(!q.has_work());
    // Never granted: nobody can have sent it.
    q.push(flow(2), None, None);
    q.evidence("F.2", 5);
    assert!(q.has_work());
}

#[test]
fn a_cancel_of_what_never_arrived_is_not_sent() {
    for by in [A, B] {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.doubt_granted();
        assert!(!q.withdraw("F.1").is_empty(), "it may have been sent");
        q.push(cancel(2, 1), Some([0; 16]), None);
        let b = q.take(by, reply([10; 16]), 1, 4, true);
        assert!(b.messages.len() == 1 && b.messages[0].flow_stats_request.is_some());
        assert_eq!(q.unknown("F.1", by), Verdict::Lost);
        assert!(q.take(by, reply([11; 16]), 2, 4, true).messages.is_empty());
    }
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted();
    q.push(cancel(2, 1), Some([0; 16]), None);
    q.forget("F.1");
    assert!(!q.has_work());
}

#[test]
fn a_question_in_a_reply_that_was_not_read_is_asked_again() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted();
    let asks = |b: Batch| b.messages.iter().any(|m| m.flow_stats_request.is_some());
    assert!(asks(q.take(A, reply([10; 16]), 1, 4, true)));
    assert!(!asks(q.take(A, reply([11; 16]), 2, 4, true)));
    q.give_back([10; 16]);
    assert!(asks(q.take(A, reply([12; 16]), 3, 4, true)));
    q.checked_in(A, [12; 16], 4);
    assert!(asks(q.take(A, reply([12; 16]), 5, 4, true)));
}

#[test]
fn a_question_that_another_frontend_did_not_put_is_asked_again() {
    let process = |epoch: &str| ProcessId { node: "minion".into(), epoch: epoch.into() };
    let (old, new) = (process("1"), process("2"));
    let asks = |b: Batch| b.messages.iter().any(|m| m.flow_stats_request.is_some());
    let lost: [&dyn Fn(&mut Queue); 3] = [
        // Its client had gone elsewhere.
        &|q| q.reported(&process("1"), 0, What::Back, 2),
        // Its stream broke, with what was in it.
        &|q| q.reconcile(&process("1"), &BTreeSet::new(), &BTreeSet::new()),
        &|q| q.process_gone(&process("1")),
    ];
    for lost in lost {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.doubt_granted();
        assert!(asks(q.take(A, Way::Node(&old), 1, 4, true)));
        assert_eq!(q.away(), BTreeSet::from([&old]), "it is asked for what it has");
        q.reported(&new, 0, What::Back, 2);
        assert!(!asks(q.take(A, Way::Node(&new), 2, 4, true)), "the first may still be read");
        lost(&mut q);
        assert!(asks(q.take(A, Way::Node(&new), 3, 4, true)));
    }
}

#[test]
fn a_second_answer_does_not_end_what_is_sent_again() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted();
    q.take(A, reply([10; 16]), 1, 4, true);
    assert_eq!(q.unknown("F.1", A), Verdict::Redeliver);
    assert_eq!(q.unknown("F.1", A), Verdict::Pending);
    sends(&mut q, [11; 16], 2);
    assert_eq!(q.unknown("F.1", A), Verdict::Pending);
    q.checked_in(A, [12; 16], 3);
    assert_eq!(q.unknown("F.1", A), Verdict::NotAsked);
}

#[test]
fn a_cancel_waits_for_proof_and_unsent_work_is_withdrawn() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    assert!(q.withdraw("F.1").is_empty(), "never sent: nothing to cancel");
    q.push(flow(2), Some(A), None);
    sends(&mut q, [10; 16], 1);
    assert!(q.withdraw("F.2").contains("F.2"));
    q.push(cancel(3, 2), Some(A), None);
    assert!(ids(&q.take(A, reply([10; 16]), 1, 4, true)).is_empty(), "not in doubt of receipt");
    q.checked_in(A, [11; 16], 2);
    assert_eq!(ids(&q.take(A, reply([11; 16]), 2, 4, true)), [3]);
}

#[test]
fn only_so_many_at_once_but_urgent_goes() {
    let mut q = Queue::default();
    for id in 1..=6 {
        q.push(flow(id), Some(A), None);
    }
    q.push(VeloMessage { urgent: true, ..flow(7) }, Some(A), None);
    assert_eq!(ids(&sends(&mut q, [1; 16], 1)), [1, 2, 3, 4, 7]);
    q.checked_in(A, [2; 16], 2);
    assert!(ids(&q.take(A, reply([2; 16]), 2, 4, true)).is_empty());
    q.ended("F.1");
    q.ended("F.7");
    assert_eq!(ids(&q.take(A, reply([2; 16]), 2, 4, true)), [5]);
}

#[test]
fn silence_is_asked_about_after_a_minute() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    sends(&mut q, [1; 16], 1);
    q.checked_in(A, [2; 16], 1);
    assert!(q.take(A, reply([2; 16]), ASK_AFTER, 4, true).messages.is_empty());
    assert_eq!(q.take(A, reply([2; 16]), ASK_AFTER + 2, 4, true).messages.len(), 1);
    assert!(q.take(A, reply([3; 16]), ASK_AFTER + 3, 4, true).messages.is_empty());
}

fn delegated() -> (Queue, ProcessId) {
    let (mut q, p) = (Queue::default(), ProcessId::new("m1", "1"));
    q.push(flow(1), None, None);
    let b = q.take(A, Way::Node(&p), 1, 4, true);
    assert_eq!((ids(&b), b.ungranted.clone()), (vec![1], vec![1]));
    q.granted(|id| id == 1, A, Some(&p));
    (q, p)
}

#[test]
fn what_another_process_has_is_its_to_send() {
    let (mut q, p) = delegated();
    assert_eq!(q.away().len(), 1);
    assert!(q.take(A, reply([1; 16]), 1, 4, true).messages.is_empty());
    // A check-in here proves nothing about what was given to others.
    q.checked_in(A, [2; 16], 2);
    q.checked_in(B, [3; 16], 2);
    assert_eq!(q.away().len(), 1);
    q.reported(&ProcessId::new("m2", "1"), 1, What::Back, 3);
    assert_eq!(q.away().len(), 1, "not theirs to give back");
    q.reported(&p, 1, What::Received, 3);
    assert!(q.inflight().contains_key("F.1") && q.away().is_empty());
}

#[test]
fn what_comes_back_is_granted_anew_and_what_is_in_doubt_is_asked_about() {
    let (mut q, p) = delegated();
    q.reported(&p, 1, What::Back, 3);
    let b = q.take(B, reply([1; 16]), 1, 4, true);
    assert_eq!((ids(&b), b.ungranted), (vec![1], vec![1]));
    let (mut q, p) = delegated();
    q.reported(&p, 1, What::Doubt, 3);
    let b = q.take(A, reply([1; 16]), 1, 4, true);
    assert!(ids(&b) == [0] && b.messages[0].flow_stats_request.is_some());
    assert_eq!(q.unknown("F.1", A), Verdict::Redeliver);
}

#[test]
fn a_broken_stream_loses_only_what_never_arrived() {
    let (mut q, p) = delegated();
    q.push(flow(2), None, None);
    q.take(A, Way::Node(&p), 1, 4, true);
    q.granted(|id| id == 2, A, Some(&p));
    q.reconcile(&p, &BTreeSet::new(), &BTreeSet::from([1, 2]));
    assert!(ids(&q.take(A, reply([1; 16]), 1, 4, true)).is_empty(), "reports follow");
    q.reconcile(&p, &BTreeSet::from([1]), &BTreeSet::new());
    assert_eq!(ids(&q.take(A, reply([1; 16]), 1, 4, true)), [2]);
    // After our restart what was granted is in doubt until its holder shows.
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    q.granted(|_| true, A, Some(&p));
    q.doubt_granted();
    q.reconcile(&p, &BTreeSet::from([1]), &BTreeSet::new());
    assert_eq!(q.away().len(), 1);
    q.process_gone(&p);
    assert!(q.away().is_empty() && q.has_work());
}

#[test]
fn a_cancelled_task_that_comes_back_is_never_sent() {
    let (mut q, p) = delegated();
    assert!(!q.withdraw("F.1").is_empty(), "somebody may have sent it");
    q.push(cancel(2, 1), Some([0; 16]), None);
    q.reported(&p, 1, What::Back, 3);
    assert!(!q.has_work() && q.take(A, reply([1; 16]), 1, 4, true).messages.is_empty());
}

fn left() -> (Queue, ProcessId, Arc<Segment>) {
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    assert_eq!(q.leave().len(), 1);
    (q, ProcessId::new("m1", "1"), Arc::new(Segment::of_path("/j")))
}

#[test]
fn what_lies_in_a_file_is_not_sent_before_it_is_taken_back() {
    let (mut q, p, pin) = left();
    assert!(q.take(A, reply([1; 16]), 1, 4, true).messages.is_empty());
    assert_eq!((q.in_files(None, false), q.in_files(None, true)), (vec![1], vec![]));
    q.claimed(&[1], &p, B, &pin, true);
    assert_eq!(q.in_files(Some("F.1"), true), [1]);
    assert!(q.in_files(Some("F.2"), true).is_empty());
    q.taken_back(1, true);
    // What reached for it then is too late.
    q.claimed(&[1], &p, B, &pin, true);
    assert_eq!(Arc::strong_count(&pin), 1);
    let b = q.take(A, reply([1; 16]), 1, 4, true);
    assert_eq!((ids(&b), b.ungranted), (vec![1], vec![1]));
}

#[test]
fn what_a_minion_took_is_its_to_send_and_its_record_stays() {
    let (mut q, p, pin) = left();
    assert!(!q.taken_by(1, &p, true), "its record has not come");
    q.claimed(&[1], &p, B, &pin, true);
    assert!(q.taken_by(1, &p, true) && q.in_files(None, false).is_empty());
    assert_eq!((q.away().len(), Arc::strong_count(&pin)), (1, 2));
    q.reported(&p, 1, What::Back, 3);
    assert!(q.gave_back(1, &p) && q.take(A, reply([1; 16]), 1, 4, true).messages.is_empty());
    assert_eq!(q.in_files(None, true), [1], "its file still says so");
    q.taken_back(1, false);
    assert_eq!(ids(&q.take(A, reply([1; 16]), 1, 4, true)), [1]);
    assert_eq!(Arc::strong_count(&pin), 1);
    // One that cannot be asked: the client is.
    let (mut q, p, pin) = left();
    q.claimed(&[1], &p, B, &pin, true);
    assert!(q.taken_by(1, &p, false));
    let b = q.take(B, reply([1; 16]), 1, 4, true);
    assert_eq!(ids(&b), [0]);
    assert_eq!(q.unknown("F.1", B), Verdict::Redeliver);
    assert!(q.take(B, reply([2; 16]), 1, 4, true).messages.is_empty());
    assert!(q.gave_back(1, &p));
    q.taken_back(1, false);
    assert_eq!(ids(&q.take(B, reply([2; 16]), 1, 4, true)), [1]);
    // Its word may come before its record.
    let (mut q, p, _) = left();
    q.reported(&p, 1, What::Received, 3);
    assert!(q.inflight().contains_key("F.1") && !q.has(1));
}

#[test]
fn after_recovery_files_say_who_was_quicker() {
    // A minion reached for it; then the master that had it handed it out.
    let recovered = |grant_last: bool| {
        let (mut q, p, pin) = (Queue::default(), ProcessId::new("m1", "1"), pinned());
        q.push(flow(1), None, None);
        if !grant_last {
            q.granted(|_| true, A, None);
        }
        q.claimed(&[1], &p, B, &pin, false);
        if grant_last {
            q.granted(|_| true, A, None);
        }
        q.doubt_granted();
        q.may_be_in_files();
        (q, p)
    };
    let (mut q, p) = recovered(true);
    assert_eq!(q.in_files(None, false), [1]);
    q.taken_back(1, false);
    assert!(ids(&q.take(A, reply([1; 16]), 1, 4, true)) == [0], "in doubt");
    assert!(!q.taken_by(1, &p, true));
    // It had come back to the master, was left in a file, and is a minion's.
    let (mut q, p) = recovered(false);
    assert!(q.taken_by(1, &p, true));
    assert_eq!(q.away().len(), 1);
    // Or nobody's: then nobody has sent it.
    let (mut q, _) = recovered(true);
    q.taken_back(1, true);
    assert_eq!(ids(&q.take(A, reply([1; 16]), 1, 4, true)), [1]);
}

fn pinned() -> Arc<Segment> {
    Arc::new(Segment::of_path("/j"))
}

#[test]
fn what_another_process_got_and_is_quiet_is_an_orphan() {
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    sends(&mut q, [10; 16], 1);
    q.checked_in(A, [11; 16], 2);
    let later = 2 + ASK_AFTER;
    assert!(q.orphans(A, later + 1).is_empty(), "the process that has it is there");
    assert!(q.orphans(B, later).is_empty(), "it may have ended and its end be on its way");
    assert_eq!(q.orphans(B, later + 1), ["F.1"]);
    q.evidence("F.1", later);
    assert!(q.orphans(B, later + 1).is_empty(), "something came of it");
    q.ended("F.1");
    assert!(q.orphans(B, u64::MAX).is_empty());
    // Read back from journals: granted, and something came.
    q.push(flow(2), Some(A), None);
    q.evidence("F.2", 5);
    assert_eq!(q.orphans(B, 6 + ASK_AFTER), ["F.2"]);
    // Of what is known from elsewhere nobody knows who works on it.
    q.working_on("F.3", 5);
    assert_eq!(q.orphans(B, 6 + ASK_AFTER), ["F.2"]);
}

fn run(id: u64, run: u64) -> VeloMessage {
    VeloMessage { session_id: format!("F.{id}/{run}"), urgent: true, ..flow(10 * id + run) }
}

#[test]
fn runs_of_one_flow_are_asked_about_proved_and_ended_each_by_itself() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.push(run(1, 1), Some(A), None);
    q.push(run(1, 2), Some(A), None);
    q.doubt_granted();
    let b = q.take(A, reply([10; 16]), 1, 4, true);
    let asked = &b.messages[0].flow_stats_request.as_ref().unwrap().flow_id;
    assert_eq!(asked, &["F.1", "F.1/1", "F.1/2"]);
    q.evidence("F.1", 5);
    assert_eq!(q.inflight().keys().collect::<Vec<_>>(), ["F.1"]);
    assert_eq!(q.unknown("F.1/2", A), Verdict::Redeliver);
    assert_eq!(q.unknown("F.1/1", B), Verdict::Lost);
    assert_eq!(ids(&q.take(A, reply([11; 16]), 6, 4, true)), [12]);
    q.evidence("F.1/2", 9);
    q.ended("F.1");
    assert_eq!((q.heard_of("F.1"), q.heard_of("F.10")), (Some(9), None));
    q.working_on("F.10", 3);
    q.settled("F.1");
    assert_eq!(q.inflight().keys().collect::<Vec<_>>(), ["F.10"], "its neighbour stays");
}

#[test]
fn a_cancel_tells_the_runs_that_a_client_may_have() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    sends(&mut q, [10; 16], 1);
    q.push(run(1, 1), None, None);
    q.working_on("F.1/0", 1);
    q.working_on("F.10", 1);
    assert_eq!(q.withdraw("F.1"), BTreeSet::from(["F.1".into(), "F.1/0".into()]));
    assert!(!q.has(11), "what was not sent is withdrawn");
}

#[test]
fn a_cancel_that_is_read_back_finds_its_flow_in_doubt() {
    // Granted, and sent for all that the journal knows; the cancel comes next.
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted_of("F.1");
    assert!(!q.withdraw("F.1").is_empty(), "its client may have it");
    q.push(cancel(2, 1), Some([0; 16]), None);
    q.doubt_granted();
    let b = q.take(A, reply([10; 16]), 1, 4, true);
    assert!(ids(&b) == [0] && b.messages[0].flow_stats_request.is_some());
    q.evidence("F.1", 5);
    assert_eq!(ids(&q.take(A, reply([11; 16]), 6, 4, true)), [2]);
    // Never granted: it is withdrawn, as it was then.
    let mut q = Queue::default();
    q.push(flow(1), None, None);
    q.doubt_granted_of("F.1");
    assert!(q.withdraw("F.1").is_empty() && !q.has_work());
}

#[test]
fn an_answer_that_was_stored_before_a_crash_counts_when_it_is_read_back() {
    // Sent under one right: it was asked about after that.
    for (by, verdict) in [(A, Verdict::Redeliver), (B, Verdict::Lost)] {
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        assert_eq!(q.unknown("F.1", by), verdict, "among the records that are read back");
        q.doubt_granted();
        assert!(ids(&q.take(A, reply([10; 16]), 1, 4, true)).iter().all(|id| *id == 1));
        let mut q = Queue::default();
        q.push(flow(1), Some(A), None);
        q.doubt_granted();
        assert_eq!(q.unknown("F.1", by), verdict, "after them");
    }
    // Cancelled: neither it nor its cancel goes out.
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.doubt_granted_of("F.1");
    q.withdraw("F.1");
    q.push(cancel(2, 1), Some([0; 16]), None);
    assert_eq!(q.unknown("F.1", A), Verdict::Lost);
    assert!(!q.has_work());
    // Sent once more after the answer: an answer may be about the first time.
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    q.unknown("F.1", A);
    q.granted(|_| true, A, None);
    assert_eq!(q.unknown("F.1", A), Verdict::Pending);
    q.granted(|_| true, B, None);
    q.doubt_granted();
    assert_eq!(q.unknown("F.1", A), Verdict::Pending, "an earlier process of the client");
}

#[test]
fn what_is_sent_once_more_is_granted_once_more() {
    let mut q = Queue::default();
    q.push(flow(1), Some(A), None);
    assert!(q.take(A, reply([10; 16]), 1, 4, true).ungranted.is_empty());
    q.checked_in(A, [10; 16], 2);
    assert_eq!(q.take(A, reply([10; 16]), 2, 4, true).ungranted, [1]);
}

#[test]
fn a_cancel_of_which_nobody_knows_whether_it_came_goes_out_again() {
    let m = ProcessId::new("m1", "1");
    let works = || {
        let mut q = Queue::default();
        q.working_on("F.1", 1);
        q.push(cancel(2, 1), None, None);
        q
    };
    // The next check-in comes too late to show that the reply was read.
    let mut q = works();
    assert_eq!(ids(&sends(&mut q, [10; 16], 1)), [2]);
    q.checked_in(A, [11; 16], 60_000_001);
    assert!(ids(&sends(&mut q, [11; 16], 60_000_002)).contains(&2));
    q.checked_in(A, [12; 16], 60_000_003);
    assert!(!q.has(2), "it came");
    // Another process of the client is there.
    let mut q = works();
    sends(&mut q, [10; 16], 1);
    q.checked_in(B, [11; 16], 2);
    assert_eq!(ids(&q.take(B, reply([11; 16]), 3, 4, false)), [2]);
    // The minion that was to send it cannot say, or is gone.
    for gone in [true, false] {
        let mut q = works();
        assert_eq!(ids(&q.take(A, Way::Node(&m), 1, 4, false)), [2]);
        q.granted(|id| id == 2, A, Some(&m));
        match gone {
            true => q.process_gone(&m),
            false => q.reported(&m, 2, What::Doubt, 2),
        }
        assert_eq!(ids(&q.take(A, reply([11; 16]), 3, 4, false)), [2], "gone {gone}");
    }
}

#[test]
fn a_cancel_in_a_file_of_a_process_that_is_gone_goes_out_again() {
    let m = ProcessId::new("m1", "1");
    let mut q = Queue::default();
    q.working_on("F.1", 1);
    q.push(cancel(2, 1), None, None);
    assert_eq!(q.leave().len(), 1);
    q.claimed(&[2], &m, A, &pinned(), true);
    assert!(ids(&q.take(A, reply([10; 16]), 2, 4, false)).is_empty());
    assert!(q.taken_by(2, &m, false));
    assert!(q.in_files(None, false).is_empty());
    assert_eq!(ids(&q.take(A, reply([10; 16]), 3, 4, false)), [2]);
}
