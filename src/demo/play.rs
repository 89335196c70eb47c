//! The run: start everything, load it, do what keys and the script say, put it
//! in order, audit.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::deployment::Deployment;
use super::load;
use super::nodes::{Nodes, State};
use super::recovery::Events;
use super::report::Outcome;
use super::sampler::{self, Sample};
use super::screen::{Row, View};
use super::script::{Action, Script, node_name};
use super::terminal::Terminal;
use crate::agent::Settings;
use crate::comms::agent::ConnectorConfig;
use crate::crypto::PrivateKey;
use crate::env::{Env, Open};
use crate::pool::{self, Api, Book, Latency, Plan, Report, Tasks};

/// How often the picture is renewed.
const TICK: Duration = Duration::from_secs(1);
/// Without a terminal: how often a line says how it goes.
const LINE: Duration = Duration::from_secs(10);
/// Latencies shown are those of so long.
const WINDOW: Duration = Duration::from_secs(10);
/// A node gets so long to come up at the beginning.
const UP: Duration = Duration::from_secs(60);
const KEYS: &str = "keys: 0-9 choose a node; k kill, t stop, s start, p hold still / let go; \
                    h hunt, x stall the store / let it answer, f fill the disk / free it; q audit and end";

/// What is played.
#[derive(Debug)]
pub struct Play {
    /// The agents' settings and way to the servers, of the client configuration.
    pub client: (Settings, ConnectorConfig),
    /// Keys of the clients.
    pub keys: Vec<PrivateKey>,
    /// Every so many-th client out of a hundred uses WebSockets.
    pub wss_percent: usize,
    /// Collections started each second.
    pub rate: f64,
    /// Clients started each second.
    pub ramp: u32,
    /// What happens; `None`: keys alone, until `q`.
    pub script: Option<Script>,
    /// How long the end waits for collections that run.
    pub patience: Duration,
    /// The file with which the API is called.
    pub api: Api,
}

struct Stage {
    env: Env,
    d: Deployment,
    nodes: Nodes,
    api: Api,
    book: Arc<Book>,
    tasks: Arc<Tasks>,
    clients: u64,
    hunts: usize,
    events: Events,
    samples: watch::Receiver<Sample>,
    before: VecDeque<(Instant, Vec<u64>)>,
    terminal: Option<Terminal>,
    said: usize,
    line: Instant,
    chosen: usize,
    full: bool,
    stalled: bool,
    complaints: Vec<String>,
}

fn get(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}

