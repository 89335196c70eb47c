use super::*;
use crate::store::path::StoreRoot;

fn v(c: &[&str]) -> Vec<String> {
    c.iter().map(|&s| s.to_owned()).collect()
}

fn f(p: &FilePath) -> String {
    StoreRoot::single("").file(p).unwrap()
}

fn o<M>(p: &ObjectPath<M>) -> String {
    StoreRoot::single("").object(p).unwrap()
}

fn d(p: &DirPath) -> String {
    StoreRoot::single("").dir(p).unwrap()
}

#[test]
fn clients() {
    let org = Org::root();
    let c = Client { org: &org, id: "C.1" };
    assert_eq!(f(&client_snapshot(&org)), "/client_info/snapshot.json");
    assert_eq!(f(&client_snapshot(&org).index()), "/client_info/snapshot.json.index");
    assert_eq!(d(&clients_dir(&org)), "/clients");
    assert_eq!(o(&legacy_client(&org, "C.1")), "/clients/C.1.db");
    assert_eq!(o(&c.key()), "/clients/C.1/key.db");
    assert_eq!(o(&c.ping()), "/clients/C.1/ping.json.db");
    assert_eq!(o(&c.labels()), "/clients/C.1/labels.json.db");
    assert_eq!(o(&c.metadata()), "/clients/C.1/metadata.json.db");
    assert_eq!(d(&c.tasks()), "/clients/C.1/tasks");
    assert_eq!(o(&c.task(77)), "/clients/C.1/tasks/77.db");
    assert_eq!(f(&c.flow_index()), "/clients/C.1/flow_index.json");
    assert_eq!(o(&c.vfs(&v(&["file", "C:", "Users"]))), "/clients/C.1/vfs/file/C%3A/Users.json.db");
    assert_eq!(f(&c.vfs_files(&v(&["file", "C:"]))), "/clients/C.1/vfs_files/file/C%3A.json");
    assert_eq!(
        o(&c.vfs_file(&v(&["file", "C:", "1.zip"]))),
        "/clients/C.1/vfs_files/file/C%3A/1.zip.json.db"
    );
    let sub = Org::new("O123");
    let c = Client { org: &sub, id: "C.1-O123" };
    assert_eq!(o(&c.key()), "/orgs/O123/clients/C.1-O123/key.db");
}

#[test]
fn flows() {
    let org = Org::root();
    let x = Flow { org: &org, client: "C.1", id: "F.1" };
    assert_eq!(o(&x.context()), "/clients/C.1/collections/F.1.json.db");
    assert_eq!(o(&x.requests()), "/clients/C.1/collections/F.1/requests.json.db");
    assert_eq!(o(&x.stats()), "/clients/C.1/collections/F.1/stats.json.db");
    assert_eq!(o(&x.task()), "/clients/C.1/collections/F.1/task.db");
    assert_eq!(f(&x.logs()), "/clients/C.1/collections/F.1/logs.json");
    assert_eq!(f(&x.legacy_logs()), "/clients/C.1/collections/F.1/logs");
    assert_eq!(f(&x.uploads()), "/clients/C.1/collections/F.1/uploads.json");
    assert_eq!(
        f(&x.upload_transactions()),
        "/clients/C.1/collections/F.1/upload_transactions.json"
    );
    let up = x.upload("ntfs", &v(&[r"\\.\C:", "a.txt"]));
    let base = "/clients/C.1/collections/F.1/uploads/ntfs/%5C%5C.%5CC%3A/a.txt";
    assert_eq!(f(&up), base);
    assert_eq!(f(&up.sparse_index()), format!("{base}.idx"));
    assert_eq!(f(&up.chunk()), format!("{base}.chunk"));
    assert!(f(&x.upload("", &v(&["a"]))).ends_with("/uploads/file/a"));
    assert_eq!(
        f(&x.results("Linux.Sys.Users", None)),
        "/clients/C.1/artifacts/Linux.Sys.Users/F.1.json"
    );
    let r = x.results_of("Generic.Client.Info/A (b)");
    assert_eq!(f(&r), "/clients/C.1/artifacts/Generic.Client.Info/F.1/A %28b%29.json");
    assert_eq!(f(&r.chunk()), "/clients/C.1/artifacts/Generic.Client.Info/F.1/A %28b%29.chunk");
    assert_eq!(f(&x.download("host", true)), "/downloads/C.1/F.1/host-C.1-F.1_locked.zip");
    assert_eq!(f(&x.download("", false)), "/downloads/C.1/F.1/C.1-F.1.zip");
    assert_eq!(o(&download_stats(&x.download("", false))), "/downloads/C.1/F.1/C.1-F.1.json.db");
    assert_eq!(f(&x.report("h")), "/downloads/C.1/F.1/Report h-C.1-F.1.html");
    assert_eq!(split_artifact("A/B/C"), ("A/B/C", None));
    assert_eq!(split_artifact("A/"), ("A", None));
}

