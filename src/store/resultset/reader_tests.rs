use super::*;
use crate::env::fs::create_synced;
use crate::store::path::Org;
use crate::store::paths::{self, Client, Flow};
use crate::store::resultset::chunk::Chunk;
use crate::store::resultset::{SetWriter, canonical};
use crate::store::testing::{fixture, scratch};
use std::io::Write;

fn text(rows: &[Bytes]) -> Vec<&str> {
    rows.iter().map(|r| std::str::from_utf8(r).unwrap()).collect()
}

async fn put(t: &Tree, at: &FilePath, data: &[u8]) {
    create_synced(&*t.fs, &t.root.file(at).unwrap(), data).await.unwrap();
}

fn results(org: &Org) -> FilePath {
    Flow { org, client: "C.1", id: "F.1" }.results("A", Some("S"))
}

fn entries(list: &[(u64, u32)]) -> Vec<u8> {
    list.iter()
        .flat_map(|&(offset, skip)| RowPos { offset, skip }.encode().unwrap().to_le_bytes())
        .collect()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

#[tokio::test]
async fn written_sets_read_back() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    let (data, index) = (t.root.file(&at).unwrap(), t.root.file(&at.index()).unwrap());
    let mut w = SetWriter::create(&*t.fs, &data, &index).await.unwrap();
    w.row(br#"{"n":0}"#).await.unwrap();
    let blob = Bytes::from_static(b"{\"n\":1}\n\n{\"n\":2,\"s\":\"\xc3\xa9\"}\n{\"n\":3}");
    assert_eq!(w.jsonl(&blob).await.unwrap(), 3);
    let done = w.finish().await.unwrap();
    assert_eq!(done.rows, 4);
    let s = ResultSet::open(&t, &at).await.unwrap();
    assert_eq!((s.total_rows(), s.size()), (Some(4), done.bytes));
    assert_eq!(text(&s.page(2, 1).await.unwrap()), [r#"{"n":2,"s":"é"}"#]);
    assert_eq!(s.page(0, 100).await.unwrap().len(), 4);
    assert!(s.page(4, 1).await.unwrap().is_empty());
    assert_eq!(s.scan_rows().await.unwrap(), 4);
    let raw = t.get_file(&at, 1 << 20).await.unwrap().unwrap();
    let (canon, canon_index) = canonical(&raw).unwrap();
    assert_eq!(canon, raw);
    assert_eq!(canon_index, t.get_file(&at.index(), 1 << 20).await.unwrap().unwrap());
    // The names must be new.
    assert!(SetWriter::create(&*t.fs, &data, &index).await.is_err());
}

#[tokio::test]
async fn missing_and_unindexed() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    let s = ResultSet::open(&t, &at).await.unwrap();
    assert_eq!((s.exists(), s.total_rows()), (false, Some(0)));
    put(&t, &at, b"{\"n\":0}\n\nbroken\n{\"n\":1}\n{\"n\":2}\n{\"n\":3").await;
    let s = ResultSet::open(&t, &at).await.unwrap();
    assert_eq!(s.total_rows(), None);
    assert_eq!(s.count_rows().await.unwrap(), 3);
    assert_eq!(text(&s.page(1, 5).await.unwrap()), [r#"{"n":1}"#, r#"{"n":2}"#]);
}

#[tokio::test]
async fn blobs_skip_lines_from_their_start() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    put(&t, &at, b"{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").await;
    put(&t, &at.index(), &entries(&[(0, 0), (0, 1), (16, 0), (16, 1)])).await;
    let s = ResultSet::open(&t, &at).await.unwrap();
    for k in 0..4 {
        assert_eq!(text(&s.page(k, 1).await.unwrap()), [format!("{{\"n\":{k}}}")]);
    }
}

#[tokio::test]
async fn a_stale_index_is_not_believed() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    put(&t, &at, b"{\"n\":\"abcdef\"}\n{\"n\":1}\n{\"n\":2}\n").await;
    put(&t, &at.index(), &entries(&[(0, 0), (5, 0), (1 << 30, 0)])).await;
    let s = ResultSet::open(&t, &at).await.unwrap();
    assert_eq!(text(&s.page(1, 2).await.unwrap()), [r#"{"n":1}"#, r#"{"n":2}"#]);
    assert_eq!(text(&s.page(2, 1).await.unwrap()), [r#"{"n":2}"#]);
}

#[tokio::test]
async fn rows_changed_in_place() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    // Row 1 became longer and moved; row 2 became shorter and is padded.
    let data = b"{\"n\":0,\"x\":1}\n@48\n          {\"n\":2}\n    {\"n\":3}\n\
        @{\"OriginalIndex\":1,\"Data\":\"eyJuIjoxLCJsb25nIjp0cnVlfQo=\"}\n";
    put(&t, &at, data).await;
    put(&t, &at.index(), &entries(&[(0, 0), (14, 0), (28, 0), (40, 0)])).await;
    let s = ResultSet::open(&t, &at).await.unwrap();
    let all = s.page(0, 10).await.unwrap();
    assert_eq!(
        text(&all),
        [r#"{"n":0,"x":1}"#, r#"{"n":1,"long":true}"#, r#"{"n":2}"#, r#"{"n":3}"#]
    );
    assert_eq!(text(&s.page(1, 1).await.unwrap()), [r#"{"n":1,"long":true}"#]);
    assert_eq!(text(&s.page(2, 1).await.unwrap()), [r#"{"n":2}"#]);
    assert_eq!(text(&s.page(3, 9).await.unwrap()), [r#"{"n":3}"#]);
}

#[tokio::test]
async fn compressed_sets() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    let parts: [&[u8]; 2] = [b"{\"n\":0}\n{\"n\":1}\n", b"{\"n\":2}\n{\"n\":3}\n"];
    let (mut data, mut chunks, mut logical) = (Vec::new(), Vec::new(), 0);
    for p in parts {
        let z = zlib(p);
        let c = Chunk {
            file_offset: logical,
            at: data.len() as u64,
            compressed: z.len() as u64,
            uncompressed: p.len() as u64,
        };
        chunks.extend_from_slice(&c.encode());
        data.extend_from_slice(&z);
        logical += p.len() as u64;
    }
    // The third chunk's data never arrived.
    let lost = Chunk { file_offset: 32, at: data.len() as u64, compressed: 9, uncompressed: 8 };
    chunks.extend_from_slice(&lost.encode());
    put(&t, &at, &data).await;
    put(&t, &at.chunk(), &chunks).await;
    put(&t, &at.index(), &entries(&[(0, 0), (0, 1), (16, 0), (16, 1)])).await;
    let s = ResultSet::open(&t, &at).await.unwrap();
    assert_eq!(s.size(), 32);
    for k in 0..4 {
        assert_eq!(text(&s.page(k, 1).await.unwrap()), [format!("{{\"n\":{k}}}")]);
    }
    assert_eq!(s.scan_rows().await.unwrap(), 4);
}

#[tokio::test]
async fn lines_longer_than_a_block() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    let big = format!("{{\"x\":\"{}\"}}", "y".repeat(700_000));
    let data = format!("{{\"n\":0}}\n{big}\n{{\"n\":2}}\n{big}");
    put(&t, &at, data.as_bytes()).await;
    let s = ResultSet::open(&t, &at).await.unwrap();
    let all = s.page(0, 10).await.unwrap();
    assert_eq!(all.len(), 4, "a whole last row counts without its newline");
    assert_eq!(all[1].len(), big.len());
    assert_eq!(text(&all[2..3]), [r#"{"n":2}"#]);
}

#[tokio::test]
async fn fixture_sets() {
    let Some(t) = fixture() else { return };
    let org = Org::root();
    let client = Client { org: &org, id: "C.4f5e52adf0a337a9" };
    let f = client.flow("F.BN2HJBD1R85EA");
    // The index of this set is stale: row 1 does not start where it says.
    let ups = ResultSet::open(&t, &f.uploads()).await.unwrap();
    assert_eq!(ups.total_rows(), Some(2));
    let pos = ups.positions(0, 2).await.unwrap();
    assert_eq!(pos, [RowPos { offset: 0, skip: 0 }, RowPos { offset: 236, skip: 0 }]);
    let row = ups.page(1, 5).await.unwrap();
    assert_eq!(row.len(), 1);
    assert!(text(&row)[0].contains("\"Type\":\"idx\""));
    let net =
        client.flow("F.BSJMEJIPT6P9I").results("Windows.Network.NetstatEnriched", Some("Netstat"));
    let net = ResultSet::open(&t, &net).await.unwrap();
    assert_eq!((net.total_rows(), net.count_rows().await.unwrap()), (None, 57));
    let logs = ResultSet::open(&t, &f.logs()).await.unwrap();
    assert_eq!((logs.total_rows(), logs.scan_rows().await.unwrap()), (Some(5), 5));
    let hunt = paths::Hunt { org: &org, id: "H.49ba8939" };
    assert_eq!(ResultSet::open(&t, &hunt.clients()).await.unwrap().count_rows().await.unwrap(), 1);
    let cell = paths::Notebook::new(&org, "N.CG74N2JSSV75S").cell("NC.CG74N5GVJAA2E", "");
    let q = ResultSet::open(&t, &cell.query(1)).await.unwrap();
    assert_eq!(q.total_rows(), Some(q.scan_rows().await.unwrap()));
}

/// Writes data, index and chunk index as given and reads everything.
async fn reads_to_the_end(data: &[u8], index: &[u8], chunks: Option<&[u8]>) {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    put(&t, &at, data).await;
    put(&t, &at.index(), index).await;
    if let Some(c) = chunks {
        put(&t, &at.chunk(), c).await;
    }
    let s = ResultSet::open(&t, &at).await.unwrap();
    let _ = s.scan_rows().await;
    for k in 0..s.total_rows().unwrap_or(0).min(4) {
        let _ = s.page(k, 3).await;
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_files_are_read_to_the_end(
        data in proptest::collection::vec(
            proptest::sample::select(b"{}@\n\" :a10".as_slice()), 0..120),
        index in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        claims in proptest::collection::vec((0u64..64, 0u64..40), 0..6),
        chunked in proptest::bool::ANY,
    ) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let limit = std::time::Duration::from_secs(20);
            let (mut file, mut list) = (Vec::new(), Vec::new());
            for (file_offset, len) in &claims {
                let part = &data[..data.len().min(*len as usize)];
                let z = zlib(part);
                let c = Chunk {
                    file_offset: *file_offset,
                    at: file.len() as u64,
                    compressed: z.len() as u64,
                    uncompressed: part.len() as u64,
                };
                list.extend_from_slice(&c.encode());
                file.extend_from_slice(&z);
            }
            let read = async {
                if chunked {
                    reads_to_the_end(&file, &index, Some(&list)).await;
                } else {
                    reads_to_the_end(&data, &index, None).await;
                }
            };
            assert!(tokio::time::timeout(limit, read).await.is_ok(), "does not end");
        });
    }
}

#[tokio::test]
async fn spans_have_the_rows_that_pages_have() {
    let (_d, t) = scratch();
    let at = results(&Org::root());
    let (data, index) = (t.root.file(&at).unwrap(), t.root.file(&at.index()).unwrap());
    let mut w = SetWriter::create(&*t.fs, &data, &index).await.unwrap();
    for n in 0..300 {
        let row = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n % 97));
        w.row(row.as_bytes()).await.unwrap();
        if n % 50 == 0 {
            let blob = Bytes::from_static(b"{\"blob\":1}\n\n{\"blob\":2}\n{\"blob\":3}");
            w.jsonl(&blob).await.unwrap();
        }
    }
    let total = w.finish().await.unwrap().rows;
    let s = ResultSet::open(&t, &at).await.unwrap();
    let want = s.page(0, 1000).await.unwrap();
    assert_eq!(want.len() as u64, total);
    for (count, most) in [(1000, 1 << 20), (7, 1 << 20), (1000, 300), (1, 120)] {
        let mut got: Vec<Bytes> = Vec::new();
        while (got.len() as u64) < total {
            match s.span(got.len() as u64, count, most).await.unwrap() {
                Some(span) => {
                    assert!(!span.is_empty() && span.len() <= count);
                    let lines = span.lines().unwrap();
                    got.extend(lines.into_iter().map(|l| Bytes::copy_from_slice(l.trim_ascii())));
                }
                // One blob larger than that, or a row.
                None => got.extend(s.page(got.len() as u64, 1).await.unwrap()),
            }
        }
        assert_eq!(got, want, "{count} {most}");
    }
    assert!(s.span(total, 5, 1000).await.unwrap().is_none());
}
