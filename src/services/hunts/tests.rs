//! Hunts of a server on real files: who is recruited and when, what a restart
//! knows, and what lies in stock files.
#![allow(clippy::disallowed_methods)] // looks at files on disk

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::journal::FailFlow;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::proto::hunt::State;
use velociraptor_proto::proto::hunt_condition::UnionField;
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, ClientInfo, Hunt, HuntCondition, HuntLabelCondition, HuntMutation,
};

use super::flow_of_hunt;
use crate::services::acl::Policy;
use crate::services::{Options, Server};
use crate::store::StoreRoot;

struct Lab {
    server: Arc<Server>,
    stop: CancellationToken,
    work: tokio::task::JoinHandle<()>,
}

async fn open(dir: &Path, rate: u64) -> Lab {
    let root = StoreRoot::single(dir.to_str().unwrap());
    let options = Options { hunt_rate: rate, obfuscate: false, ..Options::default() };
    let server = Server::open(crate::env::real::env(), root, options).await.unwrap();
    let stop = CancellationToken::new();
    let work = tokio::spawn(server.clone().recruit(stop.clone()));
    Lab { server, stop, work }
}

impl Lab {
    /// Ends without a word, as a crash does.
    async fn crash(self) {
        self.stop.cancel();
        self.work.await.unwrap();
    }

    async fn enrol(&self, client: &str) {
        let org = self.server.root();
        let info = ClientInfo { hostname: format!("host-{client}"), ..Default::default() };
        self.server.decide(&org, client, "", Kind::ClientInfo(info)).await.unwrap();
    }

    fn connect(&self, client: &str) {
        let org = self.server.root();
        self.server.sessions.register(&org.id, client, [7; 16], "1.2.3.4:5");
        org.state().hunts.look_at(client);
    }

    async fn hunt(&self, hunt: Hunt) -> String {
        let request = ArtifactCollectorArgs {
            artifacts: vec!["Linux.Sys.Users".into()],
            ..Default::default()
        };
        let hunt = Hunt { start_request: Some(request), ..hunt };
        let policy = Policy::super_user();
        self.server.create_hunt(&self.server.root(), "ann", &policy, hunt).await.unwrap().hunt_id
    }

    async fn change(&self, id: &str, state: State) {
        let m = HuntMutation { hunt_id: id.into(), state: state.into(), ..Default::default() };
        self.server.modify_hunt(&self.server.root(), "ann", &m).await.unwrap();
    }