#[test]
fn events() {
    let org = Org::root();
    let e = Events::client(&org, "C.1", "Windows.Events.X/Src", EventKind::Rows);
    assert_eq!(d(&e.dir()), "/clients/C.1/monitoring/Windows.Events.X/Src");
    assert_eq!(f(&e.day("2026-01-02")), format!("{}/2026-01-02.json", d(&e.dir())));
    assert_eq!(
        f(&e.day_of("2026-01-02", "minion-1", "00000003-ab").time_index()),
        "/clients/C.1/monitoring/Windows.Events.X/Src/2026-01-02.minion-1.00000003-ab.json.tidx"
    );
    let e = Events::client(&org, "C.1", "X", EventKind::Logs);
    assert_eq!(d(&e.dir()), "/clients/C.1/monitoring_logs/X");
    let e = Events::server(&org, "Server.Monitor.Health/A (b)", EventKind::Rows);
    assert_eq!(
        f(&e.day("2026-01-02")),
        "/server_artifacts/Server.Monitor.Health/A (b)/2026-01-02.json"
    );
    let e = Events::server(&org, "X", EventKind::Logs);
    assert_eq!(f(&e.day("2026-01-02")), "/server_artifact_logs/X/2026-01-02.json");
}

#[test]
fn hunts() {
    let org = Org::root();
    let h = Hunt { org: &org, id: "H.AB1" };
    assert_eq!(o(&h.object()), "/hunts/H.AB1.json.db");
    assert_eq!(o(&h.request()), "/hunts/H.AB1/request.json.db");
    assert_eq!(f(&h.clients()), "/hunts/H.AB1.json");
    assert_eq!(f(&h.errors()), "/hunts/H.AB1_errors.json");
    assert_eq!(f(&h.enriched()), "/hunts/H.AB1/enriched.json");
    assert_eq!(f(&hunt_index(&org)), "/hunts/index.json");
    assert_eq!(o(&h.participation("C.1")), "/hunt_index/h.ab1/C.1.db");
    assert_eq!(
        f(&h.download("x-", true, true)),
        "/downloads/hunts/H.AB1/x-H.AB1-summary_locked.zip"
    );
    assert_eq!(o(&h.notebook().object()), "/hunts/H.AB1/notebook/N.H.AB1.json.db");
}

