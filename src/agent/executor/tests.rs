//! The executor without a network: requests in, messages out.
#![allow(clippy::disallowed_methods)]

use super::*;
use crate::agent::settings::Settings;
use crate::agent::writeback::Writeback;
use crate::plugins::common::Host;
use std::io::Read;
use velociraptor_proto::proto::{
    Artifact, ArtifactParameter, ArtifactSource, Cancel, FlowStatsRequest, VqlEnv, VqlEventTable,
    VqlRequest,
};

struct Agent {
    dir: tempfile::TempDir,
    executor: Arc<Executor>,
    out: Arc<Outbox>,
    events: Arc<Events>,
}

async fn agent() -> Agent {
    agent_in(tempfile::tempdir().unwrap()).await
}

async fn agent_in(dir: tempfile::TempDir) -> Agent {
    let env = crate::env::real::env();
    let out = Arc::new(Outbox::in_memory());
    let path = |n: &str| dir.path().join(n).to_string_lossy().into_owned();
    let writeback = Writeback::load(env.fs.clone(), &path("w.yaml"), "").await.unwrap();
    let mut registry = crate::plugins::endpoint_registry();
    crate::agent::artifacts::register(&mut registry);
    let cx = Context {
        settings: Arc::new(Settings::default()),
        registry: Arc::new(registry),
        host: Arc::new(Host::default()),
        install_time: 7,
        cores: 4,
        cpu: Arc::new(|| Duration::ZERO),
        env: env.clone(),
        extend: None,
    };
    let writeback = Arc::new(tokio::sync::Mutex::new(writeback));
    let events = Arc::new(Events::new(cx.clone(), out.clone(), writeback));
    let checkpoint = Checkpoint::new(env.fs.clone(), Some(path("flows")));
    let executor = Executor::new(cx, out.clone(), events.clone(), checkpoint);
    Agent { dir, executor, out, events }
}

fn action(queries: &[(&str, &str)]) -> VqlCollectorArgs {
    let query =
        |(name, vql): &(&str, &str)| VqlRequest { vql: (*vql).into(), name: (*name).into() };
    VqlCollectorArgs { query: queries.iter().map(query).collect(), ..Default::default() }
}

fn request(actions: Vec<VqlCollectorArgs>) -> FlowRequest {
    FlowRequest { vql_client_actions: actions, log_batch_time: 200, ..Default::default() }
}

fn job(id: &str, fill: impl FnOnce(&mut VeloMessage)) -> VeloMessage {
    let mut m = VeloMessage { session_id: id.into(), auth_state: 1, ..Default::default() };
    fill(&mut m);
    m
}

impl Agent {
    async fn start(&self, id: &str, request: FlowRequest) {
        self.executor.handle(job(id, |m| m.flow_request = Some(request))).await;
    }