    fn members(&self, id: &str) -> Vec<String> {
        let found = self.server.hunt_members(&self.server.root(), id).unwrap();
        found.into_iter().map(|m| m.0).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The client's flow ends, and that is announced.
    async fn end(&self, client: &str, flow: &str) {
        let org = self.server.root();
        let fail = FailFlow { flow_id: flow.into(), reason: "it broke".into() };
        self.server.decide(&org, client, "", Kind::FailFlow(fail)).await.unwrap();
        self.server.after_progress(&org, &(client.into(), flow.into())).await.unwrap();
    }

    /// Tasks that wait for a client, by flow.
    fn tasks(&self, client: &str) -> Vec<String> {
        let org = self.server.root();
        let state = org.state();
        let queue = &state.clients.get(client).unwrap().queue;
        queue.unsent().map(|t| t.session_id.clone()).collect()
    }
}

fn running() -> Hunt {
    Hunt { state: State::Running.into(), ..Default::default() }
}

fn names(ids: impl IntoIterator<Item = u32>) -> Vec<String> {
    ids.into_iter().map(|i| format!("C.{i:016x}")).collect()
}

#[tokio::test]
async fn clients_are_recruited_when_they_are_there_and_match() {
    let dir = tempfile::tempdir().unwrap();
    let lab = open(dir.path(), 1000).await;
    let all = names(0..6);
    for c in &all {
        lab.enrol(c).await;
    }
    all[..3].iter().for_each(|c| lab.connect(c));
    let everybody = lab.hunt(running()).await;
    let red = HuntLabelCondition { label: vec!["red".into()] };
    let condition =
        HuntCondition { union_field: Some(UnionField::Labels(red)), ..Default::default() };
    let labelled = lab.hunt(Hunt { condition: Some(condition), ..running() }).await;
    let paused = lab.hunt(Hunt { state: State::Paused.into(), ..Default::default() }).await;
    lab.until("three recruits", |l| l.members(&everybody).len() == 3).await;
    assert_eq!(lab.tasks(&all[0]), [flow_of_hunt(&everybody)]);
    assert!(lab.members(&labelled).is_empty() && lab.members(&paused).is_empty());
    // One comes later, one gets the label later, the third hunt starts later.
    lab.connect(&all[3]);
    lab.server.label(&lab.server.root(), &all[1], "ann", &["Red".into()], &[]).await.unwrap();
    lab.until("a fourth", |l| l.members(&everybody).len() == 4).await;
    lab.until("a labelled one", |l| l.members(&labelled) == all[1..2]).await;
    lab.change(&paused, State::Running).await;
    lab.until("the third hunt", |l| l.members(&paused).len() == 4).await;
    // Nobody after it was stopped; whoever is asked for by name all the same.
    lab.change(&everybody, State::Stopped).await;
    lab.connect(&all[4]);
    lab.until("those that run", |l| l.members(&paused).len() == 5).await;
    assert_eq!(lab.members(&everybody).len(), 4);
    let org = lab.server.root();
    lab.server.add_client_to_hunt(&org, &everybody, &all[5]).await.unwrap();
    assert_eq!(lab.members(&everybody).len(), 5);
    // A collection of somebody's becomes one of a hunt's.
    let request = ArtifactCollectorArgs {
        client_id: all[5].clone(),
        artifacts: vec!["Linux.Sys.Users".into()],
        ..Default::default()
    };
    let policy = Policy::super_user();
    let flow = lab.server.collect(&org, "ann", &policy, request).await.unwrap().flow_id;
    lab.server.add_to_hunt(&org, "ann", &labelled, &all[5], &flow).await.unwrap();
    lab.end(&all[5], &flow).await;
    let stats = lab.server.hunt(&org, &labelled, false).unwrap().stats.unwrap();
    assert_eq!((stats.total_clients_scheduled, stats.total_clients_with_errors), (2, 1));
    lab.crash().await;
}

#[tokio::test]
async fn limits_and_expiry_stop_a_hunt() {
    let dir = tempfile::tempdir().unwrap();
    let lab = open(dir.path(), 1000).await;
    for c in names(0..8) {
        lab.enrol(&c).await;
        lab.connect(&c);
    }
    let few = lab.hunt(Hunt { client_limit: 3, ..running() }).await;
    let org = lab.server.root();
    let state = |l: &Lab, id: &str| l.server.hunt(&org, id, false).unwrap().state();
    lab.until("three and no more", |l| state(l, &few) == State::Stopped).await;
    assert_eq!(lab.members(&few).len(), 3);
    let now = lab.server.env.clock.micros();
    let short = lab.hunt(Hunt { expires: now + 1_500_000, ..running() }).await;
    lab.until("its end", |l| state(l, &short) == State::Stopped).await;
    let m = HuntMutation { hunt_id: short, state: State::Running.into(), ..Default::default() };
    let e = lab.server.modify_hunt(&org, "ann", &m).await.unwrap_err();
    assert!(e.to_string().contains("expired"), "{e}");
    lab.crash().await;
}

/// Counts as users see them.
fn counts(lab: &Lab, id: &str) -> (u64, u64, u64) {
    let s = lab.server.hunt(&lab.server.root(), id, false).unwrap().stats.unwrap();
    (s.total_clients_scheduled, s.total_finished_clients, s.total_clients_with_errors)
}

#[tokio::test]
async fn a_restart_knows_everything_and_recruits_nobody_twice() {
    let dir = tempfile::tempdir().unwrap();
    let all = names(0..20);
    let lab = open(dir.path(), 40).await;
    for c in &all {
        lab.enrol(c).await;
        lab.connect(c);
    }
    let id = lab.hunt(running()).await;
    let flow = flow_of_hunt(&id);
    // In the middle of recruiting.
    lab.until("some", |l| l.members(&id).len() >= 8).await;
    let first = lab.members(&id)[0].clone();
    lab.end(&first, &flow).await;
    let before = lab.members(&id);
    lab.crash().await;

    let lab = open(dir.path(), 1000).await;
    let known = lab.members(&id);
    assert!(before.iter().all(|c| known.contains(c)) && known.len() < 20, "{known:?}");
    assert_eq!(counts(&lab, &id), (known.len() as u64, 1, 1));
    all.iter().for_each(|c| lab.connect(c));
    lab.until("everybody", |l| l.members(&id).len() == 20).await;
    lab.server.settle(crate::services::housekeeping::Settle::Due).await;
    lab.end(&all[7], &flow).await;
    lab.crash().await;

    // Part of it in files, the rest in journals.
    let lab = open(dir.path(), 1000).await;
    assert_eq!(counts(&lab, &id), (20, 2, 2));
    lab.server.settle_all().await;
    lab.crash().await;

    // All of it in files.
    let fleet = dir.path().join("fleet");
    std::fs::remove_dir_all(&fleet).unwrap();
    let lab = open(dir.path(), 1000).await;
    assert_eq!(counts(&lab, &id), (20, 2, 2));
    let hunt = lab.server.hunt(&lab.server.root(), &id, true).unwrap();
    assert_eq!((hunt.state(), hunt.creator.as_str()), (State::Running, "ann"));
    assert!(!hunt.start_request.unwrap().compiled_collector_args.is_empty());
    all.iter().for_each(|c| lab.connect(c));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(counts(&lab, &id), (20, 2, 2));
    lab.crash().await;
}

#[tokio::test]
async fn stock_files_hold_a_hunt_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let lab = open(dir.path(), 1000).await;
    let all = names(0..3);
    for c in &all {
        lab.enrol(c).await;
        lab.connect(c);
    }
    let id = lab.hunt(Hunt { hunt_description: "look".into(), ..running() }).await;
    lab.until("everybody", |l| l.members(&id).len() == 3).await;
    lab.end(&all[0], &flow_of_hunt(&id)).await;
    lab.server.settle_all().await;
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let rows = |name: &str| -> Vec<serde_json::Value> {
        read(name).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let object: serde_json::Value =
        serde_json::from_str(&read(&format!("hunts/{id}.json.db"))).unwrap();
    assert_eq!(object["huntDescription"], "look");
    assert_eq!(object["stats"]["totalClientsScheduled"], "3");
    assert!(read(&format!("hunts/{id}/request.json.db")).contains("compiledCollectorArgs"));
    let clients = rows(&format!("hunts/{id}.json"));
    assert_eq!(clients.len(), 3);
    assert_eq!(clients[0]["FlowId"], flow_of_hunt(&id));
    let ends = rows(&format!("hunts/{id}_errors.json"));
    assert_eq!((ends.len(), &ends[0]["Status"]), (1, &serde_json::json!("ERROR")));
    assert_eq!(rows(&format!("hunts/{id}/enriched.json")).len(), 3);
    let marker = dir.path().join(format!("hunt_index/{}/{}.db", id.to_lowercase(), all[2]));
    assert_eq!(std::fs::metadata(&marker).unwrap().len(), 0);
    let index = rows("hunts/index.json");
    assert_eq!(index[0]["HuntId"], id);
    let inner = index[0]["Hunt"].as_str().unwrap();
    let inner = data_encoding::BASE64.decode(inner.as_bytes()).unwrap();
    assert!(String::from_utf8(inner).unwrap().contains("\"hunt_id\":"));
    for name in [format!("hunts/{id}.json"), "hunts/index.json".to_owned()] {
        let index = std::fs::metadata(dir.path().join(format!("{name}.index"))).unwrap();
        assert_eq!(index.len(), 8 * rows(&name).len() as u64, "{name}");
    }
    lab.crash().await;
    let lab = open(dir.path(), 1000).await;
    lab.change(&id, State::Deleted).await;
    lab.server.settle_all().await;
    lab.crash().await;
    for gone in [format!("hunts/{id}.json.db"), format!("hunts/{id}.json"), format!("hunts/{id}")] {
        assert!(!dir.path().join(&gone).exists(), "{gone}");
    }
    assert!(!marker.exists() && rows("hunts/index.json").is_empty());
    let lab = open(dir.path(), 1000).await;
    assert!(lab.server.hunt(&lab.server.root(), &id, false).is_none());
    lab.crash().await;
}
