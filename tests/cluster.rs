//! Three frontends as three processes over one directory: clients anywhere,
//! tasked through the master; frontends and the master killed at any moment.
//!
//! The agents are this program's own; `VELOCIRAPTOR_TEST_AGENT=/path/to/agent`
//! takes another one. `VELOCIRAPTOR_TEST_ROWS`, `…_UPLOAD_MB` and `…_KILLS` make
//! the tests longer.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// The program under test; `VELOCIRAPTOR_TEST_BINARY` takes another build of it.
fn binary() -> String {
    let built = env!("CARGO_BIN_EXE_velociraptor");
    std::env::var("VELOCIRAPTOR_TEST_BINARY").unwrap_or_else(|_| built.to_owned())
}

/// How long anything may take; stock agents pause for up to 90 s after an error.
const PATIENCE: Duration = Duration::from_secs(900);

fn setting(name: &str, default: usize) -> usize {
    let text = std::env::var(format!("VELOCIRAPTOR_TEST_{name}"));
    text.ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    /// Client ports: the master's first.
    ports: [u16; 3],
    nodes: [Option<Running>; 3],
    agents: Vec<Running>,
}

/// Milliseconds of collecting for each kill.
const PACE: usize = 4000;

/// One of the frontends.
const MASTER: usize = 0;

impl Cluster {
    /// `rate`: bytes a second that each frontend takes from all clients; 0 for all.
    fn new(rate: usize) -> Self {
        let held: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let p: Vec<u16> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        let c = Self {
            dir: tempfile::Builder::new().prefix("cluster").tempdir().unwrap(),
            ports: [p[0], p[1], p[2]],
            nodes: [None, None, None],
            agents: Vec::new(),
        };
        let ds = c.path("ds");
        std::fs::create_dir_all(&ds).unwrap();
        let merge = serde_json::json!({
            "Frontend": {"hostname": "127.0.0.1", "bind_address": "127.0.0.1", "bind_port": p[0],
                "resources": {"global_upload_rate": rate}},
            "API": {"hostname": "127.0.0.1", "bind_port": p[3]},
            "GUI": {"bind_port": p[4]},
            "Monitoring": {"bind_port": p[5]},
            "Datastore": {"location": ds, "filestore_directory": ds},
            "Client": {"server_urls": [format!("https://127.0.0.1:{}/", p[0])], "max_poll": 1},
        });
        let text = c.command(&["config", "generate", "--merge", &merge.to_string()]);
        std::fs::write(c.path("server.config.yaml"), text).unwrap();
        let (one, two) = (p[1].to_string(), p[2].to_string());
        c.command(&[
            "--config",
            "server.config.yaml",
            "config",
            "frontend",
            "--hostname",
            "127.0.0.1",
            "--bind_port",
            &one,
            "--hostname",
            "127.0.0.1",
            "--bind_port",
            &two,
            "--bind_address",
            "127.0.0.1",
            "--api_hostname",
            "127.0.0.1",
            "--output",
            "nodes",
        ]);
        c
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str) -> Stdio {
        let f = std::fs::OpenOptions::new().create(true).append(true).open(self.path(name));
        f.unwrap().into()
    }

    fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn command(&self, args: &[&str]) -> String {
        let out = Command::new(binary()).current_dir(self.dir.path()).args(args).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8(out.stdout).unwrap()
    }

    fn start(&mut self, node: usize) {
        let name = format!("127.0.0.1-{}", self.ports[node]);
        let mut c = Command::new(binary());
        c.current_dir(self.path("nodes"));
        if node == MASTER {
            c.args(["--config", "server.config.yaml", "frontend"]);
        } else {
            c.args(["--config", &format!("minion.{name}.config.yaml")]);
            c.args(["frontend", "--minion", "--node", &name]);
        }
        c.stdout(Stdio::null()).stderr(self.log(&format!("node{node}.log")));
        self.nodes[node] = Some(Running(c.spawn().unwrap()));
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", self.ports[node])).is_err() {
            let log = self.tail(&format!("node{node}.log"));
            assert!(Instant::now() < end, "node {node} does not start: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        if node == MASTER && !self.path("api.yaml").exists() {
            self.command(&[
                "--config",
                "nodes/server.config.yaml",
                "config",
                "api_client",
                "--name",
                "admin",
                "--role",
                "administrator",
                "api.yaml",
            ]);
        }
    }

    /// SIGKILL.
    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    fn all() -> Self {
        Self::slow(0)
    }

    fn slow(rate: usize) -> Self {
        let mut c = Self::new(rate);
        (0..3).for_each(|n| c.start(n));
        c
    }

