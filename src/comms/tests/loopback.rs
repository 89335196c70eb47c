//! The same conversation over real sockets.

use std::time::Duration;

use bytes::Bytes;

use super::agent::config;
use super::{Pki, Running, Setup, Told, start};
use crate::comms::Channel::{Control, Reader};
use crate::comms::agent::{Connector, Outcome};
use crate::comms::server::{Proof, Push};

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
