//! Faults on machines and processes, with a small program in place of the
//! production code: it writes records to the file server and tells a peer of
//! each once it is synced.
//!
//! A test binary of its own, and one simulation at a time.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sim::faults::{Fault, Hosts, Machine, Menu, Schedule, Trouble};
use sim::nfs::{FileServer, MountOptions, ServerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use velociraptor::env::{Conn, Env, File, Open};

type Failed = Box<dyn std::error::Error>;

static ONE: Mutex<()> = Mutex::new(());

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[derive(Clone, Copy, PartialEq)]
enum Habit {
    SyncThenTell,
    TellThenSync,
}

/// What the peer was told, and events of its connections.
#[derive(Default)]
struct Told {
    records: BTreeSet<String>,
    closed: u32,
    boots: Vec<(Duration, Duration)>,
}

type Shared = Arc<Mutex<Told>>;

fn lock(t: &Shared) -> std::sync::MutexGuard<'_, Told> {
    t.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program: a file of its own, a record every 50 ms, forever.
async fn writer(env: Env, name: String, habit: Habit, told: Shared) -> Result<(), Failed> {
    loop {
        if let Err(e) = write_records(&env, &name, habit, &told).await {
            let _ = e; // the file server is full, broken: a new file, later
        }
        sleep(ms(200)).await;
    }
}

async fn write_records(env: &Env, name: &str, habit: Habit, told: &Shared) -> Result<(), Failed> {
    let file = format!("{name}-{:016x}", env.entropy.next_u64());
    let f: Box<dyn File> = env.fs.open(&format!("/store/d/{file}"), Open::CreateNew).await?;
    let mut end = 0;
    let mut line: Option<Conn> = None;
    for n in 0u32.. {
        lock(told).boots.push((turmoil::sim_elapsed().unwrap_or_default(), env.clock.boot()));
        let record = format!("{file}:{n:06}\n");
        f.write_at(end, Bytes::from(record.clone())).await?;
        end += record.len() as u64;
        if habit == Habit::SyncThenTell {
            f.sync().await?;
        }
        tell(env, &mut line, &record).await;
        if habit == Habit::TellThenSync {
            f.sync().await?;
        }
        sleep(ms(50)).await;
    }
    Ok(())
}

/// Tells the peer, over a new connection if the old one fails.
async fn tell(env: &Env, line: &mut Option<Conn>, record: &str) {
    for _ in 0..3 {
        if line.is_none() {
            *line =
                timeout(ms(1000), env.net.connect("peer", 9000)).await.ok().and_then(Result::ok);
        }
        let Some(conn) = line else {
            sleep(ms(100)).await;
            continue;
        };
        match timeout(ms(1000), conn.write_all(record.as_bytes())).await {
            Ok(Ok(())) => return,
            _ => *line = None,
        }
    }
}

async fn peer(told: Shared) -> Result<(), Failed> {
    let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9000);
    let listener = turmoil::net::TcpListener::bind(at).await?;
    loop {
        let (mut conn, _) = listener.accept().await?;
        let told = told.clone();
        tokio::spawn(async move {
            let mut text = String::new();
            let mut buf = [0; 4096];
            loop {
                match conn.read(&mut buf).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => text.push_str(&String::from_utf8_lossy(&buf[..n])),
                }
                while let Some((record, rest)) = text.split_once('\n') {
                    lock(&told).records.insert(record.to_owned());
                    text = rest.to_owned();
                }
            }
            lock(&told).closed += 1;
        });
    }
}

struct Run {
    told: Shared,
    hosts: Hosts,
}

