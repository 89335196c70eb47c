//! The same seed gives the same trace, byte for byte, whoever runs it: in another
//! process, directory, environment, on another set of CPUs.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::Path;
use std::process::Command;

fn trace(mut c: Command, scenario: &str, into: &Path) -> Vec<u8> {
    c.args(["--child", "3", "--scenario", scenario, "--trace"]).arg(into);
    let done = c.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(into).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_trace_everywhere() {
    let sim = env!("CARGO_BIN_EXE_sim");
    let dir = tempfile::tempdir().unwrap();
    for scenario in ["crashes", "failover"] {
        let plain = trace(Command::new(sim), scenario, &dir.path().join("a"));
        let mut other = Command::new("taskset");
        other.args(["-c", "0", sim]);
        if Command::new("taskset").arg("-V").output().is_err() {
            other = Command::new(sim);
        }
        other.current_dir(dir.path()).env_clear();
        other.envs([("TZ", "Asia/Tokyo"), ("LANG", "tr_TR.UTF-8"), ("RUST_LOG", "trace")]);
        other.envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent")]);
        let moved = trace(other, scenario, &dir.path().join("b"));
        assert!(plain.len() > 100_000, "{scenario}: {} bytes", plain.len());
        if plain != moved {
            let (a, b) = (String::from_utf8_lossy(&plain), String::from_utf8_lossy(&moved));
            let n = a.lines().zip(b.lines()).position(|(x, y)| x != y);
            let line = n.map(|n| (n, a.lines().nth(n), b.lines().nth(n)));
            panic!("{scenario}: {line:?}");
        }
    }
}
