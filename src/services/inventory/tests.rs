#![allow(clippy::disallowed_methods)] // looks at the files of the test's own

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use velociraptor_proto::proto::{ArtifactCollectorArgs, ArtifactSpec, ClientEventTable, VqlEnv};

use super::*;
use crate::env::{Env, real};
use crate::plugins::server::tests::run_as;
use crate::services::server;
use crate::store::StoreRoot;

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// A web server: files of which all are `hello` but `/none`, and a project's releases.
struct Web {
    port: u16,
    asked: Arc<AtomicUsize>,
    /// What `/slow` waits for.
    gate: Arc<tokio::sync::Notify>,
}

impl Web {
    async fn new(env: &Env) -> Web {
        let mut listener = env.net.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let gate = Arc::new(tokio::sync::Notify::new());
        let opens = gate.clone();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let mut head = [0; 2000];
                let n = io.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..n]).into_owned();
                count.fetch_add(1, Ordering::Relaxed);
                let path = head.split(' ').nth(1).unwrap();
                if path == "/slow" {
                    opens.notified().await;
                }
                let asset = |name: &str| {
                    json!({ "name": name,
                        "browser_download_url": format!("http://127.0.0.1:{port}/r/{name}") })
                };
                let (status, body) = match path {
                    "/none" => ("404 Not Found", String::new()),
                    "/repos/a/b/releases/latest" => (
                        "200 OK",
                        json!({ "assets": [asset("t-linux"), asset("T-Windows.exe")] }).to_string(),
                    ),
                    _ => ("200 OK", "hello".to_owned()),
                };
                let len = body.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\r\n{body}");
                let _ = io.write_all(answer.as_bytes()).await;
                let _ = io.shutdown().await;
            }
        });
        Web { port, asked, gate }
    }

    fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

struct Lab {
    web: Web,
    server: Arc<Server>,
    dir: tempfile::TempDir,
}

async fn open(dir: &tempfile::TempDir, tools: Options) -> Arc<Server> {
    let root = StoreRoot::single(dir.path().to_str().unwrap());
    let options = server::Options { obfuscate: false, tools, ..Default::default() };
    Server::open(real::env(), root, options).await.unwrap()
}

async fn lab(change: impl FnOnce(&mut Options)) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::new(&real::env()).await;
    let bases = vec!["https://one:8000".into(), "https://two:8000/vr".into()];
    let mut tools = Options { public_bases: bases, github_api: web.at(""), ..Options::default() };
    change(&mut tools);
    let server = open(&dir, tools).await;
    Lab { web, server, dir }
}

impl Lab {
    /// Defines an artifact with these lines as its tool `T`.
    async fn define(&self, tool: &str) {
        let text = format!(
            "name: Custom.A\ntools:\n- name: T\n{tool}sources:\n\
             - query: SELECT Tool_T_HASH FROM scope()\n"
        );
        self.server.set_artifact(&self.server.root(), "ann", &text).await.unwrap();
    }

    /// What a client is told of the tool, by the ends of the names.
    async fn compiled(&self) -> Result<std::collections::BTreeMap<String, String>, String> {
        let mut request =
            ArtifactCollectorArgs { artifacts: vec!["Custom.A".into()], ..Default::default() };
        let org = self.server.root();
        self.server.compile_into(&org, &mut request).await.map_err(|e| e.to_string())?;
        let env = &request.compiled_collector_args[0].env;
        let of = |e: &VqlEnv| (e.key.strip_prefix("Tool_T_").unwrap().to_owned(), e.value.clone());
        Ok(env.iter().map(of).collect())
    }