    /// Everything sent until no collection runs.
    async fn finish(&self) -> Vec<VeloMessage> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.executor.running() > 0 {
            assert!(Instant::now() < deadline, "a collection does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.out.drain().await
    }
}

fn rows(all: &[VeloMessage], name: &str) -> String {
    let responses = all.iter().filter_map(|m| m.vql_response.as_ref());
    let named = responses.filter(|r| r.query.as_ref().is_some_and(|q| q.name == name));
    named.map(|r| r.jsonl_response.as_str()).collect()
}

fn logs(all: &[VeloMessage]) -> String {
    all.iter().filter_map(|m| m.log_message.as_ref()).map(|l| l.jsonl.as_str()).collect()
}

fn last_stats(all: &[VeloMessage]) -> FlowStats {
    let complete: Vec<_> =
        all.iter().filter_map(|m| m.flow_stats.clone()).filter(|s| s.flow_complete).collect();
    assert_eq!(complete.len(), 1, "exactly one final report");
    assert!(all.last().unwrap().flow_stats.is_some(), "the final report is last");
    complete[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_from_request_to_final_report() {
    let a = agent().await;
    let mut first = action(&[
        ("", "LET X <= 2"),
        ("A/One", "SELECT _value * X AS V, P FROM range(start=0, end=5, step=1)"),
        ("A/Two", "SELECT * FROM scope() WHERE FALSE"),
    ]);
    first.max_row = 2;
    first.env = vec![VqlEnv { key: "P".into(), value: "07".into(), ..Default::default() }];
    let second = action(&[("B", "SELECT missing AS M FROM scope()")]);
    a.start("F.1", request(vec![first, second])).await;
    let all = a.finish().await;
    assert!(all.iter().all(|m| m.session_id == "F.1"));

    assert_eq!(
        rows(&all, "A/One"),
        "{\"V\":0,\"P\":\"07\"}\n{\"V\":2,\"P\":\"07\"}\n{\"V\":4,\"P\":\"07\"}\n\
         {\"V\":6,\"P\":\"07\"}\n{\"V\":8,\"P\":\"07\"}\n"
    );
    let one: Vec<_> = all
        .iter()
        .filter_map(|m| m.vql_response.as_ref())
        .filter(|r| r.query.as_ref().unwrap().name == "A/One")
        .map(|r| (r.part, r.query_start_row, r.total_rows, r.query_id))
        .collect();
    assert_eq!(one, [(0, 0, 2, 1), (1, 2, 2, 1), (2, 4, 1, 1)]);
    let r = all.iter().find_map(|m| m.vql_response.as_ref()).unwrap();
    assert!(r.query.as_ref().unwrap().vql.starts_with("SELECT"));
    assert!(!r.columns.is_empty() && r.timestamp > 0);

    let stats = last_stats(&all);
    assert_eq!(stats.query_status.len(), 2);
    let s = &stats.query_status[0];
    assert_eq!((s.status(), s.result_rows), (ReturnedStatus::Ok, 5));
    assert_eq!(s.names_with_response, ["A/One"]);
    assert!(s.last_active >= s.first_active && s.duration >= 0);
    let failed = &stats.query_status[1];
    assert_eq!(failed.status(), ReturnedStatus::GenericError, "{failed:?}");
    assert!(failed.error_message.contains("missing"), "{failed:?}");

    // Log numbers are consecutive and their sum is what the report says.
    let mut next = 0;
    for l in all.iter().filter_map(|m| m.log_message.as_ref()) {
        assert_eq!(l.id, next);
        assert_eq!(l.jsonl.lines().count() as u64, l.number_of_rows);
        next += l.number_of_rows as i64;
    }
    let told: i64 = stats.query_status.iter().map(|s| s.log_rows).sum();
    assert_eq!(told, next);
    assert!(logs(&all).contains("Starting query execution for A/One."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_and_row_limit() {
    let a = agent().await;
    let mut act = action(&[("A", "SELECT _value AS V FROM range(start=0, end=100, step=1)")]);
    act.max_row = 10;
    let mut r = request(vec![act]);
    r.compression = 1;
    r.max_rows = 25;
    a.start("F.1", r).await;
    let all = a.finish().await;
    let mut text = String::new();
    for r in all.iter().filter_map(|m| m.vql_response.as_ref()) {
        assert!(r.jsonl_response.is_empty());
        assert_eq!(r.byte_offset, text.len() as u64);
        let before = text.len();
        flate2::read::ZlibDecoder::new(r.compressed_json_response.as_slice())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(r.uncompressed_size, (text.len() - before) as u64);
    }
    assert_eq!(text.lines().count(), 30, "the part that passes the limit is sent");
    let s = &last_stats(&all).query_status[0];
    assert_eq!(s.error_message, "Rows 30 exceeded limit 25 for flow F.1. Cancelling.");
    assert_eq!((s.status(), s.result_rows), (ReturnedStatus::GenericError, 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_and_repeated_tasks() {
    let a = agent().await;
    let forever = action(&[("A", "SELECT Unix FROM clock(ms=20, period=0)")]);
    for id in ["F.1", "F.2", "F.3"] {
        a.start(id, request(vec![forever.clone()])).await;
    }
    // F.3 waits for a slot; a repeated task does not run again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.start("F.1", request(vec![forever.clone()])).await;
    assert_eq!(a.executor.running(), 3);
    for id in ["F.3", "F.1", "F.2"] {
        a.executor.handle(job(id, |m| m.cancel = Some(Cancel::default()))).await;
    }
    let all = a.finish().await;
    for id in ["F.1", "F.2", "F.3"] {
        let mine: Vec<_> = all.iter().filter(|m| m.session_id == id).cloned().collect();
        assert!(logs(&mine).contains(&format!("Cancelled all in-flight queries for flow {id}")));
        assert!(mine.iter().all(|m| m.vql_response.is_none()));
        let s = &last_stats(&mine.iter().filter(|m| !m.urgent).cloned().collect::<Vec<_>>());
        assert_eq!(s.query_status.len(), 1);
        assert_eq!(s.query_status[0].error_message, "Cancelled");
    }
    let ask = FlowStatsRequest { flow_id: vec!["F.1".into(), "F.9".into()] };
    a.executor.handle(job("F.Status", |m| m.flow_stats_request = Some(ask))).await;
    let told = a.out.drain().await;
    assert!(told.iter().all(|m| m.urgent && m.flow_stats.as_ref().unwrap().flow_complete));
    let unknown = &told[1].flow_stats.as_ref().unwrap().query_status[0];
    assert_eq!(unknown.status(), ReturnedStatus::UnknownFlow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_time_and_expiry_and_preconditions() {
    let a = agent().await;
    let slow = "SELECT Unix FROM clock(ms=50, period=0)";
    let mut timeout = action(&[("T", slow)]);
    timeout.timeout = 1;
    let mut stalled = action(&[("P", "SELECT sleep(time=60) FROM scope()")]);
    stalled.progress_timeout = 0.4;
    let mut expired = action(&[("E", "SELECT 1 AS A FROM scope()")]);
    expired.expiry = 1000;
    let mut skipped = action(&[("S", "SELECT 1 AS A FROM scope()")]);
    skipped.precondition = "SELECT * FROM info() WHERE OS = 'windows'".into();
    let mut passed = action(&[("Q", "SELECT 1 AS A FROM scope()")]);
    passed.precondition = "SELECT OS FROM info() WHERE OS =~ 'linux'".into();
    let broken = action(&[("B", "SELECT FROM")]);
    a.start("F.1", request(vec![timeout, stalled])).await;
    a.start("F.2", request(vec![expired, skipped, passed, broken])).await;
    let all = a.finish().await;
    let of = |id: &str| -> Vec<VeloMessage> {
        all.iter().filter(|m| m.session_id == id).cloned().collect()
    };
    let one = last_stats(&of("F.1")).query_status;
    assert_eq!(one[0].error_message, "Query timed out after 1 seconds");
    assert!(one[0].result_rows > 0, "rows before the end are sent");
    assert!(one[1].error_message.contains("No progress"), "{:?}", one[1]);
    let two = last_stats(&of("F.2")).query_status;
    let states: Vec<_> = two.iter().map(|s| (s.status(), s.result_rows)).collect();
    use ReturnedStatus::{GenericError, Ok};
    assert_eq!(states, [(GenericError, 0), (Ok, 0), (Ok, 1), (GenericError, 0)]);
    assert_eq!(two[0].error_message, "Query expired.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads() {
    let a = agent().await;
    let file = a.dir.path().join("big file");
    let content: Vec<u8> = (0..(2u32 << 20) + 7).map(|i| (i % 251) as u8).collect();
    std::fs::write(&file, &content).unwrap();
    let sparse = a.dir.path().join("sparse");
    let f = std::fs::File::create(&sparse).unwrap();
    f.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&f, &[9; 8192], 1 << 20).unwrap();
    f.sync_all().unwrap();
    let vql = format!(
        "SELECT upload(file='{0}', accessor='file') AS U, upload(file='{0}', accessor='file') AS V, \
         upload(file='abc', accessor='data', name='x/y') AS W, upload(file='{1}') AS S \
         FROM scope()",
        file.display(),
        sparse.display()
    );
    a.start("F.1", request(vec![action(&[("A", &vql)])])).await;
    let all = a.finish().await;
    let buffers: Vec<_> = all.iter().filter_map(|m| m.file_buffer.clone()).collect();
    let of = |n: i64| buffers.iter().filter(move |b| b.upload_number == n);
    let big: Vec<u8> = of(0).flat_map(|b| b.data.to_vec()).collect();
    assert!(big == content);
    let shape: Vec<_> = of(0).map(|b| (b.offset, b.data_length, b.eof)).collect();
    let mib = 1 << 20;
    assert_eq!(
        shape,
        [(0, mib, false), (mib, mib, false), (2 * mib, 7, false), (2 * mib + 7, 0, true)]
    );
    assert_eq!(of(1).next().unwrap().pathspec.as_ref().unwrap().accessor, "data");
    let total = of(2).filter(|b| !b.eof).map(|b| b.data_length).sum::<u64>();
    let end = of(2).next_back().unwrap();
    assert!(end.eof && end.size == 3 << 20);
    if end.is_sparse {
        assert_eq!(total, end.stored_size);
        assert!(end.index.as_ref().unwrap().ranges.iter().any(|r| r.file_length == 0));
        assert!(total < 1 << 20);
    }
    let announced: Vec<_> = all.iter().filter_map(|m| m.upload_transaction.as_ref()).collect();
    assert_eq!(announced.len(), 3, "one for each file");
    let row: serde_json::Value = serde_json::from_str(rows(&all, "A").trim()).unwrap();
    assert_eq!(row["U"], row["V"]);
    assert_eq!(row["U"]["Size"], content.len());
    let sha = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content));
    assert_eq!(row["U"]["sha256"], sha);
    assert_eq!(row["W"]["Size"], 3);
    let s = &last_stats(&all).query_status[0];
    assert_eq!(s.uploaded_files, 3);
    assert_eq!(s.uploaded_bytes as u64, content.len() as u64 + 3 + total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_limit_and_compression() {
    let a = agent().await;
    let file = a.dir.path().join("f");
    std::fs::write(&file, vec![0x41; 5 << 20]).unwrap();
    let vql = format!("SELECT upload(file='{}') AS U FROM scope()", file.display());
    let mut r = request(vec![action(&[("A", &vql)])]);
    r.max_upload_bytes = (2 << 20) + 1;
    r.compression = 1;
    a.start("F.1", r).await;
    let all = a.finish().await;
    let b: Vec<_> = all.iter().filter_map(|m| m.file_buffer.as_ref()).collect();
    assert_eq!(b.len(), 3);
    assert!(b.iter().all(|b| b.uncompressed_length == 1 << 20 && b.data.len() < 100_000));
    let s = &last_stats(&all).query_status[0];
    assert!(s.error_message.starts_with("Bytes 3145728 exceeded limit"), "{s:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_come_with_the_request() {
    let a = agent().await;
    let mut act = action(&[("A", "SELECT * FROM Artifact.Custom.B(N='3', source='S')")]);
    act.query.push(VqlRequest {
        vql: "SELECT * FROM Artifact.Custom.B(Wrong=1)".into(),
        name: "W".into(),
    });
    act.env.push(VqlEnv { key: "Tool_T_URL".into(), value: "u".into(), ..Default::default() });
    let source = |name: &str, q: &str| ArtifactSource {
        name: name.into(),
        queries: vec!["LET Y <= N + 1".into(), q.into()],
        ..Default::default()
    };
    act.artifacts = vec![Artifact {
        name: "Custom.B".into(),
        parameters: vec![ArtifactParameter {
            name: "N".into(),
            r#type: "int".into(),
            default: "1".into(),
            ..Default::default()
        }],
        sources: vec![
            // What a caller's tools are is for helpers to see.
            source("S", "SELECT Y AS Y, N, Tool_T_URL FROM scope()"),
            source("T", "SELECT 'never' AS Y FROM scope()"),
        ],
        ..Default::default()
    }];
    a.start("F.1", request(vec![act])).await;
    let all = a.finish().await;
    let got = rows(&all, "A");
    assert!(rows(&all, "W").is_empty());
    assert!(logs(&all).contains("Wrong"), "{}", logs(&all));
    assert_eq!(got, "{\"Y\":4,\"N\":3,\"Tool_T_URL\":\"u\",\"_Source\":\"Custom.B/S\"}\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_start_once_and_survive_a_restart() {
    let a = agent().await;
    let event = |vql: &str| VqlCollectorArgs { max_row: 1, ..action(&[("Custom.Event", vql)]) };
    let table = |vql: &str, version| VqlEventTable { event: vec![event(vql)], version };
    let send = |t: VqlEventTable| job(MONITORING, |m| m.update_event_table = Some(t));
    a.executor.handle(send(table("SELECT 1 AS A FROM scope()", 10))).await;
    a.executor.handle(send(table("SELECT 2 AS A FROM scope()", 9))).await;
    a.executor.handle(send(table("SELECT 1 AS A FROM scope()", 11))).await;
    let mut all = said(&a).await;
    assert_eq!(a.events.version(), 11);
    tokio::time::sleep(Duration::from_millis(300)).await;
    all.extend(a.out.drain().await);
    assert_eq!(rows(&all, "Custom.Event"), "{\"A\":1}\n", "started once");
    a.executor.handle(send(table("SELECT 3 AS A FROM scope()", 12))).await;
    let mut all = said(&a).await;
    a.events.stop().await;
    all.extend(a.out.drain().await);
    assert_eq!(rows(&all, "Custom.Event"), "{\"A\":3}\n");
    assert!(all.iter().all(|m| m.session_id == MONITORING && m.flow_stats.is_none()));
    let log = all.iter().find_map(|m| m.log_message.as_ref()).unwrap();
    assert_eq!(log.artifact, "Custom.Event");

    let b = agent_in(a.dir).await;
    b.events.start_saved().await;
    assert_eq!(rows(&said(&b).await, "Custom.Event"), "{\"A\":3}\n");
    assert_eq!(b.events.version(), 12);
}

/// What an agent says until rows of its event query come.
async fn said(a: &Agent) -> Vec<VeloMessage> {
    let waiting = async {
        let mut all = Vec::new();
        while rows(&all, "Custom.Event").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            all.extend(a.out.drain().await);
        }
        all
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("rows come")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_tells_what_became_of_collections() {
    let a = agent().await;
    a.start("F.1", request(vec![action(&[("A", "SELECT 1 AS A FROM scope()")])])).await;
    a.finish().await;
    a.start("F.2", request(vec![action(&[("A", "SELECT * FROM clock()")])])).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let b = agent_in(a.dir).await;
    b.executor.recover().await;
    let all = b.out.drain().await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].session_id, "F.2");
    let s = all[0].flow_stats.as_ref().unwrap();
    assert!(s.flow_complete && s.query_status[0].error_message.contains("restarted"));
    // Neither runs again.
    for id in ["F.1", "F.2"] {
        b.start(id, request(vec![action(&[("A", "SELECT 1 AS A FROM scope()")])])).await;
    }
    let all = b.finish().await;
    assert!(all.iter().all(|m| m.flow_stats.is_some()));
    assert_eq!(all.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_authentic_or_not_known() {
    let a = agent().await;
    let mut forged = job("F.1", |m| m.kill_kill_kill = Some(Cancel::default()));
    forged.auth_state = 0;
    a.executor.handle(forged).await;
    assert!(!a.executor.killed.is_cancelled());
    a.executor.handle(job("F.7", |m| m.ping = Some(Cancel::default()))).await;
    let all = a.out.drain().await;
    assert_eq!(all[0].session_id, "F.7");
    assert!(logs(&all).contains("Unsupported payload for message"));
    a.executor.handle(job("F.1", |m| m.kill_kill_kill = Some(Cancel::default()))).await;
    assert!(a.executor.killed.is_cancelled());
}

use crate::agent::events::MONITORING;

#[test]
fn logs_of_our_own_server_do_not_wait_for_a_minute() {
    let period = |n| super::log_batch(&FlowRequest { log_batch_time: n, ..Default::default() });
    assert_eq!(period(0), Duration::from_secs(5));
    assert_eq!(period(2), Duration::from_secs(2));
    assert_eq!(period(50), Duration::from_millis(50));
    assert_eq!(period(2000), Duration::from_secs(2));
}
