//! The server's WebSockets against an independent client.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};

use super::net::memory;
use super::{Running, Setup, Told, start};
use crate::comms::server::{Answer, End, HttpLimits, Proof, Push, Transport};
use crate::comms::ws::Envelope;
use crate::env::{Conn, Env};

type Ws = WebSocketStream<Conn>;

async fn dial(env: &Env, s: &Running, path: &str) -> Ws {
    let io = env.net.connect("127.0.0.1", s.port).await.unwrap();
    let (ws, _) = tokio_tungstenite::client_async(format!("ws://x{path}"), io).await.unwrap();
    ws
}

async fn say(ws: &mut Ws, body: impl Into<Bytes>) {
    ws.send(Message::Binary(body.into())).await.unwrap();
}

/// The next data frame, which must be binary JSON.
async fn frame(ws: &mut Ws) -> Envelope {
    loop {
        match timeout(Duration::from_secs(100), ws.next()).await.expect("no frame").unwrap() {
            Ok(Message::Binary(b)) => return Envelope::decode(&b).unwrap(),
            Ok(Message::Ping(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn closed(ws: &mut Ws) -> Option<CloseFrame> {
    loop {
        match timeout(Duration::from_secs(100), ws.next()).await.expect("not closed") {
            Some(Ok(Message::Close(c))) => return c,
            Some(Ok(Message::Ping(_))) => {}
            None | Some(Err(_)) => return None,
            Some(Ok(m)) => panic!("{m:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn control_answers_each_message_once() {
    let env = memory();
    let s = start(&env, Setup { base_path: "/b".into(), ..Setup::default() }).await;
    let mut ws = dial(&env, &s, "/b/control?r=1").await;
    s.script.answers([Answer::Reply(Bytes::new()), Answer::Reply(Bytes::from_static(b"data"))]);
    say(&mut ws, &b"one"[..]).await;
    assert_eq!(frame(&mut ws).await, Envelope::ok(Bytes::new()));
    // Fragmented as stock clients do, with a ping between.
    let body: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    let pieces: Vec<_> = body.chunks(4096).collect();
    for (i, piece) in pieces.iter().enumerate() {
        let op = OpCode::Data(if i == 0 { Data::Binary } else { Data::Continue });
        let f = Frame::message(piece.to_vec(), op, i + 1 == pieces.len());
        ws.send(Message::Frame(f)).await.unwrap();
        if i == 5 {
            ws.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
        }
    }
    match ws.next().await.unwrap().unwrap() {
        Message::Pong(p) => assert_eq!(&p[..], b"p"),
        m => panic!("{m:?}"),
    }
    assert_eq!(frame(&mut ws).await, Envelope::ok(Bytes::from_static(b"data")));
    assert_eq!(s.script.bodies()[1], body);
    let seen = s.script.seen.lock().unwrap().clone();
    let h = &seen[1].0;
    assert_eq!((h.nth, h.transport, h.redirected), (1, Transport::Ws, true));
    for code in [403, 406, 503, 400, 500] {
        let mut ws = dial(&env, &s, "/b/control").await;
        s.script.answers([Answer::Status(code, "why".into())]);
        say(&mut ws, &b"x"[..]).await;
        assert_eq!(frame(&mut ws).await, Envelope::status(code, "why"));
        closed(&mut ws).await;
    }
}

#[tokio::test(start_paused = true)]
async fn too_big_is_answered_not_closed() {
    let env = memory();
    let limits = HttpLimits { max_body: 100_000, ..Default::default() };
    let s = start(&env, Setup { limits, ..Setup::default() }).await;
    let mut ws = dial(&env, &s, "/control").await;
    say(&mut ws, vec![3; 250_000]).await;
    assert_eq!(frame(&mut ws).await, Envelope::status(400, "Too big"));
    let seen = s.script.oversize.lock().unwrap();
    assert_eq!((seen[0].head.length, seen[0].prefix.len()), (Some(250_000), 64 << 10));
}

#[tokio::test(start_paused = true)]
async fn full_budget_is_500_and_given_back() {
    let env = memory();
    let limits = HttpLimits { body_budget: 300 << 10, ..Default::default() };
    let s = start(&env, Setup { limits, ..Setup::default() }).await;
    // One client begins a big message and stalls, holding the budget.
    let mut hog = dial(&env, &s, "/control").await;
    let f = Frame::message(vec![0; 200 << 10], OpCode::Data(Data::Binary), false);
    hog.send(Message::Frame(f)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut ws = dial(&env, &s, "/control").await;
    let t = Instant::now();
    say(&mut ws, vec![1; 100 << 10]).await;
    assert_eq!(frame(&mut ws).await.code, 500);
    assert_eq!(t.elapsed().as_secs(), 20);
    let mut ws = dial(&env, &s, "/control").await;
    say(&mut ws, vec![1; 7 << 10]).await;
    assert_eq!(frame(&mut ws).await.code, 200, "small ones pass");
    drop(hog);
    let mut ws = dial(&env, &s, "/control").await;
    say(&mut ws, vec![1; 100 << 10]).await;
    assert_eq!(frame(&mut ws).await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn reader_gets_tasks_and_its_checkins_are_heard() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let (push, log) = s.script.hold(Some(b"first"), 5);
    let mut ws = dial(&env, &s, "/reader").await;
    say(&mut ws, &b"checkin"[..]).await;
    assert_eq!(&frame(&mut ws).await.data[..], b"first");
    push.send(Push::Task { seq: 4, body: Bytes::from_static(b"t4") }).await.unwrap();
    push.send(Push::Task { seq: 5, body: Bytes::from_static(b"t5") }).await.unwrap();
    assert_eq!(&frame(&mut ws).await.data[..], b"t4");
    assert_eq!(&frame(&mut ws).await.data[..], b"t5");
    say(&mut ws, &b"later"[..]).await;
    log.wait(&Told::Message(Bytes::from_static(b"later"))).await;
    // No frame for it, also past the HTTP deadline.
    assert!(timeout(Duration::from_secs(50), ws.next()).await.is_err());
    log.2.lock().unwrap().push_back(Answer::Reply(Bytes::from_static(b"aside")));
    say(&mut ws, &b"again"[..]).await;
    assert_eq!(&frame(&mut ws).await.data[..], b"aside");
    push.send(Push::Status(409, "newer".into())).await.unwrap();
    assert_eq!(frame(&mut ws).await, Envelope::status(409, "newer"));
    closed(&mut ws).await;
    log.wait(&Told::Ended(End::Refused)).await;
    let told: Vec<_> = log.all().into_iter().filter(|t| !matches!(t, Told::Message(_))).collect();
    let written = |n| Told::Delivered(n, Proof::Written);
    assert_eq!(told, [written(0), written(4), written(5), Told::Ended(End::Refused)]);
    assert_eq!(s.metrics.websockets.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn reader_ends() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let hold = async || {
        let (push, log) = s.script.hold(None, 5);
        let mut ws = dial(&env, &s, "/reader").await;
        say(&mut ws, &b"c"[..]).await;
        (push, log, ws)
    };
    let (push, log, mut ws) = hold().await;
    push.send(Push::End).await.unwrap();
    assert_eq!(u16::from(closed(&mut ws).await.unwrap().code), 1000);
    log.wait(&Told::Ended(End::Ended)).await;
    let (push, log, mut ws) = hold().await;
    push.send(Push::Abort).await.unwrap();
    assert_eq!(closed(&mut ws).await, None);
    log.wait(&Told::Ended(End::Aborted)).await;
    let (push, log, ws) = hold().await;
    // Held, not just begun.
    push.send(Push::Task { seq: 1, body: Bytes::from_static(b"x") }).await.unwrap();
    log.wait(&Told::Delivered(1, Proof::Written)).await;
    drop(ws);
    log.wait(&Told::Ended(End::PeerGone)).await;
    let (push, log, mut ws) = hold().await;
    push.send(Push::Task { seq: 1, body: Bytes::from_static(b"x") }).await.unwrap();
    frame(&mut ws).await;
    ws.close(None).await.unwrap();
    log.wait(&Told::Ended(End::PeerGone)).await;
    let (push, log, mut ws) = hold().await;
    push.send(Push::Task { seq: 1, body: Bytes::from_static(b"x") }).await.unwrap();
    frame(&mut ws).await;
    s.stop.cancel();
    assert_eq!(u16::from(closed(&mut ws).await.unwrap().code), 1001);
    log.wait(&Told::Ended(End::Stopping)).await;
}

#[tokio::test(start_paused = true)]
async fn pings_keep_it_and_silence_ends_it() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    // A client that reads answers pings and stays for ever.
    let (_push, live) = s.script.hold(None, 5);
    let mut ws = dial(&env, &s, "/reader").await;
    say(&mut ws, &b"c"[..]).await;
    let t = Instant::now();
    for n in 1..=5 {
        assert!(matches!(ws.next().await, Some(Ok(Message::Ping(p))) if p.is_empty()));
        assert_eq!(t.elapsed().as_secs(), 60 * n);
    }
    assert!(live.all().is_empty());
    // One that does not is dropped after 66 s of silence.
    let (_push, dead) = s.script.hold(None, 5);
    let mut mute = dial(&env, &s, "/reader").await;
    say(&mut mute, &b"c"[..]).await;
    let t = Instant::now();
    dead.wait(&Told::Ended(End::PeerGone)).await;
    assert_eq!(t.elapsed().as_secs(), 66);
}

#[tokio::test(start_paused = true)]
async fn pings_flow_while_the_service_works() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let mut ws = dial(&env, &s, "/control").await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    *s.script.delay.lock().unwrap() = Duration::from_secs(19);
    let t = Instant::now();
    say(&mut ws, &b"slow"[..]).await;
    assert!(matches!(ws.next().await, Some(Ok(Message::Ping(_)))));
    assert_eq!(t.elapsed().as_secs(), 10);
    assert_eq!(frame(&mut ws).await.code, 200);
    assert_eq!(t.elapsed().as_secs(), 19);
}

#[tokio::test(start_paused = true)]
async fn certificate_by_socket_and_broken_framing() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let mut ws = dial(&env, &s, "/server.pem").await;
    say(&mut ws, &b""[..]).await;
    assert_eq!(&frame(&mut ws).await.data[..], b"PEM");
    // An unmasked frame breaks the rules.
    let mut raw = super::net::Raw::connect(&env, s.port).await;
    raw.write(
        "GET /control HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(raw.until("\r\n\r\n").await.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    raw.write([0x82, 1, 0]).await.unwrap();
    assert_eq!(raw.rest().await, [0x88, 2, 0x03, 0xea], "close 1002");
}
