use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tower::ServiceExt;
use velociraptor_proto::proto::ApiClientAcl;

use super::*;
use crate::api::ApiOptions;
use crate::plugins::server::tests::{CLIENT, server};
use crate::services::Server;
use crate::services::flows::{Rows, rows_path};
use crate::services::ids::OrgId;

pub(super) struct Lab {
    pub server: Arc<Server>,
    pub uploads: Arc<Uploads>,
    app: Router,
    _dir: tempfile::TempDir,
}

pub(super) async fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    for (name, role) in [
        ("ann", "administrator"),
        ("inv", "investigator"),
        ("rob", "reader"),
        ("api", "artifact_writer"),
    ] {
        server.users.create(name).await.unwrap();
        let acl = ApiClientAcl { roles: vec![role.into()], ..Default::default() };
        server.users.set_acl(&OrgId::root(), name, &acl).await.unwrap();
    }
    let registry = crate::plugins::server::registry();
    let api = Api::new(server.clone(), registry, ApiOptions::default());
    let stop = CancellationToken::new();
    let options = RestOptions { public_base: "https://front/vr".into(), ..RestOptions::default() };
    let rest = Rest::new(api, options, "/vr", stop);
    Lab { server, uploads: rest.uploads(), app: rest.router(), _dir: dir }
}

impl Lab {
    pub async fn ask(&self, user: &str, request: Request<Body>) -> Response {
        let mut request = request;
        request.extensions_mut().insert(SignedIn { name: user.into() });
        self.app.clone().oneshot(request).await.unwrap()
    }

    pub async fn get(&self, user: &str, path: &str) -> (StatusCode, String) {
        text(self.ask(user, Request::get(path).body(Body::empty()).unwrap()).await).await
    }

    pub async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get("inv", path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn post(&self, user: &str, path: &str, body: Value) -> (StatusCode, String) {
        let request = Request::post(path).body(Body::from(body.to_string())).unwrap();
        text(self.ask(user, request).await).await
    }

    /// Rows of a settled collection.
    pub async fn rows(&self, which: Rows, rows: &str) {
        let at = rows_path(&self.server.root(), CLIENT, "F.1", &which);
        self.server.settle_rows(&at, 0, &Bytes::from(rows.to_owned())).await.unwrap();
    }
}

async fn text(answer: Response) -> (StatusCode, String) {
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn stock_calls_have_stock_shapes() {
    let lab = lab().await;
    let found = lab.json("/v1/SearchClients?query=host:web&limit=10").await;
    assert_eq!((&found["total"], &found["items"][0]["client_id"]), (&json!("1"), &json!(CLIENT)));
    assert_eq!(found["search_term"], json!({"limit": "10", "query": "host:web"}));
    let names = lab.json("/v1/SearchClients?query=web&name_only=true").await;
    assert_eq!(names["names"], json!(["host:web-1"]));
    let client = lab.json(&format!("/v1/GetClient/{CLIENT}")).await;
    assert_eq!(client["os_info"]["hostname"], "web-1");
    let traits = lab.json("/v1/GetUserUITraits").await;
    assert_eq!((&traits["username"], &traits["orgs"][0]["id"]), (&json!("inv"), &json!("root")));
    let traits = &traits["interface_traits"];
    assert_eq!((&traits["base_path"], &traits["org"]), (&json!("/vr"), &json!("root")));
    assert_eq!(traits["Permissions"]["collect_client"], true);
    assert_eq!(traits["Permissions"].get("execve"), None);
    // As axios writes lists: the brackets' empty element is no name.
    let found = lab.json("/v1/GetArtifacts?names[]=&names[]=Linux.Sys.Pslist").await;
    assert_eq!(found["items"][0]["name"], "Linux.Sys.Pslist");
    let (status, text) = lab.get("inv", "/v1/GetClient/C.0000000000000009").await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "Not Found"));
    let ask = json!({ "client_id": CLIENT, "artifacts": ["Linux.Sys.Pslist", "Not.Here"] });
    let (status, text) = lab.post("inv", "/v1/CollectArtifact", ask).await;
    assert!(status == StatusCode::NOT_FOUND && text.contains("artifact Not.Here not"), "{text}");
    let (status, _) = lab.get("inv", "/v1/GetTable?rows=many").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn collections_are_started_shown_and_stopped() {
    let lab = lab().await;
    let ask = json!({
        "client_id": CLIENT, "artifacts": ["Linux.Sys.Pslist"], "later": 1,
        "specs": [{"artifact": "Linux.Sys.Pslist", "parameters": {"env": [{"key": "processRegex", "value": "ssh"}]}}],
    });
    let (status, text) = lab.post("inv", "/v1/CollectArtifact", ask.clone()).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let started: Value = serde_json::from_str(&text).unwrap();
    let flow = started["flow_id"].as_str().unwrap();
    let at = format!("/v1/GetFlowDetails?client_id={CLIENT}&flow_id={flow}");
    let details = lab.json(&at).await;
    assert_eq!(details["context"]["request"]["creator"], "inv");
    assert_eq!(details["context"]["state"], "RUNNING");
    let flows = lab.json(&format!("/v1/GetClientFlows?client_id={CLIENT}&rows=5")).await;
    assert_eq!((&flows["total_rows"], &flows["columns"][1]), (&json!("1"), &json!("FlowId")));
    let mut again = ask.clone();
    for (of, want) in [
        (flow.to_owned(), "is there already"),
        ("F.DC4IL0FEHQTOK/1".to_owned(), "run of no flow"),
        (format!("{flow}/01"), "runs are numbered"),
        (format!("{flow}/S"), "runs are numbered"),
    ] {
        again["flow_id"] = of.clone().into();
        let (status, text) = lab.post("inv", "/v1/CollectArtifact", again.clone()).await;
        assert!(status == StatusCode::BAD_REQUEST && text.contains(want), "{of}: {status} {text}");
    }
    // As stock's shell asks for a further command: in the same flow, once.
    let run = format!("{flow}/1795764261970");
    again["flow_id"] = run.clone().into();
    let (status, text) = lab.post("inv", "/v1/CollectArtifact", again.clone()).await;
    let further: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &further["flow_id"]), (StatusCode::OK, &json!(flow)), "{text}");
    assert_eq!(further["request"]["flow_id"], json!(run));
    let (status, text) = lab.post("inv", "/v1/CollectArtifact", again.clone()).await;
    assert!(status == StatusCode::BAD_REQUEST && text.contains("is there already"), "{text}");
    let context = lab.json(&format!("{at}&include_full_request=true")).await["context"].take();
    assert_eq!(
        (&context["session_id"], &context["request"]["flow_id"]),
        (&json!(flow), &json!(run))
    );
    let earlier = context["previous_flows"].as_array().unwrap();
    assert_eq!((earlier.len(), &earlier[0]["request"]["creator"]), (1, &json!("inv")));
    // Stock's shell asks for a session of its own.
    again["flow_id"] = "/S".into();
    let (status, text) = lab.post("inv", "/v1/CollectArtifact", again).await;
    let shell: Value = serde_json::from_str(&text).unwrap();
    let session = shell["flow_id"].as_str().unwrap();
    assert!(
        status == StatusCode::OK && session.starts_with("F.") && !session.contains('/'),
        "{text}"
    );
    let which = json!({"client_id": CLIENT, "flow_id": flow});
    let (status, _) = lab.post("rob", "/v1/CancelFlow", which.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(lab.post("inv", "/v1/CancelFlow", which).await.0, StatusCode::OK);
    assert_eq!(lab.json(&at).await["context"]["status"], "Cancelled by inv");
}

