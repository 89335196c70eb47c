//! A real disk that gets full while an agent uploads and sends rows.
//!
//! Runs only when `VELOCIRAPTOR_TEST_SMALL_DISK` names an empty directory on a
//! file system of its own of some 64 MB without blocks reserved for root (a tmpfs,
//! or `mkfs.ext4 -m 0`); it needs `curl`.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::deployment::Deployment;
use crate::{ROW_RATE, assert_uploaded, define_rows, file, setting, stored_rows};

/// Bytes kept in reserve.
const RESERVE: u64 = 8 << 20;

fn wait(what: &str, d: &Deployment, mut until: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !until() {
        assert!(Instant::now() < end, "{what}: {}", d.tail("server.log"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Takes room on the disk.
struct Ballast(PathBuf);

impl Ballast {
    fn free(&self) -> u64 {
        let s = rustix::fs::statvfs(self.0.parent().unwrap()).unwrap();
        s.f_bavail * s.f_frsize
    }

    /// Grows until at most `left` bytes are free.
    fn leave(&self, left: u64) {
        let mut f = std::fs::OpenOptions::new().append(true).create(true).open(&self.0).unwrap();
        while self.free() > left {
            let n = (self.free() - left).min(1 << 20) as usize;
            if f.write_all(&vec![b'x'; n]).is_err() {
                return;
            }
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_and_lets_decisions_through() {
    let Ok(small) = std::env::var("VELOCIRAPTOR_TEST_SMALL_DISK") else {
        println!("skipped: VELOCIRAPTOR_TEST_SMALL_DISK is not set");
        return;
    };
    let settings = format!("journal:\n  reserve_bytes: {RESERVE}\n");
    let (d, client) = Deployment::ready_on(Some(small.as_ref()), &settings, 256 << 10);
    let ballast = Ballast(PathBuf::from(&small).join("ballast"));
    let level = || d.metric("velociraptor_store_level");
    let health = || {
        let out = Command::new("curl").args(["-ksi", &d.url("healthz")]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    wait("the reserve is made", &d, || d.metric("velociraptor_store_reserve_bytes") == RESERVE);
    assert!(health().starts_with("HTTP/1.1 200"), "{}", health());
    println!("free at the start: {}", ballast.free());

    d.relay.set_rate(2 << 20);
    let size = 12 << 20;
    let artifact = file(&d, "fire", size, 3);
    let upload = d.collect(&client, &artifact);
    wait("some of the upload is here", &d, || d.metric("uploaded_bytes") > 2 << 20);
    ballast.leave(RESERVE / 2);
    wait("uploads are refused", &d, || level() == 1);
    wait("healthz tells", &d, || health().starts_with("HTTP/1.1 503"));
    println!("low, {} free: {}", ballast.free(), health().lines().last().unwrap_or_default());
    let at = d.metric("uploaded_bytes");

    d.relay.set_rate(ROW_RATE);
    let n = setting("ROWS", 20_000);
    let rows = define_rows(&d, n);
    ballast.leave(0);
    let flow = d.collect(&client, rows);
    let cancel = |flow: &str| {
        d.query(&format!(
            "SELECT cancel_flow(client_id='{client}', flow_id='{flow}') FROM scope()"
        ));
    };
    // The agent may be busy with the upload; a decision that does not fit into the
    // journal's last block meets the full disk as well.
    wait("the reserve is given up", &d, || {
        if level() < 2 {
            cancel(&d.collect(&client, rows));
        }
        level() >= 2
    });
    println!(
        "full, {} free, reserve {}: {}",
        ballast.free(),
        d.metric("velociraptor_store_reserve_bytes"),
        health().lines().last().unwrap_or_default()
    );
    // Decisions get through.
    let other = d.collect(&client, rows);
    cancel(&other);
    assert_eq!(d.state(&client, &other).as_deref(), Some("ERROR"));
    ballast.leave(RESERVE / 4);
    wait("decisions alone are taken", &d, || level() == 3);
    assert_eq!(d.metric("uploaded_bytes"), at, "nothing more was taken");
    let last = d.collect(&client, rows);
    assert!(d.state(&client, &last).is_some());
    cancel(&last);
    assert_eq!(d.state(&client, &last).as_deref(), Some("ERROR"));
    println!(
        "last, {} free; groups failed: {}",
        ballast.free(),
        d.metric("velociraptor_journal_failures_total")
    );

    std::fs::remove_file(&ballast.0).unwrap();
    d.relay.set_rate(0);
    wait("everything is taken again", &d, || level() == 0);
    wait("healthz tells", &d, || health().starts_with("HTTP/1.1 200"));
    for f in [&upload, &flow] {
        wait("the flow ends", &d, || d.state(&client, f).as_deref() == Some("FINISHED"));
    }
    assert_uploaded(&d, &client, &upload, "fire");
    let ids = stored_rows(&d, &client, &flow);
    println!("{} rows stored of {n}", ids.len());
    assert!(ids.len() == n && ids.iter().enumerate().all(|(i, id)| i as u64 == *id));
}
