//! Deliveries to a store that fails in every way, from a server that is killed.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // the store is a real one

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;

use super::*;
use crate::services::Options;
use crate::store::StoreRoot;

/// What the store has, and how it answers next.
#[derive(Default)]
struct Seen {
    /// Rows by id, with how often each came.
    rows: BTreeMap<String, u64>,
    /// Numbers in the order in which they came first.
    order: Vec<u64>,
    tokens: BTreeSet<String>,
    batches: BTreeSet<String>,
    requests: u64,
}

#[derive(Clone, Default)]
struct Store(Arc<Mutex<Seen>>);

impl Store {
    fn with<T>(&self, f: impl FnOnce(&mut Seen) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has(&self) -> usize {
        self.with(|s| s.rows.len())
    }
}

/// Takes some, refuses some; of some it does not say that it has taken them.
async fn take(State(store): State<Store>, headers: HeaderMap, body: String) -> impl IntoResponse {
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    store.with(|s| {
        s.requests += 1;
        s.tokens.extend(text("x-token"));
        let rows: Vec<serde_json::Value> =
            body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        if s.requests % 5 == 1 {
            return (StatusCode::SERVICE_UNAVAILABLE, "not now");
        }
        if rows.iter().any(|r| r["N"] == 7) {
            return (StatusCode::BAD_REQUEST, "no sevens");
        }
        s.batches.extend(text("idempotency-key"));
        for row in rows {
            let id = row["_Id"].as_str().unwrap().to_owned();
            let n = row["N"].as_u64().unwrap();
            let times = s.rows.entry(id).or_default();
            *times += 1;
            if *times == 1 {
                s.order.push(n);
            }
        }
        match s.requests % 7 {
            3 => (StatusCode::INTERNAL_SERVER_ERROR, "taken, and not said"),
            _ => (StatusCode::OK, ""),
        }
    })
}

/// Listens at `port`, or at any; gives the port and how to end it.
async fn listen(store: &Store, port: u16) -> (u16, CancellationToken) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().route("/rows", post(take)).with_state(store.clone());
    let stop = CancellationToken::new();
    let ended = stop.clone();
    tokio::spawn(async move {
        loop {
            let (conn, _) = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                conn = listener.accept() => conn.unwrap(),
            };
            let service = TowerToHyperService::new(app.clone());
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(conn), service));
        }
    });
    (port, stop)
}

async fn open(dir: &std::path::Path, to: &settings::Forward) -> (Arc<Server>, CancellationToken) {
    let root = StoreRoot::single(dir.to_str().unwrap());
    let mut options = Options { forward: vec![sink(to)], ..Options::default() };
    // The process before is not waited for: it does not end by itself here.
    options.standing.term.takeover = true;
    let server = Server::open(crate::env::real::env(), root, options).await.unwrap();
    let stop = CancellationToken::new();
    let backlog = server.backlogs.all()[0].clone();
    tokio::spawn(run(server.clone(), backlog, to.clone(), stop.clone()));
    (server, stop)
}

async fn push(server: &Server, n: u64) {
    let rows = Bytes::from(format!("{{\"N\":{n}}}\n"));
    server.push_events(&server.root(), "C.1", "Custom.Beat", rows).await.unwrap();
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(240), waiting).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_arrives_in_order_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("headers");
    std::fs::write(&token, "# of the store\nX-Token: first\n").unwrap();
    let store = Store::default();
    let (port, away) = listen(&store, 0).await;
    let to = settings::Forward {
        name: "siem".into(),
        url: format!("http://127.0.0.1:{port}/rows"),
        artifacts: vec!["Custom.Beat".into()],
        headers_file: token.to_str().unwrap().into(),
        batch_rows: 10,
        timeout_seconds: 10,
        ..settings::Forward::default()
    };
    let (server, killed) = open(dir.path(), &to).await;
    for n in 0..40 {
        push(&server, n).await;
    }
    until("some arrive", || store.has() >= 20).await;
    // The server is killed, wherever it is, and the store goes away.
    killed.cancel();
    away.cancel();
    drop(server);
    let (server, killed) = open(dir.path(), &to).await;
    for n in 40..80 {
        push(&server, n).await;
    }
    let backlog = server.backlogs.all()[0].clone();
    until("attempts fail", || backlog.failures.load(Ordering::Relaxed) > 0).await;
    assert!(backlog.owed().0 >= 40);
    // Killed while the store is away; a clean stop settles what is owed.
    killed.cancel();
    server.settle_all().await;
    drop((server, backlog));
    std::fs::write(&token, "X-Token: second\n").unwrap();
    let (_, away) = listen(&store, port).await;
    let (server, killed) = open(dir.path(), &to).await;
    for n in 80..100 {
        push(&server, n).await;
    }
    let backlog = server.backlogs.all()[0].clone();
    until("all is delivered", || backlog.owed().0 == 0).await;
    let order = store.with(|s| s.order.clone());
    let expected: Vec<u64> = (0..100).filter(|n| *n != 7).collect();
    assert_eq!(order, expected);
    store.with(|s| {
        // Some came twice, and could be known by their ids.
        assert!(s.rows.values().any(|times| *times > 1));
        assert_eq!(s.tokens, ["first", "second"].map(str::to_owned).into());
        assert!(!s.batches.is_empty());
    });
    // The one that is never taken was left out; that is counted by the process that
    // met it.
    assert_eq!(backlog.lag(u64::MAX), 0);
    killed.cancel();
    away.cancel();
}

#[tokio::test]
async fn headers_that_are_none_are_named_without_their_value() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    std::fs::write(&file, "Good: x\nsecret without a name\n").unwrap();
    let root = StoreRoot::single(dir.path().to_str().unwrap());
    let server = Server::open(crate::env::real::env(), root, Options::default()).await.unwrap();
    let to = settings::Forward {
        headers_file: file.to_str().unwrap().into(),
        ..settings::Forward::default()
    };
    let e = headers(&server, &to).await.unwrap_err().to_string();
    assert!(e.contains("headers:2") && !e.contains("secret"), "{e}");
}
