//! `demo` with a script: a minion and the master are killed while clients are
//! tasked, and the audit at the end is exact. And what it says of wrong scripts.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_velociraptor");

fn demo(dir: &Path, script: &str, more: &[&str]) -> Output {
    std::fs::write(dir.join("script"), script).unwrap();
    let mut c = Command::new(BINARY);
    c.current_dir(dir).args(["demo", "--script", "script", "--report", "report.json"]);
    c.args(more).output().unwrap()
}

fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b).into_owned()
}

#[test]
fn a_minion_and_the_master_are_killed_and_nothing_is_lost() {
    let tmp = tempfile::tempdir().unwrap();
    let script = "at 2s kill minion-1\nat 4s start minion-1\nat 6s kill master\nat 8s start master\nat 12s end\n";
    let more = ["--minions", "2", "--clients", "12", "--rate", "4", "--dir", "d"];
    let out = demo(tmp.path(), script, &more);
    let said = text(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", text(&out.stderr));
    let report = std::fs::read(tmp.path().join("report.json")).unwrap();
    let r: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!((&r["good"], &r["nodes"]), (&Value::Bool(true), &3.into()), "{r}");
    let load = |k: &str| r["load"][k].as_u64().unwrap();
    assert_eq!(load("connected"), 12, "{r}");
    let a = |k: &str| r["load"]["audit"][k].as_u64().unwrap();
    assert!(load("tasks") > 10 && a("acknowledged_rows") >= 1000, "{r}");
    assert_eq!((a("lost_rows"), a("doubled_rows"), a("never_received")), (0, 0, 0), "{r}");
    assert_eq!(a("acknowledged_bytes"), a("found_bytes"), "{r}");
    // Also the first interrogation of clients that say they are Windows.
    assert_eq!(a("finished"), a("flows"), "{r}");
    let hunts = r["hunts"].as_array().unwrap();
    assert_eq!((hunts.len(), &hunts[0]["finished"]), (1, &12.into()), "{r}");
    // What was done, and how to do it by hand.
    let events: Vec<&str> =
        r["events"].as_array().unwrap().iter().filter_map(|e| e["what"].as_str()).collect();
    for what in ["hunt", "kill minion-1", "start minion-1", "kill master", "start master"] {
        assert!(events.contains(&what), "{events:?}");
    }
    let commands = text(&out.stdout);
    for part in ["config generate --merge", "config frontend", "frontend --minion", "kill -KILL"] {
        assert!(commands.contains(part), "{part}: {commands}");
    }
    assert!(said.contains("good: everything acknowledged is there, once"), "{said}");
}

#[test]
fn wrong_scripts_are_named_by_line_and_column() {
    let tmp = tempfile::tempdir().unwrap();
    let out = demo(tmp.path(), "at 1s hunt\nat 2s explode master\n", &[]);
    assert_eq!(out.status.code(), Some(2));
    let err = text(&out.stderr);
    assert!(err.contains("line 2, column 7: no action is called `explode`"), "{err}");
}
