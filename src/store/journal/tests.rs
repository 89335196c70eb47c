//! The journal written and read back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::journal::{Post, Record};

use super::*;
use crate::env::{Env, Open};

fn post(n: u64) -> Record {
    Record { kind: Some(Kind::Post(Post { received: n, ..Default::default() })) }
}

async fn journal(dir: &str, options: Options) -> (Env, Journal) {
    let env = crate::env::real::env();
    let epoch = take_epoch(&env, dir, "n1", b"").await.unwrap();
    let process = ProcessId::new("n1", epoch.name());
    let j = Journal::start(&env, dir, process, options, None).await.unwrap();
    (env, j)
}

async fn paths(env: &Env, dir: &str) -> Vec<String> {
    let all = list_processes(env, dir).await.unwrap();
    all.iter().flat_map(|l| l.paths(dir)).collect()
}

async fn read_back(env: &Env, dir: &str) -> (Vec<(u64, Bytes)>, Vec<TornTail>) {
    let (mut out, mut torn) = (Vec::new(), Vec::new());
    for p in paths(env, dir).await {
        let t = scan(&*env.fs, &p, |f| {
            let Some(Kind::Post(post)) = f.record.kind else { return };
            out.push((post.received, f.payload));
        });
        torn.extend(t.await.unwrap());
    }
    (out, torn)
}

#[tokio::test]
async fn what_is_committed_is_found_and_extents_read_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let options = Options { roll_bytes: 400, ..Default::default() };
    let (env, j) = journal(dir, options).await;
    let mut done = Vec::new();
    for n in 0..20u64 {
        let body = Bytes::from(vec![n as u8; 100]);
        done.push(j.commit(post(n), vec![body], vec![]).await.unwrap());
    }
    assert!(j.stats().files.load(Ordering::Relaxed) > 1, "rolled");
    for (n, c) in done.iter().enumerate() {
        let e = Extent { segment: c.segment.clone(), offset: c.payload, len: 100 };
        assert_eq!(e.read(&*env.fs).await.unwrap(), vec![n as u8; 100]);
    }
    let (found, torn) = read_back(&env, dir).await;
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(torn.is_empty());
}

#[tokio::test]
async fn a_torn_tail_is_told_and_ignored() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let (env, j) = journal(dir, Options::default()).await;
    for n in 0..3 {
        j.commit(post(n), vec![], vec![]).await.unwrap();
    }
    let path = paths(&env, dir).await.remove(0);
    let f = env.fs.open(&path, Open::Write).await.unwrap();
    let end = f.size().await.unwrap();
    f.write_at(end, Bytes::from_static(&[9, 0, 0, 0, 1, 2, 3])).await.unwrap();
    let (found, torn) = read_back(&env, dir).await;
    assert_eq!(found.len(), 3);
    assert_eq!((torn[0].offset, torn[0].ignored), (end, 7));
}

#[tokio::test]
async fn many_waiters_share_few_groups() {
    let tmp = tempfile::tempdir().unwrap();
    let (_env, j) = journal(tmp.path().to_str().unwrap(), Options::default()).await;
    let all: Vec<_> =
        (0..200).map(|n| j.commit(post(n), vec![Bytes::from_static(b"x")], vec![])).collect();
    for r in join_all(all).await {
        r.unwrap();
    }
    let groups = j.stats().groups.load(Ordering::Relaxed);
    assert!(groups < 100, "200 commits took {groups} groups");
}

#[tokio::test]
async fn epochs_are_never_shared() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let env = crate::env::real::env();
    let a = take_epoch(&env, dir, "n", b"").await.unwrap();
    let b = take_epoch(&env, dir, "n", b"").await.unwrap();
    assert!(a < b && a.number + 1 == b.number);
}

#[tokio::test]
async fn places_say_where_records_are_and_files_end() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let (env, j) = journal(dir, Options::default()).await;
    assert_eq!(j.end(), Position::START);
    let feed = j.subscribe(1 << 20);
    let a = j.commit(post(1), vec![Bytes::from_static(b"one")], vec![]).await.unwrap();
    assert_eq!((j.end(), a.segment.end()), (a.end, None));
    let next = j.roll().await.unwrap();
    assert_eq!((next, a.segment.end()), (Position::start_of(1), Some(a.end.offset)));
    assert_eq!(j.roll().await.unwrap(), next, "an empty file is not left");
    let b = j.commit(post(2), vec![Bytes::from_static(b"two")], vec![]).await.unwrap();
    assert_eq!((b.end.file, b.segment.file()), (1, Some(1)));
    assert_eq!(b.segment.process().node, "n1");
    // The feed has the files' own bytes.
    let (x, y) = (feed.next().await.unwrap(), feed.next().await.unwrap());
    assert_eq!((x.start, x.end, y.start, y.end), (Position::START, a.end, next, b.end));
    let file = env.fs.open(&b.segment.path, Open::Read).await.unwrap();
    assert_eq!(file.read_at(y.start.offset, 1 << 20).await.unwrap(), y.data);
    let segment = Arc::new(Segment::of_path("x"));
    let found = take_frame(&y.data, y.start.offset, &segment).unwrap().unwrap();
    assert_eq!((found.end, &found.payload[..]), (b.end.offset, &b"two"[..]));
    // From a place on.
    let c = j.commit(post(3), vec![], vec![]).await.unwrap();
    let mut from = Vec::new();
    scan_from(&*env.fs, &c.segment.path, b.end.offset, |f| from.push((f.start, f.end)))
        .await
        .unwrap();
    assert_eq!(from, [(b.end.offset, c.end.offset)]);
}

