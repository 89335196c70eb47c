//! What arrives, in which order, and what happens when one side is slow.

use super::*;

#[tokio::test(start_paused = true)]
async fn both_directions_in_order() {
    let lab = Lab::new(Limits::default()).await;
    let a = lab.minion("a", "1");
    *a.side.readers.lock().unwrap() = (0..2500).map(session).collect();
    a.uplink.sessions((0..1500).map(session).collect());
    a.uplink.reports(vec![report(1), report(2)]);
    assert_eq!(a.uplink.records(records(1)), Err(NotSent::Gone), "there is no stream yet");
    a.connected().await;
    until("reports", || lab.master.count("report a/1") == 2).await;
    a.uplink.records(records(500)).unwrap();
    until("records", || lab.master.count("records a/1 500") == 1).await;
    let log: Vec<String> =
        lab.master.log().into_iter().filter(|l| !l.starts_with("beat")).collect();
    assert_eq!(log[..4], ["hello a/1 2500", "list a/1 1000", "list a/1 1000", "list a/1 500"]);
    assert_eq!(log[4], "session a/1 0");
    assert_eq!(log[1503], "session a/1 1499");
    assert_eq!(log[1504..], ["report a/1 1", "report a/1 2", "done a/1", "records a/1 500"]);
    until("acknowledged", || a.uplink.owed() == (0, 0)).await;

    let out = lab.master.out("a");
    for i in 0..100 {
        out.send(tasks(&format!("C.{i}"))).await.unwrap();
    }
    out.applied(Position { file: 1, offset: 5 }).unwrap();
    until("tasks", || a.side.count("tasks") == 100 && a.side.count("applied") == 1).await;
    let got: Vec<String> = a.side.log().into_iter().filter(|l| l.starts_with("tasks")).collect();
    assert_eq!(got, (0..100).map(|i| format!("tasks C.{i}")).collect::<Vec<_>>());

    until("lag", || lab.fleet.streams()[0].lag < 5 && lab.master.count("beat a/1") > 3).await;
    let text = metrics::master(&lab.fleet);
    assert!(text.contains("velociraptor_link_streams 1\n"), "{text}");
    assert!(text.contains("velociraptor_link_silence_seconds{node=\"a\"} "), "{text}");
    let text = metrics::minion(&a.uplink);
    assert!(text.contains("velociraptor_link_up 1\n"), "{text}");

    a.stop.cancel();
    assert_eq!(a.over().await, None);
    until("gone", || lab.master.count("gone a/1") == 1).await;
    assert!(lab.fleet.streams().is_empty());
    assert_eq!(out.send(tasks("late")).await, Err(NotSent::Gone));
    assert_eq!(out.applied(Position::default()), Err(NotSent::Gone));
}

