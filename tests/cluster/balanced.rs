//! Agents behind HAProxy: one address for all frontends, so that a client's reader
//! and its POSTs are on different ones, and any of them may be killed.
//!
//! `VELOCIRAPTOR_TEST_HAPROXY` names the program; where there is none, these tests
//! say so and test nothing.

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, PACE, Running, SLOW, exact, noise, setting};

/// Where TLS ends.
#[derive(Clone, Copy, PartialEq)]
pub enum Balancer {
    /// At the frontends: each connection goes to the next one.
    Tcp,
    /// At the balancer: each request goes to the next one, in plain HTTP.
    Http,
}

/// The balancer, and the port at which it listens.
pub fn balance(c: &Cluster, how: Balancer) -> Option<(Running, u16)> {
    balance_by(c, how, "", "check inter 200ms fall 2 rise 2")
}

/// The same with more lines, and this check of the nodes.
pub fn balance_by(c: &Cluster, how: Balancer, lines: &str, check: &str) -> Option<(Running, u16)> {
    let program = std::env::var("VELOCIRAPTOR_TEST_HAPROXY").unwrap_or_else(|_| "haproxy".into());
    if Command::new(&program).arg("-v").output().is_err() {
        eprintln!("not run: there is no {program} on this machine");
        return None;
    }
    let port = crate::harness::ports::free::<1>()[0];
    let (mode, tls) = match how {
        Balancer::Tcp => ("tcp", String::new()),
        Balancer::Http => {
            // Agents pin the deployment's authority and the certificate's name.
            let text = std::fs::read_to_string(c.path("nodes/server.config.yaml")).unwrap();
            let all: serde_json::Value = yaml_serde::from_str(&text).unwrap();
            let pem = |key: &str| all["Frontend"][key].as_str().unwrap().to_owned();
            std::fs::write(c.path("tls.pem"), pem("certificate") + &pem("private_key")).unwrap();
            ("http", format!(" ssl crt {}", c.path("tls.pem").display()))
        }
    };
    let servers: String = (c.ports.iter().enumerate())
        .map(|(n, p)| format!("  server n{n} 127.0.0.1:{p}\n"))
        .collect();
    let config = format!(
        "global\n  maxconn 200\ndefaults\n  mode {mode}\n  timeout connect 2s\n  timeout client 3m\n  \
         timeout server 3m\n  timeout tunnel 3m\n  timeout queue 5s\n  retries 2\n  option redispatch\n\
         listen agents\n  bind 127.0.0.1:{port}{tls}\n  balance roundrobin\n{lines}  default-server \
         {check} on-marked-down shutdown-sessions\n{servers}"
    );
    std::fs::write(c.path("haproxy.cfg"), config).unwrap();
    let mut run = Command::new(program);
    run.arg("-db").arg("-f").arg(c.path("haproxy.cfg"));
    run.stdout(Stdio::null()).stderr(c.log("haproxy.log"));
    let running = Running(run.spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "no balancer: {}", c.tail("haproxy.log"));
        std::thread::sleep(Duration::from_millis(50));
    }
    Some((running, port))
}

/// Rows of one agent over WebSockets, rows and an upload of one over HTTPS.
fn exact_behind(how: Balancer) {
    let (size, kills) = (setting("UPLOAD_MB", 24) << 20, setting("KILLS", 4));
    let n = setting("ROWS", 10_000);
    // So slow that the kills hit the middle, however many POSTs a balancer spreads.
    let rate = size * 1000 / (PACE * kills.max(1));
    let mut c = Cluster::new(rate, how == Balancer::Http).started();
    let Some((_balancer, port)) = balance(&c, how) else { return };
    for scheme in ["https", "wss"] {
        c.agent_at(&[format!("{scheme}://127.0.0.1:{port}/")]);
    }
    let clients = c.clients(2);
    let parts = n / 250;
    let pause = (PACE * kills / parts).max(1).to_string();
    c.define("Custom.Slow", &SLOW.replace("END", &parts.to_string()).replace("PAUSE", &pause));
    let source = c.path("source.bin");
    noise(&source, size);
    let upload = format!("SELECT upload(file='{}') AS Upload FROM scope()", source.display());
    c.define("Custom.Upload", &upload);
    let rows: Vec<String> = clients.iter().map(|id| c.collect(id, "Custom.Slow")).collect();
    let files: Vec<String> = clients.iter().map(|id| c.collect(id, "Custom.Upload")).collect();
    for k in 0..kills {
        let mark = (size * k / kills) as u64;
        let at = c.until("progress", |c| {
            let f = c.flow(&clients[0], &files[0])?;
            let bytes = f["total_uploaded_bytes"].as_u64().unwrap_or(0);
            (bytes >= mark || f["state"] == "FINISHED").then_some(bytes)
        });
        println!("kill -9 at {at} of {size} bytes");
        c.crash(k);
    }
    for ((id, rows), file) in clients.iter().zip(&rows).zip(&files) {
        c.finished(id, rows);
        exact(&c.ids(id, rows, "Custom.Slow"), n);
        c.finished(id, file);
        c.uploaded(id, file, &source);
    }
}

#[test]
fn behind_a_balancer_of_connections() {
    exact_behind(Balancer::Tcp);
}

#[test]
fn behind_a_balancer_of_requests_where_tls_ends() {
    exact_behind(Balancer::Http);
}
