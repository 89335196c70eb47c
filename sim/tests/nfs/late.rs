//! Replies that are lost, and calls that land when nobody expects them.

use super::*;
use sim::nfs::{Effect, Rule};

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_repeated_from_the_servers_memory() {
    let (nas, a, _) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    for kind in [Kind::Link, Kind::Rename, Kind::Remove, Kind::Create, Kind::MakeDir] {
        nas.inject(Rule::next("a", kind, Effect::LoseReply));
    }
    a.link("/f", "/g").await.unwrap();
    a.rename("/g", "/h").await.unwrap();
    a.remove("/h").await.unwrap();
    create(&a, "/d/i", "x").await;
    assert_eq!(nas.names(), ["/d/i", "/f"]);
    assert_eq!(nas.seen()["reply lost"], 5);
    assert_eq!(nas.seen()["call sent again"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_that_the_server_forgot_tells_success_as_failure() {
    let (nas, a, _) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    let forget = |kind| nas.inject(Rule::next("a", kind, Effect::LoseReplyAndForget));
    forget(Kind::Link);
    assert_eq!(a.link("/f", "/g").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(a.stat("/f").await.unwrap().inode, a.stat("/g").await.unwrap().inode);
    forget(Kind::Rename);
    assert_eq!(a.rename("/g", "/h").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(text(&a, "/h").await.unwrap(), "x");
    forget(Kind::Create);
    let e = a.open("/i", Open::CreateNew).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
    assert_eq!(nas.read("/i").unwrap(), b"");
    forget(Kind::Remove);
    assert_eq!(a.remove("/h").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(nas.names(), ["/f", "/i"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_lands_later() {
    let (nas, a, _) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    nas.stall(true);
    let given_up = tokio::time::timeout(Duration::from_secs(20), a.rename("/f", "/g")).await;
    assert!(given_up.is_err());
    assert_eq!(nas.names(), ["/f"]);
    nas.stall(false);
    secs(1.0).await;
    assert_eq!(nas.names(), ["/g"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_and_a_rename_land_after_their_host_was_cut_off() {
    let (nas, a, b) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    let w = a.open("/w", Open::CreateNew).await.unwrap();
    write(&*w, 0, "late").await;
    let slow = Effect::Delay(Duration::from_secs(10));
    nas.inject(Rule::next("a", Kind::Rename, slow));
    nas.inject(Rule::next("a", Kind::Write, slow));
    let (a2, start) = (a.clone(), tokio::time::Instant::now());
    let rename = tokio::spawn(async move { a2.rename("/f", "/g").await });
    let sync = tokio::spawn(async move { w.sync().await });
    secs(1.0).await;
    nas.cut("a", true);
    assert_eq!(text(&b, "/f").await.unwrap(), "x");
    secs(11.0).await;
    assert!(!exists(&b, "/f").await);
    assert_eq!(text(&b, "/g").await.unwrap(), "x");
    assert_eq!(text(&b, "/w").await.unwrap(), "late");
    assert!(!rename.is_finished() && !sync.is_finished());
    nas.cut("a", false);
    rename.await.unwrap().expect("sent again, answered from the server's memory");
    sync.await.unwrap().unwrap();
    assert!(start.elapsed() > Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn a_call_lands_after_its_host_lost_power() {
    let (nas, a, b) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    nas.inject(Rule::next("a", Kind::Rename, Effect::Delay(Duration::from_secs(30))));
    tokio::spawn(async move { a.rename("/f", "/g").await });
    secs(1.0).await;
    nas.crash_host("a");
    secs(10.0).await;
    assert!(exists(&b, "/f").await);
    secs(20.0).await;
    assert!(exists(&b, "/g").await);
    assert_eq!(nas.seen()["call landed after its sender had gone"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_host_goes_on_with_old_beliefs() {
    let (nas, a, b) = two(MountOptions::kernel());
    create(&a, "/f", "old").await;
    let w = a.open("/w", Open::CreateNew).await.unwrap();
    write(&*w, 0, "in flight").await;
    let r = b.open("/f", Open::Read).await.unwrap();
    assert_eq!(contents(&*r).await.unwrap(), "old");
    nas.inject(Rule::next("a", Kind::Write, Effect::Delay(Duration::from_secs(5))));
    let sync = tokio::spawn(async move { w.sync().await });
    secs(1.0).await;
    nas.pause("a", true);
    secs(60.0).await;
    assert_eq!(nas.read("/w").unwrap(), b"in flight", "it was on its way");
    assert!(!sync.is_finished());
    nas.pause("a", false);
    sync.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn writes_of_one_sync_land_in_any_order() {
    let mut holes = 0;
    for seed in 0..30 {
        let nas = FileServer::on_tokio(seed, ServerOptions::default());
        let options = MountOptions { wsize: 4096, ..MountOptions::default() };
        let a = nas.mount("a", options);
        nas.link("a", |l| l.latency = Duration::from_millis(1)..Duration::from_millis(60));
        let f = a.open("/f", Open::CreateNew).await.unwrap();
        write(&*f, 0, &"x".repeat(40_000)).await;
        let sync = tokio::spawn(async move { f.sync().await });
        secs(0.015).await;
        holes += usize::from(nas.read("/f").unwrap().contains(&0));
        sync.await.unwrap().unwrap();
        assert_eq!(nas.read("/f").unwrap(), [b'x'; 40_000]);
    }
    assert!(holes > 0, "a later WRITE was never there before an earlier one");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_loses_calls_loses_no_work() {
    let (nas, a, _) = two(MountOptions { wsize: 4096, ..MountOptions::default() });
    nas.link("a", |l| {
        l.lose_request = 0.2;
        l.lose_reply = 0.2;
    });
    for n in 0..20 {
        create(&a, &format!("/d/{n}"), &"x".repeat(n * 700)).await;
        a.link(&format!("/d/{n}"), &format!("/e/{n}")).await.unwrap();
        a.remove(&format!("/d/{n}")).await.unwrap();
    }
    assert_eq!(nas.names().len(), 20);
    for n in 0..20 {
        assert_eq!(nas.read(&format!("/e/{n}")).unwrap().len(), n * 700);
    }
    assert!(nas.seen()["request lost"] > 5 && nas.seen()["reply lost"] > 5);
}
