//! What does not fit into memory gives the same rows as what does.

use crate::spill::weight;
use crate::{Dict, Registry, Row, Scope, ScopeBuilder, Spill, SpillFile, SpillFiles, Value, run};
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Files in memory; writing fails after so many bytes.
#[derive(Default)]
struct Files {
    made: AtomicUsize,
    written: Arc<AtomicUsize>,
    most: usize,
}

struct Stored(Mutex<Vec<u8>>, Arc<AtomicUsize>, usize);

impl SpillFiles for Files {
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn SpillFile>, String>> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(Stored(Mutex::default(), self.written.clone(), self.most));
        Box::pin(async move { Ok(file as Arc<dyn SpillFile>) })
    }
}

impl SpillFile for Stored {
    fn write(&self, offset: u64, data: Vec<u8>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut held = self.0.lock().unwrap();
            assert_eq!(offset, held.len() as u64);
            if self.1.fetch_add(data.len(), Ordering::Relaxed) + data.len() > self.2 {
                return Err("no space".into());
            }
            held.extend(data);
            Ok(())
        })
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let held = self.0.lock().unwrap();
            let rest = held.get(offset as usize..).unwrap_or_default();
            Ok(rest[..rest.len().min(length)].to_vec())
        })
    }
}

fn scope(limit: usize, most: usize) -> (Scope, Arc<Files>) {
    let files = Arc::new(Files { most, ..Files::default() });
    let spill = Arc::new(Spill { files: files.clone(), limit });
    (ScopeBuilder::new(Arc::new(Registry::standard())).extension(spill).build(), files)
}

fn rows(scope: &Scope, text: &str) -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(run(text, scope)).unwrap()
}

fn json(rows: Vec<Row>) -> Vec<String> {
    rows.into_iter().map(|row| Value::from(row).to_json()).collect()
}

/// Keys that repeat, in no order.
const SOURCE: &str = "LET R = SELECT _value AS N, _value * 7919 - int(int=_value * 7919 / 1009) * 1009 AS K, \
    format(format='text %d', args=_value) AS T, dict(a=_value, b=NULL) AS D FROM range(end=5000) ";

const SCRIPTS: &[&str] = &[
    "SELECT * FROM R ORDER BY K",
    "SELECT * FROM R ORDER BY K DESC",
    "SELECT * FROM R ORDER BY T",
    "SELECT if(condition=N > 4000, else=K) AS K, N FROM R ORDER BY K",
    "SELECT N, Missing FROM R ORDER BY Nothing LIMIT 20",
    "SELECT K, count() AS C, sum(item=N) AS S, enumerate(items=N) AS E FROM R GROUP BY K",
    "SELECT K, max(item=N) AS M, T FROM R WHERE N != 3 GROUP BY K, N > 2500 ORDER BY M DESC",
    "SELECT N FROM R GROUP BY T LIMIT 7",
    "LET X <= SELECT * FROM R SELECT * FROM X WHERE K < 50",
    "LET X <= SELECT * FROM R SELECT count() AS C FROM X GROUP BY 1",
    "LET X <= SELECT * FROM R SELECT X.N[1:4] AS A, X[7].T AS B, 77 IN X.N AS C, X.D[3].a AS D FROM scope()",
    "LET X <= SELECT * FROM R SELECT * FROM foreach(row=X, query={ SELECT N, D FROM scope() WHERE K = 5 })",
];

#[test]
fn the_answers_are_the_same() {
    for script in SCRIPTS {
        let text = format!("{SOURCE}{script}");
        let (whole, files) = scope(usize::MAX, usize::MAX);
        let expected = json(rows(&whole, &text));
        assert_eq!(files.made.load(Ordering::Relaxed), 0);
        assert!(!expected.is_empty(), "{script}");
        // One row is some 1000 bytes: from a handful of files to a hundred.
        for limit in [8_000, 60_000, 1_000_000] {
            let (small, files) = scope(limit, usize::MAX);
            assert_eq!(json(rows(&small, &text)), expected, "{script} at {limit}");
            let made = files.made.load(Ordering::Relaxed);
            assert!(made > 0 || limit > 100_000, "{script} at {limit} stayed in memory");
        }
    }
}

#[test]
fn more_bins_than_keep_their_order() {
    let text = "SELECT _value FROM range(end=40000) GROUP BY _value";
    let expected = json(rows(&scope(usize::MAX, usize::MAX).0, text));
    let (small, files) = scope(2_000_000, usize::MAX);
    assert_eq!(json(rows(&small, text)), expected);
    assert!(files.made.load(Ordering::Relaxed) > 1);
    assert_eq!(expected[1], "{\"_value\":1}");
    assert_eq!(expected[2], "{\"_value\":10}");
}

#[test]
fn without_room_everything_stays_in_memory() {
    for script in SCRIPTS {
        let text = format!("{SOURCE}{script}");
        let expected = json(rows(&scope(usize::MAX, usize::MAX).0, &text));
        for most in [0, 300_000] {
            let (full, _) = scope(60_000, most);
            assert_eq!(json(rows(&full, &text)), expected, "{script} with {most} bytes of room");
        }
    }
}

#[test]
fn every_kind_of_value_comes_back() {
    let script = "LET Q = SELECT 1 AS A FROM scope() \
        LET X <= SELECT NULL AS Nothing, TRUE AS B, -5 AS I, 18446744073709551615 AS U, 1.5 AS F, \
            'x\\xffy' AS S, timestamp(epoch=1.25) AS T, (1, (2, NULL), 'z') AS L, \
            { SELECT * FROM scope() WHERE FALSE } AS Nil, dict(a=dict(b=1)) AS D, _value \
          FROM range(end=300) \
        SELECT * FROM X WHERE _value = 299";
    let expected = json(rows(&scope(usize::MAX, usize::MAX).0, script));
    let (small, files) = scope(5_000, usize::MAX);
    assert_eq!(json(rows(&small, script)), expected);
    assert_eq!(files.made.load(Ordering::Relaxed), 1);
    assert!(expected[0].contains(r#""Nil":null"#) && expected[0].contains(r#"\ufffd"#));
}

#[test]
fn weights_grow_with_content() {
    let text = |n: usize| weight(&Value::from("x".repeat(n)));
    assert!(text(1000) > text(10) + 900);
    let dict = Dict::new().with("a", "x".repeat(1000));
    assert!(weight(&dict.into()) > 1000);
}
