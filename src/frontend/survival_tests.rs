//! A cluster that loses its master: tasks that were written before are delivered by
//! minions, each once, whoever crashes at which moment.

use std::time::Duration;

use velociraptor_proto::journal::Grant;
use velociraptor_proto::journal::decision::Kind;

use super::tests::*;
use super::*;
use crate::cluster::Uplink;
use crate::comms::server::Answer;
use crate::services::fleet::claimer::Claimer;
use crate::services::fleet::hub::Order;
use crate::services::fleet::processes::Processes;
use crate::services::fleet::relay::{Opening, Relay};
use crate::services::fleet::task_files::TaskFile;
use crate::services::flows::job::Hash;
use crate::services::tasks::{Reply, Way, What};
use crate::services::{Options, Role};
use crate::store::journal::ProcessId;
use velociraptor_proto::proto::*;

const FLOW: &str = "F.Task";

fn options(node: &str, role: Role) -> Options {
    Options { node: node.into(), role, minions: true, ..Options::default() }
}

/// A world with a master, and a client for which one task is there.
async fn tasked() -> (World, Clients, TestClient) {
    let w = World::new();
    let master = w.start_with(options("master", Role::Master)).await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&master, &w, &client).await;
    schedule(&master, &client, FLOW).await;
    (w, master, client)
}

/// A world with a master that has left one task in a file, and its client.
async fn left() -> (World, Clients, TestClient) {
    let (w, master, client) = tasked().await;
    go_away(&master, &client).await;
    assert_eq!(server(&master).0.offers.len(), 1);
    (w, master, client)
}

async fn schedule(master: &Clients, client: &TestClient, flow: &str) {
    let (s, org) = server(master);
    let request = ArtifactCollectorArgs {
        client_id: client.id.clone(),
        flow_id: flow.into(),
        compiled_collector_args: vec![VqlCollectorArgs::default()],
        ..Default::default()
    };
    s.schedule(&org, "admin", request).await.unwrap();
}

/// The client is not heard for some time: what waits for it goes into files.
async fn go_away(master: &Clients, client: &TestClient) {
    let (s, org) = server(master);
    org.state().clients.get_mut(&client.id).unwrap().info.ping = 0;
    s.offer_due(true).await;
}

struct Alone {
    clients: Clients,
    relay: Arc<Relay>,
    claimer: Claimer,
}

/// A minion that has no master.
async fn minion(w: &World, node: &str) -> Alone {
    let clients = w.start_with(options(node, Role::Minion)).await;
    let server = clients.0.server().clone();
    let relay = Relay::new(Uplink::new(Default::default()));
    server.set_relay(relay.clone());
    let claimer = Claimer::new(server, relay.clone(), Duration::ZERO);
    Alone { clients, relay, claimer }
}

impl Alone {
    /// The client polls here; what it is given.
    async fn poll(&self, w: &World, client: &TestClient) -> Vec<VeloMessage> {
        let look = async {
            while self.relay.held().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.claimer.look().await;
        };
        let (tasks, ()) = tokio::join!(poll(&self.clients, w, client, 0), look);
        tasks
    }

    /// A client is held here that never takes anything; how many tasks were taken
    /// for it.
    async fn reach(&self, client: &TestClient) -> u64 {
        self.relay.opened(Opening {
            org: crate::services::ids::OrgId::root(),
            client: client.id.clone(),
            session: 1,
            cipher: [9; 16],
            request: None,
            remote: "r".into(),
            agent: String::new(),
            api_version: 4,
            table_claim: None,
            time: 1,
        });
        self.claimer.look().await;
        self.clients.0.server().claims.named()[0].1
    }
}

fn flows(tasks: &[VeloMessage]) -> Vec<&str> {
    let flows = tasks.iter().filter(|t| t.flow_request.is_some());
    flows.map(|t| t.session_id.as_str()).collect()
}

/// What this master would hand to a client process now.
async fn next(master: &Clients, client: &TestClient, cipher: Hash) -> Vec<VeloMessage> {
    let (s, org) = server(master);
    s.next_tasks(&org, &client.id, cipher, Way::Reply(Reply::http([77; 16], [77; 16], 60))).await
}

