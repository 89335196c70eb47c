//! A node is taken out of service while its clients work: they go to others, and
//! nothing is lost.

use std::time::{Duration, Instant};

use crate::balanced::{Balancer, balance_by};
use crate::harness::{Cluster, MASTER, SLOW, exact};

/// Rows of each flow.
const ROWS: usize = 5000;

/// Four agents, half of them over WebSockets, at two minions, each with a flow that
/// takes some seconds.
fn at_work() -> (Cluster, Vec<(String, String)>) {
    let mut c = Cluster::all();
    for scheme in ["https", "https", "wss", "wss"] {
        c.agent(&[1, 2], scheme);
    }
    let clients = c.clients(4);
    let query = SLOW.replace("END", &(ROWS / 250).to_string()).replace("PAUSE", "500");
    c.define("Custom.Slow", &query);
    let flows = clients.iter().map(|id| (id.clone(), c.collect(id, "Custom.Slow"))).collect();
    (c, flows)
}

/// The minion with more clients, the other one, and how many it has.
fn busier(c: &Cluster) -> (usize, usize) {
    let [one, two] = [1, 2].map(|n| c.node(n)["Clients"].as_u64().unwrap());
    if one >= two { (1, 2) } else { (2, 1) }
}

/// Waits until all four are held, none of them by this node.
fn gone_from(c: &Cluster, node: usize) -> Duration {
    let begun = Instant::now();
    c.until("every client is held elsewhere", |c| {
        let counts = [0, 1, 2].map(|n| c.node(n)["Clients"].as_u64().unwrap_or(0));
        (counts[node] == 0 && counts.iter().sum::<u64>() == 4).then_some(())
    });
    begun.elapsed()
}

fn nothing_is_lost(c: &Cluster, flows: &[(String, String)]) {
    for (id, flow) in flows {
        c.finished(id, flow);
        exact(&c.ids(id, flow, "Custom.Slow"), ROWS);
    }
}

#[test]
fn a_drained_node_sends_its_clients_to_others_and_takes_none() {
    let (c, flows) = at_work();
    let (drained, other) = busier(&c);
    let name = c.name(drained);
    let said = c.command(&["-a", "api.yaml", "frontend", "drain", "--node", &name]);
    assert!(said.contains("is drained"), "{said}");
    println!("held elsewhere after {:?}", gone_from(&c, drained));
    assert_eq!(c.node(drained)["Drained"], true);
    assert_eq!(c.node(other)["Drained"], false);
    assert!(c.health(drained).starts_with("HTTP/1.1 404"), "{}", c.health(drained));
    assert!(c.health(other).starts_with("HTTP/1.1 200"), "{}", c.health(other));
    nothing_is_lost(&c, &flows);
    // New work reaches them where they are now.
    c.define("Custom.Few", "SELECT _value AS I FROM range(start=0, end=7, step=1)");
    for (id, _) in &flows {
        let flow = c.collect(id, "Custom.Few");
        c.finished(id, &flow);
        exact(&c.ids(id, &flow, "Custom.Few"), 7);
    }
    assert_eq!(c.node(drained)["Clients"], 0);
    let said = c.command(&["-a", "api.yaml", "frontend", "drain", "--undo", "--node", &name]);
    assert!(said.contains("is back in service"), "{said}");
    c.until("healthy again", |c| c.health(drained).starts_with("HTTP/1.1 200").then_some(()));
}

#[test]
fn a_node_that_is_told_to_end_sends_its_clients_away_first() {
    let (mut c, flows) = at_work();
    let (ended, _) = busier(&c);
    let status = c.terminate(ended);
    println!("ended with {status}; held elsewhere after {:?} more", gone_from(&c, ended));
    assert!(status.success(), "{status}");
    let log = std::fs::read_to_string(c.path(&format!("node{ended}.log"))).unwrap();
    let line = log.lines().find(|l| l.contains("clients were sent away")).expect("it says so");
    assert!(line.contains("left=0"), "{line}");
    nothing_is_lost(&c, &flows);
}

#[test]
fn behind_a_balancer_a_drained_node_is_left() {
    // Agents know no node's own URL, and neither do the nodes.
    let mut c = Cluster::made(0, false, &["--keep_server_urls"]).started();
    let lines = "  option httpchk GET /healthz\n  http-check disable-on-404\n";
    let check = "check check-ssl verify none inter 500ms fall 3 rise 2";
    let Some((_balancer, port)) = balance_by(&c, Balancer::Tcp, lines, check) else { return };
    for scheme in ["https", "wss", "https", "wss"] {
        c.agent_at(&[format!("{scheme}://127.0.0.1:{port}/")]);
    }
    let clients = c.clients(4);
    c.define(
        "Custom.Slow",
        &SLOW.replace("END", &(ROWS / 250).to_string()).replace("PAUSE", "500"),
    );
    let flows: Vec<(String, String)> =
        clients.iter().map(|id| (id.clone(), c.collect(id, "Custom.Slow"))).collect();
    let (drained, _) = busier(&c);
    c.command(&["-a", "api.yaml", "frontend", "drain", "--node", &c.name(drained)]);
    println!("held elsewhere after {:?}", gone_from(&c, drained));
    nothing_is_lost(&c, &flows);
}

#[test]
fn draining_outlasts_restarts_and_unknown_nodes_are_refused() {
    let mut c = Cluster::all();
    let name = c.name(1);
    c.command(&["-a", "api.yaml", "frontend", "drain", "--node", &name]);
    for node in [1, MASTER] {
        c.kill(node);
        c.start(node);
    }
    c.until("the minion is drained still", |c| {
        c.health(1).starts_with("HTTP/1.1 404").then_some(())
    });
    let bad = c.fails(&["-a", "api.yaml", "frontend", "drain", "--node", "nobody-1"]);
    assert!(bad.contains("no node is called") && bad.contains(&name), "{bad}");
}
