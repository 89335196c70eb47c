use super::*;
use crate::env::fs::create_synced;
use crate::store::path::{FilePath, Org};
use crate::store::paths::{EventKind, Events};
use crate::store::resultset::TimedWriter;
use crate::store::testing::{fixture, scratch};

const NOON: i64 = 1_767_355_200_000_000_000; // 2026-01-02T12:00:00Z

async fn write(t: &Tree, at: &FilePath, rows: &[(i64, &str)]) {
    let (data, index) = (t.root.file(at).unwrap(), t.root.file(&at.time_index()).unwrap());
    let mut w = TimedWriter::create(&*t.fs, &data, &index).await.unwrap();
    for (nanos, row) in rows {
        w.row(*nanos, row.as_bytes()).await.unwrap();
    }
    assert_eq!(w.finish().await.unwrap().rows, rows.len() as u64);
}

async fn put(t: &Tree, at: &FilePath, data: &[u8]) {
    create_synced(&*t.fs, &t.root.file(at).unwrap(), data).await.unwrap();
}

async fn collect(mut r: TimedRows) -> Vec<(i64, String)> {
    let mut out = Vec::new();
    while let Some(row) = r.next().await.unwrap() {
        out.push((row.nanos, String::from_utf8(row.row.to_vec()).unwrap()));
    }
    out
}

#[test]
fn dates() {
    assert_eq!(date_in("2026-01-02").unwrap().to_string(), "2026-01-02");
    assert_eq!(date_in("2026-01-02.minion-a.00000001-9f").unwrap().to_string(), "2026-01-02");
    assert_eq!(date_in("2026-01-02.2026-01-03"), None);
    assert_eq!(date_in("2026-13-02"), None);
    assert_eq!(date_in("sorted"), None);
    assert_eq!(day_of(NOON), "2026-01-02");
    assert_eq!(day_of(-1), "1969-12-31");
    assert_eq!(day_start(date_in("2026-01-02").unwrap()) + DAY_NANOS / 2, NOON);
}

#[test]
fn ts_is_replaced_in_milliseconds() {
    let r = TimedRow {
        nanos: NOON + 1_999_999,
        row: Bytes::from_static(br#"{"_ts":1,"a":18446744073709551615}"#),
    };
    // Last, as stock shows it, wherever it is stored.
    assert_eq!(r.shown(), &br#"{"a":18446744073709551615,"_ts":1767355200001}"#[..]);
    assert_eq!(with_ts(&Bytes::from_static(br#"{"a":1}"#), 5), &br#"{"a":1,"_ts":5}"#[..]);
    assert_eq!(with_ts(&Bytes::from_static(b"x"), 5), &b"x"[..]);
}

#[tokio::test]
async fn union_of_nodes_in_time_order() {
    let (_d, t) = scratch();
    let org = Org::root();
    let e = Events::client(&org, "C.1", "A/S", EventKind::Rows);
    write(&t, &e.day("2026-01-02"), &[(NOON, "{\"p\":0}"), (NOON + 5, "{\"p\":5}")]).await;
    write(
        &t,
        &e.day_of("2026-01-02", "a", "1"),
        &[(NOON + 2, "{\"a\":2}"), (NOON + 5, "{\"a\":5}")],
    )
    .await;
    write(&t, &e.day_of("2026-01-01", "a", "1"), &[(NOON - DAY_NANOS, "{\"a\":-1}")]).await;
    put(&t, &e.day("other"), b"{\"x\":1}\n").await;
    let set = TimedSet::open(&t, &e.dir()).await.unwrap();
    assert_eq!(set.files().len(), 3);
    let all: Vec<String> = collect(set.all()).await.into_iter().map(|r| r.1).collect();
    assert_eq!(all, ["{\"a\":-1}", "{\"p\":0}", "{\"a\":2}", "{\"p\":5}", "{\"a\":5}"]);
    let some = collect(set.rows(NOON + 1, NOON + 5)).await;
    assert_eq!(some, [(NOON + 2, "{\"a\":2}".into())]);
    assert!(collect(set.rows(NOON + 6, NOON + DAY_NANOS * 3)).await.is_empty());
    let days = set.count_by_day().await.unwrap();
    assert_eq!(
        days.into_iter().collect::<Vec<_>>(),
        [("2026-01-01".into(), 1), ("2026-01-02".into(), 4)]
    );
}

#[tokio::test]
async fn stock_offsets_orphans_and_missing_indexes() {
    let (_d, t) = scratch();
    let org = Org::root();
    let e = Events::client(&org, "C.1", "A", EventKind::Rows);
    let entry = |nanos: i64, offset: u64| TimeEntry { nanos, offset, annotation: 0 }.encode();
    // A blob of two rows (the second entry one byte early) after an entry whose
    // row was never written, and a row without any entry.
    let day = e.day("2026-01-02");
    put(&t, &day, b"{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n{\"n\":3,\"_ts\":1767355201}\n{\"torn").await;
    let index = [entry(NOON, 0), entry(1, 8), entry(NOON + 1, 8), entry(NOON + 1, 15)].concat();
    put(&t, &day.time_index(), &index).await;
    let set = TimedSet::open(&t, &e.dir()).await.unwrap();
    let got = collect(set.all()).await;
    assert_eq!(
        got.iter().map(|r| r.0).collect::<Vec<_>>(),
        [NOON, NOON + 1, NOON + 1, NOON + 1_000_000_000]
    );
    assert_eq!(collect(set.rows(NOON + 1, i64::MAX)).await.len(), 3);
    assert_eq!(collect(set.rows(NOON + 2, i64::MAX)).await.len(), 1);
    // No index at all: the rows' own seconds; rows without are dropped.
    let day = e.day("2026-01-03");
    put(&t, &day, b"{\"_ts\":1767441600}\n{\"a\":1}\n{\"_ts\":1767441601.5}\n").await;
    let set = TimedSet::open(&t, &e.dir()).await.unwrap();
    let got = collect(set.rows(NOON + DAY_NANOS / 2, i64::MAX)).await;
    let times: Vec<i64> = got.iter().map(|r| r.0).collect();
    assert_eq!(times, [1_767_441_600_000_000_000, 1_767_441_601_500_000_000]);
}

#[tokio::test]
async fn fixture_events() {
    let Some(t) = fixture() else { return };
    let org = Org::root();
    let c = "C.4f5e52adf0a337a9";
    let e = Events::client(&org, c, "Generic.Client.Stats", EventKind::Rows);
    let rows = collect(TimedSet::open(&t, &e.dir()).await.unwrap().all()).await;
    assert_eq!(rows.len(), 5);
    let first: Vec<i64> = rows.iter().map(|r| r.0).take(3).collect();
    assert_eq!(
        first,
        [1_638_919_340_623_522_608, 1_638_919_344_935_278_726, 1_638_919_349_247_030_686]
    );
    assert_eq!(rows[0].1.len(), 98);
    let e = Events::client(&org, c, "Windows.Events.ProcessCreation", EventKind::Rows);
    assert_eq!(collect(TimedSet::open(&t, &e.dir()).await.unwrap().all()).await.len(), 6);
    // One old day with a row index, one with a time index.
    let e = Events::server(&org, "Server.Monitor.Health/Prometheus", EventKind::Rows);
    let days = TimedSet::open(&t, &e.dir()).await.unwrap().count_by_day().await.unwrap();
    let want = [("2020-11-08".to_owned(), 227), ("2023-09-07".to_owned(), 10)];
    assert_eq!(days.into_iter().collect::<Vec<_>>(), want);
}
