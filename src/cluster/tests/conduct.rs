//! Streams that end, come again, and take each other's place.

use super::*;

/// Distance in the log.
fn at(log: &[String], line: &str, nth: usize) -> usize {
    let mut found = log.iter().enumerate().filter(|(_, l)| l.starts_with(line));
    found.nth(nth).unwrap_or_else(|| panic!("no {line} {nth} in {log:?}")).0
}

#[tokio::test(start_paused = true)]
async fn a_new_master_gets_what_is_not_acknowledged_again() {
    let mut lab = Lab::new(Limits::default()).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    a.uplink.reports(vec![report(1)]);
    until("acknowledged", || a.uplink.owed() == (0, 0)).await;
    lab.master.open.send_replace(false);
    a.uplink.reports(vec![report(2)]);
    until("received", || lab.master.count("report a/1 2") == 1).await;
    a.uplink.reports(vec![report(3)]);
    let old = lab.master.clone();
    lab.stop.cancel();
    until("ended", || !a.uplink.connected()).await;
    assert_eq!(old.count("gone"), 0, "what has begun is finished first");
    assert_eq!(a.uplink.records(records(1)), Err(NotSent::Gone));
    a.uplink.reports(vec![report(4)]);
    lab.start_master().await;
    until("all of it", || lab.master.count("report a/1 4") == 1).await;
    let mut log = lab.master.log();
    log.retain(|l| l.starts_with("report"));
    assert_eq!(log, ["report a/1 2", "report a/1 3", "report a/1 4"]);
    old.open.send_replace(true);
    until("gone from the old one", || old.count("gone") == 1).await;
    assert_eq!((a.side.count("welcome"), a.side.count("gone")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn one_process_that_comes_again_takes_its_own_place() {
    let lab = Lab::new(Limits::default()).await;
    let first = lab.minion("a", "1");
    first.connected().await;
    lab.master.open.send_replace(false);
    first.uplink.reports(vec![report(1)]);
    until("received", || lab.master.count("report a/1 1") == 1).await;
    // A second link of the same process: as after a break that only one side noticed.
    let again = lab.minion("a", "1");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.master.count("hello"), 1, "not before the older one is over");
    first.stop.cancel();
    lab.master.open.send_replace(true);
    again.connected().await;
    let log = lab.master.log();
    assert!(at(&log, "done a/1", 0) < at(&log, "gone a/1", 0), "{log:?}");
    assert!(at(&log, "gone a/1", 0) < at(&log, "hello a/1", 1), "{log:?}");
    again.uplink.reports(vec![report(8), report(9)]);
    until("repeats are known", || again.uplink.owed() == (0, 0)).await;
    // Its numbers begin at 1, as those of the other link did: the master has had 1.
    assert_eq!(lab.master.count("report a/1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_twin_is_refused_and_a_successor_is_not() {
    let lab = Lab::new(Limits::default()).await;
    let first = lab.minion("a", "1");
    first.connected().await;
    let twin = lab.minion("a", "2");
    let side = twin.side.clone();
    let refusal = twin.over().await.expect("it is told to end");
    assert!(refusal.permanent);
    assert!(
        refusal.reason.contains("another process of node a is connected (epoch 1, from"),
        "{}",
        refusal.reason
    );
    assert_eq!(side.count("refused true another process"), 1);
    assert_eq!(side.count("welcome"), 0);
    assert!(first.uplink.connected());
    assert_eq!(lab.master.count("a/2"), 0, "the services hear nothing of it");
    first.stop.cancel();
    first.over().await;
    let next = lab.minion("a", "2");
    next.connected().await;
    let log = lab.master.log();
    assert!(at(&log, "gone a/1", 0) < at(&log, "hello a/2", 0), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_services() {
    let lab = Lab::new(Limits::default()).await;
    let wait = Refused { reason: "still reading journals".into(), permanent: false };
    *lab.master.refuse.lock().unwrap() = Some(wait);
    let a = lab.minion("a", "1");
    sleep(Duration::from_secs(60)).await;
    let tries = lab.master.count("refused a/1");
    // 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, then every 5 s, or half of each.
    assert!((15..=30).contains(&tries), "{tries}");
    assert_eq!(a.side.count("refused false still reading journals"), tries);
    assert_eq!(a.side.count("gone"), 0);
    assert!(
        matches!(a.uplink.status(), LinkStatus::Down { why, .. } if why.contains("still reading"))
    );
    *lab.master.refuse.lock().unwrap() = None;
    a.connected().await;

    let never = Refused { reason: "this node was removed".into(), permanent: true };
    lab.master.out("a").close(never.clone());
    assert_eq!(a.over().await, Some(never));
    until("gone", || lab.master.count("gone a/1") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_minion_need_not_obey() {
    let lab = Lab::new(Limits::default()).await;
    let a = lab.minion("a", "1");
    *a.side.obeys.lock().unwrap() = Err("term 3 has been here".into());
    until("tried", || lab.master.count("gone a/1") >= 2).await;
    assert!(!a.uplink.connected());
    assert!(matches!(a.uplink.status(), LinkStatus::Down { why, .. } if why.contains("term 3")));
    assert_eq!(a.side.count("gone"), 0, "it was never up");
    *a.side.obeys.lock().unwrap() = Ok(());
    a.connected().await;
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_certificate_ends_the_stream_within_a_beat() {
    let lab = Lab::new(Limits::default()).await;
    let (a, b) = (lab.minion("a", "1"), lab.minion("b", "1"));
    a.connected().await;
    b.connected().await;
    let before = tokio::time::Instant::now();
    lab.revoked.send_replace(Revocations::parse(&["a"]).unwrap());
    until("ended", || lab.master.count("gone a/1") == 1).await;
    assert!(before.elapsed() < Duration::from_millis(1100), "{:?}", before.elapsed());
    let r = a.over().await.unwrap();
    assert!(r.permanent && r.reason.contains("has been revoked"), "{}", r.reason);
    assert!(b.uplink.connected());
    let again = lab.minion("a", "2").over().await.unwrap();
    assert!(again.permanent && again.reason.contains("has been revoked"), "{}", again.reason);
    assert_eq!(lab.master.count("a/2"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_stops_waits_for_its_streams() {
    let lab = Lab::new(Limits::default()).await;
    let a = lab.minion("a", "1");
    a.connected().await;
    lab.stop.cancel();
    timeout(Duration::from_secs(30), lab.fleet.stopped()).await.unwrap();
    assert_eq!(lab.master.count("gone a/1"), 1);
    until("noticed", || a.side.count("gone") == 1).await;
    assert!(!a.run.is_finished(), "it goes on trying");
}
