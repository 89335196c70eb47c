//! Archives of a server on real files.

use std::io::Cursor;

use bytes::Bytes;

use velociraptor_proto::proto::{ArtifactCollectorContext, ClientInfo, Hunt as HuntObject};

use super::*;
use crate::services::Options as ServerOptions;
use crate::store::StoreRoot;
use crate::store::uploads::UploadRow;
use crate::store::zip::{Archive, Member};

const CLIENT: &str = "C.0000000000000001";
const FLOW: &str = "F.1234";

struct Lab {
    dir: tempfile::TempDir,
    server: Arc<Server>,
}

impl Lab {
    async fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let root = StoreRoot::single(dir.path().to_str().unwrap());
        let options = ServerOptions { obfuscate: false, ..Default::default() };
        let server = Server::open(crate::env::real::env(), root, options).await.unwrap();
        {
            let org = server.root();
            let mut state = org.state();
            let client = state.clients.entry(CLIENT);
            client.info = ClientInfo {
                client_id: CLIENT.into(),
                hostname: "web-1".into(),
                fqdn: "web-1.example".into(),
                ..Default::default()
            };
        }
        Lab { dir, server }
    }

    /// A settled collection, with rows, logs and a dense and a sparse upload.
    async fn flow(&self, rows: usize) {
        let org = self.server.root();
        let tree = &self.server.tree;
        let path = Client { org: &org.id, id: CLIENT };
        let flow = path.flow(FLOW);
        let context = ArtifactCollectorContext {
            client_id: CLIENT.into(),
            session_id: FLOW.into(),
            state: 2,
            artifacts_with_results: vec!["A.B/Src".into()],
            query_stats: vec![velociraptor_proto::proto::VeloStatus {
                names_with_response: vec!["A.B/Src".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        tree.set(&flow.context(), &context).await.unwrap();
        tree.set(&flow.stats(), &context).await.unwrap();
        let lines: Vec<Bytes> = (0..rows)
            .map(|n| match n % 2 {
                0 => format!("{{\"N\":{n},\"T\":\"x,\\\"y\\\"\"}}").into(),
                _ => format!("{{\"N\":{n},\"Late\":null}}").into(),
            })
            .collect();
        self.set(&flow.results_of("A.B/Src"), &lines).await;
        self.set(&flow.logs(), &[Bytes::from_static(b"{\"message\":\"hello\"}")]).await;
        let parts = ["etc", "a:b"].map(str::to_owned).to_vec();
        let dense = flow.upload("auto", &parts);
        tree.set_file(&dense, b"dense content").await.unwrap();
        let mut row = UploadRow::data(7_000_000_000, "/etc/a:b", &dense, (13, 13));
        row.accessor = Some("auto".into());
        row.client_components = Some(parts);
        let sparse = flow.upload("auto", &["sparse".to_owned()]);
        tree.set_file(&sparse, b"AABB").await.unwrap();
        let map = br#"{"ranges":[{"file_length":2,"length":2},{"file_offset":2,"original_offset":2,"length":3},{"file_offset":2,"original_offset":5,"file_length":2,"length":2}]}"#;
        tree.set_file(&sparse.sparse_index(), map).await.unwrap();
        let mut second = UploadRow::data(8_000_000_000, "/sparse", &sparse, (7, 4));
        second.accessor = Some("auto".into());
        second.client_components = Some(vec!["sparse".into()]);
        // A row whose file is gone.
        let lost = flow.upload("auto", &["lost".to_owned()]);
        let third = UploadRow::data(9_000_000_000, "/lost", &lost, (1, 1));
        let all = [row, second.clone(), second.map(), third];
        let all: Vec<Bytes> = all.iter().map(|r| Bytes::from(r.encode().unwrap())).collect();
        self.set(&flow.uploads(), &all).await;
    }

    async fn set(&self, at: &FilePath, rows: &[Bytes]) {
        let text: Vec<u8> = rows.iter().flat_map(|r| [&r[..], b"\n"].concat()).collect();
        self.server.settle_rows(at, 0, &text.into()).await.unwrap();
    }

    async fn export(&self, request: Request) -> (FilePath, ContainerStats, Vec<u8>) {
        let org = self.server.root();
        let export = self.server.export(&org, request).await.unwrap();
        let at = export.at.clone();
        export.wait().await.unwrap();
        let stats = self.server.tree.get(&download_stats(&at)).await.unwrap().unwrap();
        let data = self.server.tree.get_file(&at, 64 << 20).await.unwrap().unwrap();
        (at, stats, data)
    }

    /// Nothing is left under a name nobody knows.
    fn nothing_unfinished(&self) -> bool {
        let dir = self.dir.path().join("fleet/exports");
        #[allow(clippy::disallowed_methods)] // looks at the test's own directory
        std::fs::read_dir(dir).map_or(true, |mut d| d.next().is_none())
    }
}

fn request(format: Format, password: &str, expand_sparse: bool) -> Request {
    Request {
        what: What::Flow { client: CLIENT.into(), flow: FLOW.into(), name: None },
        format,
        password: password.into(),
        expand_sparse,
    }
}

fn members(data: Vec<u8>) -> BTreeMap<String, String> {
    let mut archive = Archive::open(Cursor::new(data)).unwrap();
    let all: Vec<Member> = archive.members().to_vec();
    let names: std::collections::BTreeSet<_> = all.iter().map(|m| m.name.clone()).collect();
    assert_eq!(names.len(), all.len(), "a name twice");
    all.iter()
        .map(|m| {
            let data = archive.read(m, 64 << 20).unwrap();
            (m.name.clone(), String::from_utf8_lossy(&data).into_owned())
        })
        .collect()
}

#[tokio::test]
async fn a_collection_is_exported_in_the_stock_layout() {
    let lab = Lab::new().await;
    lab.flow(3).await;
    let (at, stats, data) = lab.export(request(Format::Both, "", false)).await;
    let name = format!("web-1-{CLIENT}-{FLOW}.zip");
    assert_eq!(at.0.named_components(), ["downloads", CLIENT, FLOW, &name]);
    assert_eq!(stats.hash, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&data)));
    assert_eq!(stats.components, at.0.named_components());
    assert_eq!(stats.total_compressed_bytes, data.len() as u64);
    assert_eq!((stats.total_uploaded_files, stats.total_uploaded_bytes), (2, 17));
    let found = members(data);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "client_info.json",
            "collection_context.json",
            "log.csv",
            "log.json",
            "requests.json",
            "results/A.B%2FSrc.csv",
            "results/A.B%2FSrc.json",
            "uploads.csv",
            "uploads.json",
            "uploads.json.index",
            "uploads/auto/etc/a%3Ab",
            "uploads/auto/sparse",
            "uploads/auto/sparse.idx",
        ]
    );
    assert!(found["client_info.json"].starts_with("{\n \"client_id\": \"C.0000000000000001\""));
    assert!(found["collection_context.json"].contains("\n \"state\": 2"));
    let rows = "{\"N\":0,\"T\":\"x,\\\"y\\\"\"}\n{\"N\":1,\"Late\":null}\n{\"N\":2,\"T\":\"x,\\\"y\\\"\"}\n";
    assert_eq!(found["results/A.B%2FSrc.json"], rows);
    let csv = "N,T,Late\n0,\"x,\"\"y\"\"\",\n1,,\n2,\"x,\"\"y\"\"\",\n";
    assert_eq!(found["results/A.B%2FSrc.csv"], csv);
    assert_eq!(found["log.json"], "{\"message\":\"hello\"}\n");
    assert_eq!(found["uploads/auto/etc/a%3Ab"], "dense content");
    assert_eq!(found["uploads/auto/sparse"], "AABB");
    let table: Vec<serde_json::Value> =
        found["uploads.json"].lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let places: Vec<String> = table.iter().map(|r| r["_Components"].to_string()).collect();
    assert_eq!(places[0], r#"["uploads","auto","etc","a:b"]"#);
    assert_eq!(places[1], r#"["uploads","auto","sparse"]"#);
    // The lost one is told twice: as it was, and why it is not there.
    assert_eq!(table.len(), 5);
    assert!(table[4]["Error"].as_str().unwrap().contains("/lost not found"), "{table:?}");
    assert!(lab.nothing_unfinished());

    let found = lab.server.flow_exports(&lab.server.root(), CLIENT, FLOW).await.unwrap();
    assert_eq!(found.files.len(), 1);
    assert!(found.files[0].complete);
    assert_eq!(found.files[0].path, format!("downloads/{CLIENT}/{FLOW}/{name}"));
}

#[tokio::test]
async fn sparse_files_are_filled_up_on_demand() {
    let lab = Lab::new().await;
    lab.flow(1).await;
    let (_, _, data) = lab.export(request(Format::Csv, "", true)).await;
    let found = members(data);
    assert_eq!(found["uploads/auto/sparse"], "AA\0\0\0BB");
    assert!(!found.contains_key("uploads/auto/sparse.idx"));
    assert!(found.keys().all(|n| !n.starts_with("results/") || n.ends_with(".csv")), "{found:?}");
}

#[tokio::test]
async fn a_locked_archive_holds_one_that_is_not() {
    let lab = Lab::new().await;
    lab.flow(5000).await;
    let (at, stats, data) = lab.export(request(Format::Json, "se cret", false)).await;
    assert!(at.0.components.last().unwrap().ends_with("_locked"));
    assert_eq!(stats.hash, hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&data)));
    let archive = Archive::open(Cursor::new(data.clone())).unwrap();
    let names: Vec<_> = archive.members().iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["data.zip"]);
    // Unlocked by the rules of the format: its bytes begin behind the header.
    let size = usize::try_from(archive.members()[0].size).unwrap();
    let skip = 30 + "data.zip".len() + 11;
    let salt: [u8; 16] = data[skip..skip + 16].try_into().unwrap();
    let (mut lock, head) = crate::store::zip::lock::Lock::new("se cret", salt).unwrap();
    assert_eq!(head, data[skip..skip + 18]);
    let mut inner = data[skip + 18..skip + 18 + size].to_vec();
    lock.apply(&mut inner).unwrap();
    let found = members(inner);
    assert_eq!(found["results/A.B%2FSrc.json"].lines().count(), 5000);
}

