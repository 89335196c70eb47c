//! The same conversation over real sockets.

use std::time::Duration;

use bytes::Bytes;

use super::agent::config;
use super::{Pki, Running, Setup, Told, start};
use crate::comms::Channel::{Control, Reader};
use crate::comms::agent::{Connector, Outcome};
use crate::comms::server::{AcceptLimits, Proof, Push};

/// Certificate, results, a big batch, a long poll with a task.
pub(super) async fn conversation(server: &Running, connector: &Connector) {
    let pem = connector.ensure_server_pem(|p| Ok::<_, String>(p.to_vec())).await;
    assert_eq!(pem.as_deref(), Some(&b"PEM"[..]));
    let small = connector.post(Control, Bytes::from_static(b"small"), true).await;
    assert_eq!(small, Outcome::Ok(Bytes::from_static(b"ok")));
    let big: Bytes = (0..5_000_000u32).map(|i| (i / 7) as u8).collect();
    let sent = connector.post(Control, big.clone(), false).await;
    assert_eq!(sent, Outcome::Ok(Bytes::from_static(b"ok")));
    let (push, log) = server.script.hold(None, 60);
    let task = Bytes::from(vec![42; 300_000]);
    let poll = connector.post(Reader, Bytes::from_static(b"checkin"), false);
    let wake = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        push.send(Push::Task { seq: 3, body: task.clone() }).await.unwrap();
        log.wait(&Told::Delivered(3, Proof::Written)).await;
    };
    let (got, ()) = tokio::join!(poll, wake);
    match got {
        Outcome::Ok(b) => assert!(b.ends_with(&task)),
        o => panic!("{o:?}"),
    }
    let bodies = server.script.bodies();
    assert_eq!(bodies, [Bytes::from_static(b"small"), big, Bytes::from_static(b"checkin")]);
    let seen = server.script.seen.lock().unwrap();
    assert!(seen.iter().all(|(h, _)| h.connection > 0 && !h.redirected));
}

#[tokio::test]
async fn every_transport_over_real_sockets() {
    let (env, pki) = (crate::env::real::env(), Pki::new());
    for scheme in ["http", "https", "ws", "wss"] {
        let secure = matches!(scheme, "https" | "wss");
        let tls = secure.then(|| pki.server_tls(&env, false, false));
        let server = start(&env, Setup { tls, ..Setup::default() }).await;
        let base = format!("{scheme}://127.0.0.1:{}/", server.port);
        let connector = Connector::new(env.clone(), config(&[base], &pki)).unwrap();
        conversation(&server, &connector).await;
    }
}

/// Resident bytes of this process.
#[allow(clippy::disallowed_methods)] // looks at the real process
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A measurement, not a check: memory of a held reader, both ends of the
/// connection in this process. Only the first kind starts from a fresh heap. Run
/// alone with `--ignored --nocapture`.
#[tokio::test]
#[ignore = "measures"]
async fn memory_of_held_readers() {
    use super::net::Raw;
    let (env, pki) = (crate::env::real::env(), Pki::new());
    let n = 1500u64;
    let unlimited = || AcceptLimits { connections_per_second: 0, ..Default::default() };
    for kind in ["https", "tcp", "http", "ws"] {
        let tls = (kind == "https").then(|| pki.server_tls(&env, false, false));
        let roots = crate::comms::tls::roots([pki.ca_pem().as_str()]).unwrap();
        let client =
            crate::comms::tls::client_config(&env, roots, None, crate::comms::tls::Alpn::Http1);
        let connector = tokio_rustls::TlsConnector::from(client.unwrap());
        let s = start(&env, Setup { tls, accept: unlimited(), ..Setup::default() }).await;
        let mut open = Vec::new();
        let mut before = 0;
        for i in 0..n + 200 {
            if i == 200 {
                before = resident(); // warm by now
            }
            let mut c = Raw::connect(&env, s.port).await;
            if kind == "tcp" {
                c.write("P").await.unwrap();
                open.push((c, None));
                continue;
            }
            if kind == "https" {
                let name = rustls::pki_types::ServerName::try_from("VelociraptorServer").unwrap();
                let io = std::mem::replace(&mut c.0, Box::pin(tokio::io::duplex(1).0));
                c.0 = Box::pin(connector.connect(name, io).await.unwrap());
            }
            let hold = s.script.hold(None, 600);
            if kind == "ws" {
                c.write(
                    "GET /reader HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n",
                )
                .await
                .unwrap();
                c.until("\r\n\r\n").await;
                c.write([0x82, 0x81, 0, 0, 0, 0, 1]).await.unwrap();
            } else {
                c.post("/reader", "", &[0; 658]).await;
                c.until("\r\n\r\n").await;
            }
            c.1 = Vec::new();
            open.push((c, Some(hold)));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let each = resident().saturating_sub(before) / n;
        println!("{kind}: {each} bytes a connection, both ends");
        drop(open);
    }
}
