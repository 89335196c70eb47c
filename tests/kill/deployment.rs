//! A server, an agent and a relay between them, as processes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::relay::Relay;

const BINARY: &str = env!("CARGO_BIN_EXE_velociraptor");

/// How long anything may take that takes a moment.
const SOON: Duration = Duration::from_secs(60);

/// See the module.
pub struct Deployment {
    dir: tempfile::TempDir,
    /// Of the server: clients, API, GUI, metrics.
    ports: [u16; 4],
    /// Where the agent connects.
    pub relay: Relay,
    /// Largest POST of the agent, bytes.
    post_size: u64,
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
    /// Nothing runs yet.
    pub fn new() -> Self {
        let ports = crate::ports::free::<4>();
        Self {
            // No leading dot: names of stored files would be escaped.
            dir: tempfile::Builder::new().prefix("kill").tempdir().unwrap(),
            relay: Relay::start(ports[0]),
            ports,
            post_size: 5 << 20,
            server: None,
            agent: None,
        }
    }

    /// A running server with `settings` (YAML), and an agent that has enrolled
    /// and sends about `post_size` bytes at once.
    pub fn ready(settings: &str, post_size: u64) -> (Self, String) {
        Self::ready_on(None, settings, post_size)
    }

    /// The same with the datastore in the directory `store`.
    pub fn ready_on(store: Option<&Path>, settings: &str, post_size: u64) -> (Self, String) {
        let mut d = Self::new();
        d.post_size = post_size;
        match store {
            Some(at) => std::os::unix::fs::symlink(at, d.path("ds")).unwrap(),
            None => std::fs::create_dir_all(d.path("ds")).unwrap(),
        }
        std::fs::write(d.path("ds/velociraptor-fleet.yaml"), settings).unwrap();
        d.start_server();
        d.start_agent();
        let client = d.client();
        (d, client)
    }

    /// An address on the port for agents, without the relay.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.ports[0])
    }

    /// A path in the deployment's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str) -> Stdio {
        let f = std::fs::OpenOptions::new().create(true).append(true).open(self.path(name));
        f.unwrap().into()
    }

    /// Starts the server and waits until it serves.
    pub fn start_server(&mut self) {
        let [clients, api, gui, monitoring] = self.ports.map(|p| p.to_string());
        let mut c = Command::new(BINARY);
        c.args(["gui", "--nobrowser", "--noclient", "--datastore"])
            .arg(self.path("ds"))
            .args(["--frontend_port", &clients, "--api_port", &api])
            .args(["--gui_port", &gui, "--monitoring_port", &monitoring])
            .stdout(Stdio::null())
            .stderr(self.log("server.log"));
        self.server = Some(c.spawn().unwrap());
        let end = Instant::now() + SOON;
        while self.try_metric("velociraptor_clients").is_none()
            || !self.path("ds/api.config.yaml").exists()
        {
            assert!(Instant::now() < end, "server does not start: {}", self.tail("server.log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tries to start a second process, which must fail; returns what it says.
    pub fn start_another(&self) -> String {
        let out = Command::new(BINARY)
            .arg("--config")
            .arg(self.path("ds/server.config.yaml"))
            .arg("frontend")
            .output()
            .unwrap();
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
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
        let text = text
            .replace(&from, &to)
            .replace("max_poll: 60", "max_poll: 1\n  max_poll_std: 1")
            .replace("max_upload_size: 5242880", &format!("max_upload_size: {}", self.post_size))
            .replace(&format!(":{}/", self.ports[0]), &format!(":{}/", self.relay.port));
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

    fn try_metric(&self, name: &str) -> Option<u64> {
        let mut s = TcpStream::connect(("127.0.0.1", self.ports[3])).ok()?;
        s.set_read_timeout(Some(SOON)).ok()?;
        s.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        s.read_to_string(&mut text).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    }

    /// A metric of the running server, which never refuses to tell.
    pub fn metric(&self, name: &str) -> u64 {
        self.try_metric(name).unwrap_or_else(|| panic!("no {name}: {}", self.tail("server.log")))
    }

    /// The rows of a query on the server; `None` if it fails or takes too long.
    pub fn query(&self, vql: &str) -> Option<Vec<serde_json::Value>> {
        let mut child = Command::new(BINARY)
            .arg("--api_config")
            .arg(self.path("ds/api.config.yaml"))
            .args(["query", "--timeout", "60", "--format", "jsonl", vql])
            .stdout(Stdio::piped())
            .stderr(self.log("query.log"))
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).map(|_| text)
        });
        let end = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= end {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = reader.join().unwrap().ok()?;
        let rows = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        status.success().then_some(rows)
    }

    /// The column `X` of the first row.
    pub fn one(&self, vql: &str) -> String {
        let rows = self.query(vql).unwrap_or_else(|| panic!("{vql}: {}", self.tail("query.log")));
        let first =
            rows.first().unwrap_or_else(|| panic!("no rows: {vql}: {}", self.tail("server.log")));
        first["X"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned()
    }

    fn client(&self) -> String {
        let end = Instant::now() + SOON;
        loop {
            let rows = self.query("SELECT client_id AS X FROM clients() WHERE os_info.hostname");
            if let Some(id) = rows.unwrap_or_default().first().and_then(|r| r["X"].as_str()) {
                return id.to_owned();
            }
            assert!(Instant::now() < end, "no client: {}", self.tail("agent.log"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The end of a log file.
    pub fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Defines an artifact of one query.
    pub fn define(&self, name: &str, vql: &str) {
        self.query(&format!(
            "SELECT artifact_set(definition='''name: {name}\nsources:\n  - query: |\n      {vql}\n''') FROM scope()"
        ))
        .unwrap_or_else(|| panic!("{name}: {}", self.tail("query.log")));
    }

    /// Starts a collection; returns its flow id.
    pub fn collect(&self, client: &str, artifact: &str) -> String {
        self.one(&format!(
            "SELECT collect_client(client_id='{client}', artifacts='{artifact}').flow_id AS X FROM scope()"
        ))
    }

    /// The state of a flow; `None` if the server has no such flow.
    pub fn state(&self, client: &str, flow: &str) -> Option<String> {
        let rows =
            self.query(&format!("SELECT state FROM flows(client_id='{client}', flow_id='{flow}')"));
        let rows = rows.unwrap_or_else(|| panic!("flows(): {}", self.tail("query.log")));
        Some(rows.first()?["state"].as_str()?.to_owned())
    }
}
