//! Events of clients of three frontends: stored once, seen once by an event artifact
//! of the server, and forwarded to a store that fails, while frontends are killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Cluster, MASTER, exact, setting};

/// A store: rows by id, and the numbers of each client in the order in which they
/// came first.
#[derive(Default)]
struct Store {
    rows: BTreeMap<String, u64>,
    clients: BTreeMap<String, Vec<u64>>,
    requests: u64,
}

/// Takes what is POSTed to it, but for every fifth request; of every seventh it takes
/// the rows and says that it did not.
fn listen() -> (u16, Arc<Mutex<Store>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let store = Arc::new(Mutex::new(Store::default()));
    let taken = store.clone();
    std::thread::spawn(move || {
        for conn in listener.incoming().flatten() {
            // A sender that was killed leaves half a request.
            let _ = serve(conn, &taken);
        }
    });
    (port, store)
}

fn serve(conn: TcpStream, store: &Mutex<Store>) -> std::io::Result<()> {
    conn.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut input = BufReader::new(conn);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    let status = {
        let mut s = store.lock().unwrap();
        s.requests += 1;
        if s.requests.is_multiple_of(5) {
            "503 Not now"
        } else {
            for line in body.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let row: serde_json::Value = serde_json::from_slice(line).unwrap();
                let id = row["_Id"].as_str().unwrap().to_owned();
                let times = s.rows.entry(id).or_default();
                *times += 1;
                if *times == 1 {
                    let client = row["ClientId"].as_str().unwrap().to_owned();
                    s.clients.entry(client).or_default().push(row["N"].as_u64().unwrap());
                }
            }
            if s.requests.is_multiple_of(7) { "500 Taken, and not said" } else { "200 OK" }
        }
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    input.get_mut().write_all(answer.as_bytes())
}

fn define(c: &Cluster, name: &str, kind: &str, query: &str) {
    c.query(&format!(
        "SELECT artifact_set(definition='''name: {name}\ntype: {kind}\nsources:\n  - query: |\n      {query}\n''') FROM scope()"
    ));
}

#[test]
fn events_are_stored_seen_and_forwarded_once_through_kills() {
    let parts = setting("EVENT_ROWS", 4000) / 100;
    let pause = setting("EVENT_PAUSE_MS", 200).to_string();
    let agents: u64 = 3;
    let (port, store) = listen();
    let mut c = Cluster::new(0, false);
    let settings = c.path("nodes/server.fleet.yaml");
    let mut text = std::fs::read_to_string(&settings).unwrap();
    text += &format!(
        "forward:\n- name: siem\n  url: http://127.0.0.1:{port}/rows\n  artifacts: [Custom.Tick]\n  batch_rows: 250\n"
    );
    std::fs::write(&settings, text).unwrap();
    (0..3).for_each(|n| c.start(n));
    for (nodes, scheme) in [([0, 1, 2], "https"), ([1, 2, 0], "wss"), ([2, 0, 1], "https")] {
        c.agent(&nodes, scheme);
    }
    let clients = c.clients(agents as usize);
    let rows = "SELECT * FROM foreach(row={ SELECT _value AS A, sleep(ms=PAUSE) AS S FROM range(start=0, end=PARTS, step=1) }, query={ SELECT A * 100 + _value AS N FROM range(start=0, end=100, step=1) })";
    define(
        &c,
        "Custom.Tick",
        "CLIENT_EVENT",
        &rows.replace("PARTS", &parts.to_string()).replace("PAUSE", &pause),
    );
    let watch = "SELECT ClientId, N FROM watch_monitoring(artifact='Custom.Tick')";
    define(&c, "Custom.Watch", "SERVER_EVENT", watch);
    let set = c
        .query("SELECT add_server_monitoring(artifact='Custom.Watch').artifacts AS A FROM scope()");
    assert_eq!(set[0]["A"][0], "Custom.Watch", "{set:?}");
    // The watcher looks before anything comes.
    std::thread::sleep(Duration::from_secs(3));
    c.query("SELECT add_client_monitoring(artifact='Custom.Tick') FROM scope()");
    let count = |c: &Cluster, client: &str, artifact: &str| {
        let q = format!(
            "SELECT count() AS C FROM monitoring(client_id='{client}', artifact='{artifact}') GROUP BY 1"
        );
        Some(c.ask(&q)?.first().map_or(0, |r| r["C"].as_u64().unwrap_or(0)))
    };
    let total = parts as u64 * 100;
    for node in [1, 2] {
        let mark = total * node as u64 / 4;
        c.until("progress", |c| count(c, &clients[0], "Custom.Tick").filter(|n| *n >= mark));
        c.kill(node);
        std::thread::sleep(Duration::from_millis(500));
        c.start(node);
    }
    for client in &clients {
        let there = |c: &Cluster| count(c, client, "Custom.Tick").filter(|n| *n >= total);
        c.until("all rows of a client", there);
        let q = format!("SELECT N FROM monitoring(client_id='{client}', artifact='Custom.Tick')");
        let stored: Vec<u64> = c.query(&q).iter().map(|r| r["N"].as_u64().unwrap()).collect();
        let mut sorted = stored.clone();
        sorted.sort_unstable();
        exact(&sorted, total as usize);
    }
    // The server's own query saw each once, and in order.
    let seen = |c: &Cluster| count(c, "server", "Custom.Watch").filter(|n| *n >= total * agents);
    c.until("the server has seen all", seen);
    let rows =
        c.query("SELECT ClientId, N FROM monitoring(client_id='server', artifact='Custom.Watch')");
    for client in &clients {
        let of = |r: &&serde_json::Value| r["ClientId"] == client.as_str();
        let seen: Vec<u64> = rows.iter().filter(of).map(|r| r["N"].as_u64().unwrap()).collect();
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        exact(&sorted, total as usize);
    }
    // The master is killed while it forwards; what is owed is delivered by the next.
    c.kill(MASTER);
    c.start(MASTER);
    c.until("all rows forwarded", |_| {
        let s = store.lock().unwrap();
        (s.rows.len() as u64 >= total * agents).then_some(())
    });
    let s = store.lock().unwrap();
    assert_eq!(s.rows.len() as u64, total * agents);
    for client in &clients {
        let mut sorted = s.clients[client].clone();
        sorted.sort_unstable();
        exact(&sorted, total as usize);
    }
    let twice = s.rows.values().filter(|n| **n > 1).count();
    println!(
        "{} rows of {agents} clients, {twice} sent more than once, {} requests",
        s.rows.len(),
        s.requests
    );
}
