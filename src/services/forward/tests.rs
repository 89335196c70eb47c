//! What is owed, over deliveries, crashes and restarts, on real files.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::services::Options;
use crate::store::StoreRoot;

const ARTIFACT: &str = "Custom.Beat";

fn sink(batch_rows: u64, backlog_bytes: u64) -> Sink {
    Sink {
        name: "siem".into(),
        artifacts: vec![ARTIFACT.into(), "Other/Src".into()],
        batch_rows,
        batch_bytes: 1 << 20,
        backlog_bytes,
    }
}

async fn open(dir: &tempfile::TempDir, sink: Sink) -> Arc<Server> {
    let root = StoreRoot::single(dir.path().to_str().unwrap());
    let mut options = Options { forward: vec![sink], ..Options::default() };
    // The process before is not waited for: it does not end by itself here.
    options.standing.term.takeover = true;
    Server::open(crate::env::real::env(), root, options).await.unwrap()
}

async fn push(server: &Server, client: &str, artifact: &str, n: u64) {
    let rows = Bytes::from(format!("{{\"N\":{n},\"M\":0}}\n{{\"N\":{n},\"M\":1}}\n"));
    server.push_events(&server.root(), client, artifact, rows).await.unwrap();
}

/// Numbers of the rows of a batch, and their ids.
fn rows(batch: &Batch) -> (Vec<u64>, Vec<String>) {
    let of = |l: &Line| {
        let row: serde_json::Value = serde_json::from_slice(&l.json).unwrap();
        assert_eq!(row["_Id"], l.id.as_str());
        assert_eq!(row["_OrgId"], "root");
        assert_eq!(row["_Source"], ARTIFACT);
        row["N"].as_u64().unwrap()
    };
    (batch.lines.iter().map(of).collect(), batch.lines.iter().map(|l| l.id.clone()).collect())
}

#[tokio::test]
async fn what_was_not_delivered_is_owed_after_a_crash_and_after_settling() {
    let dir = tempfile::tempdir().unwrap();
    let server = open(&dir, sink(4, 1 << 30)).await;
    let b = server.backlogs.all()[0].clone();
    for n in 0..5 {
        push(&server, "C.1", ARTIFACT, n).await;
        push(&server, "C.1", "Not.Wanted", n).await;
    }
    assert_eq!(b.owed().0, 5);
    assert!(b.lag(server.env.clock.micros() + 7_000_000) >= 7_000_000);
    let first = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&first).0, [0, 0, 1, 1]);
    server.delivered(&b, &first).await.unwrap();
    let second = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&second).0, [2, 2, 3, 3]);
    // Delivered, perhaps, but not noted: a crash. It comes again, with its ids.
    drop((server, b));
    let server = open(&dir, sink(4, 1 << 30)).await;
    let b = server.backlogs.all()[0].clone();
    let again = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&again), rows(&second));
    // A day that is put into its file, and a clean stop, change nothing of it.
    server.settle_all().await;
    drop((server, b));
    let server = open(&dir, sink(4, 1 << 30)).await;
    let b = server.backlogs.all()[0].clone();
    push(&server, "C.1", ARTIFACT, 5).await;
    let again = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&again), rows(&second));
    server.delivered(&b, &again).await.unwrap();
    let last = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&last).0, [4, 4, 5, 5]);
    server.delivered(&b, &last).await.unwrap();
    assert!(server.next_batch(&b).await.unwrap().is_none());
    assert_eq!((b.owed(), b.lag(u64::MAX)), ((0, 0), 0));
    drop((server, b));
    // Nothing comes a third time, and journals go once they owe nothing.
    let server = open(&dir, sink(4, 1 << 30)).await;
    assert_eq!(server.backlogs.all()[0].owed(), (0, 0));
}

#[tokio::test]
async fn nothing_behind_a_commit_under_way_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let server = open(&dir, sink(100, 1 << 30)).await;
    let b = server.backlogs.all()[0].clone();
    push(&server, "C.1", ARTIFACT, 0).await;
    let under_way = server.backlogs.begin(server.journal.end());
    push(&server, "C.1", ARTIFACT, 1).await;
    let batch = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&batch).0, [0, 0]);
    drop(under_way);
    let batch = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&batch).0, [0, 0, 1, 1]);
}

#[tokio::test]
async fn too_much_that_is_owed_gives_up_the_oldest_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = open(&dir, sink(100, 1000)).await;
    let b = server.backlogs.all()[0].clone();
    for n in 0..10 {
        push(&server, "C.1", ARTIFACT, n).await;
    }
    let dropped = b.dropped.load(Ordering::Relaxed);
    let (messages, bytes) = b.owed();
    assert!(dropped > 0 && bytes <= 1000, "{dropped} {bytes}");
    assert_eq!(dropped + messages, 10);
    let batch = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&batch).0[0], dropped);
}

#[tokio::test]
async fn a_new_store_is_owed_what_comes_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let root = StoreRoot::single(dir.path().to_str().unwrap());
    let server = Server::open(crate::env::real::env(), root, Options::default()).await.unwrap();
    push(&server, "C.1", ARTIFACT, 0).await;
    drop(server);
    let server = open(&dir, sink(100, 1 << 30)).await;
    let b = server.backlogs.all()[0].clone();
    assert_eq!(b.owed(), (0, 0));
    push(&server, "C.1", ARTIFACT, 1).await;
    let batch = server.next_batch(&b).await.unwrap().unwrap();
    assert_eq!(rows(&batch).0, [1, 1]);
}
