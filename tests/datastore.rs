//! The way back to stock: everything is killed in the middle of everything, put into
//! stock files by `datastore settle`, and read from those files alone. Then servers
//! of ours go on with it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

#[allow(dead_code)]
#[path = "cluster/harness.rs"]
mod harness;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{Cluster, SLOW, exact, noise};
use serde_json::Value;
use velociraptor::store::paths::Client;
use velociraptor::store::resultset::{TimedSet, read_rows};
use velociraptor::store::{Org, StoreRoot, Tree};

const CONFIG: [&str; 2] = ["--config", "nodes/server.config.yaml"];

fn status(c: &Cluster) -> Value {
    let out = c.command(&[CONFIG[0], CONFIG[1], "datastore", "status", "--json"]);
    serde_json::from_str(&out).unwrap()
}

/// Runs `datastore settle`: its status, summary and what it said.
fn settle(c: &Cluster) -> (Option<i32>, Value, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_velociraptor"))
        .current_dir(c.dir.path())
        .args(CONFIG)
        .args(["datastore", "settle", "--json"])
        .output()
        .unwrap();
    let summary = serde_json::from_slice(&out.stdout).unwrap_or_default();
    (out.status.code(), summary, String::from_utf8_lossy(&out.stderr).into_owned())
}

fn journals(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |e: std::fs::DirEntry| match e.path() {
        p if p.is_dir() => journals(&p),
        p => usize::from(p.extension().is_some_and(|x| x == "journal")),
    };
    entries.flatten().map(of).sum()
}

fn numbers(rows: &[bytes::Bytes], column: &str) -> Vec<u64> {
    let number = |r: &bytes::Bytes| serde_json::from_slice::<Value>(r).unwrap()[column].as_u64();
    rows.iter().map(|r| number(r).unwrap()).collect()
}

