//! When bytes leave a host, and when another host sees them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_new_name_is_seen_while_the_file_is_empty() {
    let (_, a, b) = two(MountOptions::default());
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    write(&*f, 0, "hello").await;
    assert_eq!(text(&b, "/f").await.unwrap(), "");
    assert_eq!(contents(&*f).await.unwrap(), "hello", "the writer sees its own");
}

#[tokio::test(start_paused = true)]
async fn bytes_are_seen_by_who_opens_after_sync_or_close() {
    let (_, a, b) = two(MountOptions::kernel());
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    let early = b.open("/f", Open::Read).await.unwrap();
    for round in 0..5 {
        write(&*f, round, "x").await;
        if round % 2 == 0 {
            f.sync().await.unwrap();
            assert_eq!(text(&b, "/f").await.unwrap().len() as u64, round + 1);
        }
    }
    write(&*f, 5, "end").await;
    f.close().await.unwrap();
    assert_eq!(text(&b, "/f").await.unwrap(), "xxxxxend");
    secs(3.1).await;
    assert_eq!(contents(&*early).await.unwrap(), "xxxxxend", "an old handle, later");
}

#[tokio::test(start_paused = true)]
async fn an_old_handle_reads_old_bytes_while_attributes_are_believed() {
    // Version 4 asks after each READ, since it brings no access time.
    let (_, a, b) = two(MountOptions::kernel().v3());
    create(&a, "/f", "old").await;
    let f = b.open("/f", Open::Read).await.unwrap();
    assert_eq!(contents(&*f).await.unwrap(), "old");
    let w = a.open("/f", Open::Write).await.unwrap();
    write(&*w, 0, "new!").await;
    w.close().await.unwrap();
    assert_eq!(contents(&*f).await.unwrap(), "old");
    assert_eq!(text(&b, "/f").await.unwrap(), "new!", "close-to-open");
}

#[tokio::test(start_paused = true)]
async fn written_bytes_leave_after_half_a_minute_unasked() {
    let (nas, a, _) = two(MountOptions::default());
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    write(&*f, 0, "x").await;
    secs(29.0).await;
    assert_eq!(nas.read("/f").unwrap(), b"");
    secs(2.0).await;
    assert_eq!(nas.read("/f").unwrap(), b"x");
}

#[tokio::test(start_paused = true)]
async fn the_kernel_may_write_back_at_any_time() {
    let (nas, a, _) = two(MountOptions { early_write_back: 1.0, ..MountOptions::default() });
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    write(&*f, 0, "x").await;
    secs(0.5).await;
    assert_eq!(nas.read("/f").unwrap(), b"x");
}

#[tokio::test(start_paused = true)]
async fn an_open_file_that_is_dropped_is_sent_by_the_kernel() {
    let (nas, a, _) = two(MountOptions::default());
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    write(&*f, 0, "x").await;
    drop(f);
    secs(0.1).await;
    assert_eq!(nas.read("/f").unwrap(), b"x");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_loses_power_takes_what_it_had_not_sent() {
    let (nas, a, _) = two(MountOptions::default());
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    write(&*f, 0, "one").await;
    f.sync().await.unwrap();
    write(&*f, 3, "two").await;
    nas.crash_host("a");
    drop(f);
    secs(60.0).await;
    assert_eq!(nas.read("/f").unwrap(), b"one");
    assert_eq!(nas.seen().get("host lost unsent data"), Some(&1));
    let a = nas.mount("a", MountOptions::default());
    assert_eq!(text(&a, "/f").await.unwrap(), "one");
}

#[tokio::test(start_paused = true)]
async fn a_small_sync_costs_one_write_and_a_large_one_a_commit_more() {
    let (nas, a, _) = two(MountOptions { wsize: 8192, ..MountOptions::default() });
    let f = a.open("/f", Open::CreateNew).await.unwrap();
    write(&*f, 0, "small").await;
    f.sync().await.unwrap();
    assert_eq!((count(&nas, "a", Kind::Write), count(&nas, "a", Kind::Commit)), (1, 0));
    write(&*f, 0, &"x".repeat(20_000)).await;
    f.sync().await.unwrap();
    assert_eq!((count(&nas, "a", Kind::Write), count(&nas, "a", Kind::Commit)), (4, 1));
    f.sync().await.unwrap();
    assert_eq!(count(&nas, "a", Kind::Write), 4, "nothing to send");
    assert_eq!(count(&nas, "b", Kind::Write), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_of_several_calls_can_mix_old_and_new() {
    let (_, a, b) = two(MountOptions { rsize: 4096, ..MountOptions::kernel() });
    create(&a, "/f", &"a".repeat(40 * 4096)).await;
    let f = b.open("/f", Open::Read).await.unwrap();
    let (read, ()) = tokio::join!(contents(&*f), async {
        secs(0.03).await;
        let w = a.open("/f", Open::Write).await.unwrap();
        write(&*w, 0, &"b".repeat(40 * 4096)).await;
        w.close().await.unwrap();
    });
    let read = read.unwrap();
    let old = read.trim_end_matches('b');
    assert!(old.chars().all(|c| c == 'a'));
    assert!(!old.is_empty() && old.len() < read.len(), "{} of {}", old.len(), read.len());
}

#[tokio::test(start_paused = true)]
async fn two_hosts_writing_one_file_are_reported() {
    let (nas, a, b) = two(MountOptions::default());
    create(&a, "/f", "x").await;
    let _f = a.open("/f", Open::Write).await.unwrap();
    assert!(nas.faults().is_empty());
    let _g = b.open("/f", Open::Write).await.unwrap();
    assert_eq!(nas.faults().len(), 1);
    assert!(nas.faults()[0].contains("/f: open for writing by"), "{:?}", nas.faults());
}

#[tokio::test(start_paused = true)]
async fn a_write_under_a_final_name_is_reported() {
    let (nas, a, _) = two(MountOptions::default());
    nas.set_finished_names(|p| p.starts_with("/done/"));
    let f = a.open("/tmp/1", Open::CreateNew).await.unwrap();
    write(&*f, 0, "x").await;
    f.sync().await.unwrap();
    a.link("/tmp/1", "/done/1").await.unwrap();
    assert!(nas.faults().is_empty());
    write(&*f, 1, "y").await;
    assert_eq!(nas.faults().len(), 1);
}
