//! The `config` commands through the binary: outputs, files and exit status.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_velociraptor"))
        .args(args)
        .current_dir(dir)
        .env_remove("VELOCIRAPTOR_CONFIG")
        .env_remove("VELOCIRAPTOR_API_CONFIG")
        .env_remove("VELOCIRAPTOR_SETTINGS")
        .output()
        .unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn fails(dir: &Path, code: i32, args: &[&str]) -> String {
    let out = run(dir, args);
    assert_eq!(out.status.code(), Some(code), "{args:?}");
    String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
}

#[test]
fn a_deployment_from_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let store = dir.join("store").to_str().unwrap().to_owned();
    let merge =
        format!(r#"{{"Datastore":{{"location":"{store}","filestore_directory":"{store}"}}}}"#);
    let patch = r#"[{"op":"add","path":"/Client/labels","value":["lab"]}]"#;
    let text = ok(dir, &["config", "generate", "--merge", &merge, "--patch", patch]);
    fs::write(dir.join("server.yaml"), &text).unwrap();
    assert_eq!(ok(dir, &["config", "check", "--config", "server.yaml"]), "");
    assert_eq!(ok(dir, &["--config", "server.yaml", "config", "show"]), text);
    let json: serde_json::Value =
        serde_json::from_str(&ok(dir, &["config", "show", "--json", "-c", "server.yaml"])).unwrap();
    assert_eq!(json["Client"]["labels"][0], "lab");
    assert_eq!(json["Datastore"]["location"], store.as_str());

    let agent = ok(dir, &["config", "client", "-c", "server.yaml"]);
    fs::write(dir.join("client.yaml"), &agent).unwrap();
    assert!(!agent.contains("PRIVATE KEY") && agent.contains("labels"));
    assert_eq!(ok(dir, &["config", "check", "-c", "client.yaml"]), "");
    let e = fails(dir, 1, &["config", "client", "-c", "server.yaml", "--org", "O123"]);
    assert!(e.contains("no organisation O123"), "{e}");

    let role = "reader,api";
    let args = ["config", "api_client", "-c", "server.yaml", "--name", "bob", "--role", role];
    ok(dir, &[&args[..], &["api.yaml"]].concat());
    let mode = fs::metadata(dir.join("api.yaml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(ok(dir, &["config", "check", "--api_config", "api.yaml"]), "");
    assert_eq!(fs::read(dir.join("store/users/bob.db")).unwrap(), b"\x0a\x03bob");
    let acl = fs::read_to_string(dir.join("store/acl/bob.json.db")).unwrap();
    assert_eq!(acl, r#"{"roles":["reader","api"]}"#);
    let e = fails(
        dir,
        2,
        &["config", "api_client", "-c", "server.yaml", "--name", "eve", "--role", "king", "x.yaml"],
    );
    assert!(e.contains("king") && !dir.join("x.yaml").exists(), "{e}");

    let rotated = ok(dir, &["config", "rotate_keys", "-c", "server.yaml", "--validity", "90"]);
    let settings = fs::read_to_string(dir.join("velociraptor-fleet.yaml")).unwrap();
    let old = text.split("Frontend:").nth(1).unwrap().split("private_key: |").nth(1).unwrap();
    let old = old.lines().nth(2).unwrap().trim();
    assert!(settings.contains(old) && !rotated.contains(old));
    fs::write(dir.join("server.yaml"), rotated).unwrap();
    assert_eq!(ok(dir, &["config", "check", "-c", "server.yaml"]), "");
    let again = ok(dir, &["config", "reissue_certs", "-c", "server.yaml"]);
    fs::write(dir.join("server.yaml"), again).unwrap();
    assert_eq!(ok(dir, &["config", "check", "-c", "server.yaml"]), "");
}

#[test]
fn findings_and_wrong_usage_have_their_status() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    fs::write(dir.join("bad.yaml"), "Client:\n  nonce: a\n  nonse: b\n").unwrap();
    let e = fails(dir, 1, &["config", "check", "-c", "bad.yaml"]);
    assert!(e.contains("error: bad.yaml:3: Client.nonse: unknown key; did you mean"), "{e}");
    assert!(e.contains("Client.server_urls: missing"), "{e}");
    assert!(e.contains("bad.yaml: 3 errors"), "{e}");
    let e = fails(dir, 1, &["config", "show", "-c", "none.yaml"]);
    assert!(e.contains("none.yaml"), "{e}");
    let e = fails(dir, 2, &["config", "show"]);
    assert!(e.contains("--config FILE"), "{e}");
    fails(dir, 2, &["config"]);
    fails(dir, 2, &["nonsense"]);
    fails(dir, 2, &["config", "generate", "--merge", "{"]);
    let e = fails(dir, 1, &["config", "generate", "--merge", r#"{"Client":{"odd":1}}"#]);
    assert!(e.contains("Client.odd: unknown key"), "{e}");
    assert!(ok(dir, &["--version"]).contains("independent implementation"));
    assert!(ok(dir, &["config", "rotate_keys", "--help"]).contains("private key"));
}

/// The value of a dotted key of a YAML file, through the binary.
fn key(dir: &Path, file: &str, pointer: &str) -> serde_json::Value {
    let json = ok(dir, &["config", "show", "--json", "-c", file]);
    let v: serde_json::Value = serde_json::from_str(&json).unwrap();
    v.pointer(pointer).cloned().unwrap_or_default()
}

#[test]
fn a_cluster_from_one_server() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let merge = r#"{"Frontend":{"hostname":"m.test"},"Client":{"server_urls":["https://m.test:8000/"]},
        "Datastore":{"location":"/srv/v","filestore_directory":"/srv/v"}}"#;
    let text = ok(dir, &["config", "generate", "--merge", merge]);
    fs::write(dir.join("one.yaml"), &text).unwrap();
    let base = ["-c", "one.yaml", "config", "frontend", "--output", "out"];
    let e = fails(dir, 1, &base);
    assert!(e.contains("no minion yet"), "{e}");
    for (args, part) in [
        (&["--hostname", "a b"][..], "--hostname \"a b\""),
        (&["--hostname", "a", "--bind_port", "1", "--bind_port", "2"], "--bind_port"),
        (&["--hostname", "a", "--bind_port", "0"], "--bind_port"),
        (&["--keep_master_url", "--no_master_url", "--hostname", "a"], "--no_master_url"),
    ] {
        let e = fails(dir, 2, &[&base[..], args].concat());
        assert!(e.contains(part), "{e}");
    }
    let e = fails(dir, 2, &["-c", "one.yaml", "config", "frontend", "--hostname", "b"]);
    assert!(e.contains("--output"), "{e}");
    assert!(!dir.join("out").exists());

    let more =
        ["--hostname", "b.test", "--hostname", "c.test", "--bind_port", "8100", "--no_master_url"];
    let said = ok(dir, &[&base[..], &more].concat());
    assert!(said.contains("frontend --minion --node b.test-8100"), "{said}");
    assert!(said.contains("agents: https://b.test:8100/ https://c.test:8100/\n"), "{said}");
    let mut names: Vec<String> = fs::read_dir(dir.join("out"))
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| {
            assert_eq!(e.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            e.file_name().into_string().unwrap()
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "ca.key",
            "client.config.yaml",
            "minion.b.test-8100.config.yaml",
            "minion.b.test-8100.fleet.yaml",
            "minion.c.test-8100.config.yaml",
            "minion.c.test-8100.fleet.yaml",
            "server.config.yaml",
            "server.fleet.yaml"
        ]
    );
    let master = "out/server.config.yaml";
    assert_eq!(key(dir, master, "/CA"), serde_json::Value::Null);
    assert_eq!(key(dir, master, "/API/hostname"), "m.test");
    let ca_key = fs::read_to_string(dir.join("out/ca.key")).unwrap();
    let first: serde_json::Value =
        serde_json::from_str(&ok(dir, &["config", "show", "--json", "-c", "one.yaml"])).unwrap();
    assert_eq!(first["CA"]["private_key"], ca_key.as_str());
    for file in ["server.config.yaml", "client.config.yaml"] {
        assert_eq!(ok(dir, &["config", "check", "-c", &format!("out/{file}")]), "");
    }

    // Another node, from what was written: the CA's key is found beside it.
    let again = ["-c", master, "config", "frontend", "--output", "out", "--hostname", "d.test"];
    let b = fs::read(dir.join("out/minion.b.test-8100.fleet.yaml")).unwrap();
    ok(dir, &again);
    assert_eq!(fs::read(dir.join("out/minion.b.test-8100.fleet.yaml")).unwrap(), b);
    assert_eq!(key(dir, master, "/ExtraFrontends/2/hostname"), "d.test");
    let urls = key(dir, "out/minion.b.test-8100.config.yaml", "/Client/server_urls");
    assert_eq!(urls.as_array().unwrap().len(), 3);
    let e = fails(dir, 1, &again);
    assert!(e.contains("two nodes would be called d.test-8000"), "{e}");
    // Nothing is lost by a run on the old file, nor another deployment written over.
    let e = fails(dir, 1, &[&base[..], &["--hostname", "x"]].concat());
    assert!(e.contains("b.test-8100, c.test-8100, d.test-8000"), "{e}");
    fs::write(dir.join("two.yaml"), ok(dir, &["config", "generate"])).unwrap();
    let e = fails(
        dir,
        1,
        &["-c", "two.yaml", "config", "frontend", "--output", "out", "--hostname", "x"],
    );
    assert!(e.contains("another deployment"), "{e}");

    // With the key elsewhere it must be named, if anything is to be issued.
    fs::rename(dir.join("out/ca.key"), dir.join("safe.key")).unwrap();
    let reissue =
        ["-c", master, "config", "frontend", "--output", "out", "--reissue", "b.test-8100"];
    let e = fails(dir, 1, &reissue);
    assert!(e.contains("--ca_key"), "{e}");
    ok(dir, &[&reissue[..], &["--ca_key", "safe.key"]].concat());
    assert!(!dir.join("out/ca.key").exists());
    assert_ne!(fs::read(dir.join("out/minion.b.test-8100.fleet.yaml")).unwrap(), b);
    ok(dir, &["-c", master, "config", "frontend", "--output", "out"]);
    let e = fails(dir, 1, &["config", "api_client", "-c", master, "--name", "bob", "bob.yaml"]);
    assert!(e.contains("--ca_key"), "{e}");
    ok(
        dir,
        &[
            "config",
            "api_client",
            "-c",
            master,
            "--ca_key",
            "safe.key",
            "--name",
            "bob",
            "bob.yaml",
        ],
    );

    // Keys rotate on all nodes; the CA's key does not slip into what is printed.
    let rotated = ok(dir, &["config", "rotate_keys", "-c", master, "--ca_key", "safe.key"]);
    fs::write(dir.join(master), &rotated).unwrap();
    assert_eq!(key(dir, master, "/CA"), serde_json::Value::Null);
    ok(dir, &["-c", master, "config", "frontend", "--output", "out"]);
    for node in ["server", "minion.b.test-8100", "minion.d.test-8000"] {
        let text = fs::read_to_string(dir.join(format!("out/{node}.fleet.yaml"))).unwrap();
        assert!(text.contains("old_private_keys"), "{node}");
    }

    // A node that is not trusted any more.
    let e = fails(dir, 1, &["-c", master, "config", "revoke_node", "--node", "b.test"]);
    assert!(e.contains("b.test-8100, c.test-8100, d.test-8000"), "{e}");
    ok(dir, &["-c", master, "config", "revoke_node", "--node", "b.test-8100"]);
    let text = fs::read_to_string(dir.join("out/server.fleet.yaml")).unwrap();
    assert!(text.contains("revoked_nodes:\n  - b.test-8100\n"), "{text}");
}

/// Called without flags it asks, as the stock program does.
#[test]
fn a_cluster_by_answers() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    fs::write(dir.join("one.yaml"), ok(dir, &["config", "generate"])).unwrap();
    let answers = "b.test\n8100\n\nmaster.test\n\nnodes\n";
    let mut child = Command::new(env!("CARGO_BIN_EXE_velociraptor"))
        .args(["config", "frontend", "-c", "one.yaml"])
        .current_dir(dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), answers.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("Directory to write") && said.contains("/var/tmp"), "{said}");
    assert_eq!(key(dir, "nodes/server.config.yaml", "/API/hostname"), "master.test");
    assert_eq!(key(dir, "nodes/server.config.yaml", "/ExtraFrontends/0/bind_port"), 8100);
}

