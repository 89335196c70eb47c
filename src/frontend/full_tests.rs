//! A store that gets full while clients send, and has space again.

use bytes::Bytes;
use velociraptor_proto::proto::*;

use super::tests::{NONCE, TestClient, World, done, interrogated, post, rows, server};
use super::*;
use crate::comms::server::{Answer, ClientService};
use crate::services::Options;
use crate::services::acl::Policy;
use crate::services::flows::Rows;
use crate::services::housekeeping::Settle;
use crate::store::faulty::Faulty;
use crate::store::journal::Level;

const RESERVE: u64 = 256 << 10;

fn ok(a: &Answer) -> bool {
    *a == Answer::Reply(Bytes::new())
}

fn kept(a: &Answer) -> bool {
    matches!(a, Answer::Status(500, _))
}

fn chunk(flow: &str, data: &[u8], off: usize, len: usize) -> VeloMessage {
    VeloMessage {
        session_id: flow.into(),
        file_buffer: Some(FileBuffer {
            pathspec: Some(PathSpec {
                path: "/etc/big".into(),
                accessor: "file".into(),
                ..Default::default()
            }),
            offset: off as u64,
            data: Bytes::copy_from_slice(&data[off..off + len]),
            eof: len == 0,
            size: data.len() as u64,
            stored_size: (off + len) as u64,
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn collect(
    c: &Clients,
    client: &TestClient,
) -> Result<String, crate::services::ServiceError> {
    let (s, org) = server(c);
    let request = ArtifactCollectorArgs {
        client_id: client.id.clone(),
        artifacts: vec!["Generic.Client.Info".into()],
        ..Default::default()
    };
    Ok(s.collect(&org, "me", &Policy::super_user(), request).await?.flow_id)
}

#[tokio::test]
async fn what_is_worth_least_is_refused_first_and_everything_comes_once() {
    let mut w = World::new();
    let (env, disk) = Faulty::wrap(&w.env);
    w.env = env;
    let mut options = Options::default();
    options.journal.reserve_bytes = RESERVE;
    let c = w.start_with(options.clone()).await;
    let (s, org) = server(&c);
    let (s, space) = (s.clone(), s.journal.space());
    space.watch().await;
    assert_eq!((space.held(), space.level()), (RESERVE, Level::Roomy));
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    let first = collect(&c, &client).await.unwrap();
    let second = collect(&c, &client).await.unwrap();
    let data: Vec<u8> = (0..1_500_000u32).map(|i| (i / 7) as u8).collect();
    assert!(ok(&post(&c, client.body(&[chunk("F.U", &data, 0, 600_000)])).await));

    // Less than the reserve is free beside it: no uploads.
    disk.leave(Some(RESERVE / 2));
    space.watch().await;
    let piece = [chunk("F.U", &data, 600_000, 500_000)];
    assert!(kept(&post(&c, client.body(&piece)).await));
    assert!(space.health().unwrap_err().to_string().contains("no uploads are taken"));

    // Rows fill the rest. The one that finds no room gives the reserve up.
    let mut part = 0;
    let refused = loop {
        let a = post(&c, client.body(&[rows("F.R", "Custom.A", part * 2000, 2000)])).await;
        match a {
            a if ok(&a) => part += 1,
            a => break a,
        }
    };
    assert!(kept(&refused) && part > 0, "{refused:?}");
    assert_eq!((space.held(), space.level()), (0, Level::Full));
    assert!(kept(&post(&c, client.body(&piece)).await));
    // Settling does not stand in the way, nor does it leave anything behind.
    for _ in 0..3 {
        s.settle(Settle::Due).await;
    }
    let ends = done("F.R", (part as i64 + 1) * 2000);
    assert!(ok(&post(&c, client.body(std::slice::from_ref(&ends))).await), "statuses are taken");
    s.cancel(&org, &client.id, &first, "me").await.unwrap();

    // Half of the reserve is used up: decisions alone.
    disk.leave(Some(RESERVE / 4));
    space.watch().await;
    assert_eq!(space.level(), Level::Last);
    let more = done("F.U", 0);
    assert!(kept(&post(&c, client.body(std::slice::from_ref(&more))).await));
    s.cancel(&org, &client.id, &second, "me").await.unwrap();

    // Nothing at all: an error, and nothing else happens.
    disk.leave(Some(0));
    assert!(collect(&c, &client).await.is_err());

    // Space again: the client sends what it kept.
    disk.leave(None);
    space.watch().await;
    assert_eq!((space.held(), space.level()), (RESERVE, Level::Roomy));
    assert!(space.health().is_ok() && c.health().is_ok());
    let rest = [rows("F.R", "Custom.A", part * 2000, 2000)];

    // Mounted read-only, and written again: known at the next look, and kept meanwhile.
    disk.set_read_only(true);
    space.watch().await;
    assert!(c.health().unwrap_err().contains("no statuses are taken"));
    assert!(kept(&post(&c, client.body(&rest)).await));
    disk.set_read_only(false);
    space.watch().await;
    assert!(c.health().is_ok());
    let end = [chunk("F.U", &data, 1_100_000, 400_000), chunk("F.U", &data, data.len(), 0)];
    for jobs in [&rest[..], &piece[..], &end[..], &[more][..], &rest[..]] {
        assert!(ok(&post(&c, client.body(jobs)).await));
    }
    let check = async |c: &Clients| {
        let (s, org) = server(c);
        let set = Rows::Results("Custom.A".into());
        let n = s.row_count(&org, &client.id, "F.R", &set).await.unwrap();
        assert_eq!(n, (part + 1) * 2000);
        for flow in [&first, &second] {
            let f = s.flow(&org, &client.id, flow).await.unwrap().unwrap();
            assert_eq!(f.status, "Cancelled by me");
        }
    };
    check(&c).await;
    let refused: Vec<u64> = space.refused().iter().map(|r| r.1).collect();
    assert!(refused[0] >= 2 && refused[2] == 1 && refused[3] == 0, "{refused:?}");
    assert_eq!(disk.faults(), Vec::<String>::new());
    drop(c);

    // A restart finds the same, and no reserve but its own.
    let c = w.start_with(options).await;
    check(&c).await;
    server(&c).0.settle_all().await;
    check(&c).await;
    let (s, org) = server(&c);
    let path = crate::store::paths::Client { org: &org.id, id: &client.id };
    let at = path.flow("F.U").upload("file", &["etc".into(), "big".into()]);
    let stored = s.tree.get_file(&at, 10 << 20).await.unwrap().unwrap();
    assert!(stored == data, "{} bytes", stored.len());
    let left = names_below(w.dir.path(), &["temp", "reserve", "probe"]);
    assert_eq!(left, Vec::<String>::new(), "nothing is left behind");
}

/// Files in directories of these names.
fn names_below(root: &std::path::Path, dirs: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(root).unwrap().flatten() {
        let name = root.file_name().unwrap().to_string_lossy().into_owned();
        if e.path().is_dir() {
            out.extend(names_below(&e.path(), dirs));
        } else if dirs.contains(&name.as_str()) {
            out.push(e.path().display().to_string());
        }
    }
    out
}

#[tokio::test]
async fn what_people_decide_about_objects_has_room_on_a_full_store() {
    let mut w = World::new();
    let (env, disk) = Faulty::wrap(&w.env);
    w.env = env;
    let mut options = Options::default();
    options.journal.reserve_bytes = RESERVE;
    let c = w.start_with(options).await;
    let (s, org) = server(&c);
    let space = s.journal.space();
    space.watch().await;
    disk.leave(Some(0));
    // What is written behind has none.
    let table = crate::store::paths::client_snapshot(&org.id);
    assert!(s.tree.set_file(&table, b"{}\n").await.is_err());
    assert_eq!(space.held(), RESERVE);
    let text = "name: Custom.Full\nsources:\n  - query: SELECT 1 FROM scope()\n";
    s.set_artifact(&org, "me", text).await.unwrap();
    assert_eq!(space.held(), 0, "it is given up");
    s.users.create("someone").await.unwrap();
    let table = ClientEventTable { version: 1, ..Default::default() };
    s.set_monitoring(&org, table).await.unwrap();
    assert_eq!(disk.faults(), Vec::<String>::new());
    drop(c);
    disk.leave(None);
    let c = w.start().await;
    let (s, org) = server(&c);
    assert!(org.repository.get("Custom.Full").is_some());
    assert!(s.users.get("someone").await.unwrap().is_some());
}

/// Two chunks of one upload are under way at once, since the client did not wait for
/// the answer to the first. The sync for the first fails, and takes the pages of both
/// with it: the second is not acknowledged because another sync of that file succeeds.
#[tokio::test]
async fn a_file_whose_sync_failed_is_not_synced_for_another_chunk() {
    let mut w = World::new();
    let (env, disk) = Faulty::wrap(&w.env);
    w.env = env;
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    let data: Vec<u8> = (0..1_500_000u32).map(|i| (i / 7) as u8).collect();
    let chunks = [
        [chunk("F.U", &data, 0, 500_000)],
        [chunk("F.U", &data, 500_000, 500_000)],
        [chunk("F.U", &data, 1_000_000, 500_000)],
    ];
    assert!(ok(&post(&c, client.body(&chunks[0])).await));
    let go_on = disk.fail_next_sync("/spill/");
    let (first, second) = (client.body(&chunks[1]), client.body(&chunks[2]));
    let both = async {
        let until = async |done: &dyn Fn() -> bool| {
            while !done() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let first = post(&c, first);
        let second = async {
            until(&|| disk.sync_has_begun()).await;
            let written = async {
                let whole = || files_below(w.dir.path(), "spill").contains(&1_500_000);
                until(&whole).await;
                go_on.notify_one();
            };
            tokio::join!(post(&c, second), written).0
        };
        tokio::join!(first, second)
    };
    let limit = std::time::Duration::from_secs(60);
    let (first, second) = tokio::time::timeout(limit, both).await.unwrap();
    assert!(kept(&first), "{first:?}");
    assert!(kept(&second), "the pages of the second may be gone as well: {second:?}");
    assert_eq!(disk.faults(), Vec::<String>::new());

    // The client sends both again; they go to another file.
    let end = [chunk("F.U", &data, data.len(), 0)];
    for jobs in [&chunks[1], &chunks[2], &end] {
        assert!(ok(&post(&c, client.body(jobs)).await));
    }
    let (s, org) = server(&c);
    s.settle_all().await;
    let path = crate::store::paths::Client { org: &org.id, id: &client.id };
    let at = path.flow("F.U").upload("file", &["etc".into(), "big".into()]);
    let stored = s.tree.get_file(&at, 10 << 20).await.unwrap().unwrap();
    assert!(stored == data, "{} bytes", stored.len());
}

/// Lengths of the files in directories of this name.
fn files_below(root: &std::path::Path, dir: &str) -> Vec<u64> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(root).unwrap().flatten() {
        if e.path().is_dir() {
            out.extend(files_below(&e.path(), dir));
        } else if root.file_name().is_some_and(|n| n == dir) {
            out.push(e.metadata().unwrap().len());
        }
    }
    out
}

/// A client says in one POST that it does not know a flow, and later ones are the same
/// bytes: where the end of the flow cannot be stored then, it is stored later.
#[tokio::test]
async fn a_lost_flow_ends_when_the_store_takes_it_again() {
    let mut w = World::new();
    let (env, disk) = Faulty::wrap(&w.env);
    w.env = env;
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    let (s, org) = server(&c);
    let flow = collect(&c, &client).await.unwrap();
    let status = async || {
        let f = s.flow(&org, &client.id, &flow).await.unwrap().unwrap();
        (f.state(), f.status)
    };
    disk.leave(Some(0));
    let lost = crate::services::state::Effect::FlowLost((client.id.clone(), flow.clone()));
    s.act(&org, 1, lost, &Bytes::new()).await;
    s.end_lost_again().await;
    assert_eq!(status().await.1, "", "it cannot be stored");
    disk.leave(None);
    s.journal.space().watch().await;
    // A busy machine may not store it in time either.
    for _ in 0..20 {
        s.end_lost_again().await;
        if org.state().lost.is_empty() {
            break;
        }
    }
    let (state, why) = status().await;
    assert_eq!(state, artifact_collector_context::State::Error);
    assert!(why.contains("Flow not known"), "{why}");
    assert!(org.state().lost.is_empty());
}

#[tokio::test]
async fn a_task_that_could_not_be_granted_goes_out_as_soon_as_it_can_be() {
    let mut w = World::new();
    let (env, disk) = Faulty::wrap(&w.env);
    w.env = env;
    let c = w.start_with(Options::default()).await;
    let (s, _) = server(&c);
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    let flow = collect(&c, &client).await.unwrap();

    // Its client comes, and the right to send it finds no room.
    disk.leave(Some(0));
    let space = s.journal.space();
    space.watch().await;
    let again = async {
        while s.offers.waiting_for_grants() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        disk.leave(None);
        space.watch().await;
        s.offer_due(false).await;
    };
    let (tasks, ()) = tokio::join!(super::tests::poll(&c, &w, &client, 0), again);
    let got: Vec<&str> = tasks.iter().map(|t| t.session_id.as_str()).collect();
    assert!(got.contains(&flow.as_str()), "{got:?}");
    assert_eq!(s.offers.waiting_for_grants(), 0);
}
