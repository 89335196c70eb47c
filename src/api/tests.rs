use std::time::Duration;

use futures::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request};
use velociraptor_proto::proto::api_client::ApiClient;
use velociraptor_proto::proto::*;

use super::*;
use crate::config::model::ApiClientConfig;
use crate::crypto::certs::Authority;
use crate::crypto::{NodeIdentity, NodeName, PrivateKey};
use crate::plugins::server::tests::{CLIENT, server};
use crate::services::ids::OrgId;

mod nodes;

/// A served API with a CA that makes callers.
struct Lab {
    server: Arc<Server>,
    ca: Authority,
    address: String,
    _dir: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir).await;
        let env = server.env.clone();
        let ca = Authority::generate(&*env.entropy, env.clock.now()).unwrap();
        let lab = Lab { server, ca, address: String::new(), _dir: dir };
        let (cert, key) = lab.certificate("VelociraptorServer");
        let identity = Identity::from_pem(&cert, &key).unwrap();
        let tls = tls(&env, &identity, &lab.ca.certificate().to_pem(), false).unwrap();
        let registry = crate::plugins::server::registry();
        let api = Api::new(lab.server.clone(), registry, ApiOptions::default());
        let fleet = nodes::fleet(&env, &lab.ca);
        let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            api.serve(
                listener,
                tls,
                AcceptLimits::default(),
                Arc::default(),
                Stop::default(),
                Some(fleet),
            )
            .await;
        });
        Lab { address, ..lab }
    }

    fn certificate(&self, name: &str) -> (String, String) {
        let env = &self.server.env;
        let key = PrivateKey::generate().unwrap();
        let cert = self.ca.issue(&*env.entropy, env.clock.now(), 10, name, key.public()).unwrap();
        (cert.to_pem(), key.to_pem().to_string())
    }

    /// A caller's configuration, certified by `ca`.
    fn config(&self, name: &str, ca: &Authority) -> ApiClientConfig {
        let env = &self.server.env;
        let key = PrivateKey::generate().unwrap();
        let cert = ca.issue(&*env.entropy, env.clock.now(), 10, name, key.public()).unwrap();
        serde_json::from_value(serde_json::json!({
            "ca_certificate": self.ca.certificate().to_pem(),
            "client_cert": cert.to_pem(),
            "client_private_key": key.to_pem().to_string(),
            "api_connection_string": self.address,
            "name": name,
        }))
        .unwrap()
    }

    async fn connect(&self, name: &str) -> ApiClient<Channel> {
        client::connect(&self.server.env, &self.config(name, &self.ca)).await.unwrap()
    }

    async fn user(&self, name: &str, org: &str, role: &str) -> ApiClient<Channel> {
        let acl = ApiClientAcl { roles: vec![role.into()], ..Default::default() };
        if self.server.users.get(name).await.unwrap().is_none() {
            self.server.users.create(name).await.unwrap();
        }
        self.server.users.set_acl(&OrgId::new(org), name, &acl).await.unwrap();
        self.connect(name).await
    }
}

fn args(vql: &str, max_row: u64) -> VqlCollectorArgs {
    let query = vec![VqlRequest { vql: vql.into(), name: "Test".into() }];
    VqlCollectorArgs { query, max_row, ..Default::default() }
}

async fn run(api: &mut ApiClient<Channel>, a: VqlCollectorArgs) -> (Vec<VqlResponse>, String) {
    let mut stream = api.query(a).await.unwrap().into_inner();
    let (mut rows, mut log) = (Vec::new(), String::new());
    while let Some(m) = stream.next().await {
        let m = m.unwrap();
        if m.log.is_empty() { rows.push(m) } else { log += &m.log }
    }
    (rows, log)
}

fn shape(rows: &[VqlResponse]) -> Vec<(u64, u64, &str, usize)> {
    rows.iter().map(|r| (r.query_id, r.part, r.response.as_str(), r.columns.len())).collect()
}