#[tokio::test]
async fn rights_are_those_of_the_services() {
    let lab = lab().await;
    let collect = |a: &str| json!({"client_id": CLIENT, "artifacts": [a]});
    let label = json!({"client_ids": [CLIENT], "labels": ["x"], "operation": "set"});
    let write = json!({"artifact": "name: Custom.A\nsources:\n- query: SELECT 1 FROM scope()\n", "op": "SET"});
    for (user, path, body, permission) in [
        ("rob", "/v1/CollectArtifact", collect("Linux.Sys.Pslist"), "COLLECT_CLIENT"),
        ("inv", "/v1/CollectArtifact", collect("Linux.Sys.BashShell"), "EXECVE"),
        ("rob", "/v1/LabelClients", label, "LABEL_CLIENT"),
        ("rob", "/v1/SetClientMetadata", json!({"client_id": CLIENT}), "LABEL_CLIENT"),
        ("inv", "/v1/SetArtifactFile", write, "ARTIFACT_WRITER"),
        ("rob", "/v1/NotifyClient", json!({"client_id": CLIENT}), "COLLECT_CLIENT"),
    ] {
        let (status, text) = lab.post(user, path, body).await;
        assert!(
            status == StatusCode::FORBIDDEN && text.contains(permission),
            "{path}: {status} {text}"
        );
    }
    for path in [
        "/v1/SearchClients",
        "/v1/GetArtifacts",
        "/fleet/clients",
        "/fleet/cluster",
        "/fleet/artifacts",
        "/fleet/live",
        "/fleet/table?client_id=C.1&flow_id=F.1&name=A",
        "/fleet/export?client_id=C.1&flow_id=F.1&name=A",
        "/fleet/client/C.1",
        "/fleet/count?client_id=C.1&flow_id=F.1&name=A&column=B",
        "/v1/GetTable?client_id=C.1&flow_id=F.1&artifact=A",
        "/v1/DownloadTable?client_id=C.1&flow_id=F.1&artifact=A",
        "/v1/DownloadVFSFile?client_id=C.1&fs_components=x",
        "/fleet/artifact/A",
    ] {
        let (status, text) = lab.get("api", path).await;
        assert!(
            status == StatusCode::FORBIDDEN && text.contains("READ_RESULTS"),
            "{path}: {status} {text}"
        );
    }
    // A stranger, and somebody in no organisation of that name.
    assert_eq!(lab.get("ghost", "/fleet/clients").await.0, StatusCode::FORBIDDEN);
    lab.server.create_org("Acme", Some("O1")).await.unwrap();
    assert_eq!(lab.get("inv", "/fleet/clients?org_id=O1").await.0, StatusCode::FORBIDDEN);
    assert_eq!(lab.get("inv", "/fleet/clients?org_id=O9").await.0, StatusCode::NOT_FOUND);
}

const HOSTILE: &str = concat!(
    r#"{"Name":"<img src=x onerror=alert(1)>","Cmd":"=cmd|'/C calc'!A0","N":18446744073709551615}"#,
    "\n",
    r#"{"Name":"\u001b[31mred\u202egpj","Cmd":"@SUM(1)","Extra":"a\nb"}"#,
    "\n",
    r#"{"Name":"plain, \"quoted\"","Cmd":"ls","N":-5}"#,
    "\n"
);

