//! Endings: cancellation, time and row limits, LIMIT, consumers which leave.

use super::scope;
use crate::{Dict, Limits, Registry, ScopeBuilder, Signature, eval, parse};
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ENDLESS: &str = "SELECT * FROM range(end=9000000000000) WHERE FALSE";

fn all(script: &str, limits: Limits) -> (usize, Vec<String>, Duration) {
    let (scope, lines) = scope();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let rows = eval(parse(script).unwrap(), &scope, limits).count().await;
        (rows, lines.lock().unwrap().clone(), start.elapsed())
    })
}

#[test]
fn a_timeout_ends_a_busy_query_at_once() {
    for script in [
        ENDLESS,
        "SELECT * FROM foreach(row={SELECT * FROM range(end=9000000000000)}, query={SELECT 1 FROM scope() WHERE FALSE})",
        "SELECT count() FROM range(end=9000000000000) GROUP BY 1",
        "LET X <= SELECT * FROM range(end=9000000000000) WHERE FALSE",
        "SELECT * FROM flatten(query={SELECT X AS A, X AS B, X AS C, X AS D FROM scope()}) WHERE FALSE",
        "SELECT sleep(time=1000) FROM scope()",
    ] {
        let script = format!("LET X <= SELECT * FROM range(end=1000) {script}");
        let limits = Limits { timeout: Some(Duration::from_millis(200)), rows: None };
        let (_, log, took) = all(&script, limits);
        assert!(log.iter().any(|l| l.contains("timed out")), "{script}: {log:?}");
        assert!(took < Duration::from_millis(300), "{script}: {took:?}");
    }
}

#[test]
fn rows_before_a_timeout_are_kept() {
    let limits = Limits { timeout: Some(Duration::from_millis(50)), rows: None };
    let script = "SELECT _value, sleep(time=_value * 10) AS S FROM range(end=2)";
    let (rows, _, _) = all(script, limits);
    assert_eq!(rows, 1);
}

#[test]
fn cancelling_ends_a_busy_query_within_100_ms() {
    let token = CancellationToken::new();
    let registry = Arc::new(Registry::standard());
    let scope = ScopeBuilder::new(registry).cancel(token.clone()).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let canceller = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            token.cancel();
            tokio::time::Instant::now()
        };
        let query = async {
            let rows = eval(parse(ENDLESS).unwrap(), &scope, Limits::default()).count().await;
            (rows, tokio::time::Instant::now())
        };
        let (cancelled, (rows, ended)) = tokio::join!(canceller, query);
        assert_eq!(rows, 0);
        assert!(ended - cancelled < Duration::from_millis(100));
    });
}

#[test]
fn a_row_limit_ends_the_run() {
    let limits = Limits { timeout: None, rows: Some(7) };
    let (rows, log, _) = all("SELECT * FROM range(end=9000000000000)", limits);
    assert_eq!(rows, 7);
    assert!(log[0].contains("Row limit"), "{log:?}");
}

#[test]
fn limit_stops_the_plugin() {
    let dropped = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    struct Guard(Arc<AtomicBool>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let mut registry = Registry::standard();
    let (flag, count) = (dropped.clone(), sent.clone());
    registry.plugin_async(Signature::new("endless", ""), move |_, _, emitter| {
        let (guard, count) = (Guard(flag.clone()), count.clone());
        async move {
            let _guard = guard;
            loop {
                emitter.send(Dict::new().with("N", 1)).await?;
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let scope = ScopeBuilder::new(Arc::new(registry)).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let rows = runtime.block_on(crate::run("SELECT * FROM endless() LIMIT 3", &scope)).unwrap();
    assert_eq!(rows.len(), 3);
    assert!(dropped.load(Ordering::SeqCst));
    assert!(sent.load(Ordering::SeqCst) < 50);
}

#[test]
fn cleanups_run_newest_first_when_the_session_ends() {
    let (scope, lines) = scope();
    for name in ["first", "second"] {
        let lines = lines.clone();
        scope.child().on_close(move || lines.lock().unwrap().push(name.into()));
    }
    drop(scope);
    assert_eq!(*lines.lock().unwrap(), ["second", "first"]);
}

#[test]
fn extensions_are_found_by_type_and_inherited() {
    let registry = Arc::new(Registry::standard());
    let scope = ScopeBuilder::new(registry).extension(Arc::new(5u32)).build();
    assert_eq!(scope.child().extension::<u32>().as_deref(), Some(&5));
    let inner = scope.with_extension(Arc::new(6u32)).child();
    assert_eq!(inner.isolated().extension::<u32>().as_deref(), Some(&6));
    assert!(inner.extension::<u64>().is_none());
    assert!(scope.resolve("nothing").is_none());
}

#[test]
fn the_deepest_allowed_texts_evaluate() {
    const LEVELS: usize = 120;
    let nest = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(LEVELS), close.repeat(LEVELS))
    };
    assert_eq!(super::value(&nest("(", "1", ")")), "1");
    assert_eq!(super::value(&nest("if(condition=1, then=", "7", ")")), "7");
    assert_eq!(super::value(&nest("NOT ", "7", "")), "true");
    let rows = super::rows(&format!(
        "SELECT {} FROM scope()",
        nest("{ SELECT ", "5 AS X FROM scope()", "} AS X FROM scope()")
            .strip_suffix(" FROM scope()")
            .unwrap()
    ));
    assert_eq!(rows, r#"[{"X":5}]"#);
    let rows = super::rows(&nest(
        "SELECT * FROM if(condition=1, then={",
        "SELECT 1 AS A FROM scope()",
        "})",
    ));
    assert_eq!(rows, r#"[{"A":1}]"#);
}

#[test]
fn recursion_over_deep_texts_ends_without_harm() {
    const LEVELS: usize = 110;
    for (open, close) in [("(", ")"), ("if(condition=1, then=", ")"), ("NOT ", "")] {
        let body = format!("{}f(x=x){}", open.repeat(LEVELS), close.repeat(LEVELS));
        let script = format!("LET f(x) = {body} SELECT f(x=1) AS A FROM scope()");
        let (_, log) = super::rows_and_log(&script);
        assert!(log.iter().any(|l| l.contains("Stack Overflow")), "{open}: {log:?}");
    }
    let (_, log) = super::rows_and_log(
        "LET f(x) = eval(func='y=>f(x=y)', args=x) SELECT f(x=1) AS A FROM scope()",
    );
    assert!(log.iter().any(|l| l.contains("Stack Overflow")), "{log:?}");
}
