//! A flow stays open, and a task waits, while much passes: journals do not grow for
//! ever, and a crash at any write of what is done about it loses and doubles nothing.
#![allow(clippy::disallowed_methods)] // looks at files on disk

use std::path::Path;

use bytes::Bytes;
use velociraptor_proto::proto::*;

use super::tests::{NONCE, TestClient, World, done, interrogated, poll, post, rows, server};
use super::*;
use crate::comms::server::Answer;
use crate::services::acl::Policy;
use crate::services::flows::Rows;
use crate::services::{Options, Org};
use crate::store::faulty::Faulty;

/// Rows of each flow that passes, some 10 bytes each.
const PASSING: u64 = 6000;

/// Bytes of closed journals that are kept.
const KEEP: u64 = 256 << 10;

fn options() -> Options {
    let mut o = Options { keep_bytes: KEEP, ..Options::default() };
    o.journal.roll_bytes = 64 << 10;
    o
}

fn log(flow: &str, text: &str) -> VeloMessage {
    VeloMessage {
        session_id: flow.into(),
        log_message: Some(LogMessage {
            jsonl: format!("{{\"message\":\"{text}\"}}\n"),
            number_of_rows: 1,
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn take(c: &Clients, client: &TestClient, jobs: &[VeloMessage]) {
    assert_eq!(post(c, client.body(jobs)).await, Answer::Reply(Bytes::new()));
}

async fn collect(c: &Clients, client: &str) -> String {
    let (s, org) = server(c);
    let request = ArtifactCollectorArgs {
        client_id: client.into(),
        artifacts: vec!["Generic.Client.Info".into()],
        ..Default::default()
    };
    s.collect(&org, "me", &Policy::super_user(), request).await.unwrap().flow_id
}

/// A flow comes, ends, and is put into stock files.
async fn pass(c: &Clients, client: &TestClient, n: u64) {
    let flow = format!("F.T{n}");
    take(c, client, &[rows(&flow, "Custom.T", 0, PASSING), done(&flow, PASSING as i64)]).await;
    let (s, org) = server(c);
    let key = (client.id.clone(), flow);
    s.settle_flow(&org, &key).await.unwrap();
    assert!(!org.state().flows.contains_key(&key));
}

/// Bytes of journal files, and how many there are.
fn journals(dir: &Path) -> (u64, usize) {
    let (mut bytes, mut files) = (0, 0);
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        if e.path().is_dir() {
            let below = journals(&e.path());
            (bytes, files) = (bytes + below.0, files + below.1);
        } else if e.file_name().to_string_lossy().ends_with(".journal") {
            (bytes, files) = (bytes + e.metadata().unwrap().len(), files + 1);
        }
    }
    (bytes, files)
}

/// What keeps old journals.
struct Long {
    /// Sent to its client, which has sent some of it.
    client: TestClient,
    flow: String,
    /// A task of a client that does not come.
    away: TestClient,
    task: String,
}

async fn long(w: &World, c: &Clients) -> Long {
    let (client, away) = (TestClient::new(w, NONCE), TestClient::new(w, NONCE));
    interrogated(c, w, &client).await;
    interrogated(c, w, &away).await;
    let task = collect(c, &away.id).await;
    let flow = collect(c, &client.id).await;
    // Nobody is held: it is granted when the client comes.
    let tasks = poll(c, w, &client, 0).await;
    assert!(tasks.iter().any(|t| t.session_id == flow && t.flow_request.is_some()));
    take(c, &client, &[rows(&flow, "Custom.L", 0, 5), log(&flow, "first")]).await;
    let (s, org) = server(c);
    for who in [&client, &away] {
        let keys: Vec<_> = org.state().flows.keys().filter(|k| k.0 == who.id).cloned().collect();
        for key in keys.iter().filter(|k| k.1 != flow && k.1 != task) {
            s.settle_flow(&org, key).await.unwrap();
        }
    }
    s.snapshot_clients().await;
    Long { client, flow, away, task }
}

async fn all(s: &Server, org: &Org, l: &Long, which: &Rows) -> Vec<String> {
    let rows = s.rows(org, &l.client.id, &l.flow, which, 0, 1000).await.unwrap();
    rows.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect()
}

/// What is stored is what was sent, once: `rows` rows and `logs` of the long flow, and
/// `n` flows that passed.
async fn check(c: &Clients, l: &Long, rows: u64, logs: &[&str], n: u64) {
    let (s, org) = server(c);
    let (custom, passed) = (Rows::Results("Custom.L".into()), Rows::Results("Custom.T".into()));
    let want: Vec<String> = (0..rows).map(|i| format!("{{\"i\":{i}}}")).collect();
    assert_eq!(all(s, &org, l, &custom).await, want);
    let want: Vec<String> = logs.iter().map(|t| format!("{{\"message\":\"{t}\"}}")).collect();
    assert_eq!(all(s, &org, l, &Rows::Logs).await, want);
    for (client, flow) in [(&l.client, &l.flow), (&l.away, &l.task)] {
        let f = s.flow(&org, &client.id, flow).await.unwrap().unwrap();
        assert!(f.request.is_some() && f.status.is_empty(), "{f:?}");
    }
    for i in 0..n {
        let count = s.row_count(&org, &l.client.id, &format!("F.T{i}"), &passed).await.unwrap();
        assert_eq!(count, PASSING, "flow {i}");
    }
}

/// One pass of what the background does every few seconds.
async fn pass_of_housekeeping(s: &Server) {
    s.settle_early().await;
    s.collect_garbage().await;
}

#[tokio::test]
async fn what_lives_long_does_not_keep_what_passes() {
    let w = World::new();
    let c = w.start_with(options()).await;
    let l = long(&w, &c).await;
    let n = 60;
    let (s, org) = server(&c);
    let mut most = 0;
    for i in 0..n {
        pass(&c, &l.client, i).await;
        if i == n / 2 {
            take(&c, &l.client, &[rows(&l.flow, "Custom.L", 5, 5), log(&l.flow, "second")]).await;
        }
        s.snapshot_clients().await;
        pass_of_housekeeping(s).await;
        most = most.max(journals(w.dir.path()).0);
    }
    // What passed is some 65 KB each.
    println!("most bytes of journals: {most}, kept {KEEP}, passed {}", n * 65_000);
    assert!(most < 3 * KEEP && n * 60_000 > 13 * KEEP, "{most}");
    use std::sync::atomic::Ordering::Relaxed;
    assert_eq!(s.early.tasks.load(Relaxed), 1);
    assert!(s.early.flows.load(Relaxed) >= 3, "both, and one again after it went on");
    check(&c, &l, 10, &["first", "second"], n).await;
    assert!(org.state().clients.get(&l.client.id).unwrap().queue.inflight().contains_key(&l.flow));
    drop(c);

    // A restart finds the same, and does not give the client its task again; whoever
    // was away gets it once.
    let c = w.start_with(options()).await;
    check(&c, &l, 10, &["first", "second"], n).await;
    let again = poll(&c, &w, &l.client, 0).await;
    assert!(again.iter().all(|t| t.flow_request.is_none()), "{again:?}");
    let first = poll(&c, &w, &l.away, 0).await;
    let sent = |tasks: &[VeloMessage]| {
        tasks.iter().filter(|t| t.session_id == l.task && t.flow_request.is_some()).count()
    };
    assert_eq!(sent(&first), 1);
    take(&c, &l.client, &[rows(&l.flow, "Custom.L", 10, 5), log(&l.flow, "third")]).await;
    check(&c, &l, 15, &["first", "second", "third"], n).await;
    let (s, _) = server(&c);
    let org = s.root();
    s.cancel(&org, &l.client.id, &l.flow, "me").await.unwrap();
    take(&c, &l.client, &[done(&l.flow, 15)]).await;
    take(&c, &l.away, &[done(&l.task, 0)]).await;
    s.settle_all().await;
    assert!(
        s.tree
            .children(&crate::store::paths::Client { org: &org.id, id: &l.away.id }.tasks())
            .await
            .unwrap()
            .is_empty()
    );
    drop(c);
    let c = w.start_with(options()).await;
    let (s, org) = server(&c);
    assert_eq!(sent(&poll(&c, &w, &l.away, 0).await), 0);
    let f = s.flow(&org, &l.client.id, &l.flow).await.unwrap().unwrap();
    assert_eq!((f.status.as_str(), f.total_collected_rows), ("Cancelled by me", 15));
}

#[tokio::test]
async fn without_that_one_flow_keeps_everything() {
    let w = World::new();
    let c = w.start_with(Options { keep_bytes: 0, ..options() }).await;
    let l = long(&w, &c).await;
    for i in 0..14 {
        pass(&c, &l.client, i).await;
        server(&c).0.snapshot_clients().await;
        pass_of_housekeeping(server(&c).0).await;
    }
    let (bytes, _) = journals(w.dir.path());
    assert!(bytes > 3 * KEEP, "{bytes}");
}

#[tokio::test]
async fn a_client_that_lost_what_was_put_down_is_believed() {
    let w = World::new();
    let c = w.start_with(options()).await;
    let l = long(&w, &c).await;
    for i in 0..12 {
        pass(&c, &l.client, i).await;
    }
    let (s, org) = server(&c);
    pass_of_housekeeping(s).await;
    let key = (l.client.id.clone(), l.flow.clone());
    assert!(!org.state().flows.contains_key(&key));
    let lost = crate::services::state::Effect::FlowLost(key);
    s.act(&org, 1, lost, &Bytes::new()).await;
    let f = s.flow(&org, &l.client.id, &l.flow).await.unwrap().unwrap();
    assert!(f.status.contains("Flow not known"), "{f:?}");
    assert_eq!(f.total_collected_rows, 5);
}

#[tokio::test]
async fn a_crash_at_any_write_of_it_loses_and_doubles_nothing() {
    let w = World::new();
    let c = w.start_with(options()).await;
    let l = long(&w, &c).await;
    let n = 12;
    for i in 0..n {
        pass(&c, &l.client, i).await;
    }
    server(&c).0.snapshot_clients().await;
    drop(c);
    let mut at = 0u64;
    loop {
        at += 1;
        let copy = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("cp")
            .args(["-a", &format!("{}/.", w.dir.path().display()), copy.path().to_str().unwrap()])
            .status();
        assert!(status.unwrap().success());
        let (env, disk) = Faulty::wrap(&w.env);
        let mut crashing = World { env, dir: copy, identity: w.identity.clone() };
        let c = crashing.start_with(options()).await;
        disk.die_after(at);
        let (s, org) = server(&c);
        pass_of_housekeeping(s).await;
        let finished = !disk.is_dead();
        let key = (l.client.id.clone(), l.flow.clone());
        assert!(!finished || !org.state().flows.contains_key(&key), "it is put down in the end");
        drop(c);
        crashing.env = w.env.clone();
        let c = crashing.start_with(options()).await;
        check(&c, &l, 5, &["first"], n).await;
        // And the next one goes on where this one was.
        pass_of_housekeeping(server(&c).0).await;
        check(&c, &l, 5, &["first"], 0).await;
        take(&c, &l.client, &[rows(&l.flow, "Custom.L", 5, 5), log(&l.flow, "second")]).await;
        check(&c, &l, 10, &["first", "second"], 0).await;
        let tasks = poll(&c, &crashing, &l.away, 0).await;
        assert!(tasks.iter().any(|t| t.session_id == l.task), "call {at}: {tasks:?}");
        // Each start reads all artifacts: not after every one.
        if at.is_multiple_of(8) || finished {
            server(&c).0.settle_all().await;
            drop(c);
            let c = crashing.start_with(options()).await;
            check(&c, &l, 10, &["first", "second"], n).await;
        }
        if finished {
            break;
        }
    }
    println!("{at} points");
    assert!(at > 20, "{at} calls that change something");
}

/// Files with bulk data beside journals.
fn spills(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        let path = e.path();
        if path.is_dir() {
            out.extend(spills(&path));
        } else if path.parent().unwrap().ends_with("spill") {
            out.push(path);
        }
    }
    out
}

#[tokio::test]
async fn bulk_data_of_earlier_starts_goes_when_nobody_needs_it() {
    let w = World::new();
    let data: Vec<u8> = (0..900_000u32).map(|i| (i / 7) as u8).collect();
    let chunk = |off: usize, len: usize| VeloMessage {
        session_id: "F.U".into(),
        file_buffer: Some(FileBuffer {
            pathspec: Some(PathSpec {
                path: "/etc/big".into(),
                accessor: "file".into(),
                ..Default::default()
            }),
            offset: off as u64,
            data: Bytes::copy_from_slice(&data[off..off + len]),
            eof: off + len == data.len(),
            size: data.len() as u64,
            stored_size: (off + len) as u64,
            ..Default::default()
        }),
        ..Default::default()
    };
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    take(&c, &client, &[chunk(0, 300_000)]).await;
    let first = spills(w.dir.path());
    assert_eq!(first.len(), 1);
    // Written, and never named in a record: its process ended before.
    let orphan = first[0].with_file_name("never-named");
    std::fs::write(&orphan, b"x").unwrap();
    drop(c);
    let c = w.start().await;
    take(&c, &client, &[chunk(300_000, 300_000)]).await;
    drop(c);
    let c = w.start().await;
    server(&c).0.collect_garbage().await;
    assert_eq!(spills(w.dir.path()).iter().filter(|p| **p != orphan).count(), 2, "needed");
    take(&c, &client, &[chunk(600_000, 300_000), done("F.U", 0)]).await;
    let (s, org) = server(&c);
    s.settle(crate::services::housekeeping::Settle::All).await;
    assert!(!org.state().flows.contains_key(&(client.id.clone(), "F.U".into())));
    s.snapshot_clients().await;
    s.collect_garbage().await;
    // The one of this process may be written to still.
    let mut left = spills(w.dir.path());
    left.retain(|p| !p.to_str().unwrap().contains(&s.epoch.name()));
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    let at = crate::store::paths::Client { org: &org.id, id: &client.id };
    let path = at.flow("F.U").upload("file", &["etc".into(), "big".into()]);
    let kept = s.tree.get_file(&path, 1 << 20).await.unwrap();
    assert_eq!(kept.as_deref(), Some(&data[..]));
}