#[tokio::test]
async fn a_hunt_is_exported_whole_and_as_a_summary() {
    let lab = Lab::new().await;
    lab.flow(2).await;
    let org = lab.server.root();
    let hunt = HuntObject {
        hunt_id: "H.1".into(),
        artifact_sources: vec!["A.B/Src".into()],
        ..Default::default()
    };
    {
        let pin = Arc::new(crate::store::journal::Segment::of_path(""));
        let mut state = org.state();
        state.hunts.set(&hunt, &pin);
        state.hunts.join("H.1", CLIENT, FLOW, 1, &pin);
    }
    let export = |combined_only| Request {
        what: What::Hunt { hunt: "H.1".into(), combined_only, base: "big-".into() },
        ..request(Format::Json, "", false)
    };
    let (at, _, data) = lab.export(export(false)).await;
    assert_eq!(at.0.named_components(), ["downloads", "hunts", "H.1", "big-H.1.zip"]);
    let found = members(data);
    let row = format!(
        "{{\"N\":0,\"T\":\"x,\\\"y\\\"\",\"FlowId\":\"{FLOW}\",\"ClientId\":\"{CLIENT}\",\"Fqdn\":\"web-1.example\"}}"
    );
    assert_eq!(found["results/All A.B%2FSrc.json"].lines().next().unwrap(), row);
    let one = format!("web-1-{CLIENT}/results/A.B%2FSrc.json");
    assert_eq!(found[&one].lines().count(), 2);
    assert!(found.contains_key(&format!("web-1-{CLIENT}/uploads/auto/sparse")));
    assert!(found["hunt_info.json"].contains("\"hunt_id\": \"H.1\""));
    let (at, _, data) = lab.export(export(true)).await;
    assert!(at.0.components.last().unwrap().ends_with("-summary"));
    assert_eq!(members(data).len(), 2);
    assert_eq!(lab.server.hunt_exports(&org, "H.1").await.unwrap().files.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_made_says_why_and_leaves_nothing() {
    let lab = Lab::new().await;
    let org = lab.server.root();
    let e = lab.server.export(&org, request(Format::Json, "", false)).await.unwrap_err();
    assert!(e.to_string().contains("F.1234 of C.0000000000000001 not found"), "{e}");
    assert!(Format::parse("xml").unwrap_err().to_string().contains("xml"));
    lab.flow(1).await;
    // Something else has its place: the archive cannot get its name.
    let name = format!("web-1-{CLIENT}-{FLOW}.zip");
    let place = lab.dir.path().join("downloads").join(CLIENT).join(FLOW).join(&name);
    #[allow(clippy::disallowed_methods)] // the test's own directory
    std::fs::create_dir_all(place.join("x")).unwrap();
    let export = lab.server.export(&org, request(Format::Json, "", false)).await.unwrap();
    let e = export.wait().await.unwrap_err();
    let files = lab.server.flow_exports(&org, CLIENT, FLOW).await.unwrap().files;
    assert_eq!(files.len(), 1);
    assert!(!files[0].complete);
    assert_eq!(files[0].stats.as_ref().unwrap().error, e.to_string());
    assert!(lab.nothing_unfinished());
    assert_eq!(lab.server.exports.running(), 0);
}
