//! Virtual clients against a server that is killed while they work: the audit at
//! the end finds every acknowledged row once.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

#[path = "common/ports.rs"]
mod ports;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_velociraptor");
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server(dir: &Path, ports: [u16; 4]) -> Running {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log"));
    let mut c = Command::new(BINARY);
    c.args(["gui", "--nobrowser", "--noclient", "--datastore"]).arg(dir.join("ds"));
    let flags = ["--frontend_port", "--api_port", "--gui_port", "--monitoring_port"];
    for (flag, port) in flags.iter().zip(ports) {
        c.arg(flag).arg(port.to_string());
    }
    let running = Running(c.stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap());
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", ports[0])).is_err()
        || !dir.join("ds/api.config.yaml").exists()
    {
        assert!(Instant::now() < end, "no server");
        std::thread::sleep(Duration::from_millis(50));
    }
    running
}

#[test]
fn virtual_clients_are_tasked_and_audited_across_a_kill() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, ports) = (tmp.path(), ports::free::<4>());
    let mut running = Some(server(dir, ports));
    let define = r"SELECT artifact_set(definition='''
name: Custom.Rows
sources:
  - query: SELECT _value AS I, sleep(ms=10) AS S FROM range(start=0, end=100, step=1)
''') FROM scope()";
    let mut ask = Command::new(BINARY);
    ask.current_dir(dir).args(["-a", "ds/api.config.yaml", "query", define]);
    assert!(ask.output().unwrap().status.success());

    let mut c = Command::new(BINARY);
    c.current_dir(dir).args(["-c", "ds/client.config.yaml", "-a", "ds/api.config.yaml"]);
    c.args(["pool_client", "--number", "12", "--keys", "keys.pem", "--report", "report.json"]);
    c.args(["--collect", "Custom.Rows", "--tasks", "48", "--rate", "12"]);
    let child = c.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    let clients = dir.join("ds/clients");
    while std::fs::read_dir(&clients).map_or(0, Iterator::count) < 12 {
        assert!(Instant::now() < end, "no clients");
        std::thread::sleep(Duration::from_millis(50));
    }
    // In the middle of their collections.
    std::thread::sleep(Duration::from_millis(2500));
    drop(running.take());
    std::thread::sleep(Duration::from_millis(500));
    let running = server(dir, ports);
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let why = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{text}\n{why}");
    let report = std::fs::read(dir.join("report.json")).unwrap();
    let r: Value = serde_json::from_slice(&report).unwrap();
    let get = |k: &str| r[k].as_u64().unwrap();
    assert_eq!(get("connected"), 12, "{r}");
    // A call that the kill cut off may have made a flow: its client's book has it.
    assert_eq!(get("tasks") + get("calls_failed"), 48, "{r}");
    let a = |k: &str| r["audit"][k].as_u64().unwrap();
    assert!(get("tasks") >= 12 && a("acknowledged_rows") >= 100 * get("tasks"), "{r}");
    assert_eq!((a("lost_rows"), a("doubled_rows"), a("never_received")), (0, 0, 0), "{r}");
    assert_eq!(a("acknowledged_rows"), a("found_rows"), "{r}");
    drop(running);
}
