//! What is read back is in the order in which it was taken.

use std::sync::Arc;

use prost::Message;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::record::Kind as RecordKind;
use velociraptor_proto::journal::{Enrol, JobMeta, Opened, Post, SpillRef};
use velociraptor_proto::proto::{FileBuffer, PathSpec, VeloMessage, VqlRequest, VqlResponse};

use super::events::EventKey;
use super::fleet::Role;
use super::flows::job;
use super::server::{Options, Server};
use super::state::MONITORING;
use crate::store::StoreRoot;

const CLIENT: &str = "C.0000000000000001";

async fn start(root: &str) -> Arc<Server> {
    let mut options = Options { node: "m".into(), role: Role::Master, ..Options::default() };
    options.fleet.dead_after = std::time::Duration::ZERO;
    Server::open(crate::env::real::env(), StoreRoot::new(root, root), options).await.unwrap()
}

/// An event row of the client, in the journal alone.
async fn event(s: &Server, row: u64) {
    let message = VeloMessage {
        session_id: MONITORING.into(),
        vql_response: Some(VqlResponse {
            jsonl_response: format!("{{\"a\":{row}}}\n"),
            total_rows: 1,
            query: Some(VqlRequest { name: "A.B".into(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let raw = bytes::Bytes::from(message.encode_to_vec());
    let hash = job::hash(&raw).to_vec();
    let record = Post {
        client_id: CLIENT.into(),
        received: s.env.clock.micros(),
        post_hash: hash.clone(),
        jobs: vec![JobMeta { hash, length: raw.len() as u64, spill: None }],
        ..Default::default()
    };
    s.commit(RecordKind::Post(record), vec![raw], vec![]).await.unwrap();
}

/// A whole upload of the client, its data beside the journal. Its path.
async fn upload(s: &Server) -> String {
    let data = bytes::Bytes::from_static(b"contents");
    let length = data.len() as u64;
    let message = VeloMessage {
        session_id: "F.U".into(),
        file_buffer: Some(FileBuffer {
            pathspec: Some(PathSpec { path: "/a/b".into(), ..Default::default() }),
            size: length,
            eof: true,
            stored_size: length,
            ..Default::default()
        }),
        ..Default::default()
    };
    let raw = bytes::Bytes::from(message.encode_to_vec());
    let hash = job::hash(&raw).to_vec();
    let file = s.spill("0").path.clone();
    crate::env::fs::create_synced(&*s.env.fs, &file, &data).await.unwrap();
    let record = Post {
        client_id: CLIENT.into(),
        received: s.env.clock.micros(),
        // Sent again together with something else, so that the whole is another one.
        post_hash: file.clone().into_bytes()[file.len() - 16..].to_vec(),
        jobs: vec![JobMeta {
            hash,
            length: raw.len() as u64,
            spill: Some(SpillRef { file: file.clone(), offset: 0, length }),
        }],
        ..Default::default()
    };
    s.commit(RecordKind::Post(record), vec![raw], vec![]).await.unwrap();
    file
}

/// The event rows that are not in files, as readers get them.
async fn events(s: &Server) -> Vec<String> {
    let org = s.root();
    let any =
        EventKey { client: CLIENT.into(), artifact: "A.B".into(), day: String::new(), logs: false };
    let mut out = Vec::new();
    for (key, part) in s.events(&org, &any).await.unwrap().live {
        let rows = s.event_rows(&key, &part).await.unwrap();
        let row = String::from_utf8_lossy(&rows).into_owned();
        out.push(row.split(',').next().unwrap_or_default().to_owned());
    }
    out
}

#[tokio::test]
async fn what_an_enrolment_had_seen_is_read_back_before_what_came_after_it() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let first = start(root).await;
    event(&first, 1).await;
    drop(first);
    // It reads the row after it has opened its journal. The first to tell of that is
    // an enrolment; a decision proper follows.
    let second = start(root).await;
    let org = second.root();
    let enrolled = Kind::Enrol(Enrol { first_seen: 1000 });
    second.decide(&org, "C.0000000000000002", "", enrolled).await.unwrap();
    event(&second, 2).await;
    second.decide(&org, "", "", Kind::Opened(Opened { term: 0 })).await.unwrap();
    drop(second);
    let third = start(root).await;
    assert_eq!(events(&third).await, ["{\"a\":1", "{\"a\":2"]);
}

#[tokio::test]
async fn data_that_came_twice_stays_in_both_places_while_records_of_both_do() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let mut files = Vec::new();
    for _ in 0..2 {
        files.push(upload(&*start(root).await).await);
    }
    // Of two records one is used. Whoever reads them next may use the other.
    let third = start(root).await;
    let org = third.root();
    let key = (CLIENT.to_owned(), "F.U".to_owned());
    assert!(org.state().flows[&key].uploads.values().all(|u| u.winner().is_some()));
    third.collect_garbage().await;
    assert!(files.iter().all(|f| std::fs::exists(f).unwrap()), "{files:?}");
    third.settle_flow(&org, &key).await.unwrap();
    third.collect_garbage().await;
    assert!(!files.iter().any(|f| std::fs::exists(f).unwrap()), "{files:?}");
}
