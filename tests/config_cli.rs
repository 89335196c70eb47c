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
    assert!(ok(dir, &["config", "rotate_keys", "--help"]).contains("CA.private_key"));
}
