//! kill -9 at many points of an upload and of a long collection: everything a
//! client was acknowledged is there afterwards, once.
//!
//! The agent is this program's own; `VELOCIRAPTOR_TEST_AGENT=/path/to/agent`
//! takes another one, which must understand `--config FILE client`.
//! `VELOCIRAPTOR_TEST_UPLOAD_MB`, `…_ROWS` and `…_KILLS` make the test longer.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// How long a collection may take with all its kills.
const PATIENCE: Duration = Duration::from_secs(900);

const BINARY: &str = env!("CARGO_BIN_EXE_velociraptor");

fn setting(name: &str, default: usize) -> usize {
    std::env::var(format!("VELOCIRAPTOR_TEST_{name}"))
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

struct Deployment {
    dir: tempfile::TempDir,
    ports: [u16; 4],
    server: Option<Child>,
    agent: Option<Child>,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for mut c in [self.agent.take(), self.server.take()].into_iter().flatten() {
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

impl Deployment {
    fn new() -> Self {
        let held: Vec<TcpListener> =
            (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        Self {
            // No leading dot: names of stored files would be escaped.
            dir: tempfile::Builder::new().prefix("kill").tempdir().unwrap(),
            ports: ports.try_into().unwrap(),
            server: None,
            agent: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str) -> Stdio {
        let f = std::fs::OpenOptions::new().create(true).append(true).open(self.path(name));
        f.unwrap().into()
    }

    fn start_server(&mut self) {
        let [clients, api, gui, monitoring] = self.ports.map(|p| p.to_string());
        let mut c = Command::new(BINARY);
        c.args(["gui", "--nobrowser", "--noclient", "--datastore"])
            .arg(self.path("ds"))
            .args(["--frontend_port", &clients, "--api_port", &api])
            .args(["--gui_port", &gui, "--monitoring_port", &monitoring])
            .stdout(Stdio::null())
            .stderr(self.log("server.log"));
        self.server = Some(c.spawn().unwrap());
        let end = Instant::now() + Duration::from_secs(60);
        while self.metric("velociraptor_clients").is_none()
            || !self.path("ds/api.config.yaml").exists()
        {
            assert!(Instant::now() < end, "server does not start: {}", self.tail("server.log"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// So slow that kills hit the middle: bytes a second from all clients.
    fn limit_uploads(&mut self, rate: u64) {
        let path = self.path("ds/server.config.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let at = "  resources:\n";
        assert!(text.contains(at), "{text}");
        let text = text.replace(at, &format!("{at}    global_upload_rate: {rate}\n"));
        std::fs::write(&path, text).unwrap();
        self.kill_server();
        self.start_server();
    }

    fn kill_server(&mut self) {
        let mut c = self.server.take().unwrap();
        c.kill().unwrap(); // SIGKILL
        c.wait().unwrap();
    }

    fn start_agent(&mut self) {
        let text = std::fs::read_to_string(self.path("ds/client.config.yaml")).unwrap();
        let from = self.path("ds").display().to_string();
        let to = self.path("agent").display().to_string();
        std::fs::create_dir_all(&to).unwrap();
        // Short waits, so that the test is about kills and not about patience.
        let text =
            text.replace(&from, &to).replace("max_poll: 60", "max_poll: 1\n  max_poll_std: 1");
        let config = self.path("agent.yaml");
        std::fs::write(&config, text).unwrap();
        let agent = std::env::var("VELOCIRAPTOR_TEST_AGENT").unwrap_or(BINARY.into());
        let mut c = Command::new(agent);
        c.arg("--config")
            .arg(config)
            .arg("client")
            .stdout(Stdio::null())
            .stderr(self.log("agent.log"));
        self.agent = Some(c.spawn().unwrap());
    }

    fn metric(&self, name: &str) -> Option<u64> {
        let mut s = TcpStream::connect(("127.0.0.1", self.ports[3])).ok()?;
        s.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        s.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        s.read_to_string(&mut text).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    }

    fn query(&self, vql: &str) -> Vec<serde_json::Value> {
        let out = Command::new(BINARY)
            .arg("--api_config")
            .arg(self.path("ds/api.config.yaml"))
            .args(["query", "--format", "jsonl", vql])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    fn one(&self, vql: &str) -> String {
        let rows = self.query(vql);
        let first =
            rows.first().unwrap_or_else(|| panic!("no rows: {vql}: {}", self.tail("server.log")));
        first["X"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned()
    }

    fn client(&self) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let rows = self.query("SELECT client_id AS X FROM clients() WHERE os_info.hostname");
            if let Some(id) = rows.first().and_then(|r| r["X"].as_str()) {
                return id.to_owned();
            }
            assert!(Instant::now() < end, "no client: {}", self.tail("agent.log"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Schedules `artifact`, kills the server each time the metric passes the
    /// next mark, and waits for the end.
    fn collect_under_fire(
        &mut self,
        client: &str,
        artifact: &str,
        metric: &str,
        total: u64,
        kills: usize,
        patience: Duration,
    ) -> Option<String> {
        let flow = self.one(&format!(
            "SELECT collect_client(client_id='{client}', artifacts='{artifact}').flow_id AS X FROM scope()"
        ));
        let (mut before, mut killed, mut points) = (0u64, 0, Vec::new());
        let mut last_look = Instant::now();
        let mut received = 0;
        let end = Instant::now() + patience;
        loop {
            if Instant::now() >= end {
                println!("not finished: {}\n{}", self.tail("server.log"), self.tail("agent.log"));
                return None;
            }
            let now = self.metric(metric).unwrap_or(0);
            let mark = total * killed as u64 / kills.max(1) as u64;
            let looked = last_look.elapsed() > Duration::from_secs(1);
            let state = if killed == kills || looked { self.state(client, &flow) } else { None };
            if looked {
                last_look = Instant::now();
            }
            if state.as_deref() == Some("ERROR") {
                println!("flow failed: {}", self.tail("agent.log"));
                return None;
            }
            let over = state.as_deref() == Some("FINISHED");
            if killed < kills && (over || before + now >= mark) {
                points.push(if over { 100 } else { 100 * (before + now) / total });
                received += self.metric("frontend_receiver_bytes").unwrap_or(0);
                self.kill_server();
                before += now;
                killed += 1;
                self.start_server();
                // Both are lower bounds of what is acknowledged by now.
                before = before.max(self.stored(client, &flow, metric).unwrap_or(0));
                continue;
            }
            if killed == kills && over {
                break;
            }
            // Slower than the rate at which the server sheds connections.
            std::thread::sleep(Duration::from_millis(25));
        }
        received += self.metric("frontend_receiver_bytes").unwrap_or(0);
        println!("bodies received in all: {received} bytes");
        println!("{artifact}: killed at {points:?} % of {total}");
        Some(flow)
    }

    fn state(&self, client: &str, flow: &str) -> Option<String> {
        let rows =
            self.query(&format!("SELECT state FROM flows(client_id='{client}', flow_id='{flow}')"));
        Some(rows.first()?["state"].as_str()?.to_owned())
    }

    /// What the restarted server has of the flow already.
    fn stored(&self, client: &str, flow: &str, metric: &str) -> Option<u64> {
        let column = if metric == "uploaded_bytes" {
            "total_uploaded_bytes"
        } else {
            "total_collected_rows"
        };
        let rows = self.query(&format!(
            "SELECT {column} AS X FROM flows(client_id='{client}', flow_id='{flow}')"
        ));
        rows.first()?["X"].as_u64().filter(|n| *n > 0)
    }
}

fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
}

fn ready() -> (Deployment, String) {
    let mut d = Deployment::new();
    d.start_server();
    d.start_agent();
    let client = d.client();
    (d, client)
}

#[test]
fn an_upload_survives_kills_at_every_point() {
    let (mut d, client) = ready();
    let size = setting("UPLOAD_MB", 24) << 20;
    let kills = setting("KILLS", 5);
    d.limit_uploads(8 << 20);
    let source = d.path("source.bin");
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
    d.query(&format!(
        "SELECT artifact_set(definition='''name: Custom.Kill.Upload\nsources:\n  - query: |\n      SELECT upload(file='{}') AS Upload FROM scope()\n''') FROM scope()",
        source.display()
    ));
    let total = size as u64;
    let flow = d.collect_under_fire(
        &client,
        "Custom.Kill.Upload",
        "uploaded_bytes",
        total,
        kills,
        PATIENCE,
    );
    let flow = flow.expect("the upload finishes");
    let rows =
        d.query(&format!("SELECT Upload FROM uploads(client_id='{client}', flow_id='{flow}')"));
    assert_eq!(rows.len(), 1, "one metadata row: {rows:?}");
    let parts = rows[0]["Upload"]["Components"].as_array().unwrap();
    let stored = parts.iter().fold(d.path("ds"), |p, c| p.join(c.as_str().unwrap()));
    assert_eq!(sha256(&stored), sha256(&source));
}

/// Collects numbered rows slowly under kills; returns the ids that were stored.
fn rows_under_fire(
    d: &mut Deployment,
    client: &str,
    n: usize,
    kills: usize,
    patience: Duration,
) -> Option<Vec<u64>> {
    d.query(&format!(
        "SELECT artifact_set(definition='''name: Custom.Kill.Rows\nsources:\n  - query: |\n      SELECT * FROM foreach(row={{ SELECT _value AS A, sleep(ms=100) AS S FROM range(start=0, end={}, step=1) }}, query={{ SELECT A * 500 + _value AS I FROM range(start=0, end=500, step=1) }})\n''') FROM scope()",
        n / 500
    ));
    let metric = "velociraptor_rows_total";
    let flow =
        d.collect_under_fire(client, "Custom.Kill.Rows", metric, n as u64, kills, patience)?;
    let rows = d.query(&format!(
        "SELECT I FROM source(client_id='{client}', flow_id='{flow}', artifact='Custom.Kill.Rows')"
    ));
    Some(rows.iter().filter_map(|r| r["I"].as_u64()).collect())
}

#[test]
fn rows_survive_kills_at_every_point() {
    let (mut d, client) = ready();
    let n = setting("ROWS", 20_000);
    let ids = rows_under_fire(&mut d, &client, n, setting("KILLS", 5), PATIENCE);
    let ids = ids.expect("the collection finishes");
    assert_eq!(ids.len(), n);
    assert!(ids.iter().enumerate().all(|(i, id)| i as u64 == *id), "row ids in order, each once");
}

#[test]
fn a_second_process_on_the_same_datastore_is_refused() {
    let mut d = Deployment::new();
    d.start_server();
    let out = Command::new(BINARY)
        .arg("--config")
        .arg(d.path("ds/server.config.yaml"))
        .arg("frontend")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("another process"), "{text}");
    // A killed one is no hindrance.
    d.kill_server();
    d.start_server();
}
