//! Every callable of the language that may go on for long ends soon after its
//! query is cancelled. How soon is counted in rows, not in time: between two
//! looks at the cancellation there are a few hundred at most.

use crate::{Limits, Registry, Reply, ScopeBuilder, Throttle, eval, parse};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Rows after which the query is cancelled, and rows it may go on for.
const CANCEL_AT: u64 = 2_000;
const GRACE: u64 = 1_000;

/// Scripts without end by the plugin they are about.
const ENDLESS: &[(&str, &str)] = &[
    ("range", "SELECT * FROM range(end=9000000000000)"),
    ("foreach", "SELECT * FROM foreach(row=R, query={ SELECT 1 FROM scope() WHERE FALSE })"),
    ("foreach", "SELECT * FROM foreach(row=R, workers=3, query={ SELECT 1 FROM scope() })"),
    ("foreach", "SELECT * FROM foreach(row={ SELECT * FROM scope() }, query=R)"),
    ("chain", "SELECT * FROM chain(a={ SELECT * FROM R WHERE FALSE }, b=R)"),
    ("chain", "SELECT * FROM chain(a=R, b=R, async=TRUE)"),
    ("combine", "SELECT * FROM combine(a=R, b=R)"),
    ("switch", "SELECT * FROM switch(a={ SELECT * FROM R WHERE FALSE }, b=R)"),
    ("if", "SELECT * FROM if(condition=TRUE, then=R)"),
    ("if", "SELECT * FROM if(condition={ SELECT * FROM R WHERE FALSE }, then=R)"),
    ("flatten", "SELECT * FROM flatten(query=R)"),
    (
        "flatten",
        "SELECT * FROM flatten(query={ SELECT L AS A, L AS B, L AS C, L AS D FROM scope() })",
    ),
    ("items", "SELECT * FROM foreach(row=R, query={ SELECT * FROM items(item=L) })"),
    ("query", "SELECT * FROM query(query={ SELECT * FROM range(end=9000000000000) })"),
    ("dedup", "SELECT * FROM dedup(query=R, key='_value')"),
    ("delay", "SELECT * FROM delay(query=R, delay=1)"),
    (
        "fifo",
        "SELECT * FROM foreach(row=R, query={ SELECT * FROM fifo(query={ SELECT * FROM L }) })",
    ),
    ("scope", "SELECT * FROM foreach(row=R, query={ SELECT * FROM scope() })"),
    (
        "parse_csv",
        "SELECT * FROM foreach(row=R, query={ SELECT * FROM parse_csv(filename='a\\n1\\n', accessor='data') })",
    ),
    ("batch", "SELECT * FROM batch(query=R, batch_size=10)"),
    ("batch", "SELECT * FROM batch(query=R, batch_func='x=>x._value = 900')"),
    ("column_filter", "SELECT * FROM column_filter(query=R, include='.')"),
    (
        "sequence",
        "SELECT * FROM sequence(a=R, max_age=1, query={ SELECT * FROM scope() WHERE FALSE })",
    ),
    ("sample", "SELECT * FROM sample(query=R, n=1000000)"),
    // Parts of a query.
    ("", "SELECT * FROM R WHERE FALSE"),
    ("", "SELECT count() AS N FROM R GROUP BY 1"),
    ("", "SELECT _value FROM R GROUP BY _value"),
    ("", "SELECT _value FROM R ORDER BY _value DESC"),
    ("", "LET X <= SELECT * FROM R"),
    ("", "SELECT { SELECT * FROM R } AS X FROM scope()"),
    // Functions that take all rows of a query.
    ("", "SELECT len(list=R._value) AS N FROM scope()"),
    ("", "SELECT join(array=R, sep=',') AS J FROM scope()"),
    (
        "",
        "SELECT to_dict(item={ SELECT str(str=_value) AS _key, 1 AS _value FROM R }) FROM scope()",
    ),
    ("", "SELECT filter(list=R, condition='x=>FALSE') AS F FROM scope()"),
    ("", "SELECT array(a=R) AS A, serialize(item=R) AS S FROM scope()"),
    ("", "SELECT enumerate(items=_value) AS E FROM R WHERE FALSE"),
    ("", "LET f(n) = SELECT * FROM R WHERE FALSE SELECT * FROM f(n=1)"),
    ("", "LET G = generate(name='g', query=R) SELECT * FROM G"),
];

/// Plugins that give what they are given, once.
const FINITE: &[&str] = &["parse_json_array"];

struct CancelAt(CancellationToken, AtomicU64);

impl Throttle for CancelAt {
    fn charge(&self, ops: u64) -> Reply<()> {
        if self.1.fetch_add(ops, Ordering::Relaxed) == CANCEL_AT {
            self.0.cancel();
        }
        Reply::Ready(())
    }
}

#[test]
fn every_callable_that_may_go_on_for_ever_ends_when_cancelled() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (_, script) in ENDLESS {
        let cancel = CancellationToken::new();
        let throttle = Arc::new(CancelAt(cancel.clone(), AtomicU64::new(0)));
        let scope = ScopeBuilder::new(Arc::new(Registry::standard()))
            .cancel(cancel)
            .throttle(throttle.clone())
            .build();
        let text = format!(
            "LET R = SELECT * FROM range(end=9000000000000) \
             LET L <= SELECT * FROM range(end=100) {script}"
        );
        let run = async {
            eval(parse(&text).unwrap(), &scope, Limits::default()).for_each(|_| async {}).await;
        };
        let deadline = Duration::from_secs(120);
        let ended = runtime.block_on(async { tokio::time::timeout(deadline, run).await });
        assert!(ended.is_ok(), "{script}: goes on");
        let ops = throttle.1.load(Ordering::Relaxed);
        assert!(ops >= CANCEL_AT, "{script}: ended by itself after {ops}");
        assert!(ops < CANCEL_AT + GRACE, "{script}: {} rows more", ops - CANCEL_AT);
        scope.close();
    }
}

#[test]
fn all_plugins_are_looked_at() {
    let known: BTreeSet<&str> =
        ENDLESS.iter().map(|(name, _)| *name).chain(FINITE.iter().copied()).collect();
    let registry = Registry::standard();
    let missing: Vec<&str> =
        registry.plugins().map(|p| p.name).filter(|name| !known.contains(name)).collect();
    assert!(missing.is_empty(), "no script for {missing:?}");
}
