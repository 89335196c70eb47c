//! Three frontends as three processes over one directory: clients anywhere,
//! tasked through the master; frontends and the master killed at any moment.
//!
//! The agents are this program's own; `VELOCIRAPTOR_TEST_AGENT=/path/to/agent`
//! takes another one. `VELOCIRAPTOR_TEST_ROWS`, `…_UPLOAD_MB` and `…_KILLS` make
//! the tests longer.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

mod balanced;
mod drain;
mod events;
mod harness;
mod hunts;

use std::time::{Duration, Instant};

use harness::{Cluster, MASTER, PACE, SLOW, exact, noise, setting};

#[test]
fn clients_of_every_frontend_are_tasked_through_the_master() {
    let mut c = Cluster::all();
    for (node, scheme) in [(0, "https"), (1, "https"), (2, "wss")] {
        c.agent(&[node], scheme);
    }
    let clients = c.clients(3);
    c.define("Custom.Rows", "SELECT _value AS I FROM range(start=0, end=5000, step=1)");
    let flows: Vec<String> = clients.iter().map(|id| c.collect(id, "Custom.Rows")).collect();
    for (id, flow) in clients.iter().zip(&flows) {
        c.finished(id, flow);
        exact(&c.ids(id, flow, "Custom.Rows"), 5000);
    }
    // Between two polls a client is nowhere for a moment.
    c.until("every node holds one client", |c| {
        let status = c.command(&["--api_config", "api.yaml", "cluster", "status", "--json"]);
        let nodes: Vec<serde_json::Value> =
            status.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(nodes.len(), 3, "{status}");
        assert!(nodes.iter().all(|n| n["Connected"] == true), "{status}");
        nodes.iter().all(|n| n["Clients"] == 1).then_some(())
    });
}

#[test]
fn what_clients_send_survives_kills_of_any_frontend() {
    let mut c = Cluster::all();
    c.agent(&[1, 2, 0], "https");
    c.agent(&[2, 0, 1], "wss");
    let (clients, n) = (c.clients(2), setting("ROWS", 20_000));
    let (parts, kills) = (n / 250, setting("KILLS", 6));
    let pause = (PACE * kills / parts).max(1).to_string();
    c.define("Custom.Slow", &SLOW.replace("END", &parts.to_string()).replace("PAUSE", &pause));
    let flows: Vec<String> = clients.iter().map(|id| c.collect(id, "Custom.Slow")).collect();
    for k in 0..kills {
        let rows = |c: &Cluster| {
            let f = c.flow(&clients[0], &flows[0])?;
            f["total_collected_rows"].as_u64()
        };
        let mark = (n * k / kills) as u64;
        let at = c.until("progress", |c| rows(c).filter(|r| *r >= mark));
        println!("kill -9 at {at} of {n} rows");
        c.crash(k);
    }
    for (id, flow) in clients.iter().zip(&flows) {
        c.finished(id, flow);
        exact(&c.ids(id, flow, "Custom.Slow"), n);
    }
}

#[test]
fn an_upload_survives_kills_of_any_frontend() {
    let (size, kills) = (setting("UPLOAD_MB", 48) << 20, setting("KILLS", 6));
    let mut c = Cluster::slow(size * 1000 / (PACE * kills.max(1)));
    c.agent(&[1, 2, 0], "https");
    let client = c.clients(1).remove(0);
    let source = c.path("source.bin");
    noise(&source, size);
    c.define(
        "Custom.Upload",
        &format!("SELECT upload(file='{}') AS Upload FROM scope()", source.display()),
    );
    let flow = c.collect(&client, "Custom.Upload");
    for k in 0..kills {
        let mark = (size * k / kills) as u64;
        let at = c.until("progress", |c| {
            let f = c.flow(&client, &flow)?;
            let bytes = f["total_uploaded_bytes"].as_u64().unwrap_or(0);
            (bytes >= mark || f["state"] == "FINISHED").then_some(bytes)
        });
        println!("kill -9 at {at} of {size} bytes");
        c.crash(k);
    }
    c.finished(&client, &flow);
    c.uploaded(&client, &flow, &source);
}

#[test]
fn clients_are_served_while_the_master_is_away() {
    let mut c = Cluster::all();
    c.agent(&[1], "https");
    let client = c.clients(1).remove(0);
    c.define("Custom.Slow", &SLOW.replace("END", "80").replace("PAUSE", "50"));
    let flow = c.collect(&client, "Custom.Slow");
    c.until("first rows", |c| {
        c.flow(&client, &flow)?["total_collected_rows"].as_u64().filter(|n| *n > 0)
    });
    c.kill(MASTER);
    // A client nobody knows enrols meanwhile, and the first one finishes.
    c.agent(&[2], "https");
    std::thread::sleep(Duration::from_secs(8));
    c.start(MASTER);
    let back = Instant::now();
    c.finished(&client, &flow);
    exact(&c.ids(&client, &flow, "Custom.Slow"), 20_000);
    assert_eq!(c.clients(2).len(), 2);
    println!("all there {:?} after the master was back", back.elapsed());
}