/// The numbers of event rows in day files, in order of time.
async fn events(tree: &Tree, client: &str) -> Vec<u64> {
    let org = Org::root();
    let dir = Client { org: &org, id: client }.monitoring();
    let dir = velociraptor::store::path::DirPath(dir.0.child(&["Custom.Ticks"]));
    let mut rows = TimedSet::open(tree, &dir).await.unwrap().all();
    let mut all = Vec::new();
    while let Some(row) = rows.next().await.unwrap() {
        all.push(row.row);
    }
    numbers(&all, "E")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_is_in_stock_files_after_settle_and_goes_on_afterwards() {
    let size = 24 << 20;
    let mut c = Cluster::slow(1 << 20);
    c.agent(&[1, 2, 0], "https");
    let client = c.clients(1).remove(0);
    let source = c.path("source.bin");
    noise(&source, size);
    c.define("Custom.Rows", "SELECT _value AS I FROM range(start=0, end=5000, step=1)");
    c.define("Custom.Slow", &SLOW.replace("END", "80").replace("PAUSE", "400"));
    let upload = format!("SELECT upload(file='{}') AS Upload FROM scope()", source.display());
    c.define("Custom.Upload", &upload);
    c.query(
        "SELECT artifact_set(definition='''name: Custom.Ticks\ntype: CLIENT_EVENT\nsources:\n  - query: |\n      SELECT E FROM foreach(row={ SELECT _value AS E, sleep(ms=50) AS S FROM range(start=0, end=1000000, step=1) }, query={ SELECT E FROM scope() })\n''') FROM scope()",
    );
    c.query(
        "SELECT set_client_monitoring(value=dict(artifacts=dict(artifacts=['Generic.Client.Stats', 'Custom.Ticks']))) FROM scope()",
    );
    let first = c.collect(&client, "Custom.Rows");
    c.finished(&client, &first);
    // Before the rest, which is to run still when everything is killed.
    c.until("some events", |c| {
        let q = format!("SELECT E FROM monitoring(client_id='{client}', artifact='Custom.Ticks')");
        c.ask(&q).filter(|r| r.len() > 40)
    });
    let slow = c.collect(&client, "Custom.Slow");
    let amount = |c: &Cluster, flow: &str, what: &str| c.flow(&client, flow)?[what].as_u64();
    c.until("some rows", |c| amount(c, &slow, "total_collected_rows").filter(|n| *n >= 2000));
    // An agent reads the file at once: what it makes later waits behind it.
    let big = c.collect(&client, "Custom.Upload");
    c.until("some bytes", |c| amount(c, &big, "total_uploaded_bytes").filter(|n| *n >= 4 << 20));

    // Beside running servers only reading is allowed.
    let s = status(&c);
    let alive = s["processes"].as_array().unwrap().iter().filter(|p| p["state"] == "alive").count();
    assert_eq!(alive, 3, "{s}");
    let u = &s["unsettled"];
    // The upload's query may be over for the agent while its data is on the way.
    assert!(u["open_flows"].as_u64() >= Some(1) && u["partial_uploads"] == 1, "{s}");
    assert!(u["event_rows"].as_u64() > Some(40), "{s}");
    let (code, _, said) = settle(&c);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Stop them first") && said.contains("process "), "{said}");

    (0..3).for_each(|n| c.kill(n));
    let s = status(&c);
    assert!(s["processes"].as_array().unwrap().iter().all(|p| p["state"] == "ended"), "{s}");
    let (code, summary, said) = settle(&c);
    assert_eq!(code, Some(0), "{said}");
    println!("{summary}");
    for (what, want) in [
        ("flows", &s["unsettled"]["flows"]),
        ("open_flows", &s["unsettled"]["open_flows"]),
        ("partial_uploads", &s["unsettled"]["partial_uploads"]),
    ] {
        assert_eq!(&summary[what], want, "{what}: {s} {summary}");
    }
    assert!(summary["event_rows"].as_u64() >= s["unsettled"]["event_rows"].as_u64());
    assert_eq!(journals(&c.path("ds/fleet")), 0);

    // From stock files alone.
    let tree = Tree::new(
        &velociraptor::env::real::env(),
        StoreRoot::single(c.path("ds").to_str().unwrap()),
    );
    let org = Org::root();
    let at = Client { org: &org, id: &client };
    let read = async |flow: &str, artifact: &str| {
        let path = at.flow(flow).results_of(artifact);
        numbers(&read_rows(&tree, &path, 0, u64::MAX).await.unwrap(), "I")
    };
    exact(&read(&first, "Custom.Rows").await, 5000);
    let rows = read(&slow, "Custom.Slow").await;
    assert!(rows.len() >= 2000 && rows.len() < 20_000, "{}", rows.len());
    exact(&rows, rows.len());
    let context = tree.get(&at.flow(&slow).context()).await.unwrap().unwrap();
    assert_eq!(context.total_collected_rows, rows.len() as u64);
    // What a stock server takes for one that goes on.
    assert_eq!(context.state, 1, "{context:?}");
    let components: Vec<String> =
        source.to_str().unwrap().split('/').skip(1).map(str::to_owned).collect();
    let stored = at.flow(&big).upload("auto", &components);
    let stored = match tree.get_file(&stored, size).await.unwrap() {
        Some(part) => part,
        None => {
            let other = at.flow(&big).upload("file", &components);
            tree.get_file(&other, size).await.unwrap().expect("the part that was there")
        }
    };
    let whole = std::fs::read(&source).unwrap();
    // The count of the flow is what the agent says it read; less of it had come.
    assert!(!stored.is_empty() && stored.len() < size, "{} bytes", stored.len());
    assert!(stored == whole[..stored.len()], "a part of the file and nothing else");
    let ticks = events(&tree, &client).await;
    assert!(ticks.len() > 40);
    exact(&ticks, ticks.len());
    let (code, summary, said) = settle(&c);
    assert_eq!((code, &summary["nothing_to_do"]), (Some(0), &Value::Bool(true)), "{said}");

    // Ours go on.
    (0..3).for_each(|n| c.start(n));
    c.finished(&client, &slow);
    exact(&c.ids(&client, &slow, "Custom.Slow"), 20_000);
    c.finished(&client, &big);
    c.uploaded(&client, &big, &source);
    let before = ticks.len();
    c.until("more events", |c| {
        let q = format!("SELECT E FROM monitoring(client_id='{client}', artifact='Custom.Ticks')");
        let rows = c.ask(&q)?;
        let ids: Vec<u64> = rows.iter().map(|r| r["E"].as_u64().unwrap()).collect();
        exact(&ids, ids.len());
        (ids.len() > before + 40).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
}
