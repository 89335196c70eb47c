//! Writes one of everything with the code of this room, for other readers.

use velociraptor_proto::proto;

use super::paths::{self, Client, EventKind, Events};
use super::resultset::{SetWriter, TimedWriter};
use super::uploads::{UploadRow, map_bytes};
use super::{FilePath, Org, StoreRoot, Tree, snapshot};

const NOON: i64 = 1_767_355_200_000_000_000; // 2026-01-02T12:00:00Z
const CLIENT: &str = "C.0123456789abcdef";

async fn set(t: &Tree, at: &FilePath, rows: &[String]) {
    t.record_long_names(&at.0).await.unwrap();
    let (data, index) = (t.root.file(at).unwrap(), t.root.file(&at.index()).unwrap());
    let mut w = SetWriter::create(&*t.fs, &data, &index).await.unwrap();
    for r in rows {
        w.row(r.as_bytes()).await.unwrap();
    }
    w.finish().await.unwrap();
}

async fn events(t: &Tree, at: &FilePath, seconds: impl Iterator<Item = i64>, node: &str) {
    let (data, index) = (t.root.file(at).unwrap(), t.root.file(&at.time_index()).unwrap());
    let mut w = TimedWriter::create(&*t.fs, &data, &index).await.unwrap();
    for s in seconds {
        let ts = NOON / 1_000_000_000 + s;
        let row = format!(
            r#"{{"CPU":{s},"Node":"{node}","ClientId":"{CLIENT}","_ts":{ts},"_Source":"Generic.Client.Stats"}}"#
        );
        w.row(NOON + s * 1_000_000_000, row.as_bytes()).await.unwrap();
    }
    w.finish().await.unwrap();
}

async fn write(t: &Tree) {
    let org = Org::root();
    let c = Client { org: &org, id: CLIENT };
    let info = proto::ClientInfo {
        client_id: CLIENT.into(),
        hostname: "sample-host".into(),
        system: "linux".into(),
        labels: vec!["one".into()],
        first_seen_at: 1_767_355_200,
        ping: 1_767_355_200_000_000,
        ..Default::default()
    };
    snapshot::save(t, &org, [&info]).await.unwrap();
    t.set(&c.key(), &proto::PublicKey { pem: b"-".to_vec(), enroll_time: 5 }).await.unwrap();
    let f = c.flow("F.CTBTG9S000001");
    let name = "Generic.Client.Info/BasicInformation";
    let request = proto::ArtifactCollectorArgs {
        creator: "admin".into(),
        client_id: CLIENT.into(),
        artifacts: vec!["Generic.Client.Info".into()],
        ..Default::default()
    };
    let context = proto::ArtifactCollectorContext {
        client_id: CLIENT.into(),
        session_id: f.id.into(),
        request: Some(request),
        create_time: 1_767_355_200_000_000,
        state: 1,
        ..Default::default()
    };
    t.set(&f.context(), &context).await.unwrap();
    t.set(&f.requests(), &context).await.unwrap();
    let status = proto::VeloStatus {
        names_with_response: vec![name.into()],
        result_rows: 3,
        log_rows: 2,
        uploaded_files: 2,
        first_active: 1_767_355_200_000_000,
        last_active: 1_767_355_201_000_000,
        ..Default::default()
    };
    let stats = proto::ArtifactCollectorContext {
        client_id: CLIENT.into(),
        session_id: f.id.into(),
        query_stats: vec![status],
        state: 2,
        ..Default::default()
    };
    t.set(&f.stats(), &stats).await.unwrap();
    let rows: Vec<String> = (0..3).map(|n| format!(r#"{{"Row":{n},"Text":"é\"x"}}"#)).collect();
    set(t, &f.results_of(name), &rows).await;
    let logs: Vec<String> = (0..2)
        .map(|n| format!(r#"{{"client_time":1767355200,"level":"INFO","message":"line {n}\n"}}"#))
        .collect();
    set(t, &f.logs(), &logs).await;

    let long = "n".repeat(260);
    let parts = |n: &str| vec!["C:".to_owned(), n.to_owned()];
    let dense = f.upload("file", &parts(&long));
    let sparse = f.upload("ntfs", &parts("a.db"));
    for (at, data) in [(&dense, &b"hello"[..]), (&sparse, &b"01234abcde"[..])] {
        t.set_file(at, data).await.unwrap();
    }
    let range = |file_offset, original_offset, file_length, length| proto::Range {
        file_offset,
        original_offset,
        file_length,
        length,
    };
    let map = [range(0, 0, 5, 5), range(5, 5, 0, 5), range(5, 10, 5, 5)];
    t.set_file(&sparse.sparse_index(), &map_bytes(&map)).await.unwrap();
    let row = |accessor: &str, name: &str, at: &FilePath, sizes| {
        let mut r = UploadRow::data(NOON, &format!("C:\\{name}"), at, sizes);
        r.accessor = Some(accessor.into());
        r.client_components = Some(parts(name));
        r
    };
    let (a, b) = (row("file", &long, &dense, (5, 5)), row("ntfs", "a.db", &sparse, (15, 10)));
    let text = |r: &UploadRow| String::from_utf8(r.encode().unwrap()).unwrap();
    set(t, &f.uploads(), &[text(&a), text(&b), text(&b.map())]).await;

    let e = Events::client(&org, CLIENT, "Generic.Client.Stats", EventKind::Rows);
    events(t, &e.day("2026-01-01"), (0..2).map(|s| s - 86_400), "plain").await;
    events(t, &e.day_of("2026-01-02", "minion-a", "00000001-9f"), 0..4, "a").await;
    events(t, &e.day_of("2026-01-02", "minion-b", "00000007-33"), 2..5, "b").await;
    let user = paths::User { name: "mic@x.org" };
    t.set(&user.acl(&org), &proto::ApiClientAcl::default()).await.unwrap();
}

#[tokio::test]
async fn one_of_everything_is_consistent() {
    let (_dir, t) = match std::env::var("VELOCIRAPTOR_SAMPLE") {
        Ok(dir) => (None, Tree::new(&crate::env::real::env(), StoreRoot::single(&dir))),
        Err(_) => {
            let (d, t) = super::testing::scratch();
            (Some(d), t)
        }
    };
    write(&t).await;
    let v = super::walk::inventory(&t).await.unwrap();
    assert_eq!(v["root"]["problems"], serde_json::json!([]));
    let c = &v["root"]["clients"][CLIENT];
    assert_eq!(c["flows"]["F.CTBTG9S000001"]["uploads"].as_array().unwrap().len(), 2);
    assert_eq!(c["events"]["Generic.Client.Stats"]["2026-01-02"], 7);
}
