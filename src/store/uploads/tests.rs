use super::*;
use crate::env::fs::create_synced;
use crate::store::path::Org;
use crate::store::paths::{Client, Flow};
use crate::store::resultset::ResultSet;
use crate::store::resultset::chunk::Chunk;
use crate::store::testing::{fixture, scratch};
use proptest::prelude::*;
use std::io::Write;
use velociraptor_proto::proto::Range;

fn r(file_offset: i64, original_offset: i64, file_length: i64, length: i64) -> Range {
    Range { file_offset, original_offset, file_length, length }
}

async fn put(t: &Tree, at: &FilePath, data: &[u8]) {
    create_synced(&*t.fs, &t.root.file(at).unwrap(), data).await.unwrap();
}

fn upload(org: &Org) -> FilePath {
    Flow { org, client: "C.1", id: "F.1" }.upload("file", &["C:".into(), "a.txt".into()])
}

#[test]
fn maps_in_both_forms() {
    let ranges = [r(0, 0, 5, 5), r(5, 5, 0, 5), r(5, 10, 5, 5)];
    let text = "{\n \"ranges\": [\n  {\n   \"file_length\": 5,\n   \"length\": 5\n  },\n  {\n   \"file_offset\": 5,\n   \"original_offset\": 5,\n   \"length\": 5\n  },\n  {\n   \"file_offset\": 5,\n   \"original_offset\": 10,\n   \"file_length\": 5,\n   \"length\": 5\n  }\n ]\n}";
    assert_eq!(String::from_utf8(map_bytes(&ranges)).unwrap(), text);
    assert_eq!(parse_map(text.as_bytes()).unwrap(), ranges);
    assert_eq!(map_bytes(&[]), b"{}");
    assert!(parse_map(b"{}").unwrap().is_empty());
    let lines = "{\"file_offset\":0,\"original_offset\":0,\"file_length\":5,\"length\":5}\n{\"file_offset\":5,\"original_offset\":5,\"file_length\":0,\"length\":5}\n";
    assert_eq!(parse_map(lines.as_bytes()).unwrap(), ranges[..2]);
    assert!(parse_map(b"nonsense").is_err());
    assert!(stretches(&[r(0, -1, 5, 5)]).is_err());
    assert!(stretches(&[r(0, 0, 5, 5), r(5, 3, 5, 5)]).is_err());
}

