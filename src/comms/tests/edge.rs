//! What comes before HTTP: TLS, PROXY headers, shedding.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::net::{Raw, memory};
use super::{Pki, Running, Setup, start};
use crate::comms::server::{
    AcceptLimits, ConnHandler, Metrics, PeerInfo, Serve, Stop, WebHandler, serve,
};
use crate::comms::tls::{self, Alpn, Identity};
use crate::env::{Env, Side};

async fn tls_connect(
    env: &Env,
    pki: &Pki,
    s: &Running,
    only12: bool,
    id: Option<&Identity>,
) -> std::io::Result<Raw> {
    let roots = tls::roots([pki.ca_pem().as_str()]).unwrap();
    let config = if only12 {
        let c = rustls::ClientConfig::builder_with_provider(env.crypto.clone())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(c)
    } else {
        tls::client_config(env, roots, id, Alpn::Http1).unwrap()
    };
    let io = env.net.connect("x", s.port).await?;
    let name = ServerName::try_from("VelociraptorServer").unwrap();
    let io = TlsConnector::from(config).connect(name, io).await?;
    Ok(Raw(Box::pin(io), Vec::new()))
}

#[tokio::test(start_paused = true)]
async fn versions_and_client_certificates() {
    let (env, pki) = (memory(), Pki::new());
    let strict = Setup { tls: Some(pki.server_tls(&env, false, false)), ..Setup::default() };
    let s = start(&env, strict).await;
    assert!(tls_connect(&env, &pki, &s, true, None).await.is_err(), "1.2 is refused");
    let mut c = tls_connect(&env, &pki, &s, false, None).await.unwrap();
    c.post("/control", "", b"x").await;
    assert_eq!(c.response().await.0, 200);
    assert!(s.script.seen.lock().unwrap()[0].0.certificate.is_none());
    let weak = Setup { tls: Some(pki.server_tls(&env, true, false)), ..Setup::default() };
    let s = start(&env, weak).await;
    let mut c = tls_connect(&env, &pki, &s, true, None).await.unwrap();
    c.post("/control", "", b"x").await;
    assert_eq!(c.response().await.0, 200);
    // Client certificates: TLS 1.3 reports the refusal on the first read.
    let mutual = Setup { tls: Some(pki.server_tls(&env, false, true)), ..Setup::default() };
    let s = start(&env, mutual).await;
    let stranger = Pki::new().issue("client");
    for id in [None, Some(&stranger)] {
        if let Ok(mut c) = tls_connect(&env, &pki, &s, false, id).await {
            let _ = c.write("GET /healthz HTTP/1.1\r\n\r\n").await;
            assert!(c.rest().await.is_empty());
        }
    }
    assert_eq!(s.metrics.handshake_failures.load(Ordering::Relaxed), 2);
    let mine = pki.issue("laptop");
    let mut c = tls_connect(&env, &pki, &s, false, Some(&mine)).await.unwrap();
    c.post("/control", "", b"x").await;
    assert_eq!(c.response().await.0, 200);
    let seen = s.script.seen.lock().unwrap();
    assert_eq!(seen[0].0.certificate.as_ref(), Some(&mine.chain[0]));
}

#[tokio::test(start_paused = true)]
async fn proxy_header_comes_before_tls() {
    let (env, pki) = (memory(), Pki::new());
    let tls = Some(pki.server_tls(&env, false, false));
    let s = start(&env, Setup { tls, proxy_protocol: true, ..Setup::default() }).await;
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\x00\x71\x09\x0a\0\0\x01\x12\x67\x01\xbb";
    let mut io = env.net.connect("x", s.port).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut io, header).await.unwrap();
    let roots = tls::roots([pki.ca_pem().as_str()]).unwrap();
    let config = tls::client_config(&env, roots, None, Alpn::Http1).unwrap();
    let name = ServerName::try_from("VelociraptorServer").unwrap();
    let io = TlsConnector::from(config).connect(name, io).await.unwrap();
    let mut c = Raw(Box::pin(io), Vec::new());
    c.post("/control", "", b"x").await;
    assert_eq!(c.response().await.0, 200);
    assert_eq!(s.script.seen.lock().unwrap()[0].0.remote, "203.0.113.9:4711");
    assert!(tls_connect(&env, &pki, &s, false, None).await.is_err(), "header is mandatory");
}