    /// An agent that may connect to these nodes.
    fn agent(&mut self, nodes: &[usize], scheme: &str) {
        let n = self.agents.len();
        let text = std::fs::read_to_string(self.path("nodes/client.config.yaml")).unwrap();
        let urls: String = nodes
            .iter()
            .map(|i| format!("  - {scheme}://127.0.0.1:{}/\n", self.ports[*i]))
            .collect();
        let (before, rest) = text.split_once("  server_urls:\n").unwrap();
        let rest: String =
            rest.lines().skip_while(|l| l.starts_with("  - ")).map(|l| format!("{l}\n")).collect();
        let own = self.path(&format!("agent{n}"));
        std::fs::create_dir_all(&own).unwrap();
        let rest = rest
            .replace("/etc/velociraptor.writeback.yaml", &own.join("wb.yaml").display().to_string())
            .replace("/var/tmp/Velociraptor_Buffer.bin", &own.join("buffer").display().to_string());
        assert!(rest.contains("wb.yaml") && rest.contains("agent"), "{rest}");
        let config = self.path(&format!("agent{n}.yaml"));
        std::fs::write(&config, format!("{before}  server_urls:\n{urls}{rest}")).unwrap();
        let agent = std::env::var("VELOCIRAPTOR_TEST_AGENT").unwrap_or_else(|_| binary());
        let mut c = Command::new(agent);
        c.arg("--config").arg(config).arg("client").stdout(Stdio::null());
        c.stderr(self.log(&format!("agent{n}.log")));
        self.agents.push(Running(c.spawn().unwrap()));
    }

    /// Rows of a query; `None` while the master is away.
    fn ask(&self, vql: &str) -> Option<Vec<serde_json::Value>> {
        let mut c = Command::new(binary());
        c.current_dir(self.dir.path()).args(["--api_config", "api.yaml", "query"]);
        let out = c.args(["--format", "jsonl", vql]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        out.status
            .success()
            .then(|| text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
    }

    fn query(&self, vql: &str) -> Vec<serde_json::Value> {
        self.until(vql, |c| c.ask(vql))
    }

    fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let logs: Vec<String> = (0..3).map(|n| self.tail(&format!("node{n}.log"))).collect();
            assert!(Instant::now() < end, "never: {what}\n{}", logs.join("\n--\n"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ids of all clients, once there are `n` that are known by name.
    fn clients(&self, n: usize) -> Vec<String> {
        self.until("clients", |c| {
            let rows = c.ask("SELECT client_id AS X FROM clients() WHERE os_info.hostname")?;
            let ids: Vec<String> =
                rows.iter().filter_map(|r| r["X"].as_str().map(str::to_owned)).collect();
            (ids.len() == n).then_some(ids)
        })
    }

    fn define(&self, name: &str, query: &str) {
        self.query(&format!(
            "SELECT artifact_set(definition='''name: {name}\nsources:\n  - query: |\n      {query}\n''') FROM scope()"
        ));
    }

    fn collect(&self, client: &str, artifact: &str) -> String {
        // Not repeated: a call whose answer is lost may have made a flow.
        let rows = self.ask(&format!(
            "SELECT collect_client(client_id='{client}', artifacts='{artifact}').flow_id AS F FROM scope()"
        ));
        rows.expect("the master is there")[0]["F"].as_str().expect("a flow").to_owned()
    }

    fn flow(&self, client: &str, flow: &str) -> Option<serde_json::Value> {
        self.ask(&format!("SELECT * FROM flows(client_id='{client}', flow_id='{flow}')"))?.pop()
    }

    fn finished(&self, client: &str, flow: &str) {
        self.until(&format!("flow {flow} of {client} finished"), |c| {
            let f = c.flow(client, flow)?;
            assert_ne!(f["state"], "ERROR", "{f}");
            (f["state"] == "FINISHED").then_some(())
        });
    }

    fn ids(&self, client: &str, flow: &str, artifact: &str) -> Vec<u64> {
        let rows = self.query(&format!(
            "SELECT I FROM source(client_id='{client}', flow_id='{flow}', artifact='{artifact}')"
        ));
        rows.iter().map(|r| r["I"].as_u64().unwrap()).collect()
    }
}

fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
}

fn exact(ids: &[u64], n: usize) {
    assert_eq!(ids.len(), n);
    assert!(ids.iter().enumerate().all(|(i, id)| i as u64 == *id), "each row once, in order");
}

/// Rows in parts of 250, so slowly that kills hit the middle.
const SLOW: &str = "SELECT * FROM foreach(row={ SELECT _value AS A, sleep(ms=PAUSE) AS S FROM range(start=0, end=END, step=1) }, query={ SELECT A * 250 + _value AS I FROM range(start=0, end=250, step=1) })";

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
        // Every third time it is the master.
        let node = [1, 2, 0][k % 3];
        println!("kill -9 of node {node} at {at} of {n} rows");
        c.kill(node);
        std::thread::sleep(Duration::from_millis(if node == MASTER { 1500 } else { 200 }));
        c.start(node);
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
    let mut x = 0x2545_f491_4f6c_dd1du64;
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data.extend_from_slice(&x.to_le_bytes());
    }
    data.truncate(size);
    std::fs::write(&source, &data).unwrap();
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
        let node = [1, 2, 0][k % 3];
        println!("kill -9 of node {node} at {at} of {size} bytes");
        c.kill(node);
        std::thread::sleep(Duration::from_millis(if node == MASTER { 1500 } else { 200 }));
        c.start(node);
    }
    c.finished(&client, &flow);
    let rows = c.until("the upload", |c| {
        let q = format!("SELECT Upload FROM uploads(client_id='{client}', flow_id='{flow}')");
        c.ask(&q).filter(|r| !r.is_empty())
    });
    assert_eq!(rows.len(), 1, "one metadata row: {rows:?}");
    let parts = rows[0]["Upload"]["Components"].as_array().unwrap();
    let stored = parts.iter().fold(c.path("ds"), |p, x| p.join(x.as_str().unwrap()));
    assert_eq!(sha256(&stored), sha256(&source));
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