impl Run {
    /// Records the peer was told of that are not on the file server.
    fn lost(&self) -> Vec<String> {
        let store = self.hosts.store();
        let all: BTreeSet<String> = store
            .names()
            .iter()
            .filter_map(|n| store.read(n))
            .flat_map(|d| {
                String::from_utf8_lossy(&d).lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        lock(&self.told).records.difference(&all).cloned().collect()
    }

    fn told(&self) -> usize {
        lock(&self.told).records.len()
    }
}

/// Two writers on two machines and a peer, for so many virtual seconds.
fn run(seed: u64, habit: Habit, seconds: u64, plan: impl FnOnce(&Hosts)) -> Run {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let store = FileServer::new(seed, ServerOptions::default());
    let hosts = Hosts::new(seed, store);
    let told = Shared::default();
    let mut b = turmoil::Builder::new();
    b.rng_seed(seed)
        .simulation_duration(Duration::from_secs(seconds + 1))
        .tick_duration(ms(1))
        .min_message_latency(ms(1))
        .max_message_latency(ms(5));
    let mut sim = b.build();
    for n in ["1", "2"] {
        let (process, machine) = (format!("writer{n}"), format!("machine{n}"));
        hosts.machine(&machine, Machine::with_store("/store", MountOptions::default()));
        hosts.process(&process, &machine);
        let (h, t) = (hosts.clone(), told.clone());
        sim.host(process.clone(), move || {
            let (env, name, t) = (h.env(&process), process.clone(), t.clone());
            async move { writer(env.ok_or("no such process")?, name, habit, t).await }
        });
    }
    let t = told.clone();
    hosts.peer("peer");
    sim.host("peer", move || peer(t.clone()));
    plan(&hosts);
    while sim.elapsed() < Duration::from_secs(seconds) {
        sim.step().expect("no host fails");
        hosts.after_step(&mut sim);
    }
    Run { told, hosts }
}

fn p(n: u32) -> String {
    format!("writer{n}")
}

fn m(n: u32) -> String {
    format!("machine{n}")
}

#[test]
fn without_faults_all_records_arrive() {
    let r = run(1, Habit::SyncThenTell, 10, |_| {});
    assert!(r.told() > 300, "{}", r.told());
    assert_eq!(r.lost(), [""; 0]);
    assert_eq!(r.hosts.coverage(), Default::default());
}

#[test]
fn a_kill_before_any_call_loses_nothing_that_was_told() {
    for n in 1..25 {
        let r = run(n, Habit::SyncThenTell, 4, |h| {
            h.later(ms(1000), Fault::KillAtCall(p(1), n, ms(300)));
        });
        assert_eq!(r.lost(), [""; 0], "call {n}");
        assert_eq!(r.hosts.coverage()["process killed at a call"], 1, "call {n}");
        assert_eq!(r.hosts.coverage()["process started"], 1, "call {n}");
        assert!(r.told() > 80, "it goes on: {}", r.told());
    }
}

#[test]
fn power_loss_before_some_call_shows_who_tells_before_he_syncs() {
    let lost = |habit| {
        let one = |n| {
            let r = run(n, habit, 3, |h| {
                h.later(ms(1000), Fault::PowerOffAtCall(p(1), n, ms(300)));
            });
            assert_eq!(r.hosts.coverage()["machine off at a call"], 1);
            r.lost().len()
        };
        (1..25).map(one).sum::<usize>()
    };
    assert_eq!(lost(Habit::SyncThenTell), 0);
    assert!(lost(Habit::TellThenSync) > 0);
}

#[test]
fn a_peer_hears_of_a_killed_process_and_not_of_a_dead_machine() {
    let r = run(1, Habit::SyncThenTell, 5, |h| h.later(ms(1000), Fault::Kill(p(1))));
    assert_eq!(lock(&r.told).closed, 1);
    let r = run(1, Habit::SyncThenTell, 5, |h| h.later(ms(1000), Fault::PowerOff(m(1))));
    assert_eq!(lock(&r.told).closed, 0);
    assert!(!r.hosts.runs("writer1") && r.hosts.runs("writer2"));
    let r = run(1, Habit::SyncThenTell, 5, |h| {
        h.later(ms(1000), Fault::PowerOff(m(1)));
        h.later(ms(2000), Fault::PowerOn(m(1)));
    });
    assert!(r.hosts.runs("writer1"));
    assert_eq!(r.lost(), [""; 0]);
    assert!(r.hosts.store().names().len() == 3, "a new file after the start");
}

#[test]
fn a_stopped_machine_does_nothing_and_goes_on() {
    for fault in [Fault::Stop(m(1)), Fault::Freeze(m(1))] {
        let frozen = matches!(fault, Fault::Freeze(_));
        let r = run(1, Habit::SyncThenTell, 12, |h| {
            h.later(ms(2000), fault);
            h.later(ms(10_000), Fault::Continue(m(1)));
        });
        assert_eq!(r.lost(), [""; 0]);
        let (mut quiet, mut stood) = (0, false);
        let boots = lock(&r.told).boots.clone();
        for (at, boot) in boots {
            stood |= at > ms(10_000) && at - boot > ms(7000);
            quiet += u32::from(at > ms(2100) && at < ms(10_000));
        }
        assert_eq!(stood, frozen, "boot time stands still only in a machine that is frozen");
        assert!(quiet > 100 && quiet < 200, "the other machine alone: {quiet}");
    }
}

#[test]
fn links_are_cut_one_way_held_and_mended() {
    let until = |end_at, begin: Fault, end: Fault| {
        run(3, Habit::SyncThenTell, 12, |h| {
            h.later(ms(1000), begin);
            h.later(ms(end_at), end);
        })
    };
    let during = |begin, end| until(9000, begin, end);
    let (a, b) = (p(1), "peer".to_owned());
    let whole = run(3, Habit::SyncThenTell, 12, |_| {}).told();
    let cut = during(Fault::Cut(a.clone(), b.clone()), Fault::Uncut(b.clone(), a.clone()));
    assert!(cut.told() < whole * 3 / 4, "{} of {whole}", cut.told());
    assert_eq!(cut.lost(), [""; 0]);
    let there =
        during(Fault::CutOneWay(a.clone(), b.clone()), Fault::UncutOneWay(a.clone(), b.clone()));
    assert!(there.told() < whole * 3 / 4, "{} of {whole}", there.told());
    let held = until(2000, Fault::Hold(a.clone(), b.clone()), Fault::Release(a, b));
    assert!(held.told() > whole * 9 / 10, "what waited arrives: {} of {whole}", held.told());
}

#[test]
fn troubles_of_the_file_server_are_survived() {
    for (begin, end) in [
        (Fault::StoreStall, Fault::StoreResume),
        (Fault::StoreOff, Fault::StoreOn),
        (Fault::StoreCut(m(1)), Fault::StoreUncut(m(1))),
        (Fault::StoreNearlyFull(50), Fault::StoreCapacity(None)),
        (Fault::StoreReadOnly(true), Fault::StoreReadOnly(false)),
    ] {
        let name = begin.kind();
        let r = run(5, Habit::SyncThenTell, 12, |h| {
            h.later(ms(2000), begin);
            h.later(ms(5000), end);
        });
        assert_eq!(r.lost(), [""; 0], "{name}");
        assert!(r.told() < 450 && r.told() > 200, "{name}: {}", r.told());
        let after = lock(&r.told).boots.iter().filter(|b| b.0 > ms(8000)).count();
        assert!(after > 50, "{name}: it goes on");
    }
}

#[test]
fn any_schedule_loses_nothing_that_was_told_and_is_a_function_of_the_seed() {
    let menu = |seed| {
        let mut menu = Menu::all(&["writer1", "writer2"], &["machine1", "machine2"]);
        menu.peers = vec!["peer".into()];
        menu.during = ms(500)..ms(9000);
        menu.lasting = ms(100)..ms(4000);
        menu.calls = 1..60;
        menu.count = 1..7;
        Schedule::from_seed(seed, &menu)
    };
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let one = || run(seed, Habit::SyncThenTell, 20, |h| h.plan(menu(seed)));
        let a = one();
        assert_eq!(a.lost(), [""; 0], "seed {seed}: {:?}", menu(seed));
        assert!(a.hosts.store().faults().is_empty(), "seed {seed}");
        assert!(a.hosts.runs("writer1") && a.hosts.runs("writer2"), "seed {seed}");
        seen.extend(a.hosts.coverage().into_keys());
        if seed % 10 == 0 {
            let b = one();
            assert_eq!(a.hosts.coverage(), b.hosts.coverage(), "seed {seed}");
            assert_eq!(lock(&a.told).records, lock(&b.told).records, "seed {seed}");
        }
    }
    for what in [
        "process killed at a call",
        "machine off at a call",
        "call sent again",
        "write-back failed",
        "machine frozen",
        "host lost unsent data",
        "clock jumped",
    ] {
        assert!(seen.contains(what), "{what} never happened: {seen:?}");
    }
    assert!(Trouble::ALL.len() > 20);
}

#[test]
fn any_schedule_shows_who_tells_before_he_syncs() {
    let caught = (0..30).any(|seed| {
        let mut menu = Menu::all(&["writer1", "writer2"], &["machine1", "machine2"])
            .only(&[Trouble::PowerOffAtCall, Trouble::StoreFull]);
        menu.during = ms(500)..ms(5000);
        menu.calls = 1..60;
        let r = run(seed, Habit::TellThenSync, 8, |h| h.plan(Schedule::from_seed(seed, &menu)));
        !r.lost().is_empty()
    });
    assert!(caught);
}
