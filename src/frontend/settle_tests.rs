//! Settling that is cut short at any write: nothing is lost, nothing is there twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use velociraptor_proto::proto::*;

use super::Clients;
use super::tests::*;
use crate::comms::server::Answer;
use crate::services::event_view::EventView;
use crate::services::events::EventKey;
use crate::services::flows::Rows;
use crate::services::housekeeping::Settle;
use crate::services::settle_everything::Settled;
use crate::services::{Options, Role, ServiceError, inspect};
use crate::store::faulty::Faulty;
use crate::store::{StoreRoot, paths};

pub(super) fn event(n: u64) -> VeloMessage {
    let mut m = rows("F.Monitoring", "Custom.Events", 0, 0);
    if let Some(r) = &mut m.vql_response {
        r.jsonl_response = format!("{{\"e\":{n}}}\n");
        r.total_rows = 1;
        r.timestamp = n;
    }
    m
}

/// The same tree in another directory, as a kill left it.
pub(super) fn copy_of(w: &World, env: &crate::env::Env) -> World {
    let dir = tempfile::tempdir().unwrap();
    let from = format!("{}/.", w.dir.path().display());
    let done = std::process::Command::new("cp").args(["-a", &from]).arg(dir.path()).status();
    assert!(done.unwrap().success());
    World { env: env.clone(), dir, identity: w.identity.clone() }
}

/// How often each event is in the day files of a client.
pub(super) async fn filed(w: &World, client: &str) -> BTreeMap<u64, u32> {
    let dir = format!("{}/clients/{client}/monitoring/Custom.Events", w.dir.path().display());
    let fs = &*w.env.fs;
    let mut seen = BTreeMap::new();
    for e in fs.list(&dir).await.unwrap() {
        if e.name.ends_with(".json") {
            let path = format!("{dir}/{}", e.name);
            let data = crate::env::fs::read_limited(fs, &path, 1 << 20).await.unwrap();
            for line in crate::services::flows::job::lines(&data) {
                let row: serde_json::Value = serde_json::from_slice(line).unwrap();
                *seen.entry(row["e"].as_u64().unwrap()).or_default() += 1;
            }
        }
    }
    seen
}

/// How often each event is shown.
async fn shown(c: &Clients, client: &str) -> BTreeMap<u64, u32> {
    let (s, org) = server(c);
    let any = EventKey {
        client: client.into(),
        artifact: "Custom.Events".into(),
        day: String::new(),
        logs: false,
    };
    let EventView { files, live } = s.events(&org, &any).await.unwrap();
    let mut all = Vec::new();
    let mut rows = files.all();
    while let Some(row) = rows.next().await.unwrap() {
        all.push(row.row);
    }
    for (key, part) in live {
        let blob = s.event_rows(&key, &part).await.unwrap();
        all.extend(crate::services::flows::job::lines(&blob).map(|l| blob.slice_ref(l)));
    }
    let mut seen = BTreeMap::new();
    for row in all {
        let row: serde_json::Value = serde_json::from_slice(&row).unwrap();
        *seen.entry(row["e"].as_u64().unwrap()).or_default() += 1;
    }
    seen
}

fn once(n: u64) -> BTreeMap<u64, u32> {
    (0..n).map(|e| (e, 1)).collect()
}

#[tokio::test]
async fn events_are_in_day_files_once_whichever_write_was_the_last() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    enrol(&c, &client).await;
    let ok = Answer::Reply(Bytes::new());
    for n in 0..3 {
        assert_eq!(post(&c, client.body(&[event(n)])).await, ok);
    }
    drop(c);
    for n in 1.. {
        let (env, disk) = Faulty::wrap(&w.env);
        let dying = copy_of(&w, &env);
        let c = dying.start().await;
        disk.die_after(n);
        server(&c).0.settle(Settle::All).await;
        let died = disk.is_dead();
        drop(c);
        let w = World { env: w.env.clone(), dir: dying.dir, identity: w.identity.clone() };
        let c = w.start().await;
        assert_eq!(shown(&c, &client.id).await, once(3), "killed at write {n}");
        // One more, before all is settled again.
        assert_eq!(post(&c, client.body(&[event(3)])).await, ok);
        server(&c).0.settle_all().await;
        assert_eq!(filed(&w, &client.id).await, once(4), "killed at write {n}");
        assert_eq!(shown(&c, &client.id).await, once(4));
        if !died {
            assert!(n > 10, "killed nowhere");
            return;
        }
    }
}

const SIZE: usize = 3_000_000;

fn data() -> Vec<u8> {
    (0..SIZE as u32).map(|i| (i / 7) as u8).collect()
}

