//! A master and two minions over one directory, and clients that send everything
//! everywhere: whatever is lost, repeated, late or restarted, everything that was
//! acknowledged is there once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use proptest::prelude::*;
use velociraptor_proto::proto::*;

use super::tests::*;
use super::*;
use crate::comms::server::Answer;
use crate::env::Clock;
use crate::services::fleet::hub::Journals;
use crate::services::fleet::processes::Processes;
use crate::services::fleet::{self, Danger, standing, term};
use crate::services::flows::Rows;
use crate::services::housekeeping::Settle;
use crate::services::{Options, Role};
use crate::store::journal::{Feed, Group, Position};

/// 2030-01-05 23:59:30 UTC, microseconds: a day is about to end.
const START: u64 = 1_893_887_970_000_000;
/// A day and an hour, microseconds.
const DAY: u64 = 90_000_000_000;
/// Flows of each client.
const FLOWS: usize = 3;
/// Parts of each flow, with five rows each.
const PARTS: usize = 4;
/// Rows of each part.
const ROWS: u64 = 5;
const CLIENTS: usize = 2;

/// Time that passes only when told, and a microsecond each time it is asked.
struct Told(AtomicU64);

impl Clock for Told {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Keys take long to make.
struct Fixed {
    identity: Identity,
    clients: Vec<TestClient>,
}

fn fixed() -> &'static Fixed {
    static FIXED: OnceLock<Fixed> = OnceLock::new();
    FIXED.get_or_init(|| {
        let w = World::new();
        let clients = (0..CLIENTS).map(|_| TestClient::new(&w, NONCE)).collect();
        Fixed { identity: w.identity, clients }
    })
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    /// A client sends its next messages, to these processes one after the other: all
    /// but the last did not answer in time.
    Post { client: usize, at: Vec<usize>, jobs: usize },
    /// It sends its last POST again, with some more messages or none.
    Again { client: usize, at: usize, more: usize },
    /// What becomes of the next frame from a minion.
    Frame { minion: usize, how: How },
    /// A minion's beats.
    Beat(usize),
    /// The master looks at the store.
    Look,
    /// Seconds pass.
    Time(u64),
    /// Settling, deletion, releases.
    House,
    /// A minion begins a new journal file.
    Roll(usize),
    /// The master dies and another one starts.
    Restart,
    /// A minion dies and another one starts under its name.
    Reborn(usize),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Deliver,
    Lose,
    Twice,
    /// One that was delivered or lost before comes again.
    Old(usize),
}

struct Minion {
    clients: Clients,
    feed: Feed,
    frames: VecDeque<Group>,
    gone: Vec<Group>,
}

/// What a client has to send, and how far it is.
struct Person {
    jobs: Vec<VeloMessage>,
    sent: usize,
    last: std::ops::Range<usize>,
}

struct Cluster {
    w: World,
    clock: Arc<Told>,
    danger: Danger,
    master: Clients,
    processes: Arc<Processes>,
    minions: Vec<Minion>,
    people: Vec<Person>,
    names: usize,
}

fn flow(n: usize) -> String {
    format!("F.{n}")
}

fn event(n: usize) -> VeloMessage {
    let mut m = rows("F.Monitoring", "Custom.Events", 0, 0);
    if let Some(r) = &mut m.vql_response {
        r.jsonl_response = format!("{{\"e\":{n}}}\n");
        r.total_rows = 1;
        r.timestamp = n as u64;
    }
    m
}

