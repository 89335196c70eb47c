use super::*;
use crate::store::paths::{EventKind, Events};
use crate::store::resultset::{SetWriter, TimedWriter};
use crate::store::testing::{fixture, scratch};
use velociraptor_proto::proto;

async fn set(t: &Tree, at: &FilePath, rows: &[&str]) {
    let (data, index) = (t.root.file(at).unwrap(), t.root.file(&at.index()).unwrap());
    let mut w = SetWriter::create(&*t.fs, &data, &index).await.unwrap();
    for r in rows {
        w.row(r.as_bytes()).await.unwrap();
    }
    w.finish().await.unwrap();
}

#[tokio::test]
async fn finds_everything_in_two_organisations() {
    let (_d, t) = scratch();
    let org = Org::new("O1");
    let rec = proto::OrgRecord { id: "O1".into(), ..Default::default() };
    t.set(&paths::org_record("O1"), &rec).await.unwrap();
    let c = Client { org: &org, id: "C.1-O1" };
    t.set(&c.key(), &proto::PublicKey { pem: b"x".to_vec(), enroll_time: 1 }).await.unwrap();
    t.set(&c.task(5), &proto::VeloMessage::default()).await.unwrap();
    let f = c.flow("F.1");
    let request =
        Some(proto::ArtifactCollectorArgs { artifacts: vec!["A".into()], ..Default::default() });
    let context = proto::ArtifactCollectorContext {
        session_id: "F.1".into(),
        request,
        state: 2,
        ..Default::default()
    };
    t.set(&f.context(), &context).await.unwrap();
    set(&t, &f.results("A", None), &["{\"a\":1}", "{\"a\":2}"]).await;
    set(&t, &f.results("B", Some("S:1")), &["{\"a\":1}"]).await;
    set(&t, &f.logs(), &["{\"message\":\"m\"}"]).await;
    let up = f.upload("file", &["tmp".into(), "a.db".into()]);
    t.set_file(&up, b"hello").await.unwrap();
    t.set_file(&f.upload("file", &["tmp".into(), "lost".into()]), b"x").await.unwrap();
    let row = UploadRow::data(0, "/tmp/a.db", &up, (5, 5)).encode().unwrap();
    set(&t, &f.uploads(), &[std::str::from_utf8(&row).unwrap()]).await;
    let day = Events::client(&org, c.id, "E/S", EventKind::Rows).day_of("2026-01-02", "n", "1");
    let (data, index) = (t.root.file(&day).unwrap(), t.root.file(&day.time_index()).unwrap());
    let mut w = TimedWriter::create(&*t.fs, &data, &index).await.unwrap();
    w.row(5, b"{}").await.unwrap();
    w.finish().await.unwrap();
    let h = Hunt { org: &org, id: "H.1" };
    t.set(&h.object(), &proto::Hunt { hunt_id: "H.1".into(), ..Default::default() }).await.unwrap();
    t.set(&h.participation(c.id), &()).await.unwrap();

    let v = inventory(&t).await.unwrap();
    assert_eq!(v["root"]["clients"], json!({}));
    let got = &v["O1"]["clients"]["C.1-O1"];
    assert_eq!(
        (&got["key"], &got["snapshot"], &got["tasks"]),
        (&json!(true), &json!(false), &json!(1))
    );
    let flow = &got["flows"]["F.1"];
    assert_eq!(flow["artifacts"], json!(["A"]));
    assert_eq!(flow["rows"], json!({"A": 2, "B/S:1": 1}));
    assert_eq!((&flow["logs"], &flow["state"]), (&json!(1), &json!("FINISHED")));
    assert_eq!(flow["uploads"][0]["size"], json!(5));
    let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(flow["uploads"][0]["sha256"], json!(hello));
    assert_eq!(got["events"], json!({"E/S": {"2026-01-02": 1}}));
    assert_eq!(v["O1"]["hunts"]["H.1"]["markers"], json!(1));
    let problems = v["O1"]["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].as_str().unwrap().ends_with("/tmp/lost: no row lists this upload"));
}

#[tokio::test]
async fn fixture_inventory() {
    let Some(t) = fixture() else { return };
    let v = inventory(&t).await.unwrap();
    let c = &v["root"]["clients"]["C.4f5e52adf0a337a9"];
    assert_eq!(c["key"], json!(true));
    let flows = &c["flows"];
    assert_eq!(flows.as_object().unwrap().len(), 6);
    let rows = &flows["F.BSJMEJIPT6P9I"]["rows"];
    assert_eq!(rows, &json!({"Windows.Network.NetstatEnriched/Netstat": 57}));
    let sparse = &flows["F.BN2HJBD1R85EA"]["uploads"][0];
    assert_eq!((&sparse["size"], &sparse["stored"]), (&json!(15), &json!(10)));
    assert_eq!(c["events"]["Generic.Client.Stats"], json!({"2021-12-07": 5}));
    let health = &v["root"]["server_events"]["Server.Monitor.Health/Prometheus"];
    assert_eq!(health, &json!({"2020-11-08": 227, "2023-09-07": 10}));
    assert_eq!(v["root"]["hunts"]["H.49ba8939"]["clients"], json!(1));
}

/// For trees too large or too private to keep: set VELOCIRAPTOR_TREE to one.
#[tokio::test]
async fn inventory_of_a_named_tree() {
    let Ok(dir) = std::env::var("VELOCIRAPTOR_TREE") else {
        println!("skipped: VELOCIRAPTOR_TREE is not set");
        return;
    };
    let root = crate::store::StoreRoot::single(&dir);
    let t = Tree::new(&crate::env::real::env(), root);
    let v = inventory(&t).await.unwrap();
    println!("{}", serde_json::to_string_pretty(&v).unwrap());
    assert!(v["root"]["clients"].as_object().is_some_and(|c| !c.is_empty()));
}