#[tokio::test(start_paused = true)]
async fn rate_number_and_silence_are_shed_before_tls() {
    let (env, pki) = (memory(), Pki::new());
    let accept = AcceptLimits {
        max_connections: 3,
        connections_per_second: 2,
        connection_burst: 4,
        connection_wait: Duration::ZERO,
        handshake_timeout: Duration::from_secs(7),
    };
    let tls = Some(pki.server_tls(&env, false, false));
    let s = start(&env, Setup { tls, accept, ..Setup::default() }).await;
    let count = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(Raw::connect(&env, s.port).await);
    }
    let t = Instant::now();
    assert!(silent[3].rest().await.is_empty());
    assert_eq!((t.elapsed().as_secs(), count(&s.metrics.shed)), (0, 1), "number");
    assert!(silent[0].rest().await.is_empty());
    assert_eq!((t.elapsed().as_secs(), count(&s.metrics.handshake_failures)), (7, 3), "silence");
    let mut open = 0;
    for _ in 0..6 {
        open += u32::from(tls_connect(&env, &pki, &s, false, None).await.is_ok());
    }
    assert_eq!((open, count(&s.metrics.shed)), (4, 3), "rate");
}

#[tokio::test(start_paused = true)]
async fn a_herd_waits_for_its_turns_before_tls() {
    let (env, pki) = (memory(), Pki::new());
    let accept = AcceptLimits {
        connections_per_second: 10,
        connection_burst: 5,
        connection_wait: Duration::from_secs(3),
        ..AcceptLimits::default()
    };
    let tls = Some(pki.server_tls(&env, false, false));
    let s = Arc::new(start(&env, Setup { tls, accept, ..Setup::default() }).await);
    let pki = Arc::new(pki);
    let t = Instant::now();
    let come = |_| {
        let (env, pki, s) = (env.clone(), pki.clone(), s.clone());
        tokio::spawn(async move {
            let up = tls_connect(&env, &pki, &s, false, None).await.is_ok();
            (up, t.elapsed().as_millis())
        })
    };
    let all: Vec<_> = (0..60).map(come).collect();
    let mut up = Vec::new();
    for one in all {
        let (ok, at) = one.await.unwrap();
        match ok {
            true => up.push(at),
            false => assert!(at < 100, "those who would wait too long are told at once: {at}"),
        }
    }
    up.sort_unstable();
    // Five at once, then ten a second for as long as they may wait.
    assert!((34..=36).contains(&up.len()), "{}", up.len());
    assert!(up[..4].iter().all(|at| *at < 50), "{up:?}");
    let most = up.iter().map(|at| up.iter().filter(|o| (*at..at + 1000).contains(o)).count());
    assert!(most.max() <= Some(15), "a burst and a second's worth at most: {up:?}");
    assert!(up.last().is_some_and(|at| (2900..3300).contains(at)), "{up:?}");
    let turns = &s.metrics.turns;
    let count = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    assert_eq!((count(&turns.passed), count(&turns.waiting)), (up.len() as u64, 0));
    assert_eq!(count(&turns.refused), 60 - up.len() as u64);
    assert!(count(&turns.waited) > 30_000_000);
}

#[tokio::test(start_paused = true)]
async fn routers_know_their_peer_and_drain() {
    let (env, pki) = (memory(), Pki::new());
    let app = Router::new().route(
        "/who",
        get(|axum::Extension(p): axum::Extension<PeerInfo>| async move {
            use x509_parser::prelude::FromDer;
            let der = p.certificate.unwrap();
            let (_, c) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
            c.subject().to_string()
        }),
    );
    let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let setup = Serve {
        tls: Some(pki.server_tls(&env, false, true)),
        proxy_protocol: false,
        limits: AcceptLimits::default(),
        metrics: Arc::new(Metrics::default()),
        side: Side::Gui,
        stop: Stop { token: stop.clone(), grace: Duration::from_secs(5) },
    };
    let handler: Arc<dyn ConnHandler> = Arc::new(WebHandler::new(app));
    let done = tokio::spawn(serve(env.clone(), listener, setup, handler));
    let fake = Running {
        port,
        script: Arc::default(),
        metrics: Arc::default(),
        stop: stop.clone(),
        done: tokio::spawn(async {}),
    };
    let me = pki.issue("GRPC_GW");
    let mut c = tls_connect(&env, &pki, &fake, false, Some(&me)).await.unwrap();
    c.write("GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let text = c.until("CN=GRPC_GW").await;
    assert!(text.starts_with("HTTP/1.1 200 OK") && !text.to_lowercase().contains("\ndate:"));
    let t = Instant::now();
    stop.cancel();
    done.await.unwrap();
    assert_eq!(t.elapsed().as_secs(), 0, "an idle connection does not hold up the end");
}
