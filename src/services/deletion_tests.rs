//! Deleting, and everything that might undo it.

use std::sync::Arc;

use prost::Message;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::record::Kind as RecordKind;
use velociraptor_proto::journal::{Enrol, JobMeta, Post};
use velociraptor_proto::proto::{PublicKey, VeloMessage, VqlResponse};

use super::ids::new_flow_id;
use super::server::{Options, Server};
use super::state::Effect;
use crate::services::fleet::Role;
use crate::services::flows::job;
use crate::services::state::PostFacts;
use crate::store::StoreRoot;
use crate::store::journal::Extent;
use crate::store::paths::Client;

const CLIENT: &str = "C.0000000000000001";

async fn open(root: &str, node: &str, role: Role) -> Arc<Server> {
    let options = Options { node: node.into(), role, ..Options::default() };
    Server::open(crate::env::real::env(), StoreRoot::new(root, root), options).await.unwrap()
}

/// As a frontend does; returns when the key was made.
async fn enrol(s: &Server, life: u64) {
    let org = s.root();
    let key = PublicKey { pem: b"pem".to_vec(), enroll_time: life };
    let path = Client { org: &org.id, id: CLIENT };
    s.tree.create(&path.key(), &key).await.unwrap();
    s.decide(&org, CLIENT, "", Kind::Enrol(Enrol { first_seen: life })).await.unwrap();
}