    fn public(&self) -> Vec<String> {
        let Ok(all) = std::fs::read_dir(self.dir.path().join("public")) else { return vec![] };
        all.map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_tool_is_fetched_once_for_its_hash() {
    let lab = lab(|_| ()).await;
    let url = lab.web.at("/x/t.exe?a=1");
    lab.define(&format!("  url: {url}\n  version: 1.5\n")).await;
    let told = lab.compiled().await.unwrap();
    assert_eq!((told["HASH"].as_str(), told["FILENAME"].as_str()), (HELLO, "t.exe"));
    assert_eq!((&told["URL"], told["VERSION"].as_str()), (&url, "1.5"));
    assert_eq!(told["URLs"], json!([url]).to_string());
    // Clients have it from where it is; nothing is kept.
    assert_eq!(lab.public(), Vec::<String>::new());
    assert_eq!((lab.compiled().await.unwrap(), lab.web.asked()), (told.clone(), 1));
    assert_eq!(lab.server.counters.tools_fetched.load(Ordering::Relaxed), 1);
    // A new server knows, and a new address is another tool.
    let tools = lab.server.options.tools.clone();
    lab.server.settle_all().await;
    let again = open(&lab.dir, tools).await;
    assert!(again.ready_tool(&again.root(), &again.tools(&again.root())[0]).is_some());
    let other = lab.web.at("/y");
    lab.define(&format!("  url: {other}\n  version: 1.5\n")).await;
    assert_eq!((&lab.compiled().await.unwrap()["URL"], lab.web.asked()), (&other, 2));
}

#[tokio::test]
async fn a_tool_is_served_from_here() {
    let lab = lab(|_| ()).await;
    lab.define(&format!("  url: {}\n  serve_locally: true\n", lab.web.at("/t"))).await;
    let told = lab.compiled().await.unwrap();
    let [name] = &lab.public()[..] else { panic!("{:?}", lab.public()) };
    let urls =
        [format!("https://one:8000/public/{name}"), format!("https://two:8000/vr/public/{name}")];
    assert_eq!((&told["URL"], &told["URLs"]), (&urls[0], &json!(urls).to_string()));
    let kept = std::fs::read(lab.dir.path().join("public").join(name)).unwrap();
    assert_eq!((kept.as_slice(), told["HASH"].as_str()), (b"hello".as_slice(), HELLO));
    // As stock programs read it.
    let file = std::fs::read(lab.dir.path().join("config/inventory.json.db")).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(
        (&read["tools"][0]["filestorePath"], &read["tools"][0]["serveLocally"]),
        (&json!(name), &json!(true))
    );
}

#[tokio::test]
async fn releases_are_found_by_their_project() {
    let lab = lab(|_| ()).await;
    lab.define("  github_project: a/b\n  github_asset_regex: windows.+exe\n").await;
    let told = lab.compiled().await.unwrap();
    assert_eq!(told["URL"], lab.web.at("/r/T-Windows.exe"));
    assert_eq!((told["FILENAME"].as_str(), told["HASH"].as_str()), ("T-Windows.exe", HELLO));
    lab.compiled().await.unwrap();
    assert_eq!(lab.web.asked(), 2);
    lab.define("  github_project: a/b\n  github_asset_regex: macos\n").await;
    let said = lab.compiled().await.unwrap_err();
    assert!(said.contains("Custom.A") && said.contains("`macos`"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_had_is_said() {
    let lab = lab(|t| t.max_bytes = 5).await;
    let said = async |tool: String| {
        lab.define(&tool).await;
        lab.compiled().await.unwrap_err()
    };
    let none = said(format!("  url: {}\n", lab.web.at("/none"))).await;
    assert!(none.contains("tool T: ") && none.contains("/none answers 404"), "{none}");
    let other = said(format!("  url: {}\n  expected_hash: abcd\n", lab.web.at("/t"))).await;
    assert!(other.contains(HELLO) && other.contains("abcd is expected"), "{other}");
    let nowhere = said(String::new()).await;
    assert!(nowhere.contains("no file was uploaded"), "{nowhere}");
    let large = said(format!("  url: {}\n", lab.web.at("/repos/a/b/releases/latest"))).await;
    assert!(large.contains("at most 5 bytes (tools.max_bytes)"), "{large}");
    assert_eq!(lab.server.counters.tools_failed.load(Ordering::Relaxed), 4);
    // Nothing is left of what failed.
    let scratch = lab.server.tree.root.temp(crate::store::StoreKind::Files, "x");
    let scratch = std::path::Path::new(&scratch).parent().unwrap();
    assert_eq!(std::fs::read_dir(scratch).map_or(0, Iterator::count), 0);
}

#[tokio::test]
async fn a_server_without_the_web_fetches_nothing() {
    let lab = lab(|t| t.offline = true).await;
    lab.define(&format!("  url: {}\n", lab.web.at("/t"))).await;
    let said = lab.compiled().await.unwrap_err();
    assert!(said.contains("disable_inventory_service_external_access"), "{said}");
    // Clients may have it where the server may not, if it is known what it is.
    lab.define(&format!("  url: {}\n  expected_hash: {HELLO}\n", lab.web.at("/t"))).await;
    assert_eq!(lab.compiled().await.unwrap()["HASH"], HELLO);
    assert_eq!(lab.web.asked(), 0);
}

#[tokio::test]
async fn queries_say_where_tools_are() {
    let lab = lab(|_| ()).await;
    lab.define("").await;
    let ask = async |role: &str, text: &str| run_as(&lab.server, role, text).await;
    let add = "SELECT inventory_add(tool='T', file='hello', accessor='data', filename='t.exe').hash \
               AS H FROM scope()";
    assert!(ask("reader", add).await.1.contains("PermissionDenied"));
    let (rows, log) = ask("administrator", add).await;
    assert_eq!(rows, format!(r#"[{{"H":"{HELLO}"}}]"#), "{log}");
    let told = lab.compiled().await.unwrap();
    assert_eq!((told["HASH"].as_str(), told["FILENAME"].as_str()), (HELLO, "t.exe"));
    assert!(told["URL"].starts_with("https://one:8000/public/"));
    let text = "SELECT inventory_get(tool='T').Tool_T_FILENAME AS F, \
                inventory_get(tool='T', probe=TRUE).Definition.versions.artifact AS A, \
                inventory_get(tool='U') AS U FROM scope()";
    let (rows, log) = ask("administrator", text).await;
    assert_eq!(rows, r#"[{"F":"t.exe","A":["Custom.A"],"U":null}]"#, "{log}");
    assert!(log.contains("tool U is not known"), "{log}");
    let (rows, _) = ask("reader", "SELECT name, hash FROM inventory() WHERE name = 'T'").await;
    assert_eq!(rows, format!(r#"[{{"name":"T","hash":"{HELLO}"}}]"#));
    // Queries on the server have the variables as well.
    let (rows, log) = ask("administrator", "SELECT Tool_T_HASH FROM Artifact.Custom.A()").await;
    assert_eq!(rows, format!(r#"[{{"Tool_T_HASH":"{HELLO}"}}]"#), "{log}");
    let wrong =
        "SELECT inventory_add(tool='T', file='other', accessor='data', hash='ab') FROM scope()";
    assert!(ask("administrator", wrong).await.1.contains("ab is expected"));
    assert_eq!(lab.compiled().await.unwrap(), told);
    // Another content has another name: clients that were told of the first still get it.
    let new = "SELECT inventory_add(tool='T', file='new', accessor='data') FROM scope()";
    ask("administrator", new).await;
    assert_ne!(lab.compiled().await.unwrap()["URL"], told["URL"]);
    assert_eq!(lab.public().len(), 2);
    assert_eq!(lab.server.remove_tool(&lab.server.root(), "ann", "T", "").await.unwrap(), 1);
    assert!(lab.compiled().await.is_err());
}

#[tokio::test]
async fn what_is_fetched_slowly_keeps_nobody_from_changing_it() {
    let lab = lab(|_| ()).await;
    lab.define(&format!("  url: {}\n", lab.web.at("/slow"))).await;
    let change = async {
        while lab.web.asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut content = Content::new(&lab.server).await.unwrap();
        content.write(Bytes::from("mine")).await.unwrap();
        let tool = Tool { name: "T".into(), ..Tool::default() };
        let content = content.finish().await.unwrap();
        let put = lab.server.upload_tool(&lab.server.root(), "ann", tool, content).await.unwrap();
        lab.web.gate.notify_one();
        put
    };
    let both = futures::future::join(lab.compiled(), change);
    let (told, put) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!((&told.unwrap()["HASH"], lab.public().len()), (&put.hash, 1));
}

#[tokio::test]
async fn organisations_have_the_tools_of_root() {
    let lab = lab(|_| ()).await;
    let (root, child) = (lab.server.root(), lab.server.create_org("B", Some("B")).await.unwrap());
    let put = async |org: &Org, data: &'static str| {
        let mut content = Content::new(&lab.server).await.unwrap();
        content.write(Bytes::from(data)).await.unwrap();
        let tool = Tool { name: "T".into(), ..Tool::default() };
        let content = content.finish().await.unwrap();
        lab.server.upload_tool(org, "ann", tool, content).await.unwrap()
    };
    let of_root = put(&root, "hello").await;
    assert_eq!(lab.server.tool(&child, "T", "").unwrap().hash, HELLO);
    let own = put(&child, "own").await;
    assert_eq!(lab.server.tool(&child, "T", "").unwrap().hash, own.hash);
    assert_eq!(lab.server.tool(&root, "T", "").unwrap().hash, of_root.hash);
    assert_eq!(lab.public().len(), 2);
}

#[tokio::test]
async fn event_queries_wait_for_their_tools() {
    let lab = lab(|_| ()).await;
    let event = |name: &str, tool: &str| {
        format!(
            "name: {name}\ntype: CLIENT_EVENT\n{tool}sources:\n- query: SELECT 1 FROM scope()\n"
        )
    };
    let org = lab.server.root();
    let set = async |name: &str, path: &str| {
        let tool = format!("tools:\n- name: T\n  url: {}\n", lab.web.at(path));
        lab.server.set_artifact(&org, "ann", &event(name, &tool)).await.unwrap();
    };
    lab.server.set_artifact(&org, "ann", &event("Custom.E", "")).await.unwrap();
    let table = |name: &str| ClientEventTable {
        artifacts: Some(ArtifactCollectorArgs {
            specs: ["Custom.E", name]
                .map(|a| ArtifactSpec { artifact: a.into(), ..Default::default() })
                .into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    set("Custom.T", "/none").await;
    let refused = lab.server.set_monitoring(&org, table("Custom.T")).await.unwrap_err();
    assert!(refused.to_string().contains("/none answers 404"), "{refused}");
    set("Custom.T", "/t").await;
    lab.server.set_monitoring(&org, table("Custom.T")).await.unwrap();
    let events = async || {
        let message = lab.server.event_table(&org, "C.1", 0).await.unwrap().unwrap();
        message.update_event_table.unwrap().event.len()
    };
    assert_eq!(events().await, 2);
    // Its definition changed: the others go on, and it is fetched in the background.
    set("Custom.T", "/u").await;
    assert_eq!(events().await, 1);
    lab.server.prepare_wanted().await;
    assert_eq!(events().await, 2);
}