#[test]
fn notebooks() {
    let org = Org::root();
    let n = Notebook::new(&org, "N.X");
    assert_eq!(o(&n.object()), "/notebooks/N.X.json.db");
    assert_eq!(f(&n.attachment("NA.1a b.png")), "/notebooks/N.X/attach/NA.1a b.png");
    let c = n.cell("NC.1", "V1");
    assert_eq!(o(&c.object()), "/notebooks/N.X/NC.1-V1.json.db");
    assert_eq!(f(&c.query(2)), "/notebooks/N.X/NC.1-V1/query_2.json");
    assert_eq!(f(&c.logs()), "/notebooks/N.X/NC.1-V1/logs.json");
    assert_eq!(f(&c.upload("a:b")), "/notebooks/N.X/NC.1-V1/uploads/a%3Ab");
    assert_eq!(o(&n.cell("NC.1", "").object()), "/notebooks/N.X/NC.1.json.db");
    assert_eq!(o(&n.super_timeline("a:b")), "/notebooks/N.X/timelines/a%3Ab.json.db");
    assert_eq!(f(&n.timeline("s", "c")), "/notebooks/N.X/timelines/s/c.json");
    let n = Flow { org: &org, client: "C.1-O1", id: "F.1" }.notebook();
    let base = "/clients/C.1-O1/collections/F.1/notebook";
    assert_eq!(o(&n.object()), format!("{base}/N.F.1-C.1-O1.json.db"));
    let n = Notebook::new(&org, "N.E.Generic.Client.Stats-C.1");
    assert_eq!(
        o(&n.object()),
        "/clients/C.1/monitoring_notebooks/Generic.Client.Stats/N.E.Generic.Client.Stats-C.1.json.db"
    );
    assert_eq!(
        o(&Notebook::new(&org, "Dashboard").object()),
        "/notebooks/Dashboards/Dashboard.json.db"
    );
    let sneaky = Notebook::new(&org, "../../x").object();
    assert!(StoreRoot::single("").object(&sneaky).is_err());
}

#[test]
fn users_and_configuration() {
    let org = Org::new("O1");
    let u = User { name: "mic@x.org" };
    assert_eq!(o(&u.object()), "/users/mic%40x.org.db");
    assert_eq!(o(&u.gui_options()), "/users/gui/mic%40x.org.json.db");
    assert_eq!(o(&u.acl(&Org::root())), "/acl/mic%40x.org.json.db");
    assert_eq!(o(&u.acl(&org)), "/orgs/O1/acl/mic%40x.org.json.db");
    assert_eq!(o(&u.recent(&Org::root(), "C.1")), "/users/mic%40x.org/mru/C.1.db");
    let name = "你好世界";
    assert_eq!(
        o(&u.favorite(&Org::root(), "CLIENT", name)),
        "/users/mic%40x.org/Favorites/CLIENT/%E4%BD%A0%E5%A5%BD%E4%B8%96%E7%95%8C.json.db"
    );
    assert_eq!(f(&u.notifications()), "/users/mic%40x.org/Notifications.json");
    assert_eq!(f(&u.notebook_index(&Org::root())), "/notebooks/indexes/mic@x.org.json");
    assert_eq!(o(&client_monitoring(&org)), "/orgs/O1/config/client_monitoring.json.db");
    assert_eq!(o(&org_record("O1")), "/orgs/O1.json.db");
    assert_eq!(
        f(&artifact_definition(&Org::root(), "Custom.Foo.Bar")),
        "/artifact_definitions/Custom/Foo/Bar.yaml"
    );
    assert_eq!(o(&secret(&Org::root(), "AWS S3", "a@b")), "/config/secrets/AWS S3/a%40b.json.db");
    assert_eq!(f(&public_file("ab")), "/public/ab");
    assert_eq!(public_name("n", "tool:1", &Org::root()).len(), 64);
    assert_ne!(public_name("n", "t", &Org::root()), public_name("n", "t", &org));
    assert_eq!(f(&backup("2026-01-02T03:04:05Z")), "/backups/backup_2026-01-02T03_04_05Z.zip");
    assert_eq!(
        o(&long_name(&Org::root(), "a9993e364706816aba3e25717850c26c9cd0d89d")),
        "/lfn_hashes/a99/93e364706/816aba3e25717850c26c9cd0d89d.json.db"
    );
    assert_eq!(
        f(&notebook_download(&Org::root(), "N.1", "20260102030405Z", true)),
        "/downloads/notebooks/N.1/N.1-20260102030405Z.html"
    );
}
