use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::ApiClientAcl;
use vql::{Level, Value};

use super::*;
use crate::services::acl::Policy;
use crate::services::ids::OrgId;
use crate::services::{Options, Server};
use crate::store::StoreRoot;

/// A server on an empty datastore with one client in the root organisation.
pub(crate) async fn server(dir: &tempfile::TempDir) -> Arc<Server> {
    server_with(dir, Options::default()).await
}

/// The same, configured.
pub(crate) async fn server_with(dir: &tempfile::TempDir, options: Options) -> Arc<Server> {
    let root = StoreRoot::single(dir.path().to_str().unwrap());
    let env = crate::env::real::env();
    let options = Options { obfuscate: false, ..options };
    let server = Server::open(env, root, options).await.unwrap();
    {
        let org = server.root();
        let mut state = org.state();
        let client = state.clients.entry(CLIENT);
        client.info.hostname = "web-1".into();
        client.info.system = "linux".into();
    }
    server
}

pub(crate) const CLIENT: &str = "C.0000000000000001";

fn session(server: &Arc<Server>, role: &str) -> Session {
    let acl = ApiClientAcl { roles: vec![role.into()], ..Default::default() };
    Session {
        server: server.clone(),
        org: server.root(),
        principal: "mike".into(),
        policy: Policy::of(&acl, true),
    }
}

/// Runs a script; the rows as JSON and the log.
async fn run(session: &Session, text: &str) -> (String, String) {
    let lines = Arc::new(Mutex::new(String::new()));
    let sink = lines.clone();
    let log = move |level: Level, text: &str| {
        *sink.lock().unwrap() += &format!("{}: {text}\n", level.name());
    };
    let scope = scope(registry(), Arc::new(session.clone()), log, CancellationToken::new());
    let rows = vql::run(text, &scope).await.unwrap();
    let log = lines.lock().unwrap().clone();
    (Value::from(rows).to_json(), log)
}

/// Runs a script as a user of this role.
pub(crate) async fn run_as(server: &Arc<Server>, role: &str, text: &str) -> (String, String) {
    run(&session(server, role), text).await
}

