//! A frontend against a client made of the envelope alone: what is answered,
//! what is stored, and what a restart leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use velociraptor_proto::journal::PostClass;
use velociraptor_proto::proto::velo_status::ReturnedStatus;
use velociraptor_proto::proto::*;

use super::*;
use crate::comms::Channel;
use crate::comms::server::{
    Answer, Charge, ClientService, End, Push, ReaderAnswer, Request, RequestHead, Transport,
};
use crate::crypto::certs::Authority;
use crate::crypto::envelope::{self, Packet};
use crate::crypto::{ClientId, Compression, SessionCipher, csr};
use crate::env::Env;
use crate::services::flows::Rows;
use crate::services::{Options, Org, Role};
use crate::store::StoreRoot;

pub(super) const NONCE: &str = "dGVzdA==";

pub(super) struct World {
    pub(super) env: Env,
    pub(super) dir: tempfile::TempDir,
    pub(super) identity: Identity,
}

impl World {
    pub(super) fn new() -> Self {
        let env = crate::env::real::env();
        let now = env.clock.now();
        let ca = Authority::generate(&*env.entropy, now).unwrap();
        let key = PrivateKey::generate().unwrap();
        let cert = ca.issue(&*env.entropy, now, 365, "VelociraptorServer", key.public()).unwrap();
        let identity = Identity::new(&cert.to_pem(), &key.to_pem(), &[]).unwrap();
        Self { env, dir: tempfile::tempdir().unwrap(), identity }
    }

    pub(super) async fn start(&self) -> Clients {
        self.start_with(Options::default()).await
    }

    pub(super) async fn start_with(&self, options: Options) -> Clients {
        self.start_as(options, Limits::default()).await
    }

    pub(super) async fn start_limited(&self, limits: Limits) -> Clients {
        self.start_as(Options::default(), limits).await
    }

    async fn start_as(&self, options: Options, limits: Limits) -> Clients {
        let options =
            Options { root_nonce: NONCE.into(), obfuscation_nonce: "x".into(), ..options };
        let root = StoreRoot::single(self.dir.path().to_str().unwrap());
        let server = Server::open(self.env.clone(), root, options).await.unwrap();
        let frontend = Frontend::new(server, self.identity.clone(), limits);
        frontend.take_over().await;
        Clients(frontend)
    }
}

pub(super) struct TestClient {
    pub(super) key: PrivateKey,
    pub(super) id: String,
    pub(super) cipher: SessionCipher,
    pub(super) nonce: String,
    pub(super) env: Env,
    /// Speaks protocol 3.
    pub(super) old: bool,
}

impl TestClient {
    pub(super) fn new(w: &World, nonce: &str) -> Self {
        let key = PrivateKey::generate().unwrap();
        let id = ClientId::of(key.public()).to_string();
        let server = w.identity.key().public();
        let cipher = SessionCipher::new(&*w.env.entropy, &id, &key, server).unwrap();
        Self { key, id, cipher, nonce: nonce.into(), env: w.env.clone(), old: false }
    }

    pub(super) fn body(&self, jobs: &[VeloMessage]) -> Bytes {
        let mut list = Vec::new();
        for j in jobs {
            envelope::pack_job(&mut list, &j.encode_to_vec());
        }
        let now = self.env.clock.micros();
        if self.old {
            let old = self.cipher.seal_old(&*self.env.entropy, &[list], &self.nonce, now);
            return old.unwrap().into();
        }
        let body =
            self.cipher.seal(&*self.env.entropy, &[list], Compression::Zlib, &self.nonce, now);
        body.unwrap().into()
    }

    fn open(&self, w: &World, body: Bytes) -> Vec<VeloMessage> {
        let Packet::Sealed(p) = envelope::parse(body).unwrap() else { return vec![] };
        let session = envelope::unwrap_session(std::slice::from_ref(&self.key), &p).unwrap();
        assert!(session.verify(w.identity.key().public()));
        assert_eq!(session.source, "VelociraptorServer");
        let opened = envelope::open_with(&session.keys, p).unwrap();
        opened.check_nonce(&self.nonce).unwrap();
        let jobs = envelope::inflate_lists(&opened, &Default::default()).unwrap();
        jobs.into_iter().map(|j| VeloMessage::decode(j).unwrap()).collect()
    }