/// A row of `flow`, sent in the client's `life`.
async fn post(s: &Server, flow: &str, row: u64, life: u64) -> Option<Effect> {
    let message = VeloMessage {
        session_id: flow.into(),
        vql_response: Some(VqlResponse {
            jsonl_response: format!("{{\"a\":{row}}}\n"),
            query_start_row: row,
            total_rows: 1,
            query: Some(velociraptor_proto::proto::VqlRequest {
                name: "A.B".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let raw = bytes::Bytes::from(message.encode_to_vec());
    let hash = job::hash(&raw);
    let record = Post {
        client_id: CLIENT.into(),
        received: s.env.clock.micros(),
        post_hash: hash.to_vec(),
        jobs: vec![JobMeta { hash: hash.to_vec(), length: raw.len() as u64, spill: None }],
        life,
        ..Default::default()
    };
    let facts = PostFacts {
        client: CLIENT,
        class: record.class(),
        received: record.received,
        post: hash,
        cipher: [0; 16],
        life,
    };
    let done = s.commit(RecordKind::Post(record.clone()), vec![raw.clone()], vec![]).await.unwrap();
    if !s.is_master() {
        return None;
    }
    let len = raw.len() as u64;
    let extent = Extent { segment: done.segment.clone(), offset: done.payload, len };
    let job = job::parse(&raw, hash, extent, None).unwrap();
    let org = s.root();
    let mut state = org.state();
    if !state.admits(&facts) {
        return None;
    }
    state.note_post(&facts, &done.segment);
    Some(state.apply_job(&facts, &job, "A.B"))
}

/// Names of files of the client at the store, without its key.
async fn files(s: &Server) -> Vec<String> {
    let org = s.root();
    let all = s.files_of_client(&org, CLIENT).await.unwrap();
    let left = all.iter().map(|f| f.path.clone());
    left.filter(|p| p.starts_with("/clients/") && !p.ends_with("/key.db")).collect()
}

#[tokio::test]
async fn a_deleted_client_stays_deleted_until_it_enrols_again() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let m = open(root, "m", Role::Master).await;
    let org = m.root();
    enrol(&m, 1000).await;
    let flow = new_flow_id(&m.env);
    post(&m, &flow, 0, 1000).await.unwrap();
    m.settle(crate::services::housekeeping::Settle::All).await;
    assert!(files(&m).await.iter().any(|f| f.contains("A.B")), "{:?}", files(&m).await);
    post(&m, &flow, 1, 1000).await.unwrap();
    let removed = m.delete_client(&org, CLIENT, "me").await.unwrap();
    assert!(removed.len() > 2, "{removed:?}");
    assert!(org.state().clients.get(CLIENT).is_none());
    assert!(matches!(
        m.delete_client(&org, CLIENT, "me").await,
        Err(crate::services::ServiceError::NotFound(_))
    ));
    // What a process that does not know of it takes from a session of before.
    assert_eq!(post(&m, &flow, 2, 1000).await, None);
    m.settle(crate::services::housekeeping::Settle::All).await;
    assert_eq!(files(&m).await, Vec::<String>::new());
    // Its new life: data of the old one stays gone, also that of its old flows.
    enrol(&m, 2000).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let newer = new_flow_id(&m.env);
    assert!(matches!(post(&m, &newer, 0, 2000).await, Some(Effect::Progress(_))));
    assert_eq!(post(&m, &flow, 3, 2000).await, Some(Effect::Dropped));
    assert_eq!(post(&m, &flow, 4, 1000).await, None);
    m.settle(crate::services::housekeeping::Settle::All).await;
    m.bury_again().await;
    let left = files(&m).await;
    assert!(left.iter().any(|f| f.contains(&newer)) && !left.iter().any(|f| f.contains(&flow)));
    // All of it the same after a crash.
    drop(m);
    let m = open(root, "m", Role::Master).await;
    let org = m.root();
    assert!(org.state().clients.get(CLIENT).is_some());
    assert_eq!(post(&m, &flow, 5, 1000).await, None);
    assert!(post(&m, &newer, 1, 2000).await.is_some());
}

#[tokio::test]
async fn a_minion_that_did_not_know_brings_nothing_back() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let m = open(root, "m", Role::Master).await;
    enrol(&m, 1000).await;
    let minion = open(root, "n", Role::Minion).await;
    let flow = new_flow_id(&m.env);
    m.delete_client(&m.root(), CLIENT, "me").await.unwrap();
    post(&minion, &flow, 0, 1000).await;
    // An enrolment of the old life that is read late, then one of a new life of which
    // data is read before it.
    let old = Kind::Enrol(Enrol { first_seen: 1000 });
    minion.decide(&minion.root(), CLIENT, "", old).await.unwrap();
    let all = super::fleet::processes::Processes::new(m.clone());
    all.look().await;
    assert!(m.root().state().clients.get(CLIENT).is_none());
    assert_eq!(m.counters.dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let newer = new_flow_id(&m.env);
    post(&minion, &newer, 0, 2000).await;
    all.look().await;
    let key = (CLIENT.to_owned(), newer.clone());
    assert!(m.root().state().flows.contains_key(&key));
    // A file that a deposed master's settling left behind is found and removed.
    drop((m, all));
    let late = format!("{root}/clients/{CLIENT}/collections/{flow}.json.db");
    let env = crate::env::real::env();
    crate::env::fs::create_synced(&*env.fs, &late, b"{}").await.unwrap();
    let m = open(root, "m", Role::Master).await;
    m.bury_again().await;
    assert!(env.fs.stat(&late).await.is_err());
    assert!(m.root().state().flows.contains_key(&key), "and nothing else");
}

#[tokio::test]
async fn a_deleted_flow_stays_deleted() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let m = open(root, "m", Role::Master).await;
    let org = m.root();
    enrol(&m, 1000).await;
    let request = velociraptor_proto::proto::ArtifactCollectorArgs {
        client_id: CLIENT.into(),
        artifacts: vec!["A.B".into()],
        compiled_collector_args: vec![Default::default()],
        ..Default::default()
    };
    let gone = m.schedule(&org, "me", request.clone()).await.unwrap();
    let stays = m.schedule(&org, "me", request).await.unwrap();
    for flow in [&gone, &stays] {
        post(&m, flow, 0, 1000).await.unwrap();
    }
    m.settle(crate::services::housekeeping::Settle::All).await;
    m.delete_flow(&org, CLIENT, &gone, "me").await.unwrap();
    assert_eq!(post(&m, &gone, 1, 1000).await, Some(Effect::Dropped));
    m.settle(crate::services::housekeeping::Settle::All).await;
    let left = files(&m).await;
    assert!(!left.iter().any(|f| f.contains(&gone)), "{left:?}");
    assert!(left.iter().any(|f| f.contains(&stays)), "{left:?}");
    assert!(m.flow(&org, CLIENT, &gone).await.unwrap().is_none());
    drop(m);
    let m = open(root, "m", Role::Master).await;
    let org = m.root();
    assert!(m.flow(&org, CLIENT, &gone).await.unwrap().is_none());
    assert_eq!(post(&m, &gone, 2, 1000).await, Some(Effect::Dropped));
    for bad in ["../x", "C.", "", "C.1/../../x"] {
        assert!(m.delete_client(&org, bad, "me").await.is_err(), "{bad}");
    }
}