async fn restarted(w: &World) -> Clients {
    let master = w.start_with(options("master", Role::Master)).await;
    Processes::new(master.0.server().clone()).look().await;
    master
}

fn task_id(master: &Clients, client: &TestClient) -> Option<u64> {
    let (_, org) = server(master);
    let state = org.state();
    let ids = state.clients.get(&client.id)?.queue.in_files(None, false);
    ids.first().copied()
}

#[tokio::test]
async fn what_a_crashed_master_had_left_is_delivered_once() {
    let (w, master, client) = left().await;
    drop(master);
    let (a, b) = (minion(&w, "a").await, minion(&w, "b").await);
    let got = a.poll(&w, &client).await;
    assert_eq!(flows(&got), [FLOW]);
    assert_eq!(b.reach(&client).await, 0, "it is a's");
    let results = [rows(FLOW, "Custom.A", 0, 5), done(FLOW, 5)];
    let answer = post(&a.clients, client.body(&results)).await;
    assert_eq!(answer, Answer::Reply(bytes::Bytes::new()));
    let master = restarted(&w).await;
    let (s, org) = server(&master);
    let context = s.flow(&org, &client.id, FLOW).await.unwrap().unwrap();
    assert_eq!(context.state(), artifact_collector_context::State::Finished);
    assert_eq!(context.total_collected_rows, 5);
    assert!(flows(&next(&master, &client, [1; 16]).await).is_empty());
    s.offer_due(true).await;
    assert!(s.offers.is_empty(), "files of what is over are removed");
    let dir = format!("{}/fleet/tasks/root", w.dir.path().display());
    let left = w.env.fs.list(&dir).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_master_that_comes_back_asks_for_what_a_minion_took() {
    let (w, master, client) = left().await;
    let cipher = [9; 16];
    drop(master);
    let a = minion(&w, "a").await;
    assert_eq!(a.reach(&client).await, 1);
    let master = restarted(&w).await;
    let (_, org) = server(&master);
    // The minion cannot be asked: the client is, and is not given it.
    let asked = next(&master, &client, cipher).await;
    assert!(flows(&asked).is_empty());
    assert!(
        asked
            .iter()
            .any(|m| { m.flow_stats_request.as_ref().is_some_and(|q| q.flow_id == [FLOW]) })
    );
    // It speaks again, and had not sent it.
    let id = *a.relay.introduce().0.iter().map(|h| &h.task_id).next().unwrap();
    let by = a.clients.0.server().process();
    org.state().clients.entry(&client.id).queue.reported(&by, id, What::Back, 5);
    assert_eq!(flows(&next(&master, &client, cipher).await), [FLOW]);
    drop(master);
    // The same once more: now a master has it, and it is in doubt.
    assert_eq!(minion(&w, "b").await.reach(&client).await, 0);
    let master = restarted(&w).await;
    assert!(flows(&next(&master, &client, cipher).await).is_empty());
}

#[tokio::test]
async fn what_a_master_hands_out_no_minion_does() {
    let (w, master, client) = left().await;
    assert_eq!(flows(&next(&master, &client, [9; 16]).await), [FLOW]);
    let a = minion(&w, "a").await;
    assert_eq!(a.reach(&client).await, 0);
    drop(master);
    // Also when the master is gone, and when its successor has not begun.
    assert_eq!(minion(&w, "b").await.reach(&client).await, 0);
    let master = restarted(&w).await;
    let asked = next(&master, &client, [9; 16]).await;
    assert!(flows(&asked).is_empty() && !asked.is_empty(), "in doubt");
}

#[tokio::test]
async fn a_minion_that_reached_for_a_task_and_died_has_none() {
    let (w, master, client) = left().await;
    let id = task_id(&master, &client).unwrap();
    drop(master);
    let a = minion(&w, "a").await;
    let s = a.clients.0.server();
    let me = s.process();
    let claim =
        Grant { task_id: vec![id], cipher_hash: vec![9; 16], node: me.node, epoch: me.epoch };
    s.decide(&s.root(), &client.id, "", Kind::Claim(claim)).await.unwrap();
    let master = restarted(&w).await;
    assert_eq!(flows(&next(&master, &client, [1; 16]).await), [FLOW], "nobody had it");
    // It was only slow.
    let root = s.root();
    let late = s.task_files.take(&root.id, &client.id, &TaskFile::Free(id)).await;
    assert!(!late.unwrap());
}

#[tokio::test]
async fn what_waits_again_is_left_again_and_what_is_cancelled_is_not_delivered() {
    let (w, master, client) = left().await;
    let (s, org) = server(&master);
    let id = task_id(&master, &client).unwrap();
    assert_eq!(flows(&next(&master, &client, [9; 16]).await), [FLOW]);
    org.state().clients.entry(&client.id).queue.give_back([77; 16]);
    go_away(&master, &client).await;
    schedule(&master, &client, "F.Two").await;
    go_away(&master, &client).await;
    s.cancel(&org, &client.id, "F.Two", "admin").await.unwrap();
    drop((org, master));
    let a = minion(&w, "a").await;
    assert_eq!(flows(&a.poll(&w, &client).await), [FLOW]);
    // Cancelled by a master that knows only that somebody has it: told when the
    // client is known to have it, and not before.
    let master = restarted(&w).await;
    let (s, org) = server(&master);
    s.cancel(&org, &client.id, FLOW, "admin").await.unwrap();
    let sent = next(&master, &client, [1; 16]).await;
    assert!(sent.iter().all(|m| m.cancel.is_none() && m.flow_request.is_none()), "{sent:?}");
    let by = a.clients.0.server().process();
    org.state().clients.entry(&client.id).queue.reported(&by, id, What::Received, 5);
    let sent = next(&master, &client, [1; 16]).await;
    assert!(sent.iter().any(|m| m.cancel.is_some() && m.session_id == FLOW), "{sent:?}");
    // And after one more crash it stays cancelled.
    drop((org, master));
    let master = restarted(&w).await;
    let (s, org) = server(&master);
    let context = s.flow(&org, &client.id, FLOW).await.unwrap().unwrap();
    assert_eq!(context.state(), artifact_collector_context::State::Error);
    assert!(flows(&next(&master, &client, [1; 16]).await).is_empty());
}

#[tokio::test]
async fn a_client_that_is_there_or_was_a_moment_ago_has_nothing_in_files() {
    let (w, master, client) = tasked().await;
    let (s, org) = server(&master);
    s.offer_due(true).await;
    assert!(s.offers.is_empty(), "between two polls");
    let (held, _) = s.sessions.register(&org.id, &client.id, [9; 16], "r");
    org.state().clients.get_mut(&client.id).unwrap().info.ping = 0;
    s.offer_due(true).await;
    assert!(s.offers.is_empty(), "held");
    s.sessions.unregister(&org.id, &client.id, held.id);
    s.offer_due(true).await;
    assert_eq!(s.offers.len(), 1);
    // A server that ends, and has no minions any more, leaves nothing there.
    drop((org, master));
    let master = w.start_with(Options { minions: false, ..options("master", Role::Master) }).await;
    let (s, org) = server(&master);
    s.settle_all().await;
    assert!(s.offers.is_empty() && org.state().clients.get(&client.id).is_some());
    let left = s.task_files.clients(&org.id).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_a_master_that_stopped_had_left_is_delivered_or_sent_later() {
    let (w, master, _) = left().await;
    server(&master).0.settle_all().await;
    drop(master);
    let master = restarted(&w).await;
    let client = server(&master).1.state().clients.iter().map(|(id, _)| id.clone()).next();
    let (s, org) = server(&master);
    let next = || async {
        let way = Way::Reply(Reply::http([77; 16], [77; 16], 60));
        s.next_tasks(&org, client.as_ref().unwrap(), [9; 16], way).await
    };
    assert_eq!(flows(&next().await), [FLOW]);
}

#[tokio::test]
async fn a_flow_is_settled_though_its_cancel_waits_in_a_file() {
    let (w, master, client) = tasked().await;
    let tasks = poll(&master, &w, &client, 0).await;
    assert!(tasks.iter().any(|t| t.session_id == FLOW), "{tasks:?}");
    let sent = client.body(&[rows(FLOW, "Custom.A", 0, 3)]);
    assert_eq!(post(&master, sent).await, Answer::Reply(bytes::Bytes::new()));
    let (s, org) = server(&master);
    s.cancel(&org, &client.id, FLOW, "me").await.unwrap();
    go_away(&master, &client).await;
    assert_eq!(s.offers.len(), 1, "the cancel is in a file");
    s.settle(crate::services::housekeeping::Settle::All).await;
    let key = (client.id.clone(), FLOW.to_owned());
    assert!(!org.state().flows.contains_key(&key), "it waits for a client that may never come");
    assert_eq!(s.offers.len(), 1, "and the client gets its cancel all the same");
}

#[tokio::test]
async fn a_cancel_waits_for_proof_though_its_flow_is_settled() {
    let (_w, master, client) = tasked().await;
    let cipher = [1; 16];
    assert_eq!(flows(&next(&master, &client, cipher).await), [FLOW]);
    let cancels = |tasks: &[VeloMessage]| tasks.iter().any(|t| t.cancel.is_some());
    // It is on its way, and nobody knows whether it arrives.
    let (s, org) = server(&master);
    s.cancel(&org, &client.id, FLOW, "me").await.unwrap();
    s.settle(crate::services::housekeeping::Settle::All).await;
    assert!(!org.state().flows.contains_key(&(client.id.clone(), FLOW.to_owned())));
    assert!(!cancels(&next(&master, &client, cipher).await));
    // The client shows that it has it.
    org.state().clients.entry(&client.id).queue.evidence(FLOW, 9);
    assert!(cancels(&next(&master, &client, cipher).await));
}

#[tokio::test]
async fn a_cancel_of_what_was_sent_goes_out_after_a_restart() {
    for settled in [false, true] {
        let (w, master, client) = tasked().await;
        let cipher = [1; 16];
        assert_eq!(flows(&next(&master, &client, cipher).await), [FLOW]);
        // Sent, and nothing came of it when it is cancelled and the master ends.
        let (s, org) = server(&master);
        s.cancel(&org, &client.id, FLOW, "me").await.unwrap();
        if settled {
            s.settle(crate::services::housekeeping::Settle::All).await;
            s.collect_garbage().await;
        }
        drop(org);
        drop(master);
        let master = restarted(&w).await;
        let cancels = |tasks: &[VeloMessage]| tasks.iter().any(|t| t.cancel.is_some());
        let tasks = next(&master, &client, cipher).await;
        let asks = tasks.iter().any(|t| t.flow_stats_request.is_some());
        assert!(asks && !cancels(&tasks) && flows(&tasks).is_empty(), "{tasks:?}");
        // The client works on it: it shows that it has it.
        let sent = client.body(&[rows(FLOW, "Custom.A", 0, 3)]);
        assert_eq!(post(&master, sent).await, Answer::Reply(bytes::Bytes::new()));
        assert!(cancels(&next(&master, &client, cipher).await), "settled: {settled}");
        // And when it has ended, nobody waits for anything any more.
        let sent = client.body(&[done(FLOW, 3)]);
        assert_eq!(post(&master, sent).await, Answer::Reply(bytes::Bytes::new()));
        let (s, org) = server(&master);
        s.settle(crate::services::housekeeping::Settle::All).await;
        assert!(!org.state().clients.entry(&client.id).queue.has_work());
    }
}

#[tokio::test]
async fn an_answer_that_was_stored_and_not_acted_on_is_acted_on_after_a_restart() {
    let (w, master, client) = tasked().await;
    assert_eq!(flows(&next(&master, &client, [1; 16]).await), [FLOW]);
    // A minion stores it, of another process of the client than got the task; the master
    // ends before it has read that.
    drop(master);
    let minion = w.start_with(options("minion", Role::Minion)).await;
    let answer = post(&minion, client.body(&[unknown()])).await;
    assert_eq!(answer, Answer::Reply(bytes::Bytes::new()));
    drop(minion);
    ended(&restarted(&w).await, &client).await;
}

#[tokio::test]
async fn what_its_client_does_not_know_any_more_is_over_also_after_a_restart() {
    let (w, master, client) = tasked().await;
    let cipher = [1; 16];
    assert_eq!(flows(&next(&master, &client, cipher).await), [FLOW]);
    let (_, org) = server(&master);
    org.state().clients.entry(&client.id).queue.frame_consumed(cipher, [77; 16], 5);
    // It got it, was started anew, and was asked. That it got it is in no journal.
    assert_eq!(post(&master, client.body(&[unknown()])).await, Answer::Reply(bytes::Bytes::new()));
    ended(&master, &client).await;
    drop(master);
    ended(&restarted(&w).await, &client).await;
}

#[tokio::test]
async fn the_same_answer_of_another_process_of_the_client_counts_again() {
    let (_w, master, client) = tasked().await;
    let taken = Answer::Reply(bytes::Bytes::new());
    // It has not been sent yet.
    assert_eq!(post(&master, client.body(&[unknown()])).await, taken);
    let cipher = [1; 16];
    assert_eq!(flows(&next(&master, &client, cipher).await), [FLOW]);
    let (s, org) = server(&master);
    org.state().clients.entry(&client.id).queue.frame_consumed(cipher, [77; 16], 5);
    let open = s.flow(&org, &client.id, FLOW).await.unwrap().unwrap();
    assert_ne!(open.state(), artifact_collector_context::State::Error);
    // The process that got it has ended. What the next one says is the same to the letter.
    assert_eq!(post(&master, client.body(&[unknown()])).await, taken);
    ended(&master, &client).await;
}

/// The client's answer that it does not know the flow.
fn unknown() -> VeloMessage {
    let unknown = VeloStatus {
        status: velo_status::ReturnedStatus::UnknownFlow.into(),
        ..Default::default()
    };
    let stats =
        FlowStats { query_status: vec![unknown], flow_complete: true, ..Default::default() };
    VeloMessage {
        session_id: FLOW.into(),
        flow_stats: Some(stats),
        urgent: true,
        ..Default::default()
    }
}

/// Waits until the flow has ended in an error.
async fn ended(master: &Clients, client: &TestClient) {
    let (s, org) = server(master);
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let context = s.flow(&org, &client.id, FLOW).await.unwrap().unwrap();
        if context.state() == artifact_collector_context::State::Error {
            assert!(context.status.contains("Flow not known"), "{}", context.status);
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{context:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A minion was given a task as its client's poll there ended, and the client comes to the master:
/// the task is called back at once.
#[tokio::test]
async fn what_a_minion_has_for_a_client_that_comes_to_the_master_is_called_back() {
    let (w, master, client) = tasked().await;
    let (s, org) = server(&master);
    let (to, mut orders) = tokio::sync::mpsc::unbounded_channel();
    s.set_orders(to);
    let minion = ProcessId::new("minion", "1");
    let give = || {
        let mut state = org.state();
        let queue = &mut state.clients.entry(&client.id).queue;
        queue.take([7; 16], Way::Node(&minion), 1, 4, true).messages.len()
    };
    assert_eq!(give(), 1);
    assert!(poll(&master, &w, &client, 0).await.is_empty(), "a minion has it");
    match orders.try_recv() {
        Ok(Order::Recall(key, Some((cipher, _)))) => {
            assert_eq!(key, (org.id.clone(), client.id.clone()));
            assert_ne!(cipher, [7; 16], "that of the process which came");
        }
        other => panic!("{other:?}"),
    }

    // With that minion gone nothing is elsewhere, and nobody is asked.
    org.state().clients.entry(&client.id).queue.process_gone(&minion);
    assert!(org.state().clients.entry(&client.id).queue.away().is_empty());
    poll(&master, &w, &client, 0).await;
    assert!(orders.try_recv().is_err());
}
