//! The agent's connector against our server and against scripted peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::net::{Raw, memory};
use super::{Pki, Running, Setup, Told, start};
use crate::comms::Channel::{Control, Reader};
use crate::comms::agent::{
    Backoff, Connector, ConnectorConfig, Outcome, Proxies, Thumbprint, Verification,
};
use crate::comms::server::{Answer, End, Push};
use crate::env::Env;

pub(super) fn config(urls: &[String], pki: &Pki) -> ConnectorConfig {
    ConnectorConfig {
        server_urls: urls.to_vec(),
        ca_certificate: pki.ca_pem(),
        native_roots: false,
        ..ConnectorConfig::default()
    }
}

fn url(scheme: &str, s: &Running) -> String {
    format!("{scheme}://127.0.0.1:{}/", s.port)
}

fn body(b: &'static [u8]) -> Bytes {
    Bytes::from_static(b)
}

fn accept(pem: &[u8]) -> Result<Bytes, String> {
    Ok(Bytes::copy_from_slice(pem))
}

struct Rig {
    env: Env,
    pki: Pki,
    server: Running,
    connector: Connector,
}

async fn rig(scheme: &str) -> Rig {
    let (env, pki) = (memory(), Pki::new());
    let secure = matches!(scheme, "https" | "wss");
    let tls = secure.then(|| pki.server_tls(&env, false, false));
    let server = start(&env, Setup { tls, ..Setup::default() }).await;
    let c = config(&[url(scheme, &server)], &pki);
    let connector = Connector::new(env.clone(), c).unwrap();
    Rig { env, pki, server, connector }
}

