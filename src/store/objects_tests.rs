use super::*;
use crate::store::paths::{Client, Flow};
use crate::store::testing::{fixture, scratch};

#[tokio::test]
async fn round_trip_both_encodings() {
    let (_dir, t) = scratch();
    let org = Org::new("O1");
    let flow = Flow { org: &org, client: "C.1-O1", id: "F.1" };
    assert!(t.get(&flow.context()).await.unwrap().is_none());
    let mut c = proto::ArtifactCollectorContext {
        session_id: "F.1".into(),
        create_time: 5,
        ..Default::default()
    };
    t.set(&flow.context(), &c).await.unwrap();
    let raw = t.get_raw(&flow.context()).await.unwrap().unwrap();
    assert_eq!(raw, br#"{"createTime":"5","sessionId":"F.1"}"#);
    c.create_time = 6;
    t.set(&flow.context(), &c).await.unwrap();
    assert_eq!(t.get(&flow.context()).await.unwrap().unwrap(), c);

    let client = Client { org: &org, id: "C.1-O1" };
    let key = proto::PublicKey { pem: b"{pem".to_vec(), enroll_time: 7 };
    assert!(t.create(&client.key(), &key).await.unwrap());
    let other = proto::PublicKey::default();
    assert!(!t.create(&client.key(), &other).await.unwrap());
    assert_eq!(t.get(&client.key()).await.unwrap().unwrap(), key);
    t.delete(&client.key()).await.unwrap();
    t.delete(&client.key()).await.unwrap();
    assert!(t.get(&client.key()).await.unwrap().is_none());
    // No scratch file is left behind.
    assert!(t.fs.list(&format!("{}/temp", t.root.ds)).await.unwrap().is_empty());
}

#[tokio::test]
async fn json_falls_back_to_binary_and_empty_is_absent() {
    let (_dir, t) = scratch();
    let org = Org::root();
    let flow = Flow { org: &org, client: "C.1", id: "F.1" };
    let c = proto::ArtifactCollectorContext { session_id: "F.1".into(), ..Default::default() };
    let old = t.root.resolve(&flow.context().path.typed(PathType::ObjectProto)).unwrap();
    create_synced(&*t.fs, &old, &c.encode_to_vec()).await.unwrap();
    assert_eq!(t.get(&flow.context()).await.unwrap().unwrap(), c);
    let new = t.root.object(&flow.context()).unwrap();
    create_synced(&*t.fs, &new, b"").await.unwrap();
    assert!(t.get(&flow.context()).await.unwrap().is_none());
    let marker = paths::Hunt { org: &org, id: "H.1" }.participation("C.1");
    create_synced(&*t.fs, &t.root.object(&marker).unwrap(), b"").await.unwrap();
    assert_eq!(t.get_raw(&marker).await.unwrap().unwrap(), b"");
    let torn = flow.stats();
    create_synced(&*t.fs, &t.root.object(&torn).unwrap(), b"{\"sess").await.unwrap();
    assert!(matches!(t.get(&torn).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn size_is_capped() {
    let (_dir, mut t) = scratch();
    t.max_object = 10;
    let org = Org::root();
    let at = Client { org: &org, id: "C.1" }.metadata();
    let m = proto::ClientMetadata { client_id: "C.0123456789".into(), ..Default::default() };
    assert!(matches!(t.set(&at, &m).await, Err(StoreError::TooLarge { limit: 10, .. })));
    assert!(t.get(&at).await.unwrap().is_none());
}

#[tokio::test]
async fn listing_decodes_and_finds_long_names() {
    let (_dir, t) = scratch();
    let org = Org::root();
    let long = "长".repeat(100);
    for name in ["a b", "C:", "x_", "y.db", ".hidden", &long] {
        t.set(&paths::User { name }.acl(&org), &Default::default()).await.unwrap();
    }
    let got = t.children(&paths::acl_dir(&org)).await.unwrap();
    let names: Vec<&str> = got.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, [".hidden", "C:", "a b", "x_", "y.db", &long]);
    assert!(got.iter().all(|c| c.kind == PathType::ObjectJson && !c.is_dir));
    assert!(got[5].disk.starts_with('#'));
    t.set(&paths::User { name: &long }.acl(&org), &Default::default()).await.unwrap();
}

#[tokio::test]
async fn fixture_objects() {
    let Some(t) = fixture() else { return };
    let org = Org::root();
    let client = Client { org: &org, id: "C.4f5e52adf0a337a9" };
    let key = t.get(&client.key()).await.unwrap().unwrap();
    assert!(key.pem.starts_with(b"-----BEGIN"));
    let c = t.get(&client.flow("F.BSJMEJIPT6P9I").context()).await.unwrap().unwrap();
    assert_eq!(c.create_time, 1_701_175_416_907_783);
    let s = t.get(&client.flow("F.BSJMEJIPT6P9I").stats()).await.unwrap().unwrap();
    assert_eq!(s.query_stats.len(), 1);
    // Old flows are binary.
    let old = t.get(&client.flow("F.BN2HJBD1R85EA").context()).await.unwrap().unwrap();
    assert_eq!(old.session_id, "F.BN2HJBD1R85EA");
    let flows = t.children(&client.collections()).await.unwrap();
    assert_eq!(flows.iter().filter(|c| !c.is_dir).count(), 6);
    let hunt = paths::Hunt { org: &org, id: "H.49ba8939" };
    assert!(t.get(&hunt.participation(client.id)).await.unwrap().is_some());
    assert_eq!(t.get(&hunt.object()).await.unwrap().unwrap().hunt_id, "H.49ba8939");
    let ups = client.flow("F.BN2HJCPOF5U7U").upload("file", &["C:".into()]);
    let files = t.files(&DirPath(ups.0)).await.unwrap();
    assert_eq!((files[0].name.as_str(), files[0].kind), ("1.zip", PathType::Any));
    let vfs = t.get(&client.vfs(&["file".into(), "C:".into()])).await.unwrap().unwrap();
    assert!(!vfs.response.is_empty());
}