/// The roles of `frontend`, as far as they are refused.
#[test]
fn a_wrong_role_does_not_start() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    fs::write(dir.join("one.yaml"), ok(dir, &["config", "generate"])).unwrap();
    ok(dir, &["-c", "one.yaml", "config", "frontend", "--output", "o", "--hostname", "b"]);
    let b = "o/minion.b-8000.config.yaml";
    for (args, part) in [
        (&["-c", b, "frontend"][..], "o/minion.b-8000.fleet.yaml: node.role: is minion"),
        (&["-c", b, "frontend", "--minion", "--node", "c-1"], "node.name: is b-8000"),
        (&["-c", "o/server.config.yaml", "frontend", "--node", "b-8000"], "give --minion"),
        (&["-c", "one.yaml", "frontend", "--minion", "--node", "b-8000"], "one.yaml:"),
        (&["-c", "one.yaml", "frontend", "--minion"], "--node: missing"),
        (&["-c", "one.yaml", "frontend", "--minion", "--node", "localhost-8000"], "API.hostname"),
        (
            &["-c", "o/server.config.yaml", "--settings", "o/minion.b-8000.fleet.yaml", "frontend"],
            "node.role: is minion",
        ),
    ] {
        let e = fails(dir, 1, args);
        assert!(e.contains(part), "{args:?}: {e}");
    }
}
