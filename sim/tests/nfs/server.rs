//! The server fails: full, read-only, broken, restarted, silent.

use super::*;
use sim::nfs::{Effect, Rule};

async fn new_file(fs: &Fs, path: &str, data: &str) -> Box<dyn File> {
    let f = fs.open(path, Open::CreateNew).await.unwrap();
    write(&*f, 0, data).await;
    f
}

#[tokio::test(start_paused = true)]
async fn a_full_server_is_told_by_sync_once_and_the_bytes_are_gone() {
    let (nas, a, _) = two(MountOptions::default());
    nas.set_capacity(Some(10));
    let f = new_file(&a, "/f", "0123456789").await;
    f.sync().await.unwrap();
    write(&*f, 10, "more").await;
    let e = f.sync().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::StorageFull);
    assert!(e.to_string().contains("/f"), "{e}");
    f.sync().await.expect("told once: syncing again is a lie");
    nas.set_capacity(None);
    f.sync().await.unwrap();
    f.close().await.unwrap();
    assert_eq!(nas.read("/f").unwrap(), b"0123456789", "the pages were dropped");
    assert_eq!(text(&a, "/f").await.unwrap(), "0123456789");
}

#[tokio::test(start_paused = true)]
async fn the_server_fills_up_in_the_middle_of_a_sync() {
    let (nas, a, _) = two(MountOptions { wsize: 4096, ..MountOptions::default() });
    nas.set_capacity(Some(10_000));
    assert_eq!(a.free_space("/").await.unwrap(), 10_000);
    let f = new_file(&a, "/f", &"x".repeat(20_000)).await;
    assert_eq!(f.sync().await.unwrap_err().kind(), ErrorKind::StorageFull);
    let at = nas.read("/f").unwrap();
    assert!(!at.is_empty() && at.len() < 20_000, "part of it landed: {}", at.len());
    assert!(a.free_space("/").await.unwrap() < 10_000);
    a.remove("/f").await.unwrap();
    f.close().await.unwrap();
    secs(1.0).await;
    assert_eq!(a.free_space("/").await.unwrap(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_told_to_every_handle_of_the_file() {
    let (nas, a, _) = two(MountOptions::default());
    let f = new_file(&a, "/f", "x").await;
    let g = a.open("/f", Open::Read).await.unwrap();
    nas.inject(Rule::next("a", Kind::Write, Effect::Fail(ErrorKind::Other)));
    let e = f.sync().await.unwrap_err();
    assert!(e.to_string().contains("input/output error"), "{e}");
    g.sync().await.unwrap_err();
    f.sync().await.unwrap();
    let later = a.open("/f", Open::Read).await.unwrap();
    later.sync().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_nobody_was_told_of_waits_for_the_next_to_open() {
    let (nas, a, _) = two(MountOptions::default());
    nas.inject(Rule::next("a", Kind::Write, Effect::Fail(ErrorKind::Other)));
    let f = new_file(&a, "/f", "x").await;
    f.close().await.expect("close does not tell");
    let g = a.open("/f", Open::Read).await.unwrap();
    g.sync().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_read_only_server_refuses_changes() {
    let (nas, a, _) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    nas.set_read_only(true);
    let e = a.open("/g", Open::CreateNew).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ReadOnlyFilesystem);
    let f = a.open("/f", Open::Write).await.unwrap();
    write(&*f, 0, "y").await;
    assert_eq!(f.sync().await.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(a.remove("/f").await.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(text(&a, "/f").await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn what_a_restarted_server_had_in_memory_is_sent_again() {
    let (nas, a, _) = two(MountOptions { wsize: 4096, ..MountOptions::default() });
    let big = "x".repeat(40_000);
    let f = new_file(&a, "/f", &big).await;
    // The WRITEs are answered, the COMMIT waits.
    nas.inject(Rule::next("a", Kind::Commit, Effect::Delay(Duration::from_secs(5))));
    let sync = tokio::spawn(async move { f.sync().await });
    secs(1.0).await;
    assert_eq!(nas.read("/f").unwrap().len(), 40_000);
    nas.power_off();
    secs(1.0).await;
    nas.power_on();
    assert_ne!(nas.read("/f").unwrap(), big.as_bytes(), "memory was lost");
    sync.await.unwrap().unwrap();
    assert_eq!(nas.read("/f").unwrap(), big.as_bytes());
    assert!(nas.seen()["written again after a server restart"] >= 1);
}

#[tokio::test(start_paused = true)]
async fn server_and_host_lose_power_together_and_unsynced_bytes_are_gone() {
    let (nas, a, _) = two(MountOptions { wsize: 4096, ..MountOptions::default() });
    let f = new_file(&a, "/f", "one").await;
    f.sync().await.unwrap();
    write(&*f, 4096, &"x".repeat(40_000)).await;
    nas.inject(Rule::next("a", Kind::Commit, Effect::Delay(Duration::from_secs(5))));
    let sync = tokio::spawn(async move { f.sync().await });
    secs(1.0).await;
    nas.crash_host("a");
    nas.power_off();
    nas.power_on();
    let left = nas.read("/f").unwrap();
    assert!(left.starts_with(b"one"), "what was committed stays");
    assert_ne!(left.iter().filter(|b| **b == b'x').count(), 40_000);
    secs(60.0).await;
    assert!(!sync.is_finished(), "the process is gone with its host: nobody is told");
}

#[tokio::test(start_paused = true)]
async fn an_async_export_loses_what_it_had_acknowledged() {
    let options = ServerOptions { async_export: true, ..ServerOptions::default() };
    let mut lost = 0;
    for seed in 0..20 {
        let nas = FileServer::on_tokio(seed, options.clone());
        let a = nas.mount("a", MountOptions::default());
        create(&a, "/f", "synced").await;
        nas.power_off();
        nas.power_on();
        lost += usize::from(nas.read("/f").as_deref() != Some(b"synced"));
    }
    assert!(lost > 0);
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_stalled_server_wait_and_are_answered() {
    let (nas, a, _) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    nas.stall(true);
    let read = tokio::spawn(async move { text(&a, "/f").await });
    secs(300.0).await;
    assert!(!read.is_finished(), "a hard mount waits");
    nas.stall(false);
    assert_eq!(read.await.unwrap().unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_server_that_is_down_are_sent_again() {
    let (nas, a, _) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    nas.power_off();
    let link = tokio::spawn({
        let a = a.clone();
        async move { a.link("/f", "/g").await }
    });
    secs(60.0).await;
    assert!(!link.is_finished());
    nas.power_on();
    link.await.unwrap().unwrap();
    assert_eq!(nas.names(), ["/f", "/g"]);
    assert!(nas.seen()["call sent again"] >= 1);
}

#[tokio::test(start_paused = true)]
async fn opens_wait_for_the_grace_period_after_a_restart() {
    let grace = Duration::from_secs(20);
    let nas = FileServer::on_tokio(1, ServerOptions { grace, ..ServerOptions::default() });
    let a = nas.mount("a", MountOptions::default());
    create(&a, "/f", "x").await;
    nas.power_off();
    nas.power_on();
    let start = tokio::time::Instant::now();
    assert!(exists(&a, "/f").await);
    assert!(start.elapsed() < Duration::from_secs(1));
    text(&a, "/f").await.unwrap();
    assert!(start.elapsed() >= grace);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_mount_takes_all_slots_of_a_process() {
    let (nas, a, _) = two(MountOptions { slots: 2, ..MountOptions::kernel() });
    create(&a, "/f", "x").await;
    nas.stall(true);
    for _ in 0..2 {
        let given_up = tokio::time::timeout(Duration::from_millis(100), a.stat("/none")).await;
        assert!(given_up.is_err());
    }
    let other = nas.mount("a", MountOptions::default());
    let f = tokio::spawn(async move { a.stat("/f").await });
    secs(0.1).await;
    assert!(!f.is_finished(), "both slots are taken by calls that were given up");
    let theirs = tokio::time::timeout(Duration::from_millis(1), other.stat("/f")).await;
    assert_eq!(theirs.expect("another process has its own slots").unwrap().len, 1);
    nas.stall(false);
    f.await.unwrap().unwrap();
}
