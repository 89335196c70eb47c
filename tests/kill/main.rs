//! kill -9 at many points of an upload and of a long collection: everything a
//! client was acknowledged is there afterwards, once, and little is sent twice.
//!
//! The agent is this program's own; `VELOCIRAPTOR_TEST_AGENT=/path/to/agent`
//! takes another one, which must understand `--config FILE client`.
//! `VELOCIRAPTOR_TEST_UPLOAD_MB`, `…_ROWS` and `…_KILLS` make the test longer.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

mod deployment;
mod full;
#[path = "../common/ports.rs"]
mod ports;
mod relay;
mod truth;

use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use deployment::Deployment;
use truth::{Amount, stored};

/// A collection that has not come further for so long never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes a second of uploads: so slow that kills hit the middle.
const RATE: u64 = 8 << 20;

/// The same of rows.
const ROW_RATE: u64 = 256 << 10;

/// What may be sent again beyond what was not acknowledged, bytes.
const RESENT: u64 = 10 << 20;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(format!("VELOCIRAPTOR_TEST_{name}"))
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// What a collection is measured by.
#[derive(Clone, Copy)]
struct Measure {
    unit: &'static str,
    /// Counts what was committed since the start of the process.
    metric: &'static str,
    of: fn(Amount) -> u64,
}

const BYTES: Measure = Measure { unit: "bytes", metric: "uploaded_bytes", of: |a| a.bytes };
const ROWS: Measure = Measure { unit: "rows", metric: "velociraptor_rows_total", of: |a| a.rows };

/// How far a collection has come.
struct Progress<'a> {
    measure: Measure,
    flow: &'a str,
    /// On stable storage when this process of the server was started.
    base: u64,
    /// What its counter had counted before.
    skip: u64,
}

/// What a kill met.
#[derive(Debug)]
struct Kill {
    /// Of the flow on stable storage.
    offset: u64,
    /// Counted as acknowledged by the killed process and not on stable storage.
    lost: u64,
    /// Bytes sent by the agent and never answered.
    unanswered: u64,
}

impl Progress<'_> {
    /// Acknowledged so far.
    fn now(&self, d: &Deployment) -> u64 {
        self.base + d.metric(self.measure.metric).saturating_sub(self.skip)
    }

    /// Kills the server, looks at what it left, and starts it again.
    fn kill(&mut self, d: &mut Deployment) -> Kill {
        let told = d.metric(self.measure.metric);
        let broken = d.relay.broken();
        let under_way = d.relay.under_way();
        d.kill_server();
        let s = stored(&d.path("ds"), self.flow);
        let of = self.measure.of;
        (self.base, self.skip) = (of(s.flow), 0);
        d.start_server();
        Kill {
            offset: self.base,
            lost: told.saturating_sub(of(s.last)),
            unanswered: (d.relay.broken() - broken).max(under_way),
        }
    }
}