fn chunk(off: usize, len: usize) -> VeloMessage {
    VeloMessage {
        session_id: "F.U".into(),
        file_buffer: Some(FileBuffer {
            pathspec: Some(PathSpec {
                path: "/etc/big".into(),
                accessor: "file".into(),
                ..Default::default()
            }),
            offset: off as u64,
            data: Bytes::copy_from_slice(&data()[off..off + len]),
            eof: len == 0,
            size: SIZE as u64,
            stored_size: (off + len) as u64,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Who did what on a tree that is to be settled.
struct Left {
    /// Sent rows, events, a part of a file.
    busy: TestClient,
    /// Has a task that it did not fetch.
    away: TestClient,
    task: String,
    /// Sent rows and is not enrolled.
    stranger: TestClient,
}

/// A master and a minion that are killed while clients send.
async fn killed(w: &World) -> Left {
    let master = w.start().await;
    let minion = Options { node: "minion-1".into(), role: Role::Minion, ..Options::default() };
    let minion = w.start_with(minion).await;
    let ok = Answer::Reply(Bytes::new());
    let busy = TestClient::new(w, NONCE);
    interrogated(&master, w, &busy).await;
    let away = TestClient::new(w, NONCE);
    interrogated(&master, w, &away).await;
    let (s, org) = server(&master);
    for flow in ["F.X", "F.U"] {
        let request = ArtifactCollectorArgs {
            client_id: busy.id.clone(),
            flow_id: flow.into(),
            compiled_collector_args: vec![VqlCollectorArgs::default()],
            ..Default::default()
        };
        s.schedule(&org, "admin", request).await.unwrap();
    }
    assert!(!poll(&master, w, &busy, 0).await.is_empty());
    let request = ArtifactCollectorArgs {
        client_id: away.id.clone(),
        compiled_collector_args: vec![VqlCollectorArgs::default()],
        ..Default::default()
    };
    let task = s.schedule(&org, "admin", request).await.unwrap();
    assert_eq!(post(&minion, busy.body(&[rows("F.X", "Custom.A", 0, 10), event(0)])).await, ok);
    assert_eq!(post(&master, busy.body(&[chunk(0, 1 << 20), event(1)])).await, ok);
    assert_eq!(post(&minion, busy.body(&[chunk(1 << 20, 1 << 20), event(2)])).await, ok);
    let stranger = TestClient::new(w, NONCE);
    let early = stranger.body(&[rows("F.E", "Custom.A", 0, 3)]);
    assert!(matches!(post(&minion, early).await, Answer::Status(406, _)));
    Left { busy, away, task, stranger }
}

/// What `datastore settle` does once it knows that nobody lives.
async fn settle(w: &World, kill_at: Option<(&Faulty, u64)>) -> Result<Settled, ServiceError> {
    let mut options = Options { node: "settle".into(), ..Options::default() };
    options.fleet.offline = true;
    let c = w.start_with(options).await;
    c.0.hand_back();
    if let Some((disk, n)) = kill_at {
        disk.die_after(n);
    }
    let done = server(&c).0.settle_everything(&|_, _, _| {}).await;
    server(&c).0.standing.release().await;
    done
}

fn journals(w: &World) -> Vec<String> {
    let mut todo = vec![w.dir.path().join("fleet")];
    let mut out = Vec::new();
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(dir).unwrap().flatten() {
            match e.path() {
                p if p.is_dir() => todo.push(p),
                p if p.extension().is_some_and(|x| x == "journal") => {
                    out.push(p.display().to_string())
                }
                _ => {}
            }
        }
    }
    out
}

/// Everything is where a stock server looks for it.
async fn is_stock(w: &World, left: &Left) {
    let root = StoreRoot::single(w.dir.path().to_str().unwrap());
    let tree = crate::store::Tree::new(&w.env, root.clone());
    let org = crate::services::ids::OrgId::root();
    let busy = paths::Client { org: &org, id: &left.busy.id };
    let set = busy.flow("F.X").results_of("Custom.A");
    let stored = crate::store::resultset::read_rows(&tree, &set, 0, 100).await.unwrap();
    let text: Vec<String> =
        stored.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
    let want: Vec<String> = (0..10).map(|i| format!("{{\"i\":{i}}}")).collect();
    assert_eq!(text, want);
    let context = tree.get(&busy.flow("F.X").context()).await.unwrap().unwrap();
    // A stock server lets no flow end that is stored in another state.
    assert_eq!(context.state(), artifact_collector_context::State::Running);
    let at = busy.flow("F.U").upload("file", &["etc".into(), "big".into()]);
    let part = tree.get_file(&at, 10 << 20).await.unwrap().unwrap();
    assert!(part == data()[..2 << 20], "{} bytes", part.len());
    assert_eq!(filed(w, &left.busy.id).await, once(3));
    let away = paths::Client { org: &org, id: &left.away.id };
    let tasks = tree.children(&away.tasks()).await.unwrap();
    assert_eq!(tasks.len(), 1);
    let task = tree.get(&away.task(tasks[0].name.parse().unwrap())).await.unwrap().unwrap();
    assert_eq!(task.session_id, left.task);
    let clients = crate::store::snapshot::load(&tree, &org).await.unwrap().clients;
    assert_eq!(clients[&left.busy.id].hostname, "box");
    let flows = &clients[&left.busy.id].in_flight_flows;
    assert!(flows.contains_key("F.X") && flows.contains_key("F.U"), "{flows:?}");
    assert!(inspect::is_settled(&w.env, &root).await.unwrap());
    assert_eq!(journals(w).len(), 1, "one of sealed batches: {:?}", journals(w));
}

/// A server of ours goes on where the others were killed.
async fn goes_on(w: &World, left: &Left) {
    let c = w.start().await;
    let (s, org) = server(&c);
    let ok = Answer::Reply(Bytes::new());
    let busy = &left.busy;
    // What was not acknowledged, or repeated for another reason.
    let again = [rows("F.X", "Custom.A", 10, 5), chunk(1 << 20, 1 << 20)];
    assert_eq!(post(&c, busy.body(&again)).await, ok);
    let rest = SIZE - (2 << 20);
    let end = [chunk(2 << 20, rest), chunk(SIZE, 0), rows("F.X", "Custom.A", 15, 5)];
    assert_eq!(post(&c, busy.body(&end)).await, ok);
    assert_eq!(post(&c, busy.body(&[done("F.X", 20), done("F.U", 0), event(3)])).await, ok);
    let tasks = poll(&c, w, &left.away, 0).await;
    assert!(tasks.iter().any(|t| t.session_id == left.task), "{tasks:?}");
    enrol(&c, &left.stranger).await;
    s.settle_all().await;
    let set = Rows::Results("Custom.A".into());
    assert_eq!(s.row_count(&org, &busy.id, "F.X", &set).await.unwrap(), 20);
    assert_eq!(s.row_count(&org, &left.stranger.id, "F.E", &set).await.unwrap(), 3);
    assert_eq!(shown(&c, &busy.id).await, once(4));
    assert_eq!(filed(w, &busy.id).await, once(4));
    let path = paths::Client { org: &org.id, id: &busy.id };
    let at = path.flow("F.U").upload("file", &["etc".into(), "big".into()]);
    assert!(s.tree.get_file(&at, 10 << 20).await.unwrap().unwrap() == data());
    let rows = s.upload_rows(&org, &busy.id, "F.U").await.unwrap();
    assert_eq!((rows.len(), &rows[0]["uploaded_size"]), (1, &serde_json::json!(SIZE)));
    let kept = w.dir.path().join("fleet/partial/root").join(&busy.id).join("F.U");
    assert!(!kept.exists(), "what was kept of a file that is whole");
    for flow in ["F.X", "F.U"] {
        let f = s.flow(&org, &busy.id, flow).await.unwrap().unwrap();
        assert_eq!(f.state(), artifact_collector_context::State::Finished, "{flow}");
    }
}

#[tokio::test]
async fn all_is_in_stock_files_whichever_write_of_settling_was_the_last() {
    let w = World::new();
    let left = killed(&w).await;
    let mut n = 1;
    loop {
        let (env, disk) = Faulty::wrap(&w.env);
        let dying = copy_of(&w, &env);
        let first = settle(&dying, Some((&disk, n))).await;
        let died = disk.is_dead();
        assert!(died || first.is_ok(), "{first:?}");
        let w = World { env: w.env.clone(), dir: dying.dir, identity: w.identity.clone() };
        if died {
            let again = settle(&w, None).await.unwrap();
            assert_eq!(again.journals_left, again.journals_waiting, "killed at write {n}");
        } else {
            let s = first.unwrap();
            assert_eq!((s.open_flows, s.partial_uploads, s.tasks), (3, 1, 1), "{s:?}");
            assert_eq!((s.waiting_to_enrol, s.journals_left), (1, 1), "{s:?}");
        }
        is_stock(&w, &left).await;
        goes_on(&w, &left).await;
        if !died {
            assert!(n > 100, "killed nowhere");
            return;
        }
        n += 23;
    }
}

#[tokio::test]
async fn a_task_of_the_stock_queue_is_sent_once_over_all_restarts() {
    let w = World::new();
    let left = killed(&w).await;
    settle(&w, None).await.unwrap();
    let has_task = |tasks: &[VeloMessage]| tasks.iter().any(|t| t.session_id == left.task);
    let files = || {
        let dir = w.dir.path().join("clients").join(&left.away.id).join("tasks");
        std::fs::read_dir(dir).map_or(0, |d| d.count())
    };
    let c = w.start().await;
    let tasks = poll(&c, &w, &left.away, 0).await;
    assert!(has_task(&tasks), "{tasks:?}");
    assert_eq!(files(), 1, "until the client has it");
    drop(c);
    // It may have it: it is asked, and says that it works on it.
    let c = w.start().await;
    let tasks = poll(&c, &w, &left.away, 0).await;
    assert!(!has_task(&tasks), "{tasks:?}");
    let ok = Answer::Reply(Bytes::new());
    let progress = rows(&left.task, "Custom.A", 0, 1);
    assert_eq!(post(&c, left.away.body(&[progress, done(&left.task, 1)])).await, ok);
    server(&c).0.settle_all().await;
    assert_eq!(files(), 0);
    drop(c);
    let c = w.start().await;
    assert!(!has_task(&poll(&c, &w, &left.away, 0).await));
}

/// Files of clients with this in their path.
fn files_of(w: &World, part: &str) -> Vec<String> {
    let mut todo = vec![w.dir.path().join("clients")];
    let mut out = Vec::new();
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match e.path() {
                p if p.is_dir() => todo.push(p),
                p => out.push(p.display().to_string()),
            }
        }
    }
    out.retain(|p| p.contains(part));
    out
}

#[tokio::test]
async fn nothing_deleted_is_in_stock_files_whichever_write_of_deleting_was_the_last() {
    let w = World::new();
    let left = killed(&w).await;
    let (busy, away) = (&left.busy, &left.away);
    let (mut n, mut stayed, mut gone_untold) = (1, 0, 0);
    loop {
        let (env, disk) = Faulty::wrap(&w.env);
        let dying = copy_of(&w, &env);
        let c = dying.start().await;
        let (s, org) = server(&c);
        // Some of it is in files when it is deleted.
        s.settle(Settle::Due).await;
        disk.die_after(n);
        let done = |r: Result<Vec<crate::services::removal::Removed>, ServiceError>| {
            r.is_ok_and(|all| all.iter().all(|f| f.error.is_empty()))
        };
        let flow_told = done(s.delete_flow(&org, &busy.id, "F.X", "me").await);
        let client_told = done(s.delete_client(&org, &away.id, "me").await);
        let died = disk.is_dead();
        drop(c);
        let w = World { env: w.env.clone(), dir: dying.dir, identity: w.identity.clone() };
        let settled = settle(&w, None).await.unwrap();
        assert_eq!(settled.journals_left, settled.journals_waiting, "killed at write {n}");
        // All of it is gone, or all of it is there.
        let flow_gone = files_of(&w, "F.X").is_empty();
        let client_gone = files_of(&w, &away.id).is_empty();
        assert!(!flow_told || flow_gone, "write {n}: {:?}", files_of(&w, "F.X"));
        assert!(!client_told || client_gone, "write {n}: {:?}", files_of(&w, &away.id));
        stayed += usize::from(!flow_gone);
        gone_untold += usize::from(flow_gone && !flow_told);
        let root = StoreRoot::single(w.dir.path().to_str().unwrap());
        let tree = crate::store::Tree::new(&w.env, root.clone());
        let org = crate::services::ids::OrgId::root();
        if !flow_gone {
            let path = paths::Client { org: &org, id: &busy.id };
            let set = path.flow("F.X").results_of("Custom.A");
            let rows = crate::store::resultset::read_rows(&tree, &set, 0, 100).await.unwrap();
            assert_eq!(rows.len(), 10, "killed at write {n}");
        }
        let clients = crate::store::snapshot::load(&tree, &org).await.unwrap().clients;
        assert_eq!(clients.contains_key(&away.id), !client_gone, "killed at write {n}");
        assert_eq!(filed(&w, &busy.id).await, once(3), "what was not deleted is there");
        assert!(inspect::is_settled(&w.env, &root).await.unwrap());
        // With the journals gone it is known still, and what comes late is not kept.
        let c = w.start().await;
        let (s, org) = server(&c);
        let ok = Answer::Reply(Bytes::new());
        assert_eq!(post(&c, busy.body(&[rows("F.X", "Custom.A", 10, 5)])).await, ok);
        s.settle_all().await;
        assert_eq!(files_of(&w, "F.X").is_empty(), flow_gone, "killed at write {n}");
        assert_eq!(s.flow(&org, &busy.id, "F.X").await.unwrap().is_none(), flow_gone);
        if !died {
            assert!(flow_told && client_told && n > 10, "killed nowhere");
            assert!(stayed > 0 && gone_untold > 0, "{stayed}, {gone_untold}");
            return;
        }
        n += 2;
    }
}