#[tokio::test(start_paused = true)]
async fn of_several_positions_the_last_is_told() {
    let lab = Lab::new(Limits::default()).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    let out = lab.master.out("a");
    // No await in between: the writer has no turn.
    for offset in 1..=50 {
        out.applied(Position { file: 1, offset }).unwrap();
    }
    until("told", || a.side.count("applied 50") == 1).await;
    assert_eq!(a.side.count("applied"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_master_holds_records_back_and_keeps_the_stream() {
    let limits = Limits { queue_bytes: 4 << 20, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    lab.master.open.send_replace(false);
    let mut taken = 0;
    // Its queue, the queue of the master, and what the wire holds.
    while a.uplink.records(records(1 << 20)).is_ok() {
        taken += 1;
        sleep(Duration::from_millis(50)).await;
        assert!(taken < 30, "bounded");
    }
    assert!(taken >= 8, "{taken}");
    assert_eq!(a.uplink.records(records(1 << 20)), Err(NotSent::Full));
    a.uplink.reports(vec![report(1)]);
    // Much longer than the silence that would end a stream.
    sleep(Duration::from_secs(120)).await;
    assert!(a.uplink.connected());
    assert_eq!(lab.master.count("gone"), 0);
    assert!(a.uplink.silence().unwrap() <= Duration::from_millis(1100), "beats come");
    lab.master.open.send_replace(true);
    until("the report", || lab.master.count("done a/1") == 1).await;
    assert_eq!(lab.master.count("records"), taken, "what was taken has come");
    assert!(a.uplink.records(records(1)).is_ok());
    assert_eq!(a.side.count("hello"), 1, "over one stream");
}

#[tokio::test(start_paused = true)]
async fn a_minion_that_does_not_read_delays_nobody_and_loses_its_stream() {
    let limits = Limits { queue_bytes: 1 << 20, queue_frames: 8, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let (a, b) = (lab.minion("a", "1"), lab.minion("b", "1"));
    a.connected().await;
    b.connected().await;
    a.side.open.send_replace(false);
    let out = lab.master.out("a");
    let mut taken = 0;
    loop {
        match out.try_send(bulk(1 << 20)) {
            Ok(()) => taken += 1,
            Err(NotSent::Full) if taken > 12 => break,
            Err(e) => assert_eq!(e, NotSent::Full),
        }
        sleep(Duration::from_millis(20)).await;
        if out.is_closed() {
            break;
        }
        lab.master.out("b").send(tasks("C.1")).await.unwrap();
    }
    assert!(taken > 0);
    let waiting = tokio::spawn({
        let out = out.clone();
        async move { out.send(bulk(1 << 20)).await }
    });
    let sent = b.side.count("tasks");
    lab.master.out("b").send(tasks("C.2")).await.unwrap();
    until("b is served", || b.side.count("tasks") > sent).await;
    assert_eq!(waiting.await.unwrap(), Err(NotSent::Gone), "whoever waits is told");
    until("its stream ends", || lab.master.count("gone a/1") == 1).await;
    assert_eq!(lab.fleet.counters().stalled.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(lab.master.count("gone b/1"), 0);
    // What it had begun is finished before it introduces itself again.
    assert_eq!(a.side.count("hello"), 1);
    a.side.open.send_replace(true);
    until("it comes back", || lab.master.count("hello a/1") == 2).await;
}

#[tokio::test(start_paused = true)]
async fn too_many_session_changes_make_a_new_list() {
    let limits = Limits { session_backlog: 10, window_frames: 2, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    lab.master.open.send_replace(false);
    a.uplink.reports(vec![report(1)]);
    a.uplink.sessions((0..6).map(session).collect());
    sleep(Duration::from_millis(100)).await;
    *a.side.readers.lock().unwrap() = vec![session(77)];
    a.uplink.sessions((6..12).map(session).collect());
    a.uplink.reports(vec![report(2)]);
    until("the stream ends", || a.side.count("gone") == 1).await;
    lab.master.open.send_replace(true);
    until("reports", || lab.master.count("report a/1 2") == 1).await;
    assert_eq!(lab.master.count("report a/1 1"), 1, "the master has had it");
    assert_eq!(lab.master.count("hello a/1 1"), 1, "a list of one");
    let log = lab.master.log();
    let at = log.iter().position(|l| l == "list a/1 1").unwrap();
    assert!(!log[at..].iter().any(|l| l.starts_with("session")), "nothing undoes the list");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_can_never_pass_is_named() {
    let limits = Limits { frame_bytes: 2 << 20, queue_bytes: 1 << 20, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    let out = lab.master.out("a");
    let big = |n| matches!(n, Err(NotSent::TooLarge { limit: 0x20_0000, .. }));
    assert!(big(out.send(bulk(2 << 20)).await));
    assert!(big(out.try_send(bulk(2 << 20))));
    assert!(big(a.uplink.records(records(2 << 20))));
    // Over the queue's bytes, under the frame's: it passes alone.
    out.send(bulk((2 << 20) - 100)).await.unwrap();
    a.uplink.records(records((2 << 20) - 100)).unwrap();
    until("both", || lab.master.count("records") == 1 && a.side.count("tasks bulk") == 1).await;
    assert_eq!(lab.master.count("gone"), 0);
}

#[tokio::test(start_paused = true)]
async fn beats_between_the_parts_of_a_list_lose_none() {
    let limits = Limits { queue_frames: 1, ..Limits::default() };
    let lab = Lab::new(limits).await;
    *lab.master.takes.lock().unwrap() = Duration::from_millis(300);
    let a = lab.minion("a", "1");
    // More than the wire holds, so that it takes many beats to send.
    let large = |id| SessionChange { user_agent: "x".repeat(2000), ..session(id) };
    *a.side.readers.lock().unwrap() = (0..10_000).map(large).collect();
    a.connected().await;
    a.uplink.reports(vec![report(1)]);
    until("what follows the list", || lab.master.count("report a/1 1") == 1).await;
    let log = lab.master.log();
    let parts = log.iter().filter_map(|l| l.strip_prefix("list a/1 "));
    assert_eq!(parts.map(|n| n.parse::<usize>().unwrap()).sum::<usize>(), 10_000);
    assert_eq!(a.side.count("hello"), 1);
    let first = log.iter().position(|l| l.starts_with("list")).unwrap();
    let last = log.iter().rposition(|l| l.starts_with("list")).unwrap();
    assert!(log[first..last].iter().any(|l| l.starts_with("beat")), "beats were in between");
}

#[tokio::test(start_paused = true)]
async fn neither_kind_of_frame_starves_the_other() {
    let lab = Lab::new(Limits::default()).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    let out = lab.master.out("a");
    // Everything is there before the other side has a turn: half of either comes early.
    for i in 0..200 {
        a.uplink.records(records(1)).unwrap();
        a.uplink.reports((0..1000).map(|n| report(i * 1000 + n)).collect());
        out.try_send(tasks("C.1")).unwrap();
    }
    until("all", || lab.master.count("records") == 200 && a.uplink.owed() == (0, 0)).await;
    until("all tasks", || a.side.count("tasks") == 200).await;
    let log = lab.master.log();
    let kinds: Vec<bool> = log
        .iter()
        .filter(|l| l.starts_with("records") || l.starts_with("done"))
        .map(|l| l.starts_with("records"))
        .collect();
    assert_eq!(kinds.len(), 400, "a frame holds 1000 reports");
    let records = kinds[..100].iter().filter(|r| **r).count();
    assert!((20..=80).contains(&records), "{records} of the first 100");
}