#[tokio::test(start_paused = true)]
async fn every_transport_carries_the_protocol() {
    for scheme in ["http", "https", "ws", "wss"] {
        let Rig { server, connector, .. } = rig(scheme).await;
        super::loopback::conversation(&server, &connector).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_statuses_mean() {
    for scheme in ["https", "wss"] {
        let Rig { server, connector, .. } = rig(scheme).await;
        connector.ensure_server_pem(accept).await.unwrap();
        let s = &server.script;
        let tries = || std::mem::take(&mut *s.seen.lock().unwrap()).len();
        s.answers([Answer::Status(406, "Please Enrol".into())]);
        assert_eq!(connector.post(Control, body(b"x"), false).await, Outcome::Enrol);
        s.answers([Answer::Status(400, "never".into())]);
        let dropped = connector.post(Control, body(b"x"), false).await;
        assert_eq!(dropped, Outcome::Drop("never".into()));
        assert_eq!(tries(), 2);
        assert!(!connector.server_pem_is_stale());
        for code in [403, 404, 409, 413, 429, 500, 502, 504] {
            s.answers([Answer::Status(code, "no".into())]);
            match connector.post(Control, body(b"x"), false).await {
                Outcome::Failed(f) => assert_eq!((f.status, f.advanced), (Some(code), true)),
                o => panic!("{o:?}"),
            }
            assert_eq!(tries(), 1);
            assert!(connector.server_pem_is_stale());
        }
        for code in [408, 503] {
            let busy = || Answer::Status(code, "busy".into());
            s.answers([busy(), busy(), busy()]);
            match connector.post(Control, body(b"x"), false).await {
                Outcome::Failed(f) => assert_eq!((f.status, f.advanced), (Some(code), true)),
                o => panic!("{o:?}"),
            }
            assert_eq!(tries(), 3);
            s.answers([busy(), busy()]);
            let third = connector.post(Control, body(b"x"), false).await;
            assert_eq!(third, Outcome::Ok(body(b"ok")));
            assert_eq!(tries(), 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_is_not_kept_that_was_opened_after_the_other_loop_had_moved_on() {
    let (env, pki) = (memory(), Pki::new());
    let setup = || Setup { tls: Some(pki.server_tls(&env, false, false)), ..Setup::default() };
    let (one, two) = (start(&env, setup()).await, start(&env, setup()).await);
    let c = config(&[url("wss", &one), url("wss", &two)], &pki);
    let connector = Connector::new(env.clone(), c).unwrap();
    connector.ensure_server_pem(accept).await.unwrap();
    let first = if connector.current_url() == url("wss", &one) { &one } else { &two };
    let (end, _log) = first.script.hold(None, 70);
    let (task, _log) = first.script.hold(None, 70);
    let post = connector.post(Reader, body(b"x"), false);
    let other = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        first.script.answers([Answer::Status(500, "no".into())]);
        assert!(matches!(connector.post(Control, body(b"x"), false).await, Outcome::Failed(_)));
        // The reader's second try is still at the first URL, and holds.
        end.send(Push::End).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        task.send(Push::Task { seq: 1, body: body(b"task") }).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(post, other);
    assert_eq!(outcome, Outcome::Ok(body(b"task")));
    let open = || first.metrics.websockets.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(open(), 0, "tasks would be sent where nobody reads");
}

#[tokio::test(start_paused = true)]
async fn aborted_body_is_a_failure_that_stays() {
    let Rig { server, connector, .. } = rig("https").await;
    connector.ensure_server_pem(accept).await.unwrap();
    let (push, log) = server.script.hold(None, 70);
    let post = connector.post(Reader, body(b"x"), false);
    let abort = async {
        tokio::time::sleep(Duration::from_secs(25)).await;
        push.send(Push::Abort).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(post, abort);
    match outcome {
        Outcome::Failed(f) => assert_eq!((f.status, f.advanced), (Some(200), false)),
        o => panic!("{o:?}"),
    }
    log.wait(&Told::Ended(End::Aborted)).await;
    assert!(!connector.server_pem_is_stale());
    assert_eq!(server.script.seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn cancelled_post_ends_the_session() {
    for scheme in ["https", "wss"] {
        let Rig { server, connector, .. } = rig(scheme).await;
        connector.ensure_server_pem(accept).await.unwrap();
        let (_push, log) = server.script.hold(None, 70);
        let post = connector.post(Reader, body(b"x"), false);
        assert!(tokio::time::timeout(Duration::from_secs(5), post).await.is_err());
        log.wait(&Told::Ended(End::PeerGone)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn redirects_are_followed_and_marked() {
    for backoff in [Backoff::Stock, Backoff::Growing] {
        let Rig { env, pki, server, .. } = rig("https").await;
        let c = ConnectorConfig { backoff, ..config(&[url("https", &server)], &pki) };
        let connector = Connector::new(env.clone(), c).unwrap();
        let tls = Some(pki.server_tls(&env, false, false));
        let other = start(&env, Setup { tls, ..Setup::default() }).await;
        let post = async || connector.post(Control, body(b"x"), false).await;
        connector.ensure_server_pem(accept).await.unwrap();
        server.script.answers([Answer::Redirect(url("https", &other))]);
        assert_eq!(post().await, Outcome::Redirected);
        assert!(connector.server_pem_is_stale());
        connector.ensure_server_pem(accept).await.unwrap();
        assert_eq!(post().await, Outcome::Ok(body(b"ok")));
        assert!(other.script.seen.lock().unwrap()[0].0.redirected);
        // A redirect while the marks of another last costs a stock agent a wait; ours
        // waits if nothing was taken in between.
        other.script.answers([Answer::Redirect(url("https", &server))]);
        let t = Instant::now();
        assert_eq!(post().await, Outcome::Redirected);
        let long = (60..=90).contains(&t.elapsed().as_secs());
        assert_eq!(long, backoff == Backoff::Stock, "{:?}", t.elapsed());
        server.script.answers([Answer::Redirect(url("wss", &server))]);
        let t = Instant::now();
        assert_eq!(post().await, Outcome::Redirected);
        assert!((60..=90).contains(&t.elapsed().as_secs()), "{:?}", t.elapsed());
        assert_eq!(post().await, Outcome::Ok(body(b"ok")));
        // A useless one advances.
        server.script.answers([Answer::Redirect("x".into())]);
        match post().await {
            Outcome::Failed(f) => assert_eq!((f.status, f.advanced), (Some(301), true)),
            o => panic!("{o:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dead_urls_are_passed_by() {
    let Rig { env, pki, server, .. } = rig("https").await;
    let dead = "https://127.0.0.1:999/".to_owned();
    for backoff in [Backoff::Growing, Backoff::Stock] {
        let mut c = config(&[dead.clone(), url("https", &server)], &pki);
        c.backoff = backoff;
        let connector = Connector::new(env.clone(), c).unwrap();
        let t = Instant::now();
        assert!(connector.ensure_server_pem(accept).await.is_some());
        assert!(connector.ensure_server_pem(accept).await.is_none(), "once");
        assert!(t.elapsed() <= Duration::from_secs(91));
        assert_eq!(connector.post(Control, body(b"x"), false).await, Outcome::Ok(body(b"ok")));
    }
    // Nothing but dead: waits grow up to their cap.
    let connector = Connector::new(env.clone(), config(&[dead], &pki)).unwrap();
    let t = Instant::now();
    let mut failures = 0;
    for _ in 0..12 {
        match connector.post(Reader, body(b"x"), false).await {
            Outcome::Failed(f) => assert!(f.advanced, "{f:?}"),
            o => panic!("{o:?}"),
        }
        let before = Instant::now();
        connector.pause(Reader).await;
        failures += 1;
        let cap = 2u64.pow(failures - 1).min(90);
        assert!(before.elapsed() <= Duration::from_secs(cap), "{failures}: {:?}", before.elapsed());
    }
    assert!(t.elapsed() > Duration::from_secs(60));
}

/// What a host does that lost its power: peers hear nothing more.
#[tokio::test(start_paused = true)]
async fn a_poll_that_gets_no_more_pads_is_given_up() {
    let (env, pki) = (memory(), Pki::new());
    let mut l = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = l.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut gone = Vec::new();
        while let Ok((io, _)) = l.accept().await {
            let mut c = Raw(io, Vec::new());
            c.until("\r\n\r\n").await;
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nZ\x01\x00\r\n";
            c.write(head).await.unwrap();
            gone.push(c);
        }
    });
    let c = config(&[format!("http://127.0.0.1:{port}/")], &pki);
    let connector = Connector::new(env, c).unwrap();
    let t = Instant::now();
    match connector.post(Reader, body(b"x"), false).await {
        Outcome::Failed(f) => assert_eq!(f.status, Some(200)),
        o => panic!("{o:?}"),
    }
    // Pads come every ten seconds; several may be late.
    assert!((30..=60).contains(&t.elapsed().as_secs()), "{:?}", t.elapsed());
}

#[tokio::test(start_paused = true)]
async fn unacceptable_certificates_move_on() {
    let (env, pki) = (memory(), Pki::new());
    let a = start(&env, Setup::default()).await;
    let b = start(&env, Setup::default()).await;
    *b.script.pem.lock().unwrap() = Some(body(b"GOOD"));
    for scheme in ["http", "ws"] {
        let c = config(&[url(scheme, &a), url(scheme, &b)], &pki);
        let connector = Connector::new(env.clone(), c).unwrap();
        let good = |pem: &[u8]| if pem == b"GOOD" { Ok(7) } else { Err("wrong name") };
        assert_eq!(connector.ensure_server_pem(good).await, Some(7));
        assert_eq!(connector.current_url(), url(scheme, &b));
    }
}

#[tokio::test(start_paused = true)]
async fn tls_rules() {
    let (env, pki, other) = (memory(), Pki::new(), Pki::new());
    let foreign = other.server_tls(&env, false, false);
    let s = start(&env, Setup { tls: Some(foreign), ..Setup::default() }).await;
    let try_with = async |change: &dyn Fn(&mut ConnectorConfig)| {
        let mut c = config(&[url("https", &s)], &pki);
        change(&mut c);
        let c = Connector::new(env.clone(), c).unwrap();
        c.fetch_server_pem(&url("https", &s)).await.is_ok()
    };
    assert!(!try_with(&|_| ()).await, "unknown CA");
    // Trusted root, but the name must fit: the URL's is an address.
    assert!(!try_with(&|c| c.root_certs = other.ca_pem()).await);
    let pinned = |c: &mut ConnectorConfig| {
        c.root_certs = other.ca_pem();
        c.use_self_signed_ssl = true;
    };
    assert!(try_with(&pinned).await, "pinned name");
    assert!(try_with(&|c| c.ca_certificate = other.ca_pem()).await, "our CA: any name");
    // Thumbprints.
    let id = pki.issue("elsewhere");
    let o = crate::comms::tls::ServerOptions {
        allow_tls12: false,
        client_auth: crate::comms::tls::ClientAuth::None,
        alpn: crate::comms::tls::Alpn::Http1,
    };
    let tls = crate::comms::tls::server_config(&env, &id, &o).unwrap();
    let s = start(&env, Setup { tls: Some(tls), ..Setup::default() }).await;
    let print = Thumbprint(<sha2::Sha256 as sha2::Digest>::digest(&id.chain[0]).into());
    for (mode, listed, own_ca, want) in [
        (Verification::ThumbprintOnly, true, false, true),
        (Verification::ThumbprintOnly, false, true, false),
        (Verification::PkiOrThumbprint, true, false, true),
        (Verification::PkiOrThumbprint, false, true, true),
        (Verification::PkiOrThumbprint, false, false, false),
        (Verification::Pki, true, false, false),
    ] {
        let mut c = config(&[url("https", &s)], if own_ca { &pki } else { &other });
        c.verification = mode;
        c.thumbprints = if listed { vec![print] } else { vec![] };
        let c = Connector::new(env.clone(), c).unwrap();
        let got = c.fetch_server_pem(&url("https", &s)).await;
        assert_eq!(got.is_ok(), want, "{mode:?} {listed} {own_ca}: {got:?}");
    }
}

/// An HTTP proxy that knows CONNECT and absolute URLs; returns its port.
async fn proxy(env: &Env) -> u16 {
    let mut l = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = l.local_addr().unwrap().port();
    let env = env.clone();
    tokio::spawn(async move {
        while let Ok((io, _)) = l.accept().await {
            let env = env.clone();
            tokio::spawn(async move {
                let mut c = Raw(io, Vec::new());
                let head = c.until("\r\n\r\n").await;
                assert!(
                    head.contains("roxy-authorization: Basic dXNlcjpwQHNz")
                        || head.contains("roxy-Authorization: Basic dXNlcjpwQHNz"),
                    "{head}"
                );
                let target = head.split(' ').nth(1).unwrap();
                let target = target.trim_start_matches("http://").split('/').next().unwrap();
                let port = target.rsplit(':').next().unwrap().parse().unwrap();
                let mut up = env.net.connect("", port).await.unwrap();
                if head.starts_with("CONNECT ") {
                    c.write("HTTP/1.1 200 Go\r\n\r\n").await.unwrap();
                } else {
                    assert!(head.starts_with("GET http://") || head.starts_with("POST http://"));
                    let early = [head.as_bytes(), &c.1].concat();
                    tokio::io::AsyncWriteExt::write_all(&mut up, &early).await.unwrap();
                }
                let _ = tokio::io::copy_bidirectional(&mut c.0, &mut up).await;
            });
        }
    });
    port
}

#[tokio::test(start_paused = true)]
async fn through_a_proxy() {
    for scheme in ["http", "https", "ws", "wss"] {
        let Rig { env, pki, server, .. } = rig(scheme).await;
        let port = proxy(&env).await;
        let base = format!("{scheme}://fleet.example:{}/", server.port);
        let mut c = config(&[base], &pki);
        let p = url::Url::parse(&format!("http://user:p%40ss@proxy:{port}")).unwrap();
        c.proxies = Proxies::single(p);
        let connector = Connector::new(env.clone(), c).unwrap();
        assert_eq!(connector.ensure_server_pem(accept).await.unwrap(), "PEM");
        let got = connector.post(Control, body(b"x"), true).await;
        assert_eq!(got, Outcome::Ok(body(b"ok")), "{scheme}");
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_addresses() {
    let Rig { env, pki, server, .. } = rig("https").await;
    for scheme in ["https", "wss"] {
        let mut c = config(&[format!("{scheme}://gone.example:999/")], &pki);
        c.fallback_addresses =
            BTreeMap::from([("gone.example:999".into(), format!("there:{}", server.port))]);
        let c = Connector::new(env.clone(), c).unwrap();
        let got = c.post(Control, body(b"x"), false).await;
        assert_eq!(matches!(got, Outcome::Ok(_)), scheme == "https", "not for WebSocket");
    }
}

#[tokio::test(start_paused = true)]
async fn unusable_answers_wait_longer_and_longer() {
    let Rig { connector, server: _server, .. } = rig("http").await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        assert!(matches!(connector.post(Control, body(b"x"), false).await, Outcome::Ok(_)));
        let t = Instant::now();
        connector.pause(Control).await;
        waits.push(t.elapsed().as_secs());
    }
    assert!(waits[9] >= 45, "{waits:?}");
    // Two good ones in a row make it forget.
    for _ in 0..2 {
        assert!(matches!(connector.post(Control, body(b"x"), false).await, Outcome::Ok(_)));
    }
    let t = Instant::now();
    connector.pause(Control).await;
    assert!(t.elapsed() <= Duration::from_secs(1));
}

#[test]
fn bad_configurations_are_named() {
    let (env, pki) = (memory(), Pki::new());
    for bad in ["https://x", "ftp://x/", "nonsense", "https://"] {
        let e = Connector::new(env.clone(), config(&[bad.into()], &pki)).err().unwrap();
        assert!(e.to_string().contains(bad), "{e}");
    }
    assert!(Connector::new(env.clone(), config(&[], &pki)).is_err());
    let mut c = config(&["https://x/".into()], &pki);
    c.fallback_addresses = BTreeMap::from([("x:1".into(), "nowhere".into())]);
    assert!(Connector::new(env, c).is_err());
}

/// A WebSocket server made of another library.
#[tokio::test(start_paused = true)]
async fn against_an_independent_socket_server() {
    let (env, pki) = (memory(), Pki::new());
    let mut l = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = l.local_addr().unwrap().port();
    let sockets = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = sockets.clone();
    tokio::spawn(async move {
        while let Ok((io, _)) = l.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move {
                let mut ws = tokio_tungstenite::accept_async(io).await.unwrap();
                while let Some(Ok(m)) = ws.next().await {
                    let Message::Binary(b) = m else { continue };
                    let text = match &b[..] {
                        b"many" => {
                            for n in ["MQ==", "Mg==", "Mw=="] {
                                let t = format!(r#"{{"code":200,"data":"{n}"}}"#);
                                ws.send(Message::Binary(t.into())).await.unwrap();
                            }
                            continue;
                        }
                        b"silent" => continue,
                        b"garbage" => "garbage",
                        b"close" => return,
                        _ => r#"{"code":200}"#,
                    };
                    // Text is allowed, too.
                    ws.send(Message::Text(text.into())).await.unwrap();
                }
            });
        }
    });
    let c = config(&[format!("ws://127.0.0.1:{port}/")], &pki);
    let c = Connector::new(env, c).unwrap();
    let opened = || sockets.load(std::sync::atomic::Ordering::Relaxed);
    let ok = |b| Outcome::Ok(body(b));
    assert_eq!(c.post(Control, Bytes::from(vec![0; 200_000]), false).await, ok(b""));
    assert_eq!(c.post(Control, body(b"x"), false).await, ok(b""));
    assert_eq!(opened(), 1, "one socket, kept");
    assert_eq!(c.post(Reader, body(b"many"), false).await, ok(b"1"));
    assert_eq!(opened(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(c.post(Reader, body(b"silent"), false).await, ok(b"2"));
    assert_eq!(c.post(Reader, body(b"silent"), false).await, ok(b"3"));
    // No pings from this server: silence ends each of three attempts.
    let t = Instant::now();
    assert!(matches!(c.post(Reader, body(b"silent"), false).await, Outcome::Failed(_)));
    assert!((197..=198).contains(&t.elapsed().as_secs()), "{:?}", t.elapsed());
    for bad in [&b"garbage"[..], b"close"] {
        let before = opened();
        let got = c.post(Control, Bytes::from_static(bad), false).await;
        assert!(matches!(got, Outcome::Failed(_)), "{got:?}");
        assert!(opened() - before >= 2, "three attempts");
    }
}