/// Collects `artifact`, kills the server `kills` times on the way, from the
/// first moment to the last, and waits for the end. Returns the flow.
fn collect_under_fire(
    d: &mut Deployment,
    client: &str,
    artifact: &str,
    measure: Measure,
    total: u64,
    kills: usize,
) -> String {
    let skip = d.metric(measure.metric);
    let flow = d.collect(client, artifact);
    let mut p = Progress { measure, flow: &flow, base: 0, skip };
    let mut done: Vec<Kill> = Vec::new();
    let (mut furthest, mut since) = (0, Instant::now());
    let (mut largest, mut looked) = (0, Instant::now());
    loop {
        let now = p.now(d);
        if now > furthest {
            (furthest, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{now} of {total} {} and no further; {done:?}\n{}\n{}",
            measure.unit,
            d.tail("server.log"),
            d.tail("agent.log")
        );
        largest = d.relay.under_way().max(largest);
        let mark = total * done.len() as u64 / (kills - 1).max(1) as u64;
        if done.len() < kills && now >= mark {
            // In turn while nothing, a part, or nearly all of the next POST is here.
            let want = largest * (done.len() as u64 % 4) / 4;
            let end = Instant::now() + Duration::from_secs(10);
            while now < total
                && d.relay.under_way() < want
                && p.now(d) == now
                && Instant::now() < end
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            let k = p.kill(d);
            println!(
                "{artifact}: kill {:2} at {:9} of {total} {} ({:5.1} %), {:7} bytes unanswered",
                done.len() + 1,
                k.offset,
                measure.unit,
                k.offset as f64 * 100.0 / total as f64,
                k.unanswered,
            );
            assert_eq!(k.lost, 0, "{} counted as acknowledged and not there", measure.unit);
            done.push(k);
            since = Instant::now();
            continue;
        }
        if done.len() == kills && looked.elapsed() > Duration::from_millis(500) {
            match d.state(client, &flow).as_deref() {
                Some("FINISHED") => break,
                Some("ERROR") => panic!("flow failed: {}", d.tail("agent.log")),
                None => panic!("the flow is forgotten"),
                _ => looked = Instant::now(),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let offsets: Vec<u64> = done.iter().map(|k| k.offset).collect();
    assert_spread(&offsets, total);
    flow
}

/// Kills must meet every part of the way, or the test proves less than it says.
fn assert_spread(offsets: &[u64], total: u64) {
    let kills = offsets.len() as u64;
    let parts = (kills / 2).max(1);
    for i in 0..parts {
        let part = total * i / parts..=total * (i + 1) / parts;
        assert!(offsets.iter().any(|o| part.contains(o)), "no kill in {part:?}: {offsets:?}");
    }
    let mut ends: Vec<u64> = offsets.iter().copied().chain([0, total]).collect();
    ends.sort_unstable();
    let gap = ends.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(total);
    let most = 2 * total / (kills - 1).max(1);
    assert!(gap <= most, "{gap} without a kill, more than {most}: {offsets:?}");
}

fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
}

/// A file of noise, which does not compress, and an artifact that uploads it.
fn file(d: &Deployment, name: &str, size: usize, seed: u64) -> String {
    let mut x = seed | 1;
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        data.extend_from_slice(&x.to_le_bytes());
    }
    data.truncate(size);
    std::fs::write(d.path(name), &data).unwrap();
    let artifact = format!("Custom.Kill.{name}");
    let vql = format!("SELECT upload(file='{}') AS Upload FROM scope()", d.path(name).display());
    d.define(&artifact, &vql);
    artifact
}

/// The flow's one upload is stored and equals the file.
fn assert_uploaded(d: &Deployment, client: &str, flow: &str, name: &str) {
    let vql = format!("SELECT Upload FROM uploads(client_id='{client}', flow_id='{flow}')");
    let rows = d.query(&vql).unwrap();
    assert_eq!(rows.len(), 1, "one metadata row: {rows:?}");
    let parts = rows[0]["Upload"]["Components"].as_array().unwrap();
    let at = parts.iter().fold(d.path("ds"), |p, c| p.join(c.as_str().unwrap()));
    let (is, was) = (sha256(&at), sha256(&d.path(name)));
    println!("{name}: sha256 {is}");
    assert_eq!(is, was);
}

#[test]
fn an_upload_survives_kills_at_every_point() {
    // The stock agent's own size of POSTs.
    let (mut d, client) = Deployment::ready("", 5 << 20);
    d.relay.set_rate(RATE);
    let size = setting("UPLOAD_MB", 24) << 20;
    let kills = setting("KILLS", 5);
    // What it costs undisturbed.
    let calm = file(&d, "calm", size, 1);
    let before = d.relay.sent();
    let flow = d.collect(&client, &calm);
    let end = Instant::now() + Duration::from_secs(60 + 4 * size as u64 / RATE);
    while d.state(&client, &flow).as_deref() != Some("FINISHED") {
        assert!(Instant::now() < end, "undisturbed, and not finished: {}", d.tail("agent.log"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let undisturbed = d.relay.sent() - before;
    assert_uploaded(&d, &client, &flow, "calm");

    let (before, broken) = (d.relay.sent(), d.relay.broken());
    let fire = file(&d, "fire", size, 2);
    let flow = collect_under_fire(&mut d, &client, &fire, BYTES, size as u64, kills);
    assert_uploaded(&d, &client, &flow, "fire");
    let (sent, broken) = (d.relay.sent() - before, d.relay.broken() - broken);
    let resent = sent.saturating_sub(undisturbed);
    println!("sent {sent} bytes, undisturbed {undisturbed}, resent {resent}, unanswered {broken}");
    assert!(resent <= broken + RESENT, "{resent} bytes resent, {broken} were unanswered");
}

/// Defines the collection of rows 0 to `n` - 1, each with some 100 digits that
/// compress little.
fn define_rows(d: &Deployment, n: usize) -> &'static str {
    let name = "Custom.Kill.Rows";
    let noise = [2_654_435_761u64, 2_246_822_519, 3_266_489_917, 668_265_263, 374_761_393];
    let noise = noise.map(|k| format!("I * {k}, I * {}", k + 1_013_904_222)).join(", ");
    d.define(name, &format!(
        "SELECT I, format(format='%x%x%x%x%x%x%x%x%x%x', args=[{noise}]) AS N FROM foreach(row={{ SELECT _value AS I FROM range(start=0, end={n}, step=1) }})"
    ));
    name
}

/// The numbers that were stored, in order.
fn stored_rows(d: &Deployment, client: &str, flow: &str) -> Vec<u64> {
    let rows = d.query(&format!(
        "SELECT I FROM source(client_id='{client}', flow_id='{flow}', artifact='Custom.Kill.Rows')"
    ));
    rows.unwrap_or_default().iter().filter_map(|r| r["I"].as_u64()).collect()
}

#[test]
fn rows_survive_kills_at_every_point() {
    let (mut d, client) = Deployment::ready("", 64 << 10);
    d.relay.set_rate(ROW_RATE);
    let n = setting("ROWS", 20_000);
    let rows = define_rows(&d, n);
    let kills = setting("KILLS", 5);
    let flow = collect_under_fire(&mut d, &client, rows, ROWS, n as u64, kills);
    let ids = stored_rows(&d, &client, &flow);
    println!("{} rows stored of {n}", ids.len());
    assert_eq!(ids.len(), n);
    assert!(ids.iter().enumerate().all(|(i, id)| i as u64 == *id), "row ids in order, each once");
}

/// The same server, but it answers before it has written: it must be caught, or
/// the tests above prove nothing.
#[test]
fn a_server_that_acknowledges_early_is_caught() {
    let (mut d, client) =
        Deployment::ready("journal:\n  danger_acknowledge_early: true\n", 64 << 10);
    d.relay.set_rate(ROW_RATE);
    let n = 5_000;
    let rows = define_rows(&d, n);
    // The agent forgets rows that it was told are stored.
    let skip = d.metric(ROWS.metric);
    let flow = d.collect(&client, rows);
    let mut p = Progress { measure: ROWS, flow: &flow, base: 0, skip };
    let (mut lost, mut at) = (0, 0);
    let mut since = Instant::now();
    // Other rows are counted too: those of client monitoring, a few.
    while lost < 100 {
        let now = p.now(&d);
        assert!(since.elapsed() < PATIENCE, "{now} rows: {}", d.tail("server.log"));
        if now >= at + 100 {
            let k = p.kill(&mut d);
            println!("{} rows acknowledged, {} there, {} lost", now, k.offset, k.lost);
            (lost, at, since) = (k.lost, k.offset, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The agent has nothing left to send, and the rows are not there.
    let quiet = Duration::from_secs(5);
    let (mut have, mut quiet_since) = (p.now(&d), Instant::now());
    let end = Instant::now() + PATIENCE;
    while quiet_since.elapsed() < quiet && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        if p.now(&d) != have {
            (have, quiet_since) = (p.now(&d), Instant::now());
        }
    }
    let ids = stored_rows(&d, &client, &flow);
    println!("{} rows stored of {n}", ids.len());
    assert!(!ids.is_empty() && ids.len() < n, "loss is not seen in the end");
}

#[test]
fn a_second_process_on_the_same_datastore_is_refused() {
    let mut d = Deployment::new();
    d.start_server();
    let text = d.start_another();
    assert!(text.contains("another process"), "{text}");
    // A killed one is no hindrance.
    d.kill_server();
    d.start_server();
}