#[tokio::test]
async fn records_are_completed_in_file_order() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let env = crate::env::real::env();
    let n = std::sync::atomic::AtomicU64::new(0);
    let stamp: Stamp = Arc::new(move |r, first| {
        if let Some(Kind::Post(p)) = &mut r.kind {
            p.received = n.fetch_add(1, Ordering::Relaxed);
            p.remote_addr = first.to_string();
        }
    });
    let options = Options { roll_bytes: 200, ..Default::default() };
    let process = ProcessId::new("n", "00000001-x");
    let j = Journal::start(&env, dir, process, options, Some(stamp)).await.unwrap();
    join_all((0..20).map(|_| j.commit(post(99), vec![], vec![]))).await;
    j.commit(post(99), vec![], vec![]).await.unwrap();
    let (mut numbers, mut firsts) = (Vec::new(), 0);
    let all = paths(&env, dir).await;
    for p in &all {
        let mut first = true;
        scan(&*env.fs, p, |f| {
            let Some(Kind::Post(post)) = f.record.kind else { return };
            assert_eq!(post.remote_addr, first.to_string());
            firsts += usize::from(first);
            first = false;
            numbers.push(post.received);
        })
        .await
        .unwrap();
    }
    assert!(firsts == all.len() && firsts > 1);
    assert_eq!(numbers, (0..21).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_no_record_is_passed_over_when_its_length_is_certain() {
    let tmp = tempfile::tempdir().unwrap();
    let path = format!("{}/j", tmp.path().display());
    let env = crate::env::real::env();
    let mut file = BytesMut::from(&HEADER[..]);
    encode_frame(&mut file, &post(1), &[]);
    // A header that is no protobuf, under a right checksum.
    let body = [&4u32.to_le_bytes()[..], &[0xff; 4]].concat();
    file.extend_from_slice(&(body.len() as u32).to_le_bytes());
    file.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    file.extend_from_slice(&body);
    encode_frame(&mut file, &post(2), &[]);
    // A flipped bit, with a record after it.
    let at = file.len();
    encode_frame(&mut file, &post(3), &[Bytes::from(vec![7; 3 << 20])]);
    file[at + 40] ^= 1;
    encode_frame(&mut file, &post(4), &[]);
    // The same at the end: it could as well be the torn tail of a crash.
    let tail = file.len();
    encode_frame(&mut file, &post(5), &[]);
    file[tail + 14] ^= 1;
    crate::env::fs::create_synced(&*env.fs, &path, &file).await.unwrap();
    let mut r = Reader::open(&*env.fs, Arc::new(Segment::of_path(&path)), 0).await.unwrap();
    let mut seen = Vec::new();
    let torn = loop {
        match r.next().await.unwrap() {
            Next::Record(f) => match f.record.kind {
                Some(Kind::Post(p)) => seen.push(p.received.to_string()),
                k => panic!("{k:?}"),
            },
            Next::Poison { start, end, raw, .. } => {
                assert_eq!(raw.len() as u64, end - start);
                seen.push("poison".into());
            }
            Next::Torn(t) => break t,
            Next::End => panic!("the torn tail is told"),
        }
    };
    assert_eq!(seen, ["1", "poison", "2", "poison", "4"]);
    assert_eq!(torn.offset, tail as u64);
}

#[tokio::test]
async fn what_was_answered_as_failed_is_not_written_later() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let (env, j) = journal(dir, Options::default()).await;
    let abandoned = j.commit(post(1), vec![], vec![]);
    // Queued, and given up before the writer's turn.
    assert!(futures::FutureExt::now_or_never(abandoned).is_none());
    j.commit(post(2), vec![], vec![]).await.unwrap();
    let (found, _) = read_back(&env, dir).await;
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_file_that_lost_its_name_takes_nothing_more() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    let options = Options { verify_every: Duration::ZERO, ..Default::default() };
    let (env, j) = journal(dir, options).await;
    let a = j.commit(post(1), vec![], vec![]).await.unwrap();
    env.fs.remove(&a.segment.path).await.unwrap();
    let e = j.commit(post(2), vec![], vec![]).await.unwrap_err();
    assert!(e.to_string().contains("taken for dead"), "{e}");
    let b = j.commit(post(2), vec![], vec![]).await.unwrap();
    assert_eq!(b.end.file, 1);
    assert_eq!(read_back(&env, dir).await.0.len(), 1);
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // changes files behind its back
async fn many_extents_cost_one_opening_of_each_file() {
    let tmp = tempfile::tempdir().unwrap();
    let env = crate::env::real::env();
    let fs = crate::store::ops::CountingFs::new(env.fs.clone());
    let segments: Vec<Arc<Segment>> = (0..3)
        .map(|n| Arc::new(Segment::of_path(format!("{}/{n}", tmp.path().display()))))
        .collect();
    for s in &segments {
        std::fs::write(&s.path, "0123456789".repeat(100)).unwrap();
    }
    let extent =
        |n: u64| Extent { segment: segments[n as usize % 3].clone(), offset: n * 10, len: 10 };
    let mut journals = Extents::new(&fs);
    for n in 0..100 {
        assert_eq!(journals.read(&extent(n)).await.unwrap(), "0123456789");
    }
    assert_eq!(fs.counts().open, 3);
    // What was written since is there; what is not there is an error each time.
    let beyond = Extent { segment: segments[0].clone(), offset: 1000, len: 3 };
    for _ in 0..2 {
        let e = journals.read(&beyond).await.unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::UnexpectedEof);
    }
    std::fs::write(&segments[0].path, "0123456789".repeat(100) + "new").unwrap();
    assert_eq!(journals.read(&beyond).await.unwrap(), "new");
    assert_eq!(journals.read(&extent(0)).await.unwrap(), "0123456789");
}