#[tokio::test]
async fn hostile_rows_stay_what_they_are() {
    let lab = lab().await;
    lab.rows(Rows::Results("A".into()), HOSTILE).await;
    let which = format!("client_id={CLIENT}&flow_id=F.1");
    let (status, text) = lab.get("rob", &format!("/fleet/table?{which}&name=A")).await;
    assert_eq!(status, StatusCode::OK);
    // Every digit, and the row as it is stored.
    assert!(text.contains("\"N\":18446744073709551615"), "{text}");
    let table: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(table["rows"][0]["row"]["Name"], "<img src=x onerror=alert(1)>");
    assert_eq!(
        (&table["total"], &table["columns"]),
        (&json!(3), &json!(["Name", "Cmd", "N", "Extra"]))
    );
    let answer = lab
        .ask(
            "rob",
            Request::get(format!("/fleet/export?{which}&name=A&download_format=csv"))
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    let head = &answer.headers()[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(head.starts_with("attachment; filename=\"C.0000000000000001-F.1-A.csv\""), "{head}");
    let (_, csv) = self::text(answer).await;
    let want = "Name,Cmd,N,Extra\r\n<img src=x onerror=alert(1)>,'=cmd|'/C calc'!A0,18446744073709551615,\r\n\
        \u{1b}[31mred\u{202e}gpj,'@SUM(1),,\"a\nb\"\r\n\"plain, \"\"quoted\"\"\",ls,-5,\r\n";
    assert_eq!(csv, want);
    // The other format changes nothing.
    let (_, jsonl) =
        lab.get("rob", &format!("/v1/DownloadTable?{which}&artifact=A&download_format=json")).await;
    assert_eq!(jsonl, HOSTILE);
    // Errors are text, not pages.
    let path = format!("/fleet/table?{which}&name=A&f=%3Cb%3E:(");
    let answer = lab.ask("rob", Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn tables_are_filtered_sorted_and_counted() {
    let lab = lab().await;
    let mut rows = String::new();
    for i in 0..300 {
        rows += &format!("{{\"n\":{i},\"a:b\":\"{}\"}}\n", if i % 2 == 0 { "even" } else { "odd" });
    }
    lab.rows(Rows::Results("A/S".into()), &rows).await;
    let which = format!("client_id={CLIENT}&flow_id=F.1&name=A%2FS");
    let t = lab
        .json(&format!("/fleet/table?{which}&f=a%253Ab:even&f=n:!0$&sort=-n&start=1&rows=2"))
        .await;
    let rows: Vec<_> = t["rows"].as_array().unwrap().iter().map(|r| r["n"].clone()).collect();
    assert_eq!(
        (rows, &t["matched"], &t["total"]),
        (vec![json!(296), json!(294)], &json!(120), &json!(300))
    );
    let c = lab.json(&format!("/fleet/count?{which}&column=a:b")).await;
    assert_eq!(c["values"], json!([{"value": "even", "rows": 150}, {"value": "odd", "rows": 150}]));
    let stock = format!(
        "client_id={CLIENT}&flow_id=F.1&artifact=A%2FS&filter_column=n&filter_regex=^29&sort_column=n&sort_direction=true&rows=1"
    );
    let t = lab.json(&format!("/v1/GetTable?{stock}")).await;
    assert_eq!((&t["total_rows"], &t["rows"][0]["json"]), (&json!("11"), &json!(r#"[299,"odd"]"#)));
}

#[tokio::test]
async fn files_are_given_whole_in_part_and_never_opened() {
    let lab = lab().await;
    let at = crate::store::paths::form_upload("abc", "notes.html");
    lab.server.tree.set_file(&at, b"<script>x</script>").await.unwrap();
    let path = "/v1/DownloadVFSFile?fs_components[]=public&fs_components[]=temp&fs_components[]=abc&fs_components[]=notes.html";
    let answer = lab.ask("rob", Request::get(path).body(Body::empty()).unwrap()).await;
    let h = answer.headers();
    assert_eq!(h[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(h[header::CONTENT_DISPOSITION], "attachment; filename=\"notes.html\"");
    assert_eq!(text(answer).await.1, "<script>x</script>");
    assert_eq!(lab.get("rob", &format!("{path}&offset=8&length=1")).await.1, "x");
    let evil = lab
        .ask("rob", Request::get(format!("{path}&name=../%22%0a.exe")).body(Body::empty()).unwrap())
        .await;
    assert_eq!(evil.headers()[header::CONTENT_DISPOSITION], "attachment; filename=\"__.exe\"");
    for hidden in ["users&fs_components=ann.db", "acl", "config", "fleet", ""] {
        let (status, _) =
            lab.get("rob", &format!("/v1/DownloadVFSFile?fs_components={hidden}")).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{hidden}");
    }
}

#[tokio::test]
async fn the_lists_of_our_pages() {
    let lab = lab().await;
    {
        let org = lab.server.root();
        let mut state = org.state();
        for i in 2..120u64 {
            let c = state.clients.entry(&format!("C.{i:016x}"));
            c.info.hostname = format!("h-{:03}", 200 - i);
            c.info.ping = 1;
        }
    }
    let found = lab.json("/fleet/clients?q=host:h-&sort=-host&start=1&rows=2").await;
    let hosts: Vec<_> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["os_info"]["hostname"].clone())
        .collect();
    assert_eq!(
        (hosts, &found["total"], &found["online"]),
        (vec![json!("h-197"), json!("h-196")], &json!(118), &json!(0))
    );
    let cluster = lab.json("/fleet/cluster").await;
    assert_eq!(
        (&cluster["enrolled"], &cluster["nodes"][0]["role"]),
        (&json!(119), &json!("master"))
    );
    let artifacts = lab.json("/fleet/artifacts").await;
    let refused = |name: &str| {
        let all = artifacts["items"].as_array().unwrap();
        all.iter().find(|a| a["name"] == name).unwrap()["refused"].clone()
    };
    assert_eq!(refused("Linux.Sys.Pslist"), Value::Null);
    assert!(refused("Linux.Sys.BashShell").as_str().unwrap().contains("EXECVE"));
    assert_eq!(
        lab.json("/fleet/artifact/Linux.Sys.Pslist").await["parameters"][0]["type"],
        "regex"
    );
}

#[tokio::test]
async fn changes_are_told_as_they_happen() {
    use futures::StreamExt;
    let lab = lab().await;
    let ask = json!({"client_id": CLIENT, "artifacts": ["Linux.Sys.Users"]});
    let (_, text) = lab.post("inv", "/v1/CollectArtifact", ask).await;
    let started: Value = serde_json::from_str(&text).unwrap();
    let flow = started["flow_id"].as_str().unwrap();
    let path = format!("/fleet/live?client_id={CLIENT}&flow_id={flow}");
    let answer = lab.ask("rob", Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = answer.into_body().into_data_stream();
    let first = events.next().await.unwrap().unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    for event in ["event: vitals\n", "event: flow\n", "event: client\n"] {
        assert!(first.contains(event), "{first}");
    }
    let which = json!({"client_id": CLIENT, "flow_id": flow});
    lab.post("inv", "/v1/CancelFlow", which).await;
    let seen = async {
        while let Some(Ok(piece)) = events.next().await {
            if String::from_utf8_lossy(&piece).contains("Cancelled by inv") {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(20), seen).await.unwrap());
}

#[tokio::test]
async fn a_client_between_two_polls_has_not_gone() {
    use futures::StreamExt;
    let lab = lab().await;
    let (sessions, org) = (&lab.server.sessions, OrgId::root());
    let (held, _) = sessions.register(&org, CLIENT, [1; 16], "10.0.0.1:1");
    let path = format!("/fleet/live?client_id={CLIENT}");
    let answer = lab.ask("rob", Request::get(path).body(Body::empty()).unwrap()).await;
    let mut events = answer.into_body().into_data_stream();
    let mut next = async || {
        let piece = events.next().await.unwrap().unwrap();
        String::from_utf8(piece.to_vec()).unwrap()
    };
    let first = next().await;
    let here = r#""connected":true"#;
    assert!(first.contains(here) && first.contains(r#""held":1,"#), "{first}");
    tokio::time::pause();
    sessions.unregister(&org, CLIENT, held.id);
    let left = tokio::time::Instant::now();
    loop {
        let said = next().await;
        let (gone, after) = (said.contains(r#""connected":false"#), left.elapsed().as_secs());
        assert!(if gone { after >= 15 } else { after < 20 }, "after {after} s: {said}");
        assert!(after >= 14 || !said.contains("vitals") || said.contains(r#""held":1,"#), "{said}");
        if gone {
            break;
        }
    }
}

#[tokio::test]
async fn hunts_are_made_started_and_listed() {
    let lab = lab().await;
    let hunt = json!({
        "hunt_description": "who runs <b>ssh</b>", "state": "RUNNING",
        "start_request": {"artifacts": ["Linux.Sys.Pslist"]},
        "condition": {"os": {"os": "LINUX"}},
    });
    let (status, text) = lab.post("rob", "/v1/CreateHunt", hunt.clone()).await;
    assert!(status == StatusCode::FORBIDDEN && text.contains("START_HUNT"), "{text}");
    let estimate = json!({"condition": {"os": {"os": "LINUX"}}});
    let (_, text) = lab.post("inv", "/v1/EstimateHunt", estimate).await;
    assert_eq!(text, r#"{"total_clients_scheduled":"1"}"#);
    let (status, text) = lab.post("inv", "/v1/CreateHunt", hunt).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let made: Value = serde_json::from_str(&text).unwrap();
    let id = made["flow_id"].as_str().unwrap();
    let all = lab.json("/v1/ListHunts?count=10").await;
    let first = &all["items"][0];
    assert_eq!((&first["hunt_id"], &first["state"]), (&json!(id), &json!("RUNNING")));
    assert_eq!(first["hunt_description"], "who runs <b>ssh</b>");
    let stop = json!({"hunt_id": id, "state": "STOPPED"});
    assert_eq!(lab.post("rob", "/v1/ModifyHunt", stop.clone()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(lab.post("inv", "/v1/ModifyHunt", stop).await.0, StatusCode::OK);
    assert_eq!(lab.json(&format!("/v1/GetHunt?hunt_id={id}")).await["state"], "STOPPED");
    let flows = lab.json(&format!("/v1/GetHuntFlows?hunt_id={id}&rows=10")).await;
    assert!(flows["columns"].is_null() || flows["columns"][0] == "ClientId", "{flows}");
}

#[tokio::test]
async fn users_are_told_in_stock_shapes() {
    let lab = lab().await;
    let all = lab.json("/v1/GetGlobalUsers").await;
    let names: Vec<_> = all["users"].as_array().unwrap().iter().map(|u| &u["name"]).collect();
    // Who may not read results belongs to no organisation that others see.
    assert_eq!(names, ["ann", "inv", "rob"]);
    assert_eq!(all["users"][0]["orgs"][0]["id"], "root");
    assert!(!all.to_string().contains("password"), "{all}");
    let roles = lab.json("/v1/GetUserRoles?name=inv&org=root").await;
    assert_eq!(roles["roles"], json!(["investigator"]));
    assert!(roles["all_roles"].as_array().unwrap().contains(&json!("reader")));
    let wish = json!({ "name": "rob", "org": "root", "roles": ["analyst"] });
    let (status, text) = lab.post("inv", "/v1/SetUserRoles", wish.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{text}");
    assert_eq!(lab.post("ann", "/v1/SetUserRoles", wish).await, (StatusCode::OK, "{}".into()));
    let roles = lab.json("/v1/GetUserRoles?name=rob").await;
    assert_eq!((&roles["roles"], &roles["org"]), (&json!(["analyst"]), &json!("root")));
    let new = json!({ "name": "eve", "orgs": ["root"], "roles": ["reader"], "add_new_user": true });
    assert_eq!(lab.post("ann", "/v1/CreateUser", new).await.0, StatusCode::OK);
    let (status, text) = lab.get("rob", "/fleet/users").await;
    assert!(status == StatusCode::OK && text.contains("\"eve\""), "{text}");
    // A reader sees who there is, and nothing of their rights.
    assert!(text.contains("\"rights\":null") && !text.contains("administrator\"],"), "{text}");
    let one = json!({ "name": "eve" });
    assert_eq!(lab.post("inv", "/fleet/users/delete", one.clone()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(lab.post("ann", "/fleet/users/delete", one).await.0, StatusCode::OK);
    let (status, _) = lab.post("api", "/v1/SetPassword", json!({ "password": "abc" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = lab.post("api", "/v1/SetPassword", json!({ "password": "abcd" })).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn folders_are_pointers_into_collections() {
    let lab = lab().await;
    let org = lab.server.root();
    let rows = "{\"Name\":\"a\",\"Mode\":\"drwx\"}\n{\"Name\":\"b\",\"Mode\":\"-rw\"}\n\
                {\"Name\":\"c\",\"Mode\":\"-rw\"}\n{\"Name\":\"d\",\"Mode\":\"drwx\"}\n";
    lab.rows(Rows::Results("System.VFS.ListDirectory/Listing".into()), rows).await;
    let folder = ["auto".to_owned(), "x".to_owned()];
    let at = crate::store::paths::Client { org: &org.id, id: CLIENT };
    let listing = velociraptor_proto::proto::VfsListResponse {
        client_id: CLIENT.into(),
        flow_id: "F.1".into(),
        artifact: "System.VFS.ListDirectory/Listing".into(),
        total_rows: 3,
        start_idx: 1,
        end_idx: 4,
        ..Default::default()
    };
    lab.server.tree.set(&at.vfs(&folder), &listing).await.unwrap();
    let components = "vfs_components[]=auto&vfs_components[]=x";
    let found = lab.json(&format!("/v1/VFSListDirectory/{CLIENT}?{components}")).await;
    assert_eq!(found["Response"], r#"[{"Name":"d","Mode":"drwx"}]"#, "{found}");
    let path = format!("/v1/VFSListDirectoryFiles?client_id={CLIENT}&{components}");
    let table = lab.json(&format!("{path}&rows=2&start_row=1")).await;
    assert_eq!(table["columns"], json!(["Download", "Name", "Mode"]));
    assert_eq!(
        (&table["rows"][0]["json"], &table["total_rows"]),
        (&json!(r#"["","c","-rw"]"#), &json!("3"))
    );
    let sorted = lab.json(&format!("{path}&sort_column=Name&sort_direction=true&rows=1")).await;
    assert_eq!(sorted["rows"][0]["json"], r#"["","d","drwx"]"#);
    // A file on its way, and what became of it.
    let file = ["x".to_owned(), "c".to_owned()];
    lab.server.note_fetching(&org, CLIENT, "auto", &file, "F.2").await.unwrap();
    let table = lab.json(&path).await;
    assert!(table["rows"][1]["json"].as_str().unwrap().contains("\"in_flight\":true"), "{table}");
    let stat = lab
        .json(&format!(
            "/v1/VFSStatDownload?client_id={CLIENT}&accessor=auto&components=x&components=c"
        ))
        .await;
    assert_eq!((&stat["flow_id"], &stat["in_flight"]), (&json!("F.2"), &json!(true)));
    let stat = lab.json(&format!("/v1/VFSStatDirectory?client_id={CLIENT}&{components}")).await;
    assert_eq!((&stat["download_version"], &stat["Response"]), (&json!("1"), &Value::Null));
    // Nothing is known of others, and only who may collect asks for more.
    let none =
        lab.json(&format!("/v1/VFSStatDirectory?client_id={CLIENT}&vfs_components=ntfs")).await;
    assert_eq!(none, json!({}));
    let ask = json!({ "client_id": CLIENT, "vfs_components": ["auto", "x"] });
    assert_eq!(
        lab.post("rob", "/v1/VFSRefreshDirectory", ask.clone()).await.0,
        StatusCode::FORBIDDEN
    );
    let (status, text) = lab.post("inv", "/v1/VFSRefreshDirectory", ask).await;
    assert!(status == StatusCode::OK && text.contains("[\\\"x\\\"]"), "{status} {text}");
}

#[tokio::test]
async fn events_of_a_day_are_a_table() {
    let lab = lab().await;
    let org = lab.server.root();
    for n in 0..3 {
        crate::services::audit::audit(&lab.server, &org, "ann", "Tried", json!({ "n": n })).await;
    }
    let names = lab.json("/fleet/events?client_id=server").await;
    assert_eq!(
        names["items"][0],
        json!({ "name": "Server.Audit.Logs", "rows": true, "logs": false })
    );
    let days = lab.json("/fleet/event_days?client_id=server&name=Server.Audit.Logs").await;
    let day = days["items"][0].as_str().unwrap();
    let path =
        format!("/fleet/table?client_id=server&kind=events&name=Server.Audit.Logs&day={day}");
    let table = lab.json(&format!("{path}&f=details:%22n%22:%5B12%5D&sort=-_ts")).await;
    assert_eq!(
        (&table["matched"], &table["total"], &table["cut"]),
        (&json!(2), &json!(3), &json!(false))
    );
    crate::services::audit::audit(&lab.server, &org, "ann", "Tried", json!({})).await;
    assert_eq!(lab.json(&path).await["total"], 4);
    for bad in ["", "2026-13-01", "yesterday"] {
        let (status, _) = lab
            .get(
                "inv",
                &format!(
                    "/fleet/table?client_id=server&kind=events&name=Server.Audit.Logs&day={bad}"
                ),
            )
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let asked = json!({ "artifact": "Server.Audit.Logs" });
    let (_, text) = lab.post("rob", "/v1/ListAvailableEventResults", asked).await;
    assert!(text.contains("row_timestamps"), "{text}");
    let stock = lab
        .json("/v1/GetTable?type=SERVER_EVENT&artifact=Server.Audit.Logs&start_time=0&rows=2")
        .await;
    assert_eq!(stock["total_rows"], "2");
    assert_eq!(lab.get("api", &path).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn pages_know_which_calls_there_are() {
    let lab = lab().await;
    let found = lab.json("/fleet/calls?name=GetTable&name=NoSuchCall&name=../x").await;
    assert_eq!(found, json!({ "GetTable": true, "NoSuchCall": false }));
}

#[tokio::test]
async fn artifacts_are_found_as_stock_pages_ask() {
    let lab = lab().await;
    let found = async |search: &str| {
        let asked = json!({ "search_term": search, "fields": { "name": true } });
        let (_, text) = lab.post("rob", "/v1/GetArtifacts", asked).await;
        let all: Value = serde_json::from_str(&text).unwrap();
        let items = all["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let clients = found("type:CLIENT ...").await;
    assert!(clients.contains(&"Linux.Sys.Users".to_owned()), "{clients:?}");
    assert!(!clients.contains(&"Generic.Client.Stats".to_owned()));
    assert_eq!(found("type:CLIENT_EVENT stats").await, ["Generic.Client.Stats"]);
    let windows = found("precondition:WINDOWS ...").await;
    assert!(windows.contains(&"Windows.Triage.Users".to_owned()), "{windows:?}");
    assert!(!windows.iter().any(|n| n.starts_with("Linux.")), "{windows:?}");
    assert!(found("builtin:no ...").await.is_empty());
    assert!(found("tool:.+ ...").await.is_empty());
    let report = json!({ "artifact": "Server.Monitor.Health", "type": "SERVER_EVENT" });
    let (status, text) = lab.post("rob", "/v1/GetReport", report).await;
    assert!(status == StatusCode::OK && text.contains("is not here"), "{text}");
    let flows = lab.json(&format!("/v1/GetClientFlows?client_id={CLIENT}")).await;
    assert_eq!(flows["column_types"][0], json!({ "name": "Created", "type": "timestamp" }));
    let report = json!({ "artifact": "Linux.Sys.Pslist", "type": "ARTIFACT_DESCRIPTION" });
    let (_, text) = lab.post("rob", "/v1/GetReport", report).await;
    assert!(text.contains("<h1>Linux.Sys.Pslist</h1>") && text.contains("SELECT"), "{text}");
    let report = json!({ "artifact": "Custom.Server.Internal.Welcome", "type": "CLIENT" });
    let (_, text) = lab.post("rob", "/v1/GetReport", report).await;
    assert!(text.contains("#/search/all"), "{text}");
}

#[tokio::test]
async fn settings_of_a_user_are_kept_and_words_completed() {
    let lab = lab().await;
    let set = json!({ "theme": "veloci-dark", "timezone": "UTC", "default_password": "x" });
    assert_eq!(lab.post("rob", "/v1/SetGUIOptions", set).await.0, StatusCode::OK);
    let set = json!({ "lang": "de", "default_password": "-" });
    assert_eq!(lab.post("rob", "/v1/SetGUIOptions", set).await.0, StatusCode::OK);
    let (_, text) = lab.get("rob", "/v1/GetUserUITraits").await;
    let traits: Value = serde_json::from_str(&text).unwrap();
    let traits = &traits["interface_traits"];
    assert_eq!((&traits["theme"], &traits["lang"]), (&json!("veloci-dark"), &json!("de")));
    assert_eq!((&traits["timezone"], traits.get("default_password")), (&json!("UTC"), None));
    let theme = lab.json("/v1/GetUserUITraits").await["interface_traits"].get("theme").cloned();
    assert_eq!(theme, None);
    let long = json!({ "options": "x".repeat(100_000) });
    assert_eq!(lab.post("rob", "/v1/SetGUIOptions", long).await.0, StatusCode::BAD_REQUEST);
    let words = lab.json("/v1/GetKeywordCompletions").await;
    let named =
        |name: &str| words["items"].as_array().unwrap().iter().find(|i| i["name"] == name).cloned();
    assert_eq!(named("pslist").unwrap()["type"], "Plugin");
    assert_eq!(named("Artifact.Linux.Sys.Pslist").unwrap()["type"], "Artifact");
    assert_eq!(named("hash").unwrap()["args"][0]["name"], "path");
    assert_eq!(lab.json("/v1/GetUserFavorites?type=client").await, json!({}));
}

/// A form as a browser sends it.
fn form(params: &str, name: &str, data: &[u8]) -> Request<Body> {
    let mut body = format!(
        "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend(data);
    body.extend(
        format!(
            "\r\n--B\r\nContent-Disposition: form-data; name=\"_params_\"\r\n\r\n{params}\r\n--B--\r\n"
        )
        .into_bytes(),
    );
    form_to("/v1/UploadFormFile", body)
}

fn form_to(call: &str, body: Vec<u8>) -> Request<Body> {
    Request::post(call)
        .header("content-type", "multipart/form-data; boundary=B")
        .body(Body::from(body))
        .unwrap()
}

#[tokio::test]
async fn packs_are_uploaded_looked_at_and_taken_in() {
    let lab = lab().await;
    let query = "sources:\n- query: SELECT 1 AS A FROM scope()\n";
    let (one, two) =
        (format!("name: Pack.A\n{query}"), format!("name: Pack.B\ntype: SERVER\n{query}"));
    let known = format!("name: Generic.Client.Info\n{query}");
    let members: [(&str, &[u8]); 5] = [
        ("a.yaml", one.as_bytes()),
        ("x/b.yml", two.as_bytes()),
        ("info.yaml", known.as_bytes()),
        ("bad.yaml", b"name: Pack.C\nsources:\n- query: SELEC\n"),
        ("readme.md", b"no"),
    ];
    let zip = crate::store::zip::archive(&members);
    let send =
        async |user: &str| text(lab.ask(user, form("{}", "C:\\a pack.zip", &zip)).await).await;
    assert_eq!(send("rob").await.0, StatusCode::FORBIDDEN);
    let (status, answer) = send("ann").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let put: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&put["filename"], &put["VfsPath"][1]), (&json!("a pack.zip"), &json!("temp")));
    let hash = put["VfsPath"][2].as_str().unwrap();
    assert_eq!(put["url"], format!("https://front/vr/public/temp/{hash}/a%20pack.zip"));
    let load = async |user: &str, more: Value| {
        let mut ask = json!({ "vfs_path": put["VfsPath"] });
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        lab.post(user, "/v1/LoadArtifactPack", ask).await
    };
    assert_eq!(load("inv", json!({})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(load("api", json!({})).await.0, StatusCode::FORBIDDEN);
    let would = serde_json::from_str::<Value>(&load("ann", json!({})).await.1).unwrap();
    assert_eq!(would["successful_artifacts"], json!(["Pack.A", "Pack.B"]), "{would}");
    assert_eq!(would["errors"][0]["filename"], "bad.yaml");
    assert!(would["errors"][1]["error"].as_str().unwrap().contains("built in"), "{would}");
    assert!(lab.server.root().repository.get("Pack.A").is_none());
    let really =
        json!({ "really_do_it": true, "prefix": "Mine.", "filter": "pack.a", "tags": ["t"] });
    let (status, done) = load("ann", really).await;
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((status, &done["successful_artifacts"]), (StatusCode::OK, &json!(["Mine.Pack.A"])));
    // With a prefix nothing is built in; the filter leaves it out.
    assert_eq!(done["errors"].as_array().unwrap().len(), 1, "{done}");
    let found = lab.json("/v1/GetArtifacts?search_term=tag:T").await;
    assert_eq!(found["items"][0]["name"], "Mine.Pack.A");
    for bad in [
        json!({ "vfs_path": ["config", "x"] }),
        json!({ "vfs_path": ["public", "temp", "..", "x"] }),
        json!({ "vfs_path": ["public", "temp", hash, "../../x"] }),
        json!({ "filter": "(" }),
        json!({ "vfs_path": [], "data": "bm8gemlw" }),
    ] {
        let (status, text) = load("ann", bad.clone()).await;
        assert!(
            status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND,
            "{bad} {text}"
        );
    }
    for bad in [form("{", "x", b""), form("{}", "..", b""), form("{}", "", b"")] {
        assert_eq!(text(lab.ask("ann", bad).await).await.0, StatusCode::BAD_REQUEST);
    }
    let large = form("{}", "x", &vec![0; 30 << 20]);
    let (status, said) = text(lab.ask("ann", large).await).await;
    assert!(status == StatusCode::TOO_MANY_REQUESTS && said.contains("gui.upload_bytes"), "{said}");
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let counted = &lab.uploads;
    assert_eq!((load(&counted.files), load(&counted.refused)), (1, 1), "{counted:?}");
    assert_eq!(load(&counted.bytes), zip.len() as u64);
}

/// Names are as somebody gave them; what is cut short or has other parts is refused.
#[tokio::test]
async fn forms_are_read_strictly() {
    let lab = lab().await;
    let send = async |kind: &str, body: &[u8]| {
        let request = Request::post("/v1/UploadFormFile").header("content-type", kind);
        text(lab.ask("ann", request.body(Body::from(body.to_vec())).unwrap()).await).await
    };
    let kind = "multipart/form-data; boundary=B";
    let whole = form("{}", "a \u{e4}%22.txt", b"x\r\n--\0B\r\n");
    let whole = axum::body::to_bytes(whole.into_body(), 1 << 20).await.unwrap();
    let (status, said) = send(kind, &whole).await;
    assert!(status == StatusCode::OK && said.contains(r#""a ä\".txt""#), "{said}");
    for end in (0..whole.len() - 4).step_by(7) {
        assert_eq!(send(kind, &whole[..end]).await.0, StatusCode::BAD_REQUEST, "{end}");
    }
    for kind in ["application/json", "multipart/form-data", "multipart/form-data; boundary=C"] {
        assert_eq!(send(kind, &whole).await.0, StatusCode::BAD_REQUEST, "{kind}");
    }
    let other = String::from_utf8_lossy(&whole).replace("name=\"_params_\"", "name=\"other\"");
    assert_eq!(send(kind, other.as_bytes()).await.0, StatusCode::BAD_REQUEST);
    let long = axum::body::to_bytes(form(&"[".repeat(70 << 10), "a", b"").into_body(), 1 << 20);
    let (status, said) = send(kind, &long.await.unwrap()).await;
    assert!(status == StatusCode::BAD_REQUEST && said.contains("_params_ has at most"), "{said}");
}

#[tokio::test]
async fn a_call_that_is_not_here_says_so() {
    let lab = lab().await;
    for (method, call, want) in [
        ("GET", "GetSecretDefinitions", "keeps no secrets"),
        ("POST", "AddSecret", "keeps no secrets"),
        ("GET", "SearchDocs?query=x", "no documentation"),
        ("POST", "Unheard/Of", "does not offer the call Unheard/Of"),
    ] {
        let request = Request::builder().method(method).uri(format!("/v1/{call}"));
        let answer = lab.ask("inv", request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.headers()["content-type"], "application/json", "{call}");
        let (status, said) = text(answer).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        let message = said["message"].as_str().unwrap();
        assert_eq!((status, &said["code"]), (StatusCode::NOT_FOUND, &json!(12)), "{call}");
        assert!(
            message.starts_with("this server does not offer the call ") && message.contains(want)
        );
    }
    // Pages ask before they show a button.
    let calls = lab.json("/fleet/calls?name=GetSecret&name=LoadArtifactPack&name=GetClient").await;
    assert_eq!(calls, json!({ "GetSecret": false, "LoadArtifactPack": true, "GetClient": false }));
}

#[tokio::test]
async fn a_tool_is_what_definitions_say() {
    let lab = lab().await;
    let definition = |name: &str, tool: &str| {
        format!("name: {name}\ntools:\n- name: T\n{tool}sources:\n- query: SELECT 1 FROM scope()\n")
    };
    for text in [
        definition("Custom.A", "  version: '1'\n"),
        definition("Custom.B", "  url: https://x/t.exe\n  expected_hash: aa\n"),
    ] {
        let root = lab.server.root();
        lab.server.set_artifact(&root, "ann", &text).await.unwrap();
    }
    let tool = lab.json("/v1/GetToolInfo?name=T").await;
    assert_eq!((&tool["url"], &tool["artifact"]), (&json!("https://x/t.exe"), &json!("Custom.B")));
    assert_eq!(tool["versions"].as_array().unwrap().len(), 2);
    let (status, said) = lab.get("inv", "/v1/GetToolInfo?name=U").await;
    assert!(status == StatusCode::NOT_FOUND && said.contains("`U`"), "{said}");
    // Whoever may write artifacts may say where their tools are.
    let other = json!({ "name": "T", "url": "https://y/u.exe", "hash": "ab" });
    let (status, _) = lab.post("inv", "/v1/SetToolInfo", other.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, said) = lab.post("ann", "/v1/SetToolInfo", other).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let tool = lab.json("/v1/GetToolInfo?name=T").await;
    assert_eq!((&tool["url"], &tool["hash"]), (&json!("https://y/u.exe"), &json!("ab")));
}

#[tokio::test]
async fn a_tool_is_uploaded() {
    let lab = lab().await;
    let upload = |params: &str, data: &[u8]| {
        let form = form(params, "C:\\x\\tool one.exe", data);
        let (mut parts, body) = form.into_parts();
        parts.uri = "/v1/UploadTool".parse().unwrap();
        Request::from_parts(parts, body)
    };
    let send =
        async |user: &str, params: &str| text(lab.ask(user, upload(params, b"hello")).await).await;
    let (status, _) = send("inv", r#"{"name":"T"}"#).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (params, why) in
        [("{}", "needs a name"), ("[", "_params_"), (r#"{"nome":"T"}"#, "needs a name")]
    {
        let (status, said) = send("ann", params).await;
        assert!(
            status == StatusCode::BAD_REQUEST && said.contains(why),
            "{params}: {status} {said}"
        );
    }
    let half = b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nhel";
    let (status, said) = text(lab.ask("ann", form_to("/v1/UploadTool", half.to_vec())).await).await;
    assert!(status == StatusCode::BAD_REQUEST && said.contains("the form"), "{said}");
    // Nothing of all that is left.
    let scratch = lab.server.tree.root.temp(crate::store::StoreKind::Files, "x");
    let left = std::fs::read_dir(std::path::Path::new(&scratch).parent().unwrap());
    assert_eq!(left.map_or(0, Iterator::count), 0);
    let (status, said) = send("ann", r#"{"name":"T","version":"1"}"#).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let tool = lab.json("/v1/GetToolInfo?name=T&version=1").await;
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!((&tool["hash"], &tool["filename"]), (&json!(hello), &json!("tool one.exe")));
    let stored = tool["filestore_path"].as_str().unwrap().to_owned();
    let at = lab.server.tree.root.file(&crate::store::paths::public_file(&stored)).unwrap();
    assert_eq!(std::fs::metadata(at).unwrap().len(), 5);
}