/// Starts the nodes in order: the master, then the minions.
pub async fn start_nodes(env: &Env, d: &mut Deployment, nodes: &mut Nodes) -> anyhow::Result<()> {
    for node in 0..nodes.count() {
        nodes.start(d, node)?;
    }
    for node in 0..nodes.count() {
        let port = d.ports.get(node).context("ports")?.metrics;
        let end = Instant::now() + UP;
        while sampler::ask(env, port).await.is_none() {
            if let Some((n, _, how)) = nodes.ended().first() {
                anyhow::bail!("{} ended: {how}; see {}/logs", node_name(*n), d.dir);
            }
            let log = format!("{}/logs/{}.log", d.dir, node_name(node));
            anyhow::ensure!(Instant::now() < end, "{} does not come up: {log}", node_name(node));
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Plays; `stop` ends it like the key `q`.
pub async fn run(
    env: &Env,
    d: Deployment,
    nodes: Nodes,
    play: Play,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let Play { client: (settings, connector), keys, wss_percent, .. } = play;
    let clients = keys.len() as u64;
    let (book, tasks) = (Arc::new(Book::default()), Arc::new(Tasks::default()));
    let (out, samples) = watch::channel(Sample::default());
    let stopped = CancellationToken::new();
    let _ended = stopped.clone().drop_guard();
    let ports = d.ports.iter().map(|p| p.metrics).collect();
    env.spawn(sampler::sample(env.clone(), ports, play.api.clone(), out, stopped.clone()));
    let mut stage = Stage {
        env: env.clone(),
        d,
        nodes,
        api: play.api.clone(),
        book: book.clone(),
        tasks: tasks.clone(),
        clients,
        hunts: 0,
        events: Events::begin(),
        samples,
        before: VecDeque::new(),
        terminal: Terminal::open(),
        said: 0,
        line: Instant::now(),
        chosen: 0,
        full: false,
        stalled: false,
        complaints: Vec::new(),
    };
    let mut pressed = match &stage.terminal {
        Some(t) => t.keys(env),
        // Never a key: the sender is gone.
        None => mpsc::channel(1).1,
    };
    stage.define().await?;
    let begun = Instant::now();
    let connectors = connectors(&connector, wss_percent);
    let options =
        pool::Options { persona: pool::Persona::Mixed, ramp: play.ramp, churn: None, flood: None };
    pool::start(env, settings, &connectors, keys, &options, &book, &stopped);
    let told = stopped.child_token();
    let work = async {
        let plan = Plan {
            artifact: load::ARTIFACT.into(),
            tasks: usize::MAX,
            rate: play.rate,
            think: Duration::ZERO,
        };
        pool::schedule(env, &play.api, &book, &plan, &tasks, &told).await;
    };
    let told_stage = told.clone();
    let show = async {
        stage.gather(&mut pressed, stop).await;
        stage.events.restart();
        if !stop.is_cancelled() {
            stage.act(Action::Hunt, true).await;
        }
        stage.play(play.script.as_ref(), &mut pressed, stop).await;
        told_stage.cancel();
        stage.order().await;
        stage.settle(play.patience, stop).await;
        stage
    };
    // The tasking begins with everybody there.
    let (_, mut stage) =
        futures::future::join(heard_first(&book, clients, &told, work), show).await;
    let mut outcome = Outcome {
        good: false,
        complaints: std::mem::take(&mut stage.complaints),
        nodes: stage.nodes.count(),
        load: Report::of(clients as usize, begun.elapsed(), &book, &tasks),
        hunts: Vec::new(),
        events: Vec::new(),
        open: load::open(&book, &tasks, stage.hunts, get(&book.sums().connected)),
        commands: Vec::new(),
    };
    stage.say("audit");
    match pool::audit(&stage.api, &book, &tasks).await {
        Ok(a) => outcome.load.audit = Some(a),
        Err(e) => outcome.complaints.push(format!("audit: {e:#}")),
    }
    match load::counts(&stage.api, &book).await {
        Ok(hunts) => outcome.hunts = hunts,
        Err(e) => outcome.complaints.push(format!("counts of hunts: {e:#}")),
    }
    stopped.cancel();
    stage.say("stopping the nodes");
    outcome.complaints.extend(stage.nodes.end().await);
    outcome.events = stage.events.all().to_vec();
    outcome.commands = stage.d.commands.list().to_vec();
    outcome.judge();
    Ok(outcome)
}

async fn heard_first(
    book: &Book,
    clients: u64,
    told: &CancellationToken,
    work: impl Future<Output = ()>,
) {
    while get(&book.sums().connected) < clients {
        if told.is_cancelled() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    work.await;
}

/// The ways of a hundred clients: so many over WebSockets, evenly mixed.
fn connectors(c: &ConnectorConfig, wss_percent: usize) -> Vec<ConnectorConfig> {
    let with = |scheme: &str| {
        let urls = c.server_urls.iter().filter_map(|u| u.split_once("://"));
        let server_urls = urls.map(|(_, rest)| format!("{scheme}://{rest}")).collect();
        ConnectorConfig { server_urls, ..c.clone() }
    };
    let (https, wss) = (with("https"), with("wss"));
    let is_wss = |n: usize| (n + 1) * wss_percent / 100 > n * wss_percent / 100;
    (0..100).map(|n| if is_wss(n) { wss.clone() } else { https.clone() }).collect()
}

impl Stage {
    async fn define(&mut self) -> anyhow::Result<()> {
        let file = load::sample_file(&self.env, &self.d.dir).await?;
        self.d.commands.note(format!("head -c {} /dev/urandom > sample.bin", 64 << 10));
        let vql = load::definition(&file);
        self.d.commands.run(&["-a", "api.config.yaml", "query", &vql], "").await.map(drop)
    }

    /// Waits until the server answered every client, or a key ends it.
    async fn gather(&mut self, keys: &mut mpsc::Receiver<char>, stop: &CancellationToken) {
        let mut tick = interval(TICK);
        while get(&self.book.sums().connected) < self.clients {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(key) = keys.recv() => {
                    if key == 'q' {
                        stop.cancel();
                        return;
                    }
                    self.key(key).await;
                }
                _ = tick.tick() => self.look(),
            }
        }
    }

    async fn play(
        &mut self,
        script: Option<&Script>,
        keys: &mut mpsc::Receiver<char>,
        stop: &CancellationToken,
    ) {
        let begun = Instant::now();
        let mut steps = script.map(|s| s.steps.iter()).into_iter().flatten().peekable();
        let mut tick = interval(TICK);
        loop {
            let due = match (steps.peek(), script) {
                (Some(step), _) => Some(begun + step.at),
                (None, Some(_)) => return,
                (None, None) => None,
            };
            let next = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(key) = keys.recv() => {
                    if key == 'q' {
                        return;
                    }
                    self.key(key).await;
                }
                () = next => match steps.next().map(|s| s.action) {
                    Some(Action::End) | None => return,
                    Some(action) => self.act(action, true).await,
                },
                _ = tick.tick() => self.look(),
            }
        }
    }

    async fn key(&mut self, key: char) {
        let n = self.chosen;
        let state = self.nodes.state(n).0;
        let action = match key {
            '0'..='9' => {
                let digit = key.to_digit(10).unwrap_or(0) as usize;
                if digit < self.nodes.count() {
                    self.chosen = digit;
                }
                return self.look();
            }
            'k' => Action::Kill(n),
            't' => Action::Stop(n),
            's' => Action::Start(n),
            'p' if state == State::Paused => Action::Resume(n),
            'p' => Action::Pause(n),
            'h' => Action::Hunt,
            'x' if self.stalled => Action::Unstall,
            'x' => Action::Stall,
            'f' if self.full => Action::Free,
            'f' => Action::Fill,
            _ => return,
        };
        self.act(action, false).await;
        self.look();
    }

    /// Does something, and says whether it could be done. What a script asks for has
    /// to happen.
    async fn act(&mut self, action: Action, scripted: bool) {
        let held = self.samples.borrow().held();
        let disturbs = matches!(
            action,
            Action::Kill(_) | Action::Stop(_) | Action::Pause(_) | Action::Stall | Action::Fill
        );
        match self.perform(action).await {
            Ok(command) => {
                self.events.add(action.to_string(), disturbs, held);
                self.d.commands.note(command);
            }
            Err(e) => {
                let text = format!("{action}: {e:#}");
                self.events.add(text.clone(), false, held);
                if scripted {
                    self.complaints.push(text);
                }
            }
        }
        self.news();
    }

    /// Returns the line for a shell.
    async fn perform(&mut self, action: Action) -> anyhow::Result<String> {
        let kill = |signal: &str, n: usize, id: Option<u32>| {
            format!("kill -{signal} {}   # {}", id.unwrap_or_default(), node_name(n))
        };
        match action {
            Action::Kill(n) => Ok(kill("KILL", n, self.nodes.kill(n).await?)),
            Action::Stop(n) => Ok(kill("TERM", n, self.nodes.stop(n)?)),
            Action::Pause(n) => Ok(kill("STOP", n, self.nodes.pause(n)?)),
            Action::Resume(n) => Ok(kill("CONT", n, self.nodes.resume(n)?)),
            Action::Start(n) => {
                self.nodes.start(&mut self.d, n)?;
                Ok(format!("# that was {}", node_name(n)))
            }
            Action::Hunt => {
                let vql = load::hunt();
                load::query(&self.api, &vql).await?;
                self.hunts += 1;
                let args = ["-a", "api.config.yaml", "query", vql.as_str()];
                Ok(super::commands::Commands::text(&args))
            }
            Action::Stall => {
                anyhow::ensure!(
                    self.d.stalls,
                    "the nodes are those of production, without a hook: start with --stalls"
                );
                self.d.write(&self.env, "stall", "").await?;
                self.stalled = true;
                Ok("touch stall".into())
            }
            Action::Unstall => {
                self.env.fs.remove(&format!("{}/stall", self.d.dir)).await?;
                self.stalled = false;
                Ok("rm stall".into())
            }
            Action::Fill => self.fill().await,
            Action::Free => {
                self.env.fs.remove(&format!("{}/ds/ballast", self.d.dir)).await?;
                self.full = false;
                Ok("rm ds/ballast".into())
            }
            Action::End => Ok("# end".into()),
        }
    }

    async fn fill(&mut self) -> anyhow::Result<String> {
        anyhow::ensure!(
            self.d.own_disk,
            "the datastore is on a disk of this machine, which is not filled: start with --disk SIZE"
        );
        anyhow::ensure!(!self.full, "it is full already");
        let path = format!("{}/ds/ballast", self.d.dir);
        let file = self.env.fs.open(&path, Open::CreateNew).await?;
        self.full = true;
        let (mut at, mut piece) = (0, 1 << 20);
        while piece >= 4096 {
            match file.write_at(at, vec![b'x'; piece].into()).await {
                Ok(()) => at += piece as u64,
                Err(_) => piece /= 2,
            }
        }
        let _ = file.close().await;
        Ok("cat /dev/zero > ds/ballast".into())
    }

    /// Makes everything well again, for the end.
    async fn order(&mut self) {
        self.say("putting everything in order");
        if self.stalled {
            self.act(Action::Unstall, true).await;
        }
        if self.full {
            self.act(Action::Free, true).await;
        }
        for n in 0..self.nodes.count() {
            let end = Instant::now() + UP;
            while self.nodes.state(n).0 == State::Stopping && Instant::now() < end {
                sleep(Duration::from_millis(100)).await;
                self.look();
            }
            match self.nodes.state(n).0 {
                State::Down => self.act(Action::Start(n), true).await,
                State::Paused => self.act(Action::Resume(n), true).await,
                State::Running | State::Stopping => {}
            }
        }
    }

    /// Waits until every collection is over.
    async fn settle(&mut self, patience: Duration, stop: &CancellationToken) {
        let end = Instant::now() + patience;
        let asked = stop.is_cancelled();
        let mut last = u64::MAX;
        loop {
            self.look();
            let connected = get(&self.book.sums().connected);
            let open = load::open(&self.book, &self.tasks, self.hunts, connected);
            let up = (0..self.nodes.count()).all(|n| self.nodes.state(n).0 == State::Running);
            if (open == 0 && up) || Instant::now() > end || (stop.is_cancelled() && !asked) {
                return;
            }
            if last == u64::MAX || open / 100 != last / 100 {
                self.say(&format!("waiting for {open} collections that run"));
                last = open;
            }
            sleep(TICK).await;
        }
    }

    /// Takes up what the nodes said, and shows it.
    fn look(&mut self) {
        for (node, told, how) in self.nodes.ended() {
            let text = format!("{} has ended: {how}", node_name(node));
            if !told {
                self.complaints.push(format!("{text}, and nobody told it to"));
            }
            let held = self.samples.borrow().held();
            self.events.add(text, false, held);
        }
        let sample = self.samples.borrow().clone();
        self.events.held(sample.held(), self.clients);
        let rows = |s: &Sample| -> Vec<u64> {
            s.nodes.iter().map(|f| f.as_ref().map_or(0, |f| f.rows)).collect()
        };
        self.before.push_back((Instant::now(), rows(&sample)));
        while self.before.len() > 4 {
            self.before.pop_front();
        }
        self.news();
        if self.terminal.is_some() {
            let lines = self.view(&sample).lines();
            if let Some(t) = &self.terminal {
                t.draw(&lines);
            }
        } else if self.line.elapsed() >= LINE {
            self.line = Instant::now();
            let text = self.view(&sample).line();
            self.say(&text);
        }
    }

    /// Without a terminal: what happened since the last look.
    fn news(&mut self) {
        if self.terminal.is_some() {
            return;
        }
        let new: Vec<String> =
            self.events.all().iter().skip(self.said).map(|e| e.what.clone()).collect();
        self.said += new.len();
        new.iter().for_each(|text| self.say(text));
    }

    fn say(&mut self, text: &str) {
        if self.terminal.is_none() {
            let line = format!("{:7.1} s  {text}\n", self.events.elapsed().as_secs_f64());
            let mut out = std::io::stdout().lock();
            // Whoever read it may have gone.
            let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        } else {
            let sample = self.samples.borrow().clone();
            let mut view = self.view(&sample);
            view.keys = text.to_owned();
            if let Some(t) = &self.terminal {
                t.draw(&view.lines());
            }
        }
    }

    fn view(&self, sample: &Sample) -> View {
        let rate = |n: usize| {
            let (first, last) = (self.before.front()?, self.before.back()?);
            let seconds = (last.0 - first.0).as_secs_f64();
            let more = last.1.get(n)?.checked_sub(*first.1.get(n)?)?;
            (seconds > 0.5).then_some((more as f64 / seconds) as u64)
        };
        let row = |n: usize| Row {
            name: node_name(n),
            state: self.nodes.state(n),
            figures: sample.nodes.get(n).cloned().flatten(),
            rows_per_second: rate(n).unwrap_or(0),
            seen: sample.seen.get(&self.d.name(n)).cloned(),
            chosen: self.terminal.is_some() && n == self.chosen,
        };
        let s = self.book.sums();
        View {
            head: self.d.welcome().lines().map(str::to_owned).collect(),
            rows: (0..self.nodes.count()).map(row).collect(),
            clients: (self.clients, get(&s.connected)),
            tasks: [
                self.tasks.len() as u64,
                get(&s.tasks),
                get(&s.complete),
                self.tasks.failed().0,
            ],
            acknowledged: (get(&s.rows), get(&s.bytes)),
            latency: self.latencies(),
            events: self.events.all().iter().map(ToString::to_string).collect(),
            keys: KEYS.into(),
        }
    }

    /// From call to receipt: of the last seconds, and of all.
    fn latencies(&self) -> (Latency, Latency) {
        let mut times = (Vec::new(), Vec::new());
        for ((client, flow), task) in self.tasks.all() {
            let received = self.book.flow(&client, &flow).and_then(|f| f.received);
            let Some(received) = received else { continue };
            let time = received.saturating_duration_since(task.called);
            times.1.push(time);
            if received.elapsed() < WINDOW {
                times.0.push(time);
            }
        }
        (Latency::of(times.0), Latency::of(times.1))
    }
}