#[test]
fn rows_have_the_stock_order() {
    let org = Org::root();
    let mut row = UploadRow::data(1_664_618_674_132_068_060, "C:\\a.txt", &upload(&org), (15, 10));
    row.accessor = Some("file".into());
    row.client_components = Some(vec!["C:".into(), "a.txt".into()]);
    let text = r#"{"Timestamp":1664618674,"started":"2022-10-01 10:04:34.13206806 +0000 UTC","vfs_path":"C:\\a.txt","Type":"","_Components":["clients","C.1","collections","F.1","uploads","file","C:","a.txt"],"file_size":15,"_accessor":"file","_client_components":["C:","a.txt"],"uploaded_size":10}"#;
    assert_eq!(String::from_utf8(row.encode().unwrap()).unwrap(), text);
    assert_eq!(UploadRow::decode(text.as_bytes()).unwrap(), row);
    assert_eq!(row.file(&org), Some(upload(&org)));
    let map = String::from_utf8(row.map().encode().unwrap()).unwrap();
    assert!(map.contains(r#""vfs_path":"C:\\a.txt.idx","Type":"idx","#), "{map}");
    assert!(
        map.ends_with(r#""_client_components":["C:","a.txt"],"file_size":15,"uploaded_size":10}"#)
    );
    assert_eq!(UploadRow::decode(map.as_bytes()).unwrap(), row.map());
    assert_eq!(go_time(0), "1970-01-01 00:00:00 +0000 UTC");
    let old = br#"{"Timestamp":1,"vfs_path":"/clients/C.1/collections/F.1/uploads/file/C:/a.txt","expected_size":13}"#;
    let old = UploadRow::decode(old).unwrap();
    assert_eq!((old.file(&org), old.file_size), (Some(upload(&org)), 13));
}

#[tokio::test]
async fn dense_and_sparse() {
    let (_d, t) = scratch();
    let at = upload(&Org::root());
    assert!(Upload::open(&t, &at).await.unwrap().is_none());
    put(&t, &at, b"01234abcde").await;
    let u = Upload::open(&t, &at).await.unwrap().unwrap();
    assert!(!u.is_sparse());
    assert_eq!(u.read(Holes::Padded, 8, 100).await.unwrap(), b"de");
    assert_eq!(u.read(Holes::Padded, 10, 1).await.unwrap(), b"");
    let map = map_bytes(&[r(0, 0, 5, 5), r(5, 5, 0, 100_000), r(5, 100_005, 5, 5)]);
    put(&t, &at.sparse_index(), &map).await;
    let u = Upload::open(&t, &at).await.unwrap().unwrap();
    assert_eq!(u.size(Holes::Padded).unwrap(), 100_010);
    assert_eq!(u.size(Holes::Skipped).unwrap(), 10);
    let all = u.read(Holes::Padded, 0, usize::MAX).await.unwrap();
    assert_eq!((&all[..6], &all[100_004..]), (&b"01234\0"[..], &b"\0abcde"[..]));
    assert_eq!(u.read(Holes::Padded, 100_003, 4).await.unwrap(), b"\0\0ab");
    assert_eq!(u.read(Holes::Skipped, 4, 2).await.unwrap(), b"4a");
    assert_eq!(u.sha256(Holes::Skipped).await.unwrap(), hex::encode(Sha256::digest(b"01234abcde")));
    assert_eq!(u.sha256(Holes::Padded).await.unwrap(), hex::encode(Sha256::digest(&all)));
    assert!(u.worth_expanding(MAX_EXPAND).unwrap());
    assert!(!u.worth_expanding(1000).unwrap());
}

#[tokio::test]
async fn compressed_with_a_lost_chunk() {
    let (_d, t) = scratch();
    let at = upload(&Org::root());
    let (mut data, mut chunks) = (Vec::new(), Vec::new());
    for (file_offset, part) in [(0, b"aaaa"), (10, b"bbbb")] {
        let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(part).unwrap();
        let z = e.finish().unwrap();
        let (at, compressed) = (data.len() as u64, z.len() as u64);
        chunks.extend_from_slice(&Chunk { file_offset, at, compressed, uncompressed: 4 }.encode());
        data.extend_from_slice(&z);
    }
    put(&t, &at, &data).await;
    put(&t, &at.chunk(), &chunks).await;
    let u = Upload::open(&t, &at).await.unwrap().unwrap();
    assert_eq!(u.stored_size(), 14);
    assert_eq!(u.read(Holes::Padded, 0, 100).await.unwrap(), b"aaaa\0\0\0\0\0\0bbbb");
    assert_eq!(u.read(Holes::Padded, 2, 10).await.unwrap(), b"aa\0\0\0\0\0\0bb");
}

#[tokio::test]
async fn fixture_uploads() {
    let Some(t) = fixture() else { return };
    let org = Org::root();
    let f = Client { org: &org, id: "C.4f5e52adf0a337a9" };
    let f = f.flow("F.BN2HJBD1R85EA");
    let rows = ResultSet::open(&t, &f.uploads()).await.unwrap().page(0, 9).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|r| UploadRow::decode(r).unwrap()).collect();
    assert_eq!((rows[0].kind, rows[1].kind), (UploadKind::Data, UploadKind::Map));
    let u = Upload::open(&t, &rows[0].file(&org).unwrap()).await.unwrap().unwrap();
    assert_eq!((u.size(Holes::Padded).unwrap(), u.stored_size()), (15, 10));
    let all = u.read(Holes::Padded, 0, 99).await.unwrap();
    assert_eq!(&all[5..10], b"\0\0\0\0\0");
    let want = "5131e4491efdc758c6df326f49e1d05cf2e40a420a217c3390f35161c0d8e25d";
    let got = [u.sha256(Holes::Padded).await.unwrap(), u.sha256(Holes::Skipped).await.unwrap()];
    assert!(got.contains(&want.to_owned()), "{got:?}");
    let idx = t.get_file(&rows[0].file(&org).unwrap().sparse_index(), 1000).await.unwrap().unwrap();
    assert_eq!(map_bytes(&parse_map(&idx).unwrap()).len(), idx.len());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(b in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_map(&b);
        let _ = UploadRow::decode(&b);
    }

    #[test]
    fn random_ranges_cover_or_fail(v in prop::collection::vec((0i64..100, 0i64..100, 0i64..20, 0i64..20), 0..6)) {
        let ranges: Vec<Range> = v.iter().map(|&(a, b, c, d)| r(a, b, c, d)).collect();
        prop_assert_eq!(parse_map(&map_bytes(&ranges)).unwrap(), ranges.clone());
        if let Ok(s) = stretches(&ranges) {
            let mut at = 0;
            for s in s {
                prop_assert_eq!(s.start, at);
                prop_assert!(s.end > s.start);
                at = s.end;
            }
        }
    }
}