    fn csr(&self) -> VeloMessage {
        VeloMessage {
            session_id: "E:Enrol".into(),
            csr: Some(velociraptor_proto::proto::Certificate {
                pem: csr::request_pem(&self.key).unwrap().into_bytes(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

pub(super) fn request(body: Bytes, channel: Channel) -> Request {
    let head = RequestHead {
        channel,
        transport: Transport::Http,
        remote: "127.0.0.1:5".into(),
        urgent: false,
        redirected: false,
        connection: 1,
        nth: 0,
        user_agent: "Velociraptor".into(),
        length: None,
        certificate: None,
    };
    Request { head, body, charge: Charge::default() }
}

pub(super) async fn post(c: &Clients, body: Bytes) -> Answer {
    c.control(request(body, Channel::Control)).await
}

/// One poll: the tasks it was answered with.
pub(super) async fn poll(
    c: &Clients,
    w: &World,
    client: &TestClient,
    version: u64,
) -> Vec<VeloMessage> {
    let check_in = VeloMessage {
        session_id: "E.Foreman".into(),
        foreman_checkin: Some(ForemanCheckin {
            last_event_table_version: version,
            ..Default::default()
        }),
        ..Default::default()
    };
    let body = client.body(&[check_in]);
    match c.reader(request(body, Channel::Reader)).await {
        ReaderAnswer::Done(a) => panic!("{a:?}"),
        ReaderAnswer::Hold(mut h) => {
            let push = tokio::time::timeout(Duration::from_secs(5), h.pushes.recv()).await;
            let out = match push {
                Ok(Some(Push::Task { seq, body })) => {
                    h.session.delivered(seq, crate::comms::server::Proof::Written);
                    client.open(w, body)
                }
                _ => vec![],
            };
            h.session.ended(End::Replied);
            out
        }
    }
}

pub(super) async fn enrol(c: &Clients, client: &TestClient) {
    assert!(matches!(post(c, client.body(&[client.csr()])).await, Answer::Status(406, _)));
}

pub(super) fn rows(flow: &str, name: &str, start: u64, n: u64) -> VeloMessage {
    let lines: String = (start..start + n).map(|i| format!("{{\"i\":{i}}}\n")).collect();
    VeloMessage {
        session_id: flow.into(),
        vql_response: Some(VqlResponse {
            query: Some(VqlRequest { name: name.into(), ..Default::default() }),
            jsonl_response: lines,
            query_start_row: start,
            total_rows: n,
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn done(flow: &str, rows: i64) -> VeloMessage {
    VeloMessage {
        session_id: flow.into(),
        flow_stats: Some(FlowStats {
            flow_complete: true,
            query_status: vec![VeloStatus {
                status: ReturnedStatus::Ok.into(),
                result_rows: rows,
                last_active: 5,
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn server(c: &Clients) -> (&Arc<Server>, Arc<Org>) {
    (c.0.server(), c.0.server().root())
}

/// Enrols, polls, and answers the interrogation.
pub(super) async fn interrogated(c: &Clients, w: &World, client: &TestClient) -> String {
    enrol(c, client).await;
    let tasks = poll(c, w, client, 0).await;
    let task = tasks.iter().find(|t| t.flow_request.is_some()).expect("interrogation");
    let actions = &task.flow_request.as_ref().unwrap().vql_client_actions;
    let names: Vec<&String> =
        actions.iter().flat_map(|a| &a.query).map(|q| &q.name).filter(|n| !n.is_empty()).collect();
    assert!(names[0].starts_with('$'), "names are obfuscated: {names:?}");
    let mut r = rows(&task.session_id, names[0], 0, 0);
    let v = r.vql_response.as_mut().unwrap();
    v.jsonl_response = "{\"Hostname\":\"box\",\"OS\":\"linux\",\"Version\":\"0.77.2\"}\n".into();
    v.total_rows = 1;
    let body = client.body(&[r, done(&task.session_id, 1)]);
    assert_eq!(post(c, body).await, Answer::Reply(Bytes::new()));
    task.session_id.clone()
}

#[tokio::test]
async fn a_new_client_enrols_is_interrogated_and_survives_a_restart() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    let ReaderAnswer::Done(a) = c.reader(request(client.body(&[]), Channel::Reader)).await else {
        panic!("a stranger is not held")
    };
    assert!(matches!(a, Answer::Status(406, _)));
    let flow = interrogated(&c, &w, &client).await;
    let check = |c: &Clients| {
        let (_, org) = server(c);
        let info = org.state().clients.get(&client.id).unwrap().info.clone();
        assert_eq!(
            (info.hostname.as_str(), info.last_interrogate_flow_id.as_str()),
            ("box", flow.as_str())
        );
    };
    check(&c);
    drop(c);
    let c = w.start().await;
    check(&c);
    let (s, org) = server(&c);
    let context = s.flow(&org, &client.id, &flow).await.unwrap().unwrap();
    assert_eq!(context.state(), artifact_collector_context::State::Finished);
    s.settle_all().await;
    assert!(org.state().flows.is_empty());
    let context = s.flow(&org, &client.id, &flow).await.unwrap().unwrap();
    assert_eq!(context.state(), artifact_collector_context::State::Finished);
    assert_eq!(context.artifacts_with_results, ["Generic.Client.Info/BasicInformation"]);
    let set = Rows::Results("Generic.Client.Info/BasicInformation".into());
    assert_eq!(s.row_count(&org, &client.id, &flow, &set).await.unwrap(), 1);
    assert_eq!(s.journal_files(), 1, "journals of settled flows are gone");
}

#[tokio::test]
async fn repeats_are_stored_once_whatever_way_they_come() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    let (a, b) = (rows("F.X", "Custom.A", 0, 10), rows("F.X", "Custom.A", 10, 10));
    let set = Rows::Results("Custom.A".into());
    // The same list again, re-encrypted; and regrouped; at once and after a restart.
    let same = [a.clone(), b.clone()];
    let (x, y) = tokio::join!(post(&c, client.body(&same)), post(&c, client.body(&same)));
    assert!(x == Answer::Reply(Bytes::new()) && y == x);
    for jobs in [vec![a.clone(), b.clone()], vec![a.clone()], vec![b.clone(), a.clone()]] {
        assert_eq!(post(&c, client.body(&jobs)).await, Answer::Reply(Bytes::new()));
        let (s, org) = server(&c);
        assert_eq!(s.row_count(&org, &client.id, "F.X", &set).await.unwrap(), 20);
    }
    drop(c);
    let c = w.start().await;
    assert_eq!(post(&c, client.body(&[b, a])).await, Answer::Reply(Bytes::new()));
    let (s, org) = server(&c);
    let all = s.rows(&org, &client.id, "F.X", &set, 5, 10).await.unwrap();
    let text: Vec<String> = all.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
    assert_eq!(text.first().unwrap(), "{\"i\":5}");
    assert_eq!(text.last().unwrap(), "{\"i\":14}");
    assert_eq!(s.row_count(&org, &client.id, "F.X", &set).await.unwrap(), 20);
    // Long after: the flow is settled and its journals are deleted.
    let last = [rows("F.X", "Custom.A", 20, 5)];
    assert_eq!(post(&c, client.body(&last)).await, Answer::Reply(Bytes::new()));
    server(&c).0.settle_all().await;
    assert_eq!(server(&c).0.journal_files(), 1);
    drop(c);
    let c = w.start().await;
    assert_eq!(post(&c, client.body(&last)).await, Answer::Reply(Bytes::new()));
    let (s, org) = server(&c);
    assert_eq!(s.row_count(&org, &client.id, "F.X", &set).await.unwrap(), 25);
    assert!(org.state().flows.is_empty(), "the repeat was recognised without opening the flow");
}

#[tokio::test]
async fn a_batch_that_meets_a_missing_key_is_not_lost() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    let early = client.body(&[rows("F.E", "Custom.A", 0, 3)]);
    assert!(matches!(post(&c, early).await, Answer::Status(406, _)));
    enrol(&c, &client).await;
    let (s, org) = server(&c);
    let n = s.row_count(&org, &client.id, "F.E", &Rows::Results("Custom.A".into())).await.unwrap();
    assert_eq!(n, 3);
}

#[tokio::test]
async fn a_batch_kept_for_enrolment_survives_a_restart() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    let early = client.body(&[rows("F.E", "Custom.A", 0, 3)]);
    assert!(matches!(post(&c, early).await, Answer::Status(406, _)));
    drop(c);
    let c = w.start().await;
    enrol(&c, &client).await;
    let (s, org) = server(&c);
    let n = s.row_count(&org, &client.id, "F.E", &Rows::Results("Custom.A".into())).await.unwrap();
    assert_eq!(n, 3);
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_costs_nothing() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    enrol(&c, &client).await;
    let code = |a: Answer| match a {
        Answer::Status(code, _) => code,
        a => panic!("{a:?}"),
    };
    let good = client.body(&[rows("F.1", "Custom.A", 0, 1)]);
    let mut bad = good.to_vec();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert_eq!(code(post(&c, bad.into()).await), 403);
    assert_eq!(code(post(&c, Bytes::new()).await), 406);
    assert_eq!(code(post(&c, Bytes::from_static(b"noise")).await), 403);
    let foreign = TestClient::new(&w, "other");
    assert_eq!(code(post(&c, foreign.body(&[])).await), 403);
    // Another key under the same id: neither accepted nor told to enrol.
    let thief = PrivateKey::generate().unwrap();
    let cipher =
        SessionCipher::new(&*w.env.entropy, &client.id, &thief, w.identity.key().public()).unwrap();
    let thief = TestClient {
        key: thief,
        id: client.id.clone(),
        cipher,
        nonce: NONCE.into(),
        env: w.env.clone(),
        old: false,
    };
    assert_eq!(code(post(&c, thief.body(&[rows("F.1", "Custom.A", 0, 1)])).await), 403);
    assert_eq!(code(post(&c, thief.body(&[thief.csr()])).await), 503);
    assert_eq!(post(&c, good).await, Answer::Reply(Bytes::new()));
}

#[tokio::test]
async fn organisations_do_not_mix() {
    let w = World::new();
    let c = w.start().await;
    let (s, root) = server(&c);
    let org = s.create_org("Second", Some("O123")).await.unwrap();
    let client = TestClient::new(&w, &org.nonce);
    interrogated_in(&c, &w, &client).await;
    let source = format!("{}-O123", client.id);
    assert!(org.state().clients.get(&source).is_some());
    assert!(root.state().clients.get(&client.id).is_none());
    // The same key in root is another client.
    let twin = TestClient { nonce: NONCE.into(), ..client };
    let a = post(&c, twin.body(&[rows("F.1", "Custom.A", 0, 1)])).await;
    assert!(matches!(a, Answer::Status(403 | 406, _)), "{a:?}");
    drop(c);
    let c = w.start().await;
    let org = c.0.server().org(&crate::services::ids::OrgId::new("O123")).unwrap();
    assert_eq!(org.name, "Second");
    assert!(org.state().clients.get(&source).is_some());
}

async fn interrogated_in(c: &Clients, w: &World, client: &TestClient) {
    interrogated(c, w, client).await;
}

#[tokio::test]
async fn uploads_of_every_shape_are_whole_after_a_restart_in_the_middle() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    let chunk = |off: usize, len: usize, eof: bool| VeloMessage {
        session_id: "F.U".into(),
        file_buffer: Some(FileBuffer {
            pathspec: Some(PathSpec {
                path: "/etc/big".into(),
                accessor: "file".into(),
                ..Default::default()
            }),
            offset: off as u64,
            data: Bytes::copy_from_slice(&data[off..off + len]),
            eof,
            size: data.len() as u64,
            stored_size: (off + len) as u64,
            ..Default::default()
        }),
        ..Default::default()
    };
    let ok = Answer::Reply(Bytes::new());
    assert_eq!(post(&c, client.body(&[chunk(0, 1 << 20, false)])).await, ok);
    drop(c);
    let c = w.start().await;
    assert_eq!(post(&c, client.body(&[chunk(0, 1 << 20, false)])).await, ok, "a repeat");
    // A clean stop in the middle keeps the pieces.
    server(&c).0.settle_all().await;
    drop(c);
    let c = w.start().await;
    assert_eq!(post(&c, client.body(&[chunk(1 << 20, 1 << 20, false)])).await, ok);
    let rest = data.len() - (2 << 20);
    assert_eq!(
        post(&c, client.body(&[chunk(2 << 20, rest, false), chunk(data.len(), 0, true)])).await,
        ok
    );
    let (s, org) = server(&c);
    s.settle_all().await;
    let path = crate::store::paths::Client { org: &org.id, id: &client.id };
    let at = path.flow("F.U").upload("file", &["etc".into(), "big".into()]);
    let stored = s.tree.get_file(&at, 10 << 20).await.unwrap().unwrap();
    assert!(stored == data, "{} bytes", stored.len());
    let meta = s.tree.get_file(&path.flow("F.U").uploads(), 1 << 20).await.unwrap().unwrap();
    let row: serde_json::Value = serde_json::from_slice(&meta).unwrap();
    assert_eq!(row["uploaded_size"], 3_000_000);
    assert_eq!(row["vfs_path"], "/etc/big");
}

#[tokio::test]
async fn a_minion_commits_for_the_master_and_keeps_nothing_else() {
    let w = World::new();
    let minion = Options { node: "minion-1".into(), role: Role::Minion, ..Options::default() };
    let m = w.start_with(minion).await;
    let client = TestClient::new(&w, NONCE);
    enrol(&m, &client).await;
    let body = [rows("F.X", "Custom.A", 0, 10), done("F.X", 10)];
    assert_eq!(post(&m, client.body(&body)).await, Answer::Reply(Bytes::new()));
    let end = m.0.server().journal.end();
    assert_eq!(post(&m, client.body(&body)).await, Answer::Reply(Bytes::new()));
    let (s, org) = server(&m);
    assert_eq!(s.journal.end(), end, "a repeat costs nothing");
    assert!(org.state().flows.is_empty() && org.state().events.sets.is_empty());
    s.settle_all().await;
    assert_eq!(s.journal_files(), 1);
    // The master has all of it.
    let c = w.start().await;
    let (s, org) = server(&c);
    let set = Rows::Results("Custom.A".into());
    assert_eq!(s.row_count(&org, &client.id, "F.X", &set).await.unwrap(), 10);
    assert!(org.state().clients.get(&client.id).is_some());
}

#[tokio::test]
async fn acknowledging_early_loses_data() {
    let mut options = Options::default();
    options.journal.acknowledge_early = true;
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    interrogated(&c, &w, &client).await;
    drop(c);
    let c = w.start_with(options).await;
    let body = client.body(&[rows("F.X", "Custom.A", 0, 5)]);
    assert_eq!(post(&c, body).await, Answer::Reply(Bytes::new()));
    // A copy of the tree at this moment is what a crash leaves.
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .args(["-a", &format!("{}/.", w.dir.path().display()), copy.path().to_str().unwrap()])
        .status()
        .unwrap();
    assert!(status.success());
    let crashed = World { env: w.env.clone(), dir: copy, identity: w.identity.clone() };
    let c = crashed.start().await;
    let (s, org) = server(&c);
    let n = s.row_count(&org, &client.id, "F.X", &Rows::Results("Custom.A".into())).await.unwrap();
    assert_eq!(n, 0, "this is what the promise forbids");
    let _ = PostClass::Normal;
}

#[tokio::test]
async fn short_of_memory_results_are_refused_before_their_body() {
    let w = World::new();
    let memory = AdmissionLimits { memory: 1 << 20, ..Default::default() };
    let clients = w.start_limited(Limits { admission: memory, ..Limits::default() }).await;
    let c = TestClient::new(&w, NONCE);
    let ask = |urgent: bool, channel: Channel, length: u64| {
        let mut r = request(c.body(&[]), channel);
        (r.head.urgent, r.head.length) = (urgent, Some(length));
        clients.admit(&r.head)
    };
    assert!(ask(false, Channel::Control, 1 << 20).is_ok());
    clients.0.admission().set_memory((1 << 20) + 1);
    // 500: the agent keeps what it has and comes again.
    let refused = ask(false, Channel::Control, 1 << 20);
    assert!(matches!(refused, Err(Answer::Status(500, _))), "{refused:?}");
    assert!(ask(false, Channel::Control, 1000).is_ok());
    assert!(ask(true, Channel::Control, 1 << 20).is_ok());
    clients.0.admission().set_memory(2 << 20);
    assert!(ask(false, Channel::Control, 1000).is_err());
    assert!(ask(false, Channel::Reader, 1000).is_ok(), "clients are still given tasks");
    clients.0.admission().set_memory(1000);
    assert!(ask(false, Channel::Control, 1 << 20).is_ok());
}
