//! The HTTP endpoints, poked at byte by byte.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::net::{Raw, memory};
use super::{Setup, Told, start};
use crate::comms::server::{Answer, End, HttpLimits, Proof, Push, Transport};

#[tokio::test(start_paused = true)]
async fn get_endpoints() {
    let env = memory();
    let s = start(&env, Setup { base_path: "/base".into(), ..Setup::default() }).await;
    let mut c = Raw::connect(&env, s.port).await;
    let mut get = async |method: &str, path: &str| {
        c.write(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await.unwrap();
        if method == "HEAD" {
            return (0, c.until("\r\n\r\n").await, String::new());
        }
        c.response().await
    };
    let (status, head, body) = get("GET", "/base/server.pem").await;
    assert_eq!((status, body.as_str()), (200, "PEM"));
    assert!(head.contains("Content-Type: text/plain; charset=utf-8\r\n"));
    assert!(!head.to_lowercase().contains("date:"));
    assert_eq!(get("GET", "/base/healthz").await.0, 200);
    *s.script.sick.lock().unwrap() = Some("the store is away".into());
    let (status, _, body) = get("GET", "/base/healthz").await;
    assert_eq!((status, body.as_str()), (503, "the store is away\n"));
    for path in ["/server.pem", "/base/nothing", "/base/public/none", "/base/public/../x", "/"] {
        assert_eq!(get("GET", path).await.0, 404, "{path}");
    }
    let (status, head, body) = get("GET", "/base/public/tools/a%20b.exe").await;
    assert_eq!((status, body.as_str()), (200, "MZrest"));
    assert!(head.contains("binary/octet-stream") && head.contains("filename=\"a_b.exe\""));
    let head = get("HEAD", "/base/public/tools/a%20b.exe").await.1;
    assert!(head.contains("Content-Length: 6"));
    assert_eq!(get("GET", "/base/server.pem").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn control_facts_and_keep_alive() {
    let env = memory();
    let setup = Setup { proxy_header: Some("X-Real-IP".into()), ..Setup::default() };
    let s = start(&env, setup).await;
    let mut c = Raw::connect(&env, s.port).await;
    let headers = "X-Priority: urgent\r\nX-Real-IP: 198.51.100.7, 10.0.0.1\r\nUser-Agent: V\r\n";
    c.post("/control?r=1", headers, b"one").await;
    let (status, head, body) = c.response().await;
    assert_eq!((status, body.as_str()), (200, "ok"));
    assert!(head.contains("X-Accel-Buffering: no\r\n"));
    c.post("/send_messages", "", b"two").await;
    assert_eq!(c.response().await.0, 200);
    c.write("POST /control HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    assert!(c.until("\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    c.write("2\r\nth\r\n3\r\nree\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(c.response().await.0, 200);
    assert_eq!(s.script.bodies(), ["one", "two", "three"]);
    let seen = s.script.seen.lock().unwrap();
    let h = &seen[0].0;
    assert!(h.urgent && h.redirected && h.nth == 0 && h.user_agent == "V");
    assert_eq!((h.remote.as_str(), h.length), ("198.51.100.7, 10.0.0.1", Some(3)));
    let h = &seen[1].0;
    assert!(!h.urgent && !h.redirected && h.nth == 1 && h.transport == Transport::Http);
    assert_eq!(h.remote, "192.0.2.1:5000");
    assert_eq!((seen[2].0.length, seen[2].0.connection), (None, h.connection));
}

#[tokio::test(start_paused = true)]
async fn statuses_and_redirects() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let mut c = Raw::connect(&env, s.port).await;
    for code in [400, 403, 406, 408, 409, 429, 500, 503] {
        s.script.answers([Answer::Status(code, format!("no {code}"))]);
        c.post("/control", "", b"x").await;
        let (status, _, body) = c.response().await;
        assert_eq!((status, body), (code, format!("no {code}\n")));
    }
    s.script.answers([Answer::Redirect("https://other/\r\nEvil: 1".into())]);
    c.post("/control", "", b"x").await;
    let (status, head, _) = c.response().await;
    assert_eq!(status, 301);
    assert!(head.contains("Location: https://other/Evil:1\r\n"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn late_service_is_500_in_time() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    *s.script.delay.lock().unwrap() = Duration::from_secs(21);
    let mut c = Raw::connect(&env, s.port).await;
    let t = Instant::now();
    c.post("/control", "", b"x").await;
    assert_eq!(c.response().await.0, 500);
    assert_eq!(t.elapsed().as_secs(), 20);
    assert_eq!(s.metrics.service_timeouts.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn early_answers_are_read_by_a_peer_that_only_writes_first() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    *s.script.shed.lock().unwrap() = Some(Answer::Status(500, "Busy".into()));
    let mut c = Raw::connect(&env, s.port).await;
    // Far more than any buffer on the way holds: without draining this blocks.
    c.post("/control", "", &vec![1; 3 << 20]).await;
    let (status, head, body) = c.response().await;
    assert_eq!((status, body.as_str()), (500, "Busy\n"));
    assert!(head.contains("Connection: close"));
    assert!(s.script.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn oversize_is_quarantined_by_its_prefix_and_dropped() {
    let env = memory();
    let limits = HttpLimits { max_body: 100_000, ..Default::default() };
    let s = start(&env, Setup { limits, ..Setup::default() }).await;
    for chunked in [false, true] {
        let mut c = Raw::connect(&env, s.port).await;
        let body = vec![9; 300_000];
        if chunked {
            c.write("POST /control HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            for piece in body.chunks(50_000) {
                let head = format!("{:x}\r\n", piece.len());
                c.write([head.as_bytes(), piece, b"\r\n"].concat()).await.unwrap();
            }
        } else {
            c.post("/control", "", &body).await;
        }
        let (status, _, text) = c.response().await;
        assert_eq!((status, text.as_str()), (400, "Too big\n"));
    }
    let seen = s.script.oversize.lock().unwrap();
    assert_eq!((seen[0].limit, seen[0].prefix.len()), (100_000, 64 << 10));
    assert_eq!((seen[0].head.length, seen[1].head.length), (Some(300_000), None));
    assert!(s.script.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn slow_and_cut_bodies_get_no_answer_and_reach_nobody() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let mut c = Raw::connect(&env, s.port).await;
    c.write("POST /control HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    let t = Instant::now();
    assert!(c.rest().await.is_empty());
    assert_eq!(t.elapsed().as_secs(), 60);
    // A drip under the idle limit meets the total one.
    let mut c = Raw::connect(&env, s.port).await;
    c.write("POST /control HTTP/1.1\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
    let t = Instant::now();
    while c.write("x").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!((500..520).contains(&t.elapsed().as_secs()), "{:?}", t.elapsed());
    assert!(s.script.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn held_poll_pads_then_replies_and_proves_it() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let (push, log) = s.script.hold(None, 70);
    let mut c = Raw::connect(&env, s.port).await;
    let t = Instant::now();
    c.post("/reader", "", b"checkin").await;
    let head = c.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("chunked"), "{head}");
    assert_eq!(t.elapsed().as_secs(), 0, "headers go at once");
    c.until("3\r\n\x5a\x01\0\r\n").await;
    c.until("3\r\n\x5a\x01\0\r\n").await;
    assert_eq!(t.elapsed().as_secs(), 20);
    push.send(Push::Task { seq: 7, body: Bytes::from_static(b"TASK") }).await.unwrap();
    c.until("4\r\nTASK\r\n0\r\n\r\n").await;
    log.wait(&Told::Ended(End::Replied)).await;
    assert_eq!(log.all(), [Told::Delivered(7, Proof::Written), Told::Ended(End::Replied)]);
    // The connection lives on; tasks known at once come with a length.
    let (_push, log) = s.script.hold(Some(b"FIRST"), 70);
    c.post("/receive_messages", "", b"again").await;
    assert_eq!(c.response().await.2, "FIRST");
    log.wait(&Told::Ended(End::Replied)).await;
    assert_eq!(log.all()[0], Told::Delivered(0, Proof::Written));
}

#[tokio::test(start_paused = true)]
async fn held_poll_ends() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    let mut c = Raw::connect(&env, s.port).await;
    // Deadline: one pad, clean end.
    let (_push, log) = s.script.hold(None, 5);
    c.post("/reader", "", b"x").await;
    c.until("\r\n\r\n3\r\n\x5a\x01\0\r\n0\r\n\r\n").await;
    log.wait(&Told::Ended(End::Ended)).await;
    // Asked to, and all senders gone.
    let (push, log) = s.script.hold(None, 50);
    c.post("/reader", "", b"x").await;
    push.send(Push::End).await.unwrap();
    c.until("0\r\n\r\n").await;
    log.wait(&Told::Ended(End::Ended)).await;
    let (push, log) = s.script.hold(None, 50);
    c.post("/reader", "", b"x").await;
    drop(push);
    c.until("0\r\n\r\n").await;
    log.wait(&Told::Ended(End::Ended)).await;
    // Abort: the body must not end cleanly.
    let (push, log) = s.script.hold(None, 50);
    c.post("/reader", "", b"x").await;
    c.until("\r\n\r\n").await;
    push.send(Push::Abort).await.unwrap();
    assert!(!String::from_utf8_lossy(&c.rest().await).contains("0\r\n\r\n"));
    log.wait(&Told::Ended(End::Aborted)).await;
    // The peer goes away: noticed without writing.
    let mut c = Raw::connect(&env, s.port).await;
    let (push, log) = s.script.hold(None, 50);
    c.post("/reader", "", b"x").await;
    c.until("\r\n\r\n").await;
    drop(c);
    log.wait(&Told::Ended(End::PeerGone)).await;
    push.closed().await;
    assert_eq!(s.metrics.held.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn old_hops_get_everything_with_its_length() {
    let env = memory();
    let s = start(&env, Setup::default()).await;
    for (version, via) in [("1.0", ""), ("1.1", "Via: 1.0 nginx\r\n")] {
        let mut c = Raw::connect(&env, s.port).await;
        let (_push, log) = s.script.hold(None, 70);
        let t = Instant::now();
        c.write(format!("POST /reader HTTP/{version}\r\n{via}Content-Length: 1\r\n\r\nx"))
            .await
            .unwrap();
        let (status, head, body) = c.response().await;
        assert_eq!((status, body.as_bytes()), (200, &crate::comms::PAD[..]));
        assert!(!head.contains("chunked"));
        assert_eq!(t.elapsed().as_secs(), 50);
        log.wait(&Told::Ended(End::Ended)).await;
        let (push, log) = s.script.hold(None, 70);
        let mut c = Raw::connect(&env, s.port).await;
        c.write(format!("POST /reader HTTP/{version}\r\n{via}Content-Length: 1\r\n\r\nx"))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        push.send(Push::Task { seq: 1, body: Bytes::from_static(b"T") }).await.unwrap();
        assert_eq!(c.response().await.2, "T");
        log.wait(&Told::Delivered(1, Proof::Written)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_polls_cleanly_and_cuts_the_rest() {
    let env = memory();
    let mut s = start(&env, Setup::default()).await;
    let (_push, log) = s.script.hold(None, 70);
    let mut held = Raw::connect(&env, s.port).await;
    held.post("/reader", "", b"x").await;
    held.until("\r\n\r\n").await;
    let mut idle = Raw::connect(&env, s.port).await;
    idle.post("/control", "", b"x").await;
    idle.response().await;
    let mut stuck = Raw::connect(&env, s.port).await;
    stuck.write("POST /control HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let t = Instant::now();
    s.stop.cancel();
    held.until("0\r\n\r\n").await;
    log.wait(&Told::Ended(End::Stopping)).await;
    assert!(idle.rest().await.is_empty());
    assert_eq!(t.elapsed().as_secs(), 0);
    (&mut s.done).await.unwrap();
    assert_eq!(t.elapsed().as_secs(), 5, "the stuck one had its grace");
    assert!(stuck.rest().await.is_empty());
    assert_eq!(s.metrics.open.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn upload_rate_holds_big_bodies_back() {
    let env = memory();
    let limits = HttpLimits { bytes_per_second: 100_000, ..Default::default() };
    let s = start(&env, Setup { limits, ..Setup::default() }).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut c = Raw::connect(&env, s.port).await;
    let t = Instant::now();
    let burst = vec![0; 1 << 20];
    c.post("/control", "", &burst).await;
    assert_eq!((c.response().await.0, t.elapsed().as_secs()), (200, 0));
    c.post("/control", "", &burst).await;
    assert_eq!((c.response().await.0, t.elapsed().as_secs()), (200, 10));
    c.post("/control", "", &burst[..16 << 10]).await;
    assert_eq!((c.response().await.0, t.elapsed().as_secs()), (200, 10), "small ones pass");
    // One that takes longer than anybody waits goes in its turn; what follows waits
    // for it, until that is too long.
    for (status, at) in [(200, 30), (200, 50), (500, 50)] {
        c.post("/control", "", &vec![0; 3 << 20]).await;
        assert_eq!((c.response().await.0, t.elapsed().as_secs()), (status, at));
    }
}
