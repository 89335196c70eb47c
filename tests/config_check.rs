//! `config check` of a node: against a master that runs, and of one datastore from
//! two processes.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

#[path = "common/ports.rs"]
mod ports;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_velociraptor"));
    c.args(args).current_dir(dir);
    for name in ["CONFIG", "API_CONFIG", "SETTINGS"] {
        c.env_remove(format!("VELOCIRAPTOR_{name}"));
    }
    c
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = command(dir, args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    text(&out)
}

fn fails(dir: &Path, args: &[&str]) -> String {
    let out = command(dir, args).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {}", text(&out));
    text(&out)
}

/// The line of a table that begins with `what`.
fn line<'a>(table: &'a str, what: &str) -> &'a str {
    let found = table.lines().find(|l| l.starts_with(what));
    found.unwrap_or_else(|| panic!("no line {what:?} in:\n{table}"))
}

fn log(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!("{port}.log"))
}

fn start(dir: &Path, args: &[&str], port: u16) -> Running {
    let path = log(dir, port);
    let log = fs::File::create(&path).unwrap();
    let child = command(dir, args).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let mut node = Running(child);
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(&path).unwrap();
        assert!(node.0.try_wait().unwrap().is_none() && Instant::now() < end, "{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
    node
}

/// A master and a minion on free ports, in `nodes`; the ports of their clients.
fn deployment(dir: &Path) -> (u16, u16) {
    let p = ports::free::<5>();
    let store = dir.join("store");
    let merge = serde_json::json!({
        "Frontend": {"hostname": "127.0.0.1", "bind_address": "127.0.0.1", "bind_port": p[0]},
        "API": {"bind_port": p[2]}, "GUI": {"bind_port": p[3]}, "Monitoring": {"bind_port": p[4]},
        "Datastore": {"location": store, "filestore_directory": store},
    });
    fs::write(
        dir.join("one.yaml"),
        ok(dir, &["config", "generate", "--merge", &merge.to_string()]),
    )
    .unwrap();
    let port = p[1].to_string();
    let frontend = ["-c", "one.yaml", "config", "frontend", "--output", "nodes"];
    let minion = ["--hostname", "127.0.0.1", "--bind_port", &port, "--bind_address", "127.0.0.1"];
    let api = ["--api_hostname", "127.0.0.1", "--api_bind_address", "127.0.0.1"];
    ok(dir, &[&frontend[..], &minion, &api].concat());
    (p[0], p[1])
}

#[test]
fn a_node_is_checked_joins_and_is_revoked() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let (master, minion) = deployment(dir);
    let name = format!("127.0.0.1-{minion}");
    let config = format!("nodes/minion.{name}.config.yaml");
    let check = ["-c", &config, "config", "check", "--minion", "--node", &name];

    // Nobody there yet: the store is tried all the same.
    let said = fails(dir, &check);
    assert!(line(&said, "master at").contains("FAILED"), "{said}");
    assert!(said.contains("1 check failed"), "{said}");
    for what in ["mount", "exclusive create", "hard link", "rename over a file", "write and sync"] {
        let line = line(&said, &format!("{}: {what}", dir.join("store").display()));
        assert!(!line.contains("FAILED"), "{line}");
    }
    assert!(line(&said, &format!("certificate of minion {name}")).contains("ends in 36"), "{said}");

    let server = ["-c", "nodes/server.config.yaml"];
    let _master = start(dir, &[&server[..], &["frontend"]].concat(), master);
    let said = ok(dir, &check);
    let line = |said: &str| line(said, "master at").to_owned();
    assert!(line(&said).contains(&format!("takes node {name}")), "{said}");
    assert!(!said.contains("it is connected now"), "{said}");

    // As another server's file: the certificate is of the wrong deployment.
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    deployment(&other);
    let address = line(&said).split_whitespace().nth(2).unwrap().to_owned();
    let fleet = fs::read_dir(other.join("nodes"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .find(|n| n.starts_with("minion.") && n.ends_with(".fleet.yaml"))
        .unwrap();
    let mut text = fs::read_to_string(other.join("nodes").join(&fleet)).unwrap();
    text += &format!("cluster:\n  master_address: {address}\n");
    fs::write(other.join("nodes").join(&fleet), text).unwrap();
    let foreign = format!("nodes/{}", fleet.replace(".fleet.", ".config."));
    let e = fails(&other, &["-c", &foreign, "config", "check", "--minion"]);
    assert!(line(&e).contains("FAILED") && line(&e).contains("certificate"), "{e}");

    // It joins; a second look changes nothing for it.
    let run = ["-c", &config, "frontend", "--minion", "--node", &name];
    let mut node = start(dir, &run, minion);
    let end = Instant::now() + PATIENCE;
    while !ok(dir, &check).contains("it is connected now") {
        assert!(Instant::now() < end, "the minion does not join");
    }
    assert!(node.0.try_wait().unwrap().is_none());

    // Revoked while both run: the minion ends, and would not be taken again.
    ok(dir, &[&server[..], &["config", "revoke_node", "--node", &name]].concat());
    let status = loop {
        if let Some(status) = node.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end + PATIENCE, "a revoked minion goes on");
        std::thread::sleep(Duration::from_millis(50));
    };
    let log = fs::read_to_string(log(dir, minion)).unwrap();
    assert!(status.code() == Some(3) && log.contains("revoked"), "{status} {log}");
    let e = fails(dir, &check);
    assert!(line(&e).contains("has been revoked"), "{e}");

    // With a new certificate it is: the old one stays revoked.
    let again = ["config", "frontend", "--output", "nodes", "--reissue", &name];
    ok(dir, &[&server[..], &again].concat());
    let end = Instant::now() + PATIENCE;
    while !command(dir, &check).output().unwrap().status.success() {
        assert!(Instant::now() < end, "{}", fails(dir, &check));
    }
}

#[test]
fn two_processes_try_one_datastore() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let (_, minion) = deployment(dir);
    let config = format!("nodes/minion.127.0.0.1-{minion}.config.yaml");
    let peer = ["config", "check", "--datastore_peer", "first-try"];
    let spawn = |file: &str| {
        let mut c = command(dir, &[&["-c", file][..], &peer].concat());
        c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (a, b) = (spawn("nodes/server.config.yaml"), spawn(&config));
    let (a, b) = (a.wait_with_output().unwrap(), b.wait_with_output().unwrap());
    let (a, b) = ((a.status.success(), text(&a)), (b.status.success(), text(&b)));
    assert!(a.0 && b.0, "{a:?}\n{b:?}");
    let store = dir.join("store").display().to_string();
    for said in [&a.1, &b.1] {
        for what in ["link by both to one name", "exclusive create by both", "user id on both"] {
            assert!(line(said, &format!("{store}: {what}")).contains("  ok  "), "{said}");
        }
    }
    assert!(a.1.contains(&format!("127.0.0.1-{minion} on ")), "{}", a.1);
    let out = command(dir, &["-c", &config, "config", "check", "--datastore_peer", "a/b"]).output();
    assert_eq!(out.unwrap().status.code(), Some(2));
}