#[tokio::test]
async fn clients_are_found_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let s = session(&server(&dir).await, "investigator");
    let (rows, log) = run(
        &s,
        "SELECT client_id, os_info.hostname AS Host FROM clients(search='host:web*') \
         WHERE os_info.system = 'linux'",
    )
    .await;
    assert_eq!(rows, format!(r#"[{{"client_id":"{CLIENT}","Host":"web-1"}}]"#), "{log}");
    let text = format!(
        "LET c = '{CLIENT}' \
         SELECT label(client_id=c, labels=['Prod','x'], op='set') AS A, \
                label(client_id=c, labels='x', op='remove') AS B, \
                label(client_id=c, labels='prod', op='check') AS C, \
                client_info(client_id=c).labels AS L, \
                label(client_id=c, labels=['prod','no'], op='check') AS N, \
                client_set_metadata(client_id=c, a='no', metadata=dict(a=1)) AS M, \
                client_set_metadata(client_id=c, b='two', t=TRUE) AS M2, \
                client_set_metadata(client_id='C.9', b='two') AS M3, \
                client_metadata(client_id=c) AS D FROM scope()"
    );
    let (rows, log) = run(&s, &text).await;
    let done = |labels: &str, op: &str| {
        format!(r#"{{"ClientId":"{CLIENT}","Labels":[{labels}],"Op":"{op}"}}"#)
    };
    let want = format!(
        r#"[{{"A":{},"B":{},"C":{},"L":["Prod"],"N":false,"M":true,"M2":true,"M3":null,"D":{{"a":"1","b":"two","t":"true"}}}}]"#,
        done(r#""Prod","x""#, "set"),
        done(r#""x""#, "remove"),
        done(r#""prod""#, "check"),
    );
    assert_eq!(rows, want, "{log}");
    assert!(log.contains("other keys are not set"), "{log}");
    let kill = format!(
        "SELECT killkillkill(client_id='{CLIENT}') AS K, killkillkill(client_id='C.9') AS L \
         FROM scope()"
    );
    let (rows, log) = run(&s, &kill).await;
    assert!(rows.contains(r#""K":null"#) && log.contains("MACHINE_STATE"), "{rows} {log}");
    let admin = Session { policy: Policy::super_user(), ..s.clone() };
    let (rows, log) = run(&admin, &kill).await;
    assert_eq!(rows, format!(r#"[{{"K":"{CLIENT}","L":null}}]"#), "{log}");
    let way = || {
        let reply = crate::services::tasks::Reply::http([7; 16], [7; 16], 60);
        crate::services::tasks::Way::Reply(reply)
    };
    let told = s.server.next_tasks(&s.org, CLIENT, [9; 16], way()).await;
    assert!(told.iter().any(|m| m.kill_kill_kill.is_some()), "{told:?}");
    let again = s.server.next_tasks(&s.org, CLIENT, [9; 16], way()).await;
    assert!(again.iter().all(|m| m.kill_kill_kill.is_none()), "once");
    let create = "SELECT client_create(client_id='C.00000000000000aa', hostname='h', os='windows', \
                  labels='L', first_seen_at=5, last_seen_at=7) AS C FROM scope()";
    let (rows, log) = run(&s, create).await;
    assert!(rows == r#"[{"C":null}]"# && log.contains("SERVER_ADMIN"), "{rows} {log}");
    let (_, log) = run(&admin, create).await;
    assert_eq!(log, "");
    let made = "SELECT os_info.system AS S, os_info.fqdn AS H, labels AS L, first_seen_at AS F, \
                last_seen_at AS T FROM clients(search='host:h')";
    let want = r#"[{"S":"windows","H":"h","L":["L"],"F":5,"T":7000000}]"#;
    assert_eq!(run(&admin, made).await.0, want);
}

#[tokio::test]
async fn what_is_not_permitted_is_a_log_line() {
    let dir = tempfile::tempdir().unwrap();
    let s = session(&server(&dir).await, "reader");
    for text in [
        format!("SELECT label(client_id='{CLIENT}', labels='x') AS R FROM scope()"),
        format!(
            "SELECT collect_client(client_id='{CLIENT}', artifacts='Linux.Sys.Users') AS R FROM scope()"
        ),
        "SELECT artifact_set(definition='name: Custom.A') AS R FROM scope()".to_owned(),
        "SELECT org_create(name='x') AS R FROM scope()".to_owned(),
        "SELECT user_create(user='x', roles='administrator') AS R FROM scope()".to_owned(),
        "SELECT server_metadata() AS R FROM scope()".to_owned(),
        "SELECT read_file(filename='/etc/passwd') AS R FROM scope()".to_owned(),
    ] {
        let (rows, log) = run(&s, &text).await;
        assert_eq!(rows, r#"[{"R":null}]"#, "{text}");
        assert!(log.contains("PermissionDenied"), "{text}: {log}");
    }
}

#[tokio::test]
async fn nobody_is_impersonated_in_another_organisation() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let org = server.create_org("B", Some("B")).await.unwrap();
    let all = session(&server, "administrator");
    let (rows, log) = run(
        &all,
        "SELECT user_create(user='boss', roles='administrator') AS A, \
         user_create(user='local', roles='administrator', orgs='B') AS B, \
         user_create(user='reader', roles='reader', orgs='B') AS C FROM scope()",
    )
    .await;
    assert_eq!(rows, r#"[{"A":"boss","B":"local","C":"reader"}]"#, "{log}");
    let policy = server.users.policy(&org.id, "local").await.unwrap();
    let local = Session { org, principal: "local".into(), policy, ..all };
    let who = "SELECT * FROM query(query={ SELECT whoami() AS W, org().id AS O FROM scope() }, ";
    let (rows, log) = run(&local, &format!("{who} runas='reader')")).await;
    assert_eq!(rows, r#"[{"W":"reader","O":"B"}]"#, "{log}");
    for elsewhere in ["runas='boss', org_id='root')", "runas='reader', org_id='root')"] {
        let (rows, log) = run(&local, &format!("{who} {elsewhere}")).await;
        assert!(rows == "[]" && log.contains("PermissionDenied"), "{rows} {log}");
    }
}

#[tokio::test]
async fn the_host_is_for_those_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let reader = session(&server, "reader");
    let (rows, log) = run(&reader, "SELECT OS FROM info()").await;
    assert!(rows == "[]" && log.contains("MACHINE_STATE"), "{rows} {log}");
    let own = "SELECT Line FROM parse_lines(filename='a', accessor='data')";
    assert_eq!(run(&reader, own).await.0, r#"[{"Line":"a"}]"#);
    let (rows, log) = run(&reader, "SELECT Line FROM parse_lines(filename='/etc/passwd')").await;
    assert!(rows == "[]" && log.contains("FILESYSTEM_READ"), "{rows} {log}");
    let admin = session(&server, "administrator");
    assert_eq!(run(&admin, "SELECT OS FROM info()").await.0, r#"[{"OS":"linux"}]"#);
    let (rows, log) = run(
        &admin,
        "SELECT OS, Hostname FROM Artifact.Generic.Client.Info(source='BasicInformation')",
    )
    .await;
    assert!(rows.contains(r#""OS":"linux""#), "{rows} {log}");
}

#[tokio::test]
async fn a_collection_is_scheduled_and_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let s = session(&server(&dir).await, "investigator");
    let text = format!(
        "LET F <= collect_client(client_id='{CLIENT}', artifacts=['Linux.Sys.Users'], \
             env=dict(PasswordFile='/x'), urgent=TRUE, timeout=7) \
         SELECT F.request.artifacts AS A, F.request.timeout AS T, \
                F.request.specs[0].parameters.env[0].value AS P, \
                cancel_flow(client_id='{CLIENT}', flow_id=F.flow_id).flow_id = F.flow_id AS C, \
                cancel_flow(client_id='{CLIENT}', flow_id='F.NO') AS N \
         FROM scope()"
    );
    let (rows, log) = run(&s, &text).await;
    assert_eq!(
        rows, r#"[{"A":["Linux.Sys.Users"],"T":7,"P":"/x","C":true,"N":{"flow_id":"F.NO"}}]"#,
        "{log}"
    );
    let text =
        format!("SELECT state, status, request.creator AS W FROM flows(client_id='{CLIENT}')");
    let (rows, log) = run(&s, &text).await;
    assert!(rows.contains(r#""state":"ERROR""#) && rows.contains("mike"), "{rows} {log}");
    let (rows, log) =
        run(&s, &format!("SELECT * FROM flow_logs(client_id='{CLIENT}', flow_id='F.x')")).await;
    assert_eq!((rows.as_str(), log.as_str()), ("[]", ""));
}

/// What a called artifact sees: its parameters, then all that its caller sees. Seen with stock
/// 0.77.2; helpers find the variables of their callers' tools by it.
#[tokio::test]
async fn artifacts_see_what_their_callers_see() {
    let dir = tempfile::tempdir().unwrap();
    let s = session(&server(&dir).await, "administrator");
    let inner = "name: Custom.Inner
parameters:
- name: P
  default: own
sources:
- query: |
    LET Left <= 1
    SELECT P, Q, Row, get(field='M') AS M FROM scope()
";
    let outer = "name: Custom.Outer
parameters:
- name: P
- name: Q
  default: outer
sources:
- query: |
    LET M <= 'mat'
    SELECT * FROM foreach(row={ SELECT 7 AS Row FROM scope() },
                          query={ SELECT *, Left AS Leaked FROM Artifact.Custom.Inner() })
";
    for text in [inner, outer] {
        s.server.set_artifact(&s.org, "mike", text).await.unwrap();
    }
    let (rows, log) = run(&s, "SELECT * FROM Artifact.Custom.Outer(P='other')").await;
    let want =
        r#"[{"P":"own","Q":"outer","Row":7,"M":"mat","Leaked":null,"_Source":"Custom.Outer"}]"#;
    assert_eq!(rows, want, "{log}");
}

#[tokio::test]
async fn definitions_are_written_listed_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let s = session(&server(&dir).await, "administrator");
    let text = "LET A <= artifact_set(definition='''
name: Custom.Twice
type: server
parameters:
- name: N
  type: int
  default: 21
sources:
- name: S
  query: SELECT N * 2 AS X FROM scope()
''', prefix='Custom.')
        SELECT A.name AS Name, A.type AS Type,
          { SELECT * FROM Artifact.Custom.Twice() } AS Default,
          { SELECT X FROM Artifact.Custom.Twice(N=4, source='S') } AS Given,
          { SELECT name FROM artifact_definitions(names='Custom.Twice') } AS Listed
        FROM scope()";
    let (rows, log) = run(&s, text).await;
    let want = r#"[{"Name":"Custom.Twice","Type":"server","Default":{"X":42,"_Source":"Custom.Twice/S"},"Given":8,"Listed":"Custom.Twice"}]"#;
    assert_eq!(rows, want, "{log}");
    let (rows, log) = run(&s, "SELECT * FROM Artifact.Custom.Twice(Wrong=1)").await;
    assert!(rows == "[]" && log.contains("no parameter Wrong"), "{rows} {log}");
    let (_, log) =
        run(&s, "SELECT artifact_set(definition='name: Generic.Client.Info') FROM scope()").await;
    assert!(log.contains("built in"), "{log}");
    let mark = "SELECT artifact_set_metadata(name='Custom.Twice', hidden=TRUE, tags='t') AS M, \
                artifact_set_metadata(name='Custom.Twice', basic=TRUE, hidden=FALSE) AS N, \
                artifact_set_metadata(name='Custom.No', basic=TRUE) AS O FROM scope()";
    let want = r#"[{"M":{"hidden":true,"tags":["t"]},"N":{"basic":true,"tags":["t"]},"O":null}]"#;
    assert_eq!(run(&s, mark).await.0, want);
    let again = "SELECT artifact_set(definition='name: Custom.Twice\nsources:\n- query: \
                 SELECT 1 FROM scope()\n').metadata AS M FROM scope()";
    let kept = r#"[{"M":{"hidden":false,"basic":true,"tags":["t"]}}]"#;
    assert_eq!(run(&s, again).await.0, kept, "a new text keeps what is noted");
    let reader = session(&s.server, "investigator");
    let (_, log) = run(&reader, mark).await;
    assert!(log.contains("SERVER_ARTIFACT_WRITER") || log.contains("ARTIFACT_WRITER"), "{log}");
    let listed = "SELECT metadata AS M FROM artifact_definitions(names=['Custom.Twice'])";
    assert_eq!(run(&s, listed).await.0, kept);
    let (rows, _) = run(&s, "SELECT artifact_delete(name='Custom.Twice') AS D FROM scope()").await;
    assert_eq!(rows, r#"[{"D":"Custom.Twice"}]"#);
    let (rows, _) = run(&s, "SELECT * FROM artifact_definitions(names='Custom.Twice')").await;
    assert_eq!(rows, "[]");
}

#[tokio::test]
async fn users_and_organisations_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let s = session(&server, "administrator");
    let text = "LET O <= org_create(name='Acme', org_id='O1')
        LET U <= user_create(user='ann', roles=['reader'], password='p', orgs=['root', 'O1'])
        SELECT O.OrgId AS Org, U, whoami() AS Me,
          { SELECT roles FROM gui_users(all_orgs=TRUE) WHERE name = 'ann' AND org_id = 'O1' } AS R,
          { SELECT OrgId FROM orgs() } AS Orgs
        FROM scope()";
    let (rows, log) = run(&s, text).await;
    let want = r#"[{"Org":"O1","U":"ann","Me":"mike","R":["reader"],"Orgs":["root","O1"]}]"#;
    assert_eq!(rows, want, "{log}");
    let there = server.users.policy(&OrgId::new("O1"), "ann").await.unwrap();
    assert!(there.allows(crate::services::acl::Permission::ReadResults));
    let ann = server.users.require("ann").await.unwrap();
    assert!(crate::services::users::verify_password(&ann, "p"));
    server.users.create("mike").await.unwrap();
    let acl = ApiClientAcl { roles: vec!["administrator".into()], ..Default::default() };
    server.users.set_acl(&OrgId::root(), "mike", &acl).await.unwrap();
    let one = "SELECT user(user='ann', org='O1').roles AS R, user(user='no').name AS N, \
               passwd(user='ann', password='another') AS P, passwd(user='ann', password='x') AS Q \
               FROM scope()";
    let (rows, log) = run(&s, one).await;
    assert_eq!(rows, r#"[{"R":["reader"],"N":null,"P":"ann","Q":null}]"#, "{log}");
    let ann = server.users.require("ann").await.unwrap();
    assert!(crate::services::users::verify_password(&ann, "another"));
    let nobody = Session { principal: "nobody".into(), ..session(&server, "investigator") };
    let (_, log) = run(&nobody, one).await;
    assert!(log.contains("may not set the password of ann"), "{log}");
    let kept = run(
        &s,
        "SELECT user_delete(user='ann') AS A, user_delete(user='no', really_do_it=TRUE) \
                        AS N FROM scope()",
    )
    .await
    .0;
    assert_eq!(kept, r#"[{"A":"ann","N":null}]"#);
    let (_, log) = run(&s, "SELECT user_grant(user='ann', roles='king') FROM scope()").await;
    assert!(log.contains("unknown role"), "{log}");
    let (_, log) =
        run(&s, "SELECT user_grant(user='ann', policy=dict(roles=['king',])) FROM scope()").await;
    assert!(log.contains("unknown role"), "{log}");
    let text = "LET _ <= user_grant(user='ann', orgs='O1', \
                policy=dict(roles=['reader',], collect_basic=TRUE))
        SELECT email, stats, _policy FROM gui_users(all_orgs=TRUE) \
        WHERE name = 'ann' AND org_id = 'O1'";
    let (rows, log) = run(&s, text).await;
    let want =
        r#"[{"email":false,"stats":null,"_policy":{"roles":["reader"],"collect_basic":true}}]"#;
    assert_eq!(rows, want, "{log}");
}

#[tokio::test]
async fn events_are_watched_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let s = session(&server, "administrator");
    let watcher = {
        let s = s.clone();
        tokio::spawn(async move {
            run(
                &s,
                "SELECT a, _Source FROM watch_monitoring(artifact='System.Hunt.Creation') LIMIT 1",
            )
            .await
        })
    };
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let sent =
        "SELECT send_event(artifact='System.Hunt.Creation', row=dict(a=5)) AS S FROM scope()";
    assert_eq!(run(&s, sent).await.0, r#"[{"S":true}]"#);
    let seen = tokio::time::timeout(std::time::Duration::from_secs(5), watcher).await;
    assert_eq!(seen.unwrap().unwrap().0, r#"[{"a":5,"_Source":"System.Hunt.Creation"}]"#);
    let read = "SELECT a, _Sender FROM monitoring(artifact='System.Hunt.Creation')";
    assert_eq!(run(&s, read).await.0, r#"[{"a":5,"_Sender":"mike"}]"#);
    let later =
        "SELECT a FROM monitoring(artifact='System.Hunt.Creation', start_time='2090-01-01')";
    assert_eq!(run(&s, later).await.0, "[]");
}

#[tokio::test]
async fn hunts_are_made_changed_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(server.clone().recruit(stop.clone()));
    let s = session(&server, "administrator");
    let text = "LET H <= hunt(artifacts='Linux.Sys.Users', description='d', tags=['t'], \
                  os='linux', expires=now() + 3600, spec=dict(`Linux.Sys.Users`=dict(PasswordFile='/x'))) \
                SELECT H.HuntId =~ '^H\\\\.' AS Id, H.Request.state AS S, \
                  H.Request.condition.os.os AS OS FROM scope()";
    let (rows, log) = run(&s, text).await;
    assert_eq!(rows, r#"[{"Id":true,"S":"RUNNING","OS":"LINUX"}]"#, "{log}");
    let (rows, _) = run(&s, "SELECT hunt_id FROM hunts()").await;
    let id = serde_json::from_str::<serde_json::Value>(&rows).unwrap()[0]["hunt_id"].clone();
    let id = id.as_str().unwrap();
    server.sessions.register(&OrgId::root(), CLIENT, [1; 16], "1.2.3.4:5");
    let (rows, log) = run(
        &s,
        &format!(
            "SELECT hunt_add(client_id='{CLIENT}', hunt_id='{id}') AS A, \
           hunt_update(hunt_id='{id}', stop=TRUE, add_labels='u') AS U, \
           hunt_info(hunt_id='{id}').stats.total_clients_scheduled AS N FROM scope()"
        ),
    )
    .await;
    assert_eq!(rows, format!(r#"[{{"A":"{CLIENT}","U":["t","u"],"N":1}}]"#), "{log}");
    let (rows, log) = run(
        &s,
        &format!(
            "SELECT ClientId, FlowId, Flow.request.creator AS W FROM hunt_flows(hunt_id='{id}')"
        ),
    )
    .await;
    let flow = crate::services::hunts::flow_of_hunt(id);
    let want = format!(r#"[{{"ClientId":"{CLIENT}","FlowId":"{flow}","W":"mike"}}]"#);
    assert_eq!(rows, want, "{log}");
    let (rows, log) = run(&s, &format!("SELECT * FROM hunt_results(hunt_id='{id}')")).await;
    assert_eq!((rows.as_str(), log.as_str()), ("[]", ""));
    let (rows, log) =
        run(&s, &format!("SELECT * FROM hunt_results(hunt_id='{id}', artifact='Not.There')")).await;
    assert!(rows == "[]" && log.contains("Not.There is not in hunt"), "{log}");
    // As the notebook of a hunt asks, whose variables say which.
    let (rows, log) =
        run(&s, &format!("LET HuntId <= '{id}' SELECT ClientId AS C FROM hunt_flows()")).await;
    assert_eq!(rows, format!(r#"[{{"C":"{CLIENT}"}}]"#), "{log}");
    let (_, log) =
        run(&s, &format!("LET HuntId <= '{id}' SELECT * FROM hunt_results(artifact='No')")).await;
    assert!(log.contains("No is not in hunt"), "{log}");
    let reader = session(&server, "reader");
    for text in [
        "SELECT hunt(artifacts='Linux.Sys.Users') AS R FROM scope()".to_owned(),
        format!("SELECT hunt_update(hunt_id='{id}', start=TRUE) AS R FROM scope()"),
        format!("SELECT hunt_add(hunt_id='{id}', client_id='{CLIENT}') AS R FROM scope()"),
    ] {
        let (rows, log) = run(&reader, &text).await;
        assert!(rows == r#"[{"R":null}]"# && log.contains("START_HUNT"), "{text}: {log}");
    }
    server.settle(crate::services::housekeeping::Settle::All).await;
    let (listed, log) =
        run(&s, &format!("SELECT Type, Data.VFSPath AS P FROM hunt_delete(hunt_id='{id}')")).await;
    assert_eq!(log, "");
    let context = format!("ds:/clients/{CLIENT}/collections/{flow}.json.db");
    let want = format!(r#"{{"Type":"CollectionContext","P":"{context}"}}"#);
    assert!(listed.contains(&want), "{listed}");
    assert_eq!(server.hunts(&server.root(), false, true).len(), 1, "only listed");
    let (rows, log) =
        run(&s, &format!("SELECT * FROM hunt_delete(hunt_id='{id}', really_do_it=TRUE)")).await;
    assert!(rows.contains(&context) && !rows.contains("os error"), "{rows} {log}");
    let left = server.files_of_flow(&server.root(), CLIENT, &flow).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(server.hunts(&server.root(), false, true).is_empty());
    let gone = server.flow(&server.root(), CLIENT, &flow).await.unwrap();
    assert!(gone.is_none(), "its collections go with it");
    stop.cancel();
    work.await.unwrap();
}

#[tokio::test]
async fn deletions_ask_for_their_rights_and_list_what_stock_lists() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let s = session(&server, "administrator");
    let reader = session(&server, "reader");
    for (text, right) in [
        (format!("SELECT * FROM client_delete(client_id='{CLIENT}')"), "SERVER_ADMIN"),
        (
            format!("SELECT * FROM delete_flow(client_id='{CLIENT}', flow_id='F.1')"),
            "DELETE_RESULTS",
        ),
        ("SELECT * FROM hunt_delete(hunt_id='H.1')".to_owned(), "SERVER_ADMIN"),
    ] {
        let (rows, log) = run(&reader, &text).await;
        assert!(rows == "[]" && log.contains(right), "{text}: {log}");
    }
    let org = server.root();
    let request = velociraptor_proto::proto::ArtifactCollectorArgs {
        client_id: CLIENT.into(),
        artifacts: vec!["Generic.Client.Info".into()],
        ..Default::default()
    };
    let policy = crate::services::acl::Policy::super_user();
    let flow = server.collect(&org, "mike", &policy, request).await.unwrap().flow_id;
    server.settle(crate::services::housekeeping::Settle::All).await;
    let query = |more: &str| {
        format!(
            "SELECT Type, Data.VFSPath AS P, Error FROM delete_flow(client_id='{CLIENT}', \
             flow_id='{flow}'{more})"
        )
    };
    let (listed, log) = run(&s, &query("")).await;
    let context = format!("ds:/clients/{CLIENT}/collections/{flow}.json.db");
    let want = format!(r#"{{"Type":"CollectionContext","P":"{context}","Error":""}}"#);
    assert!(listed.contains(&want), "{listed} {log}");
    assert!(server.flow(&org, CLIENT, &flow).await.unwrap().is_some(), "only listed");
    let all = format!(
        "SELECT Type, Data.VFSPath AS P, Error FROM enumerate_flow(client_id='{CLIENT}', \
         flow_id='{flow}')"
    );
    assert_eq!(run(&reader, &all).await.0, listed);
    let (removed, _) = run(&s, &query(", really_do_it=TRUE, sync=TRUE")).await;
    assert!(removed.contains(&want), "{removed}");
    assert!(server.flow(&org, CLIENT, &flow).await.unwrap().is_none());
    let (rows, log) = run(&s, &query(", really_do_it=TRUE")).await;
    assert!(rows == "[]" && log.contains("not found"), "{rows} {log}");
    for bad in ["C.1/../../x", "..", "server"] {
        let text = format!("SELECT * FROM client_delete(client_id='{bad}', really_do_it=TRUE)");
        let (rows, log) = run(&s, &text).await;
        assert!(rows == "[]" && !log.is_empty(), "{bad}: {rows}");
    }
    let text = "SELECT type, vfs_path FROM client_delete(client_id='{}', really_do_it=TRUE)";
    let (_, log) = run(&s, &text.replace("{}", CLIENT)).await;
    assert_eq!(log, "");
    assert!(org.state().clients.get(CLIENT).is_none());
    let (audited, log) = run(
        &s,
        "SELECT operation FROM source(artifact='Server.Audit.Logs', start_time=0) \
         WHERE operation =~ 'delete'",
    )
    .await;
    for operation in ["delete_flow", "client_delete"] {
        assert!(audited.contains(operation), "{audited} {log}");
    }
}
