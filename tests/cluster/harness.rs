//! Three frontends as three processes, and agents; what tests do with them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

#[path = "../common/ports.rs"]
pub mod ports;

/// The program under test; `VELOCIRAPTOR_TEST_BINARY` takes another build of it.
fn binary() -> String {
    let built = env!("CARGO_BIN_EXE_velociraptor");
    std::env::var("VELOCIRAPTOR_TEST_BINARY").unwrap_or_else(|_| built.to_owned())
}

/// How long anything may take; stock agents pause for up to 90 s after an error.
pub const PATIENCE: Duration = Duration::from_secs(900);

pub fn setting(name: &str, default: usize) -> usize {
    let text = std::env::var(format!("VELOCIRAPTOR_TEST_{name}"));
    text.ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Cluster {
    pub dir: tempfile::TempDir,
    /// Client ports: the master's first.
    pub ports: [u16; 3],
    nodes: [Option<Running>; 3],
    agents: Vec<Running>,
}

/// Milliseconds of collecting for each kill.
pub const PACE: usize = 4000;

/// One of the frontends.
pub const MASTER: usize = 0;

impl Cluster {
    /// `rate`: bytes a second that each frontend takes from all clients; 0 for all.
    /// `plain`: TLS ends before them.
    pub fn new(rate: usize, plain: bool) -> Self {
        Self::made(rate, plain, &[])
    }

    /// With more arguments for `config frontend`.
    pub fn made(rate: usize, plain: bool, more: &[&str]) -> Self {
        // The last two are where `config frontend` puts the metrics of the minions.
        let p = ports::free::<8>();
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
                "use_plain_http": plain, "resources": {"global_upload_rate": rate}},
            "API": {"hostname": "127.0.0.1", "bind_port": p[3]},
            "GUI": {"bind_port": p[4]},
            "Monitoring": {"bind_port": p[5]},
            "Datastore": {"location": ds, "filestore_directory": ds},
            "Client": {"server_urls": [format!("https://127.0.0.1:{}/", p[0])], "max_poll": 1},
            "defaults": {"event_max_wait": 1, "event_max_wait_jitter": 1},
        });
        let text = c.command(&["config", "generate", "--merge", &merge.to_string()]);
        std::fs::write(c.path("server.config.yaml"), text).unwrap();
        let (one, two) = (p[1].to_string(), p[2].to_string());
        let frontend = [
            "--config",
            "server.config.yaml",
            "config",
            "frontend",
            "--hostname",
            "127.0.0.1",
            "--bind_port",
            one.as_str(),
            "--hostname",
            "127.0.0.1",
            "--bind_port",
            two.as_str(),
            "--bind_address",
            "127.0.0.1",
            "--api_hostname",
            "127.0.0.1",
            "--output",
            "nodes",
        ];
        c.command(&[&frontend[..], more].concat());
        c
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self, name: &str) -> Stdio {
        let f = std::fs::OpenOptions::new().create(true).append(true).open(self.path(name));
        f.unwrap().into()
    }

    pub fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub fn command(&self, args: &[&str]) -> String {
        let out = Command::new(binary()).current_dir(self.dir.path()).args(args).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn start(&mut self, node: usize) {
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

    /// A node's name in the deployment.
    pub fn name(&self, node: usize) -> String {
        format!("127.0.0.1-{}", self.ports[node])
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self, node: usize) -> std::process::ExitStatus {
        let mut running = self.nodes[node].take().expect("it runs");
        let pid = rustix::process::Pid::from_raw(running.0.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        running.0.wait().unwrap()
    }

    /// What the master says of a node.
    pub fn node(&self, node: usize) -> serde_json::Value {
        let rows = self.query("SELECT * FROM cluster_nodes()");
        let name = self.name(node);
        rows.into_iter().find(|r| r["Node"] == name.as_str()).unwrap_or_default()
    }

    /// The head and body of a node's `/healthz`.
    pub fn health(&self, node: usize) -> String {
        let url = format!("https://127.0.0.1:{}/healthz", self.ports[node]);
        let out = Command::new("curl").args(["-ksi", &url]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Standard error of a command that fails.
    pub fn fails(&self, args: &[&str]) -> String {
        let out = Command::new(binary()).current_dir(self.dir.path()).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    pub fn all() -> Self {
        Self::slow(0)
    }

    pub fn slow(rate: usize) -> Self {
        Self::new(rate, false).started()
    }

    pub fn started(mut self) -> Self {
        (0..3).for_each(|n| self.start(n));
        self
    }

    /// An agent that may connect to these nodes.
    pub fn agent(&mut self, nodes: &[usize], scheme: &str) {
        let urls = nodes.iter().map(|i| format!("{scheme}://127.0.0.1:{}/", self.ports[*i]));
        let urls: Vec<String> = urls.collect();
        self.agent_at(&urls);
    }

    /// An agent with these `server_urls`.
    pub fn agent_at(&mut self, urls: &[String]) {
        let n = self.agents.len();
        let text = std::fs::read_to_string(self.path("nodes/client.config.yaml")).unwrap();
        let urls: String = urls.iter().map(|u| format!("  - {u}\n")).collect();
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
    pub fn ask(&self, vql: &str) -> Option<Vec<serde_json::Value>> {
        let mut c = Command::new(binary());
        c.current_dir(self.dir.path()).args(["--api_config", "api.yaml", "query"]);
        let out = c.args(["--format", "jsonl", vql]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        out.status
            .success()
            .then(|| text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
    }

    pub fn query(&self, vql: &str) -> Vec<serde_json::Value> {
        self.until(vql, |c| c.ask(vql))
    }

    pub fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
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
    pub fn clients(&self, n: usize) -> Vec<String> {
        self.until("clients", |c| {
            let rows = c.ask("SELECT client_id AS X FROM clients() WHERE os_info.hostname")?;
            let ids: Vec<String> =
                rows.iter().filter_map(|r| r["X"].as_str().map(str::to_owned)).collect();
            (ids.len() == n).then_some(ids)
        })
    }

    pub fn define(&self, name: &str, query: &str) {
        self.query(&format!(
            "SELECT artifact_set(definition='''name: {name}\nsources:\n  - query: |\n      {query}\n''') FROM scope()"
        ));
    }

    pub fn collect(&self, client: &str, artifact: &str) -> String {
        // Not repeated: a call whose answer is lost may have made a flow.
        let rows = self.ask(&format!(
            "SELECT collect_client(client_id='{client}', artifacts='{artifact}').flow_id AS F FROM scope()"
        ));
        rows.expect("the master is there")[0]["F"].as_str().expect("a flow").to_owned()
    }

    pub fn flow(&self, client: &str, flow: &str) -> Option<serde_json::Value> {
        self.ask(&format!("SELECT * FROM flows(client_id='{client}', flow_id='{flow}')"))?.pop()
    }

    pub fn finished(&self, client: &str, flow: &str) {
        self.until(&format!("flow {flow} of {client} finished"), |c| {
            let f = c.flow(client, flow)?;
            assert_ne!(f["state"], "ERROR", "{f}");
            (f["state"] == "FINISHED").then_some(())
        });
    }

    /// The one file a flow uploaded is this one.
    pub fn uploaded(&self, client: &str, flow: &str, source: &Path) {
        let rows = self.until("the upload", |c| {
            let q = format!("SELECT Upload FROM uploads(client_id='{client}', flow_id='{flow}')");
            c.ask(&q).filter(|r| !r.is_empty())
        });
        assert_eq!(rows.len(), 1, "one metadata row: {rows:?}");
        let parts = rows[0]["Upload"]["Components"].as_array().unwrap();
        let stored = parts.iter().fold(self.path("ds"), |p, x| p.join(x.as_str().unwrap()));
        assert_eq!(sha256(&stored), sha256(source));
    }

    /// kill -9 and a start again; every third time it is the master.
    pub fn crash(&mut self, k: usize) {
        let node = [1, 2, 0][k % 3];
        self.kill(node);
        std::thread::sleep(Duration::from_millis(if node == MASTER { 1500 } else { 200 }));
        self.start(node);
    }

    pub fn ids(&self, client: &str, flow: &str, artifact: &str) -> Vec<u64> {
        let rows = self.query(&format!(
            "SELECT I FROM source(client_id='{client}', flow_id='{flow}', artifact='{artifact}')"
        ));
        rows.iter().map(|r| r["I"].as_u64().unwrap()).collect()
    }
}

/// A file of `size` bytes that do not compress.
pub fn noise(path: &Path, size: usize) {
    let mut x = 0x2545_f491_4f6c_dd1du64;
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data.extend_from_slice(&x.to_le_bytes());
    }
    data.truncate(size);
    std::fs::write(path, &data).unwrap();
}

pub fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
}

pub fn exact(ids: &[u64], n: usize) {
    assert_eq!(ids.len(), n);
    assert!(ids.iter().enumerate().all(|(i, id)| i as u64 == *id), "each row once, in order");
}

/// Rows in parts of 250, so slowly that kills hit the middle.
pub const SLOW: &str = "SELECT * FROM foreach(row={ SELECT _value AS A, sleep(ms=PAUSE) AS S FROM range(start=0, end=END, step=1) }, query={ SELECT A * 250 + _value AS I FROM range(start=0, end=250, step=1) })";
