use super::*;
use crate::env::fs::create_synced;
use crate::store::testing::{fixture, scratch};
use proptest::prelude::*;

fn client(id: &str) -> ClientInfo {
    ClientInfo { client_id: id.into(), hostname: format!("host-{id}"), ..Default::default() }
}

#[test]
fn rows_have_the_stock_shape() {
    let c = ClientInfo { client_id: "C.1".into(), has_tasks: true, ..Default::default() };
    let row = encode_row(&c);
    assert_eq!(
        String::from_utf8(row.clone()).unwrap(),
        r#"{"client_id":"C.1","info":"0a03432e31d80101"}"#
    );
    assert_eq!(decode_row(&row), Some(c));
    assert_eq!(decode_row(br#"{"client_id": "C.1","info":"0a"}"#), None);
    assert_eq!(decode_row(br#"{"client_id":"C.1","info":"zz"}"#), None);
    assert_eq!(decode_row(br#"{"client_id":"C.1","inf"#), None);
}

#[tokio::test]
async fn saves_and_loads() {
    let (_d, t) = scratch();
    let org = Org::new("O1");
    assert!(load(&t, &org).await.unwrap().clients.is_empty());
    let all = [client("C.1"), client("C.2")];
    let w = save(&t, &org, &all).await.unwrap();
    assert_eq!(w.rows, 2);
    let at = paths::client_snapshot(&org);
    let raw = t.get_file(&at, 1 << 20).await.unwrap().unwrap();
    let index = t.get_file(&at.index(), 1 << 20).await.unwrap().unwrap();
    assert_eq!((raw, index), bytes(&all).unwrap());
    save(&t, &org, &all[1..]).await.unwrap();
    let l = load(&t, &org).await.unwrap();
    assert_eq!(l.clients.into_values().collect::<Vec<_>>(), all[1..]);
    assert!(l.indexed && l.damaged == 0 && l.legacy == 0);
}

#[tokio::test]
async fn damage_is_counted_not_fatal() {
    let (_d, t) = scratch();
    let org = Org::root();
    let mut data = encode_row(&client("C.1"));
    data.extend_from_slice(b"\nnonsense\n\n");
    data.extend_from_slice(&encode_row(&client("C.2")));
    let path = t.root.file(&paths::client_snapshot(&org)).unwrap();
    create_synced(&*t.fs, &path, &data).await.unwrap();
    let l = load(&t, &org).await.unwrap();
    assert_eq!((l.clients.len(), l.damaged, l.indexed), (2, 1, false));
}

#[tokio::test]
async fn fixture_has_only_old_records() {
    let Some(t) = fixture() else { return };
    let l = load(&t, &Org::root()).await.unwrap();
    assert_eq!((l.legacy, l.clients.len()), (1, 1));
    let c = &l.clients["C.4f5e52adf0a337a9"];
    assert_eq!(c.hostname, "DESKTOP-BP4S7TF");
    assert_eq!(c.ping, 1_638_362_977_493_088);
    assert_eq!(c.last_interrogate_flow_id, "F.BN21C82J8DM8K");
}

proptest! {
    #[test]
    fn random_lines_never_panic(b in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut line = br#"{"client_id":""#.to_vec();
        line.extend_from_slice(&b);
        decode_row(&b);
        decode_row(&line);
    }

    #[test]
    fn round_trip(id in "C\\.[0-9a-f]{16}", host in "\\PC{0,20}") {
        let c = ClientInfo { client_id: id, hostname: host, ..Default::default() };
        prop_assert_eq!(decode_row(&encode_row(&c)), Some(c));
    }
}
