//! Agents of protocol 3, before 0.6.8: what they are given, and what becomes of
//! what they send.

use super::tests::*;
use super::*;
use crate::comms::Channel;
use crate::comms::server::{Answer, ClientService, ReaderAnswer};
use crate::services::Options;
use crate::services::flows::Rows;
use bytes::Bytes;
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::*;

fn log(flow: &str, artifact: &str, level: &str, text: &str, id: u64) -> VeloMessage {
    VeloMessage {
        session_id: flow.into(),
        response_id: id,
        log_message: Some(LogMessage {
            artifact: artifact.into(),
            level: level.into(),
            message: text.into(),
            timestamp: 1_700_000_000_000_000,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn ended(flow: &str, query: i64, of: i64, artifact: &str, rows: i64) -> VeloMessage {
    VeloMessage {
        session_id: flow.into(),
        request_id: query as u64,
        status: Some(VeloStatus {
            status: ReturnedStatus::Ok.into(),
            artifact: artifact.into(),
            query_id: query,
            total_queries: of,
            result_rows: rows,
            log_rows: 1,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A collection of these queries, each named `Custom.<n>`.
async fn collect(c: &Clients, client: &TestClient, queries: usize, max_rows: u64) -> String {
    let one = |i: usize| VqlCollectorArgs {
        query: vec![VqlRequest { name: format!("Custom.{i}"), vql: "SELECT 1".into() }],
        query_id: i as i64 + 1,
        total_queries: queries as i64,
        ..Default::default()
    };
    let args = ArtifactCollectorArgs {
        client_id: client.id.clone(),
        compiled_collector_args: (0..queries).map(one).collect(),
        max_rows,
        ..Default::default()
    };
    let (s, org) = server(c);
    s.schedule(&org, "me", args).await.unwrap()
}

async fn context(c: &Clients, client: &TestClient, flow: &str) -> ArtifactCollectorContext {
    let (s, org) = server(c);
    s.flow(&org, &client.id, flow).await.unwrap().unwrap()
}

async fn sent(c: &Clients, client: &TestClient, jobs: &[VeloMessage]) {
    assert_eq!(post(c, client.body(jobs)).await, Answer::Reply(Bytes::new()));
}

/// An old agent that has enrolled, and whose first tasks were taken.
async fn old_client(c: &Clients, w: &World) -> TestClient {
    let client = TestClient { old: true, ..TestClient::new(w, NONCE) };
    enrol(c, &client).await;
    let tasks = poll(c, w, &client, 0).await;
    assert!(tasks.iter().any(|t| t.vql_client_action.is_some()), "it is interrogated");
    client
}

#[tokio::test]
async fn an_old_agent_gets_queries_and_its_event_table_in_one_reply() {
    let w = World::new();
    let options = Options {
        default_client_monitoring: vec!["Generic.Client.Stats".into()],
        ..Options::default()
    };
    let c = w.start_with(options).await;
    let client = TestClient { old: true, ..TestClient::new(&w, NONCE) };
    enrol(&c, &client).await;
    let tasks = poll(&c, &w, &client, 0).await;
    assert!(tasks.iter().all(|t| t.flow_request.is_none()), "it knows no flow requests");
    assert!(tasks.iter().any(|t| t.vql_client_action.is_some()));
    assert!(tasks.iter().any(|t| t.update_event_table.is_some()));
}

#[tokio::test]
async fn a_collection_is_over_when_all_its_queries_are() {
    let w = World::new();
    let c = w.start().await;
    let client = old_client(&c, &w).await;
    let flow = collect(&c, &client, 2, 0).await;
    let tasks = poll(&c, &w, &client, 0).await;
    assert_eq!(tasks.iter().map(|t| t.request_id).collect::<Vec<_>>(), [1, 2]);
    sent(&c, &client, &[log(&flow, "Custom.1", "INFO", "Starting", 9)]).await;
    assert_eq!(context(&c, &client, &flow).await.state(), State::InProgress);
    let first = [rows(&flow, "Custom.1", 0, 5), ended(&flow, 2, 2, "Custom.1", 5)];
    sent(&c, &client, &first).await;
    let now = context(&c, &client, &flow).await;
    assert_eq!((now.state(), now.total_collected_rows), (State::InProgress, 5));
    sent(&c, &client, &[rows(&flow, "Custom.0", 0, 3), ended(&flow, 1, 2, "Custom.0", 3)]).await;
    let check = |now: ArtifactCollectorContext| {
        assert_eq!((now.state(), now.total_collected_rows), (State::Finished, 8));
        assert_eq!(now.artifacts_with_results, ["Custom.0", "Custom.1"]);
        assert!(now.active_time > 0 && now.start_time > 0);
    };
    check(context(&c, &client, &flow).await);
    // The same after a crash, and out of the stock files.
    drop(c);
    let c = w.start().await;
    check(context(&c, &client, &flow).await);
    server(&c).0.settle_all().await;
    check(context(&c, &client, &flow).await);
}

#[tokio::test]
async fn rows_of_all_sources_of_one_query_are_counted() {
    let w = World::new();
    let c = w.start().await;
    let client = old_client(&c, &w).await;
    let flow = collect(&c, &client, 1, 0).await;
    poll(&c, &w, &client, 0).await;
    // The agent's own count is that of the last source.
    let mut end = ended(&flow, 1, 1, "Custom.0/B", 25);
    end.status.as_mut().unwrap().names_with_response =
        ["Custom.0/A", "Custom.0/B", "Custom.0/C"].map(str::to_owned).to_vec();
    sent(&c, &client, &[rows(&flow, "Custom.0/A", 0, 10), rows(&flow, "Custom.0/B", 0, 25), end])
        .await;
    let now = context(&c, &client, &flow).await;
    assert_eq!((now.state(), now.total_collected_rows), (State::Finished, 35));
    assert_eq!(now.artifacts_with_results, ["Custom.0/A", "Custom.0/B"]);
}

#[tokio::test]
async fn an_error_in_its_log_fails_the_collection() {
    let w = World::new();
    let c = w.start().await;
    let client = old_client(&c, &w).await;
    let flow = collect(&c, &client, 1, 0).await;
    poll(&c, &w, &client, 0).await;
    let jobs = [
        log(&flow, "Custom.0", "INFO", "Starting\n", 1),
        log(&flow, "Custom.0", "ERROR", "Plugin x not found.\n", 2),
        ended(&flow, 1, 1, "Custom.0", 0),
        log(&flow, "Custom.0", "INFO", "Done", 3),
    ];
    sent(&c, &client, &jobs).await;
    drop(c);
    let c = w.start().await;
    let now = context(&c, &client, &flow).await;
    assert_eq!((now.state(), now.status.as_str()), (State::Error, "Plugin x not found."));
    let (s, org) = server(&c);
    let lines = s.rows(&org, &client.id, &flow, &Rows::Logs, 0, 10).await.unwrap();
    assert_eq!(lines.len(), 3);
    let line: serde_json::Value = serde_json::from_slice(&lines[1]).unwrap();
    assert_eq!(
        (&line["message"], &line["level"]),
        (&"Plugin x not found.\n".into(), &"ERROR".into())
    );
}

#[tokio::test]
async fn its_row_limit_is_kept_by_the_server() {
    let w = World::new();
    let c = w.start().await;
    let client = old_client(&c, &w).await;
    let flow = collect(&c, &client, 1, 10).await;
    poll(&c, &w, &client, 0).await;
    poll(&c, &w, &client, 0).await; // receipt is proved
    let rows = |start| VeloMessage { response_id: 1, ..rows(&flow, "Custom.0", start, 10) };
    sent(&c, &client, &[rows(0)]).await;
    assert_eq!(context(&c, &client, &flow).await.state(), State::InProgress);
    sent(&c, &client, &[rows(10)]).await;
    let now = context(&c, &client, &flow).await;
    assert_eq!((now.state(), now.status.as_str()), (State::Error, "Row count exceeded limit"));
    let tasks = poll(&c, &w, &client, 0).await;
    let cancelled = tasks.iter().find(|t| t.cancel.is_some()).expect("the agent is told");
    assert_eq!(cancelled.session_id, flow);
}

#[tokio::test]
async fn where_old_agents_are_not_wanted_neither_channel_serves_them() {
    let w = World::new();
    let c = w.start().await;
    let client = old_client(&c, &w).await;
    drop(c);
    let c = w.start_limited(Limits { ancient_clients: false, ..Limits::default() }).await;
    let refused = |a: &Answer| matches!(a, Answer::Status(403, _));
    assert!(refused(&post(&c, client.body(&[rows("F.1", "Custom.A", 0, 1)])).await));
    match c.reader(request(client.body(&[]), Channel::Reader)).await {
        ReaderAnswer::Done(a) => assert!(refused(&a), "{a:?}"),
        ReaderAnswer::Hold(_) => panic!("it would be given tasks and its results refused"),
    }
}