fn log(flow: &str, n: usize) -> VeloMessage {
    VeloMessage {
        session_id: flow.into(),
        log_message: Some(LogMessage {
            jsonl: format!("{{\"message\":\"line {n}\"}}\n"),
            number_of_rows: 1,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Everything one client sends, in order.
fn jobs() -> Vec<VeloMessage> {
    let mut out = Vec::new();
    for f in 0..FLOWS {
        for part in 0..PARTS {
            out.push(rows(&flow(f), "Custom.A", part as u64 * ROWS, ROWS));
            out.push(log(&flow(f), part));
            out.push(event(f * PARTS + part));
        }
        out.push(done(&flow(f), (PARTS as u64 * ROWS) as i64));
    }
    out
}

fn options(node: &str, role: Role, danger: Danger) -> Options {
    let fleet = fleet::Options {
        // Whoever has no stream is dead: only processes that are gone have none.
        stale: Duration::ZERO,
        dead_after: Duration::ZERO,
        danger,
        ..fleet::Options::default()
    };
    // Time that passes here is no standstill of the process.
    let term = term::Options { stale: Duration::from_secs(10_000_000), ..Default::default() };
    let standing = standing::Options { term, ..Default::default() };
    Options { node: node.into(), role, fleet, standing, ..Options::default() }
}

impl Cluster {
    async fn new(danger: Danger) -> Self {
        let clock = Arc::new(Told(AtomicU64::new(START)));
        let mut env = crate::env::real::env();
        env.clock = clock.clone();
        let identity = fixed().identity.clone();
        let w = World { env, dir: tempfile::tempdir().unwrap(), identity };
        let master = w.start_with(options("master", Role::Master, danger)).await;
        let processes = Processes::new(master.0.server().clone());
        let people = (0..CLIENTS).map(|_| Person { jobs: jobs(), sent: 0, last: 0..0 }).collect();
        let (minions, names) = (Vec::new(), 0);
        let mut c = Self { w, clock, danger, master, processes, minions, people, names };
        for n in 0..2 {
            let m = c.minion(n).await;
            c.minions.push(m);
        }
        c.introduce();
        for client in &fixed().clients {
            enrol(&c.master, client).await;
            // The last flow is one that nobody asked for.
            for f in 0..FLOWS - 1 {
                let request = ArtifactCollectorArgs {
                    client_id: client.id.clone(),
                    flow_id: flow(f),
                    compiled_collector_args: vec![VqlCollectorArgs::default()],
                    ..Default::default()
                };
                let (s, org) = server(&c.master);
                s.schedule(&org, "admin", request).await.unwrap();
            }
        }
        c
    }

    async fn minion(&self, n: usize) -> Minion {
        let name = format!("minion-{n}");
        let clients = self.w.start_with(options(&name, Role::Minion, self.danger)).await;
        let feed = clients.0.server().journal.subscribe(1 << 30);
        Minion { clients, feed, frames: VecDeque::new(), gone: Vec::new() }
    }

    /// Living minions have a stream.
    fn introduce(&self) {
        for m in &self.minions {
            self.processes.streamed(&m.clients.0.server().process(), true);
        }
    }

    fn at(&self, process: usize) -> &Clients {
        match process {
            0 => &self.master,
            n => &self.minions[n - 1].clients,
        }
    }

    async fn send(&self, client: usize, what: std::ops::Range<usize>, at: usize) {
        let body = fixed().clients[client].body(&self.people[client].jobs[what]);
        let answer = post(self.at(at), body).await;
        assert_eq!(answer, Answer::Reply(Bytes::new()), "process {at}");
    }

    fn collect_frames(&mut self) {
        for m in &mut self.minions {
            while let Some(g) = m.feed.try_next() {
                m.frames.push_back(g);
            }
        }
    }

    async fn apply(&self, minion: usize, g: &Group) {
        let id = self.minions[minion].clients.0.server().process();
        self.processes.apply_bytes(&id, g.start, g.data.clone()).await.unwrap();
    }

    async fn frame(&mut self, minion: usize, how: How) {
        self.collect_frames();
        let m = &mut self.minions[minion];
        let g = match how {
            How::Old(n) if !m.gone.is_empty() => {
                let g = m.gone[n % m.gone.len()].clone();
                return self.apply(minion, &g).await;
            }
            _ => m.frames.pop_front(),
        };
        let Some(g) = g else { return };
        m.gone.push(g.clone());
        let times = match how {
            How::Lose => 0,
            How::Twice => 2,
            How::Deliver | How::Old(_) => 1,
        };
        for _ in 0..times {
            self.apply(minion, &g).await;
        }
    }

    /// Two beats: what was not streamed before the first is missing at the second.
    async fn beat(&self, minion: usize) {
        let s = self.minions[minion].clients.0.server();
        let (id, end) = (s.process(), s.journal.end());
        for _ in 0..2 {
            let clock = self.w.env.clock.micros();
            self.processes.beat(&id, end, clock).await;
        }
    }

    async fn house(&self) {
        let s = self.master.0.server();
        s.settle(Settle::Due).await;
        s.collect_garbage().await;
        for (id, release) in self.processes.releases() {
            let minion = self.minions.iter().find(|m| m.clients.0.server().process() == id);
            if let Some(m) = minion {
                m.clients.0.server().release(&release).await;
            }
        }
        self.processes.look().await;
    }

    async fn restart(&mut self) {
        // The old one is not told anything: what it has in memory is gone.
        let options = options("master", Role::Master, self.danger);
        self.master = self.w.start_with(options).await;
        self.processes = Processes::new(self.master.0.server().clone());
        self.introduce();
    }

    async fn reborn(&mut self, n: usize) {
        let old = self.minions[n].clients.0.server().process();
        let new = self.minion(n).await;
        self.processes.ended(&old);
        self.minions[n] = new;
        self.introduce();
        self.names += 1;
    }

    async fn run(&mut self, op: &Op) {
        match op {
            Op::Post { client, at, jobs } => {
                let p = &mut self.people[*client];
                let to = (p.sent + jobs).min(p.jobs.len());
                if to == p.sent {
                    return;
                }
                p.last = p.sent..to;
                p.sent = to;
                let what = p.last.clone();
                for at in at {
                    self.send(*client, what.clone(), *at).await;
                }
            }
            Op::Again { client, at, more } => {
                let p = &mut self.people[*client];
                p.sent = (p.sent + more).min(p.jobs.len());
                p.last.end = p.sent;
                let what = p.last.clone();
                if !what.is_empty() {
                    self.send(*client, what, *at).await;
                }
            }
            Op::Frame { minion, how } => self.frame(*minion, *how).await,
            Op::Beat(n) => self.beat(*n).await,
            Op::Look => self.processes.look().await,
            Op::Time(s) => {
                self.clock.0.fetch_add(s * 1_000_000, Ordering::Relaxed);
            }
            Op::House => self.house().await,
            Op::Roll(n) => {
                self.minions[*n].clients.0.server().journal.roll().await.unwrap();
            }
            Op::Restart => self.restart().await,
            Op::Reborn(n) => self.reborn(*n).await,
        }
    }

    /// Everybody sends the rest, and all of it arrives and is settled.
    async fn finish(&mut self) -> Result<(), String> {
        for client in 0..CLIENTS {
            let rest = self.people[client].sent..self.people[client].jobs.len();
            if !rest.is_empty() {
                self.send(client, rest, 1).await;
            }
        }
        for n in 0..2 {
            self.beat(n).await;
        }
        self.processes.look().await;
        self.check("when all has arrived").await?;
        // What came is settled when the day is over, and forgotten a day later. Then
        // minions begin new files and give up the old ones, and at last those of
        // masters go that told of them.
        for _ in 0..4 {
            self.clock.0.fetch_add(DAY, Ordering::Relaxed);
            for n in 0..2 {
                self.beat(n).await;
            }
            self.house().await;
        }
        self.check("when all is settled").await?;
        self.nothing_is_live("when all is settled")?;
        self.restart().await;
        self.processes.look().await;
        self.nothing_is_live("after a restart")?;
        self.check("after a restart").await?;
        // A new master knows only from beats that nothing late can come. Then it asks
        // for new files where that was not asked for in the last minute, and once
        // they are begun, the old ones go.
        for _ in 0..2 {
            for n in 0..2 {
                self.beat(n).await;
            }
            self.house().await;
        }
        self.master.0.server().settle_all().await;
        self.events().await?;
        // The master's own file, one of each minion, and what opens the journal.
        let files = self.master.0.server().journal_files();
        if files > 4 {
            let fleet = format!("{}/fleet", self.w.dir.path().display());
            let there = crate::store::journal::list_processes(&self.w.env, &fleet).await;
            let there: Vec<String> =
                there.unwrap().iter().map(|l| format!("{}: {:?}", l.process, l.files)).collect();
            return Err(format!("{files} journal files are left: {there:?}"));
        }
        Ok(())
    }

    fn nothing_is_live(&self, when: &str) -> Result<(), String> {
        let (_, org) = server(&self.master);
        let live: Vec<_> = org.state().flows.keys().cloned().collect();
        if live.is_empty() { Ok(()) } else { Err(format!("{when}: {live:?} are live")) }
    }

    async fn check(&self, when: &str) -> Result<(), String> {
        let (s, org) = server(&self.master);
        for client in &fixed().clients {
            for f in 0..FLOWS {
                let name = flow(f);
                let set = Rows::Results("Custom.A".into());
                let got = s.rows(&org, &client.id, &name, &set, 0, 1000).await;
                let got: Vec<String> = (got.map_err(|e| format!("{when}: {name}: {e}"))?.iter())
                    .map(|r| String::from_utf8_lossy(r).into_owned())
                    .collect();
                let want: Vec<String> =
                    (0..PARTS as u64 * ROWS).map(|i| format!("{{\"i\":{i}}}")).collect();
                if got != want {
                    return Err(format!("{when}: rows of {name}: {got:?}"));
                }
                let logs = s.rows(&org, &client.id, &name, &Rows::Logs, 0, 1000).await;
                let logs = logs.map_err(|e| format!("{when}: {name}: {e}"))?;
                let mut lines: Vec<&Bytes> = logs.iter().collect();
                lines.sort();
                lines.dedup();
                if lines.len() != PARTS || logs.len() != PARTS {
                    return Err(format!("{when}: log of {name}: {logs:?}"));
                }
                if f + 1 < FLOWS {
                    let context = s.flow(&org, &client.id, &name).await.unwrap().unwrap();
                    if context.state() != artifact_collector_context::State::Finished {
                        return Err(format!("{when}: {name} is {:?}", context.state()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Event rows in stock files, each once.
    async fn events(&self) -> Result<(), String> {
        for client in &fixed().clients {
            let dir = format!(
                "{}/clients/{}/monitoring/Custom.Events",
                self.w.dir.path().display(),
                client.id
            );
            let fs = &*self.w.env.fs;
            let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
            for e in fs.list(&dir).await.unwrap() {
                if !e.name.ends_with(".json") {
                    continue;
                }
                let path = format!("{dir}/{}", e.name);
                let data = crate::env::fs::read_limited(fs, &path, 1 << 20).await.unwrap();
                for line in crate::services::flows::job::lines(&data) {
                    let row: serde_json::Value = serde_json::from_slice(line).unwrap();
                    *seen.entry(row["e"].as_u64().unwrap()).or_default() += 1;
                }
            }
            let want: BTreeMap<u64, u32> = (0..(FLOWS * PARTS) as u64).map(|n| (n, 1)).collect();
            if seen != want {
                return Err(format!("events of {}: {seen:?}", client.id));
            }
        }
        Ok(())
    }
}

fn play(ops: &[Op], danger: Danger) -> Result<(), String> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let mut c = Cluster::new(danger).await;
        for op in ops {
            c.run(op).await;
        }
        c.finish().await
    })
}

fn op() -> impl Strategy<Value = Op> {
    let at = prop::sample::subsequence(vec![0usize, 1, 2], 1..=3).prop_shuffle();
    let how = prop_oneof![
        4 => Just(How::Deliver),
        2 => Just(How::Lose),
        1 => Just(How::Twice),
        1 => (0usize..50).prop_map(How::Old),
    ];
    prop_oneof![
        8 => (0..CLIENTS, at, 1usize..8)
            .prop_map(|(client, at, jobs)| Op::Post { client, at, jobs }),
        3 => (0..CLIENTS, 0usize..3, 0usize..4)
            .prop_map(|(client, at, more)| Op::Again { client, at, more }),
        6 => (0usize..2, how).prop_map(|(minion, how)| Op::Frame { minion, how }),
        1 => (0usize..2).prop_map(Op::Beat),
        1 => Just(Op::Look),
        4 => (1u64..45).prop_map(Op::Time),
        4 => Just(Op::House),
        1 => (0usize..2).prop_map(Op::Roll),
        2 => Just(Op::Restart),
        1 => (0usize..2).prop_map(Op::Reborn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everything_is_there_once(ops in proptest::collection::vec(op(), 5..40)) {
        let done = play(&ops, Danger::default());
        prop_assert!(done.is_ok(), "{}", done.unwrap_err());
    }
}

fn post_at(client: usize, at: &[usize], jobs: usize) -> Op {
    Op::Post { client, at: at.to_vec(), jobs }
}

#[test]
fn rows_of_a_flow_that_nobody_asked_for_go_on_after_it_was_settled() {
    let ops = [post_at(1, &[2], 20), post_at(1, &[0], 7), Op::Time(27), Op::Time(36), Op::House];
    play(&ops, Danger::default()).unwrap();
}

/// All of the first flow goes to a minion of which nothing is heard, and to
/// the master, and is settled.
fn a_minion_is_late() -> Vec<Op> {
    let flow = PARTS * 3 + 1;
    let mut ops = vec![post_at(0, &[1, 0], flow)];
    // Long forgotten as the last POST.
    ops.extend((0..8).map(|_| post_at(0, &[0], 1)));
    ops.extend([Op::Time(40), Op::House, Op::Time(40), Op::House]);
    ops
}

#[test]
fn a_late_repeat_of_something_settled_is_recognised() {
    let mut ops = a_minion_is_late();
    ops.push(Op::Beat(0));
    play(&ops, Danger::default()).unwrap();
    // Also by a master that started since, from what journals say.
    ops.insert(ops.len() - 1, Op::Restart);
    play(&ops, Danger::default()).unwrap();
    let forgetful = Danger { no_tombstones: true, ..Danger::default() };
    play(&ops, forgetful).unwrap_err();
}

#[test]
fn recovery_replays_what_decisions_had_seen() {
    // A flow is received by a minion and settled; its journal stays for the sake
    // of another flow.
    let flow = PARTS * 3 + 1;
    let ops = [
        post_at(0, &[1], flow),
        post_at(0, &[1], 2),
        Op::Beat(0),
        Op::Time(40),
        Op::House,
        Op::Restart,
    ];
    play(&ops, Danger::default()).unwrap();
    let blind = Danger { ignore_seen: true, ..Danger::default() };
    play(&ops, blind).unwrap_err();
}

#[test]
fn what_a_dead_minion_wrote_last_is_read_before_its_files_go() {
    // Everything had been read when the master started; then more came.
    let ops = [Op::Restart, post_at(0, &[2], 2), Op::Reborn(1), Op::House];
    play(&ops, Danger::default()).unwrap();
}

#[test]
fn a_lost_frame_is_read_from_the_store() {
    let lose = Op::Frame { minion: 0, how: How::Lose };
    let deliver = Op::Frame { minion: 0, how: How::Deliver };
    let ops =
        [post_at(0, &[1], 3), lose, post_at(0, &[1], 3), deliver, post_at(1, &[2], 1), Op::Look];
    play(&ops, Danger::default()).unwrap();
    let careless = Danger { ignore_place: true, ..Danger::default() };
    play(&ops, careless).unwrap_err();
}

#[test]
fn positions_of_living_minions_are_told() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let mut c = Cluster::new(Danger::default()).await;
        let id = c.minions[0].clients.0.server().process();
        assert_eq!(c.processes.position(&id), Position::START);
        c.run(&post_at(0, &[1], 3)).await;
        c.run(&Op::Frame { minion: 0, how: How::Deliver }).await;
        let end = c.minions[0].clients.0.server().journal.end();
        assert_eq!(c.processes.position(&id), end);
        c.restart().await;
        assert_eq!(c.processes.position(&id), end, "read back");
    });
}