#[tokio::test]
async fn rows_come_in_packets_as_stock_sends_them() {
    let lab = Lab::new().await;
    let mut api = lab.user("ann", "root", "api").await;
    let three = "SELECT _value AS V FROM range(end=3)";
    let (rows, log) = run(&mut api, args(three, 2)).await;
    let want = [(0, 0, r#"[{"V":0},{"V":1}]"#, 1), (0, 1, r#"[{"V":2}]"#, 1)];
    assert_eq!(shape(&rows), want);
    assert!(log.starts_with("Starting query execution.\n"), "{log}");
    assert!(log.contains("Sending response part 1 "), "{log}");
    let exact = "SELECT _value AS V FROM range(end=2)";
    let (rows, _) = run(&mut api, args(exact, 2)).await;
    assert_eq!(shape(&rows), [(0, 0, r#"[{"V":0},{"V":1}]"#, 1)]);
    // Without a limit of rows: an empty packet, then a packet a row.
    let (rows, _) = run(&mut api, args(exact, 0)).await;
    let want = [(0, 0, "[]", 0), (0, 1, r#"[{"V":0}]"#, 1), (0, 2, r#"[{"V":1}]"#, 1)];
    assert_eq!(shape(&rows), want);
    let (rows, _) = run(&mut api, args("LET x = 1 SELECT x FROM scope() WHERE FALSE", 9)).await;
    assert_eq!(shape(&rows), [(1, 0, "[]", 0)]);
    assert_eq!(rows[0].query.as_ref().unwrap().name, "Test");
}

#[tokio::test]
async fn a_query_that_does_not_parse_is_a_log_line() {
    let lab = Lab::new().await;
    let mut api = lab.user("ann", "root", "api").await;
    let mut a = args("SELEC x", 9);
    a.query.push(VqlRequest { vql: "SELECT 1 AS A FROM scope()".into(), name: String::new() });
    let (rows, log) = run(&mut api, a).await;
    assert!(rows.is_empty() && log.contains("VQL Error: "), "{rows:?} {log}");
    let e = api.query(VqlCollectorArgs::default()).await.unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    let mut a = args("SELECT K, Nope FROM scope()", 9);
    a.env.push(VqlEnv { key: "K".into(), value: "v".into(), ..Default::default() });
    let (rows, log) = run(&mut api, a).await;
    assert_eq!(rows[0].response, r#"[{"K":"v","Nope":null}]"#);
    assert!(log.lines().any(|l| l.starts_with("ERROR:") && l.contains("Nope")), "{log}");
}

#[tokio::test]
async fn a_timeout_ends_the_stream_and_keeps_rows() {
    let lab = Lab::new().await;
    let mut api = lab.user("ann", "root", "api").await;
    let text = "SELECT * FROM chain(a={ SELECT 1 AS A FROM scope() }, \
                b={ SELECT * FROM watch_monitoring(artifact='System.Flow.Completion') })";
    let a = VqlCollectorArgs { timeout: 1, max_wait: 1, ..args(text, 1) };
    let started = tokio::time::Instant::now();
    let (_, log) = run(&mut api, a).await;
    assert!(log.contains("timed out after 1 seconds"), "{log}");
    assert!(started.elapsed() < Duration::from_secs(5));
    // A caller that goes away ends an endless query.
    let watching = args("SELECT * FROM watch_monitoring(artifact='System.Flow.Completion')", 1);
    let mut stream = api.query(watching).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    drop(stream);
}

#[tokio::test]
async fn callers_are_who_their_certificates_say() {
    let lab = Lab::new().await;
    lab.server.create_org("Acme", Some("O1")).await.unwrap();
    let mut stranger = lab.connect("nobody").await;
    let e = stranger.query(args("SELECT 1 FROM scope()", 1)).await.unwrap_err();
    assert_eq!(e.code(), Code::PermissionDenied);
    assert!(stranger.check(HealthCheckRequest::default()).await.is_ok());
    let mut reader = lab.user("rob", "root", "reader").await;
    let e = reader.query(args("SELECT 1 FROM scope()", 1)).await.unwrap_err();
    assert_eq!(e.code(), Code::PermissionDenied);
    let mut in_o1 = args("SELECT org().id AS O FROM scope()", 1);
    in_o1.org_id = "O1".into();
    let mut ann = lab.user("ann", "root", "api").await;
    assert_eq!(ann.query(in_o1.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let mut ann = lab.user("Ann", "O1", "api").await;
    assert_eq!(run(&mut ann, in_o1.clone()).await.0[0].response, r#"[{"O":"O1"}]"#);
    let mut node = lab.connect("VelociraptorServer").await;
    assert_eq!(run(&mut node, in_o1.clone()).await.0[0].response, r#"[{"O":"O1"}]"#);
    in_o1.org_id = "O9".into();
    assert_eq!(node.query(in_o1).await.unwrap_err().code(), Code::NotFound);
    // Only the gateway acts for others.
    let acting = |name: &str| {
        let mut r = Request::new(args("SELECT whoami() AS W FROM scope()", 1));
        r.metadata_mut().insert("user", format!("{{\"name\":\"{name}\"}}").parse().unwrap());
        r
    };
    let mut gateway = lab.connect("GRPC_GW").await;
    let mut stream = gateway.query(acting("ann")).await.unwrap().into_inner();
    let mut seen = String::new();
    while let Some(m) = stream.next().await {
        seen += &m.unwrap().response;
    }
    assert_eq!(seen, r#"[{"W":"ann"}]"#);
    assert_eq!(gateway.query(acting("rob")).await.unwrap_err().code(), Code::PermissionDenied);
    let e = gateway.query(args("SELECT 1 FROM scope()", 1)).await.unwrap_err();
    assert_eq!(e.code(), Code::Unauthenticated);
    assert_eq!(reader.query(acting("ann")).await.unwrap_err().code(), Code::PermissionDenied);
    // A certificate of somebody else's authority never gets that far.
    let other = Authority::generate(&*lab.server.env.entropy, lab.server.env.clock.now()).unwrap();
    let config = lab.config("VelociraptorServer", &other);
    if let Ok(mut c) = client::connect(&lab.server.env, &config).await {
        assert!(c.check(HealthCheckRequest::default()).await.is_err());
    }
}

/// A node's certificate passes TLS on this listener, and opens nothing behind it.
#[tokio::test]
async fn a_nodes_certificate_has_no_rights() {
    let lab = Lab::new().await;
    let env = &lab.server.env;
    let (now, name) = (env.clock.now(), NodeName::parse("b-8000").unwrap());
    let id = NodeIdentity::issue(&lab.ca, &*env.entropy, now, 10, &name).unwrap();
    let mut config = lab.config("unused", &lab.ca);
    config.client_cert = id.certificate_pem;
    config.client_private_key = id.private_key_pem.to_string();
    let mut api = client::connect(env, &config).await.unwrap();
    api.check(HealthCheckRequest::default()).await.unwrap();
    let query = args("SELECT 1 AS A FROM scope()", 1);
    let e = api.query(query.clone()).await.unwrap_err();
    assert_eq!(e.code(), Code::PermissionDenied, "{e}");
    // It cannot speak for a user, as the gateway can, and no user can have its name.
    lab.user("ann", "root", "administrator").await;
    let mut request = Request::new(query);
    request.metadata_mut().insert("user", r#"{"name":"ann"}"#.parse().unwrap());
    let e = api.query(request).await.unwrap_err();
    assert!(e.code() == Code::PermissionDenied && e.message().contains("node"), "{e}");
    assert!(lab.server.users.create(&name.common_name()).await.is_err());
}

#[tokio::test]
async fn files_are_read_and_the_rest_is_hidden() {
    let lab = Lab::new().await;
    let mut api = lab.user("ann", "root", "reader").await;
    let at = crate::store::paths::form_upload("abc", "notes.txt");
    lab.server.tree.set_file(&at, b"hello world").await.unwrap();
    let parts = |p: &str| p.split('/').map(str::to_owned).collect::<Vec<_>>();
    let wish = |p: &str, offset, length| VfsFileBuffer {
        components: parts(p),
        offset,
        length,
        ..Default::default()
    };
    let got = api.vfs_get_buffer(wish("/public/temp/abc/notes.txt", 6, 100)).await.unwrap();
    assert_eq!(got.into_inner().data, b"world");
    let end = api.vfs_get_buffer(wish("public/temp/abc/notes.txt", 99, 10)).await.unwrap();
    assert!(end.into_inner().data.is_empty());
    for hidden in ["users/ann.db", "/acl/ann.json.db", "//config/x", "orgs/O1", "fleet/x", ""] {
        let e = api.vfs_get_buffer(wish(hidden, 0, 1)).await.unwrap_err();
        assert_eq!(e.code(), Code::PermissionDenied, "{hidden}");
    }
    for absent in ["public/x/../../users/ann.db", "downloads/none.zip"] {
        let e = api.vfs_get_buffer(wish(absent, 0, 1)).await.unwrap_err();
        assert_eq!(e.code(), Code::NotFound, "{absent}");
    }
}

#[tokio::test]
async fn collections_are_started_listed_and_stopped() {
    let lab = Lab::new().await;
    let mut api = lab.user("ann", "root", "investigator").await;
    let ask = |name: &str| ArtifactCollectorArgs {
        client_id: CLIENT.into(),
        artifacts: vec![name.into()],
        ..Default::default()
    };
    assert_eq!(api.collect_artifact(ask("No.Such")).await.unwrap_err().code(), Code::NotFound);
    let e = api.collect_artifact(ask("Linux.Sys.BashShell")).await.unwrap_err();
    assert!(e.code() == Code::PermissionDenied && e.message().contains("EXECVE"), "{e}");
    let started = api.collect_artifact(ask("Linux.Sys.Users")).await.unwrap().into_inner();
    assert!(started.flow_id.starts_with("F."));
    let which = ApiFlowRequest {
        client_id: CLIENT.into(),
        flow_id: started.flow_id.clone(),
        ..Default::default()
    };
    let details = api.get_flow_details(which.clone()).await.unwrap().into_inner();
    assert_eq!(details.context.unwrap().request.unwrap().creator, "ann");
    let sent = api.get_flow_requests(which.clone()).await.unwrap().into_inner();
    let action = &sent.items[0].flow_request.as_ref().unwrap().vql_client_actions[0];
    assert_eq!(action.query.last().unwrap().name, "Linux.Sys.Users");
    let table = GetTableRequest { client_id: CLIENT.into(), ..Default::default() };
    let flows = api.get_client_flows(table).await.unwrap().into_inner();
    assert_eq!((flows.total_rows, flows.columns[1].as_str()), (1, "FlowId"));
    api.cancel_flow(which.clone()).await.unwrap();
    let details = api.get_flow_details(which).await.unwrap().into_inner().context.unwrap();
    assert_eq!(details.state(), artifact_collector_context::State::Error);
    assert_eq!(details.status, "Cancelled by ann");
}

#[tokio::test]
async fn clients_artifacts_and_monitoring() {
    let lab = Lab::new().await;
    let mut api = lab.user("ann", "root", "administrator").await;
    let found = api
        .list_clients(SearchClientsRequest { query: "host:web".into(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((found.total, found.items[0].client_id.as_str()), (1, CLIENT));
    let label = LabelClientsRequest {
        client_ids: vec![CLIENT.into()],
        labels: vec!["prod".into()],
        operation: "set".into(),
    };
    api.label_clients(label).await.unwrap();
    let get = GetClientRequest { client_id: CLIENT.into(), ..Default::default() };
    assert_eq!(api.get_client(get.clone()).await.unwrap().into_inner().labels, ["prod"]);
    let none = GetClientRequest { client_id: "C.0".into(), ..Default::default() };
    let e = api.get_client(none).await.unwrap_err();
    assert_eq!((e.code(), e.message()), (Code::NotFound, "Not Found"));
    let text = "name: Custom.E\ntype: client_event\nsources:\n- query: SELECT a FROM clock()\n";
    let set = |artifact: &str, op| SetArtifactRequest {
        artifact: artifact.into(),
        op,
        ..Default::default()
    };
    let bad = api.set_artifact_file(set("name: [", 0)).await.unwrap().into_inner();
    assert!(bad.error && !bad.errors.is_empty());
    assert!(!api.set_artifact_file(set(text, 0)).await.unwrap().into_inner().error);
    let file = GetArtifactRequest { name: "Custom.E".into() };
    assert_eq!(api.get_artifact_file(file.clone()).await.unwrap().into_inner().artifact, text);
    let table = ClientEventTable {
        artifacts: Some(ArtifactCollectorArgs {
            artifacts: vec!["Custom.E".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    api.set_client_monitoring_state(table).await.unwrap();
    let state = api
        .get_client_monitoring_state(GetClientMonitoringStateRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(state.version > 0);
    api.set_artifact_file(set(text, 1)).await.unwrap();
    assert_eq!(api.get_artifact_file(file).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn events_are_pushed_and_watched() {
    let lab = Lab::new().await;
    let mut watcher = lab.user("ann", "root", "api").await;
    let watch = EventRequest { queue: "System.Hunt.Creation".into(), ..Default::default() };
    let mut events = watcher.watch_event(watch).await.unwrap().into_inner();
    let push = |artifact: &str, jsonl: &str| PushEventRequest {
        artifact: artifact.into(),
        client_id: "server".into(),
        jsonl: jsonl.as_bytes().to_vec(),
        rows: 1,
        ..Default::default()
    };
    let good = push("System.Hunt.Creation", "{\"a\":1}\n");
    let mut pusher = lab.user("bot", "root", "api").await;
    assert_eq!(pusher.push_events(good.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let acl = ApiClientAcl {
        publish_queues: vec!["System.Hunt.Creation".into(), "Generic.Client.Info".into()],
        ..Default::default()
    };
    lab.server.users.set_acl(&OrgId::root(), "bot", &acl).await.unwrap();
    pusher.push_events(good).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap();
    let row: serde_json::Value = serde_json::from_slice(&seen.unwrap().unwrap().jsonl).unwrap();
    assert_eq!((&row["a"], &row["_Sender"]), (&1.into(), &"bot".into()));
    for bad in [push("System.Hunt.Creation", "{\n"), push("Generic.Client.Info", "{}\n")] {
        assert_eq!(pusher.push_events(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(pusher.write_event(VqlResponse::default()).await.is_err());
}

#[tokio::test]
async fn hunts_by_calls() {
    let lab = Lab::new().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let work = tokio::spawn(lab.server.clone().recruit(stop.clone()));
    let mut ann = lab.user("ann", "root", "investigator").await;
    let request =
        ArtifactCollectorArgs { artifacts: vec!["Linux.Sys.Users".into()], ..Default::default() };
    let mut hunt = Hunt { start_request: Some(request), ..Default::default() };
    hunt.set_state(hunt::State::Running);
    let mut reader = lab.user("bob", "root", "reader").await;
    assert_eq!(reader.create_hunt(hunt.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let id = ann.create_hunt(hunt.clone()).await.unwrap().into_inner().flow_id;
    assert!(id.starts_with("H.") && id.len() == 15, "{id}");
    lab.server.sessions.register(&OrgId::root(), CLIENT, [1; 16], "1.2.3.4:5");
    lab.server.root().state().hunts.look_at(CLIENT);
    let ask = GetTableRequest { hunt_id: id.clone(), ..Default::default() };
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    let flows = loop {
        let t = ann.get_hunt_flows(ask.clone()).await.unwrap().into_inner();
        if t.total_rows == 1 {
            break t;
        }
        assert!(tokio::time::Instant::now() < end, "nobody is recruited");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(flows.columns[..3], ["ClientId", "Hostname", "FlowId"]);
    assert!(flows.rows[0].json.contains("web-1"), "{}", flows.rows[0].json);
    let listed = reader.list_hunts(ListHuntsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.items[0].stats.as_ref().unwrap().total_clients_scheduled, 1);
    let table = reader.get_hunt_table(GetTableRequest::default()).await.unwrap().into_inner();
    assert_eq!((table.columns[0].as_str(), table.total_rows), ("State", 1));
    let all = HuntEstimateRequest::default();
    assert_eq!(reader.estimate_hunt(all).await.unwrap().into_inner().total_clients_scheduled, 1);
    let results = GetHuntResultsRequest {
        hunt_id: id.clone(),
        artifact: "Linux.Sys.Users".into(),
        ..Default::default()
    };
    assert_eq!(reader.get_hunt_results(results).await.unwrap().into_inner().total_rows, 0);
    let mut m = HuntMutation { hunt_id: id.clone(), tags: vec!["x".into()], ..Default::default() };
    m.set_state(hunt::State::Stopped);
    let denied = reader.modify_hunt(m.clone()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    ann.modify_hunt(m).await.unwrap();
    let one = GetHuntRequest { hunt_id: id.clone(), include_request: true, ..Default::default() };
    let one = reader.get_hunt(one).await.unwrap().into_inner();
    assert_eq!((one.state(), one.tags.len()), (hunt::State::Stopped, 1));
    assert!(!one.start_request.unwrap().compiled_collector_args.is_empty());
    assert_eq!(reader.get_hunt_tags(()).await.unwrap().into_inner().tags, ["x"]);
    let none = GetHuntRequest { hunt_id: "H.NONE".into(), ..Default::default() };
    assert_eq!(reader.get_hunt(none).await.unwrap_err().code(), Code::NotFound);
    stop.cancel();
    work.await.unwrap();
}
