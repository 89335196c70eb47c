//! Every order in which a file server may serve the calls of a few processes.
//!
//! For protocols that rest on single calls being atomic: the processes run the
//! production code, each call to the store waits until it is chosen, and all
//! choices are tried, lost answers included. Time passes when nobody waits for
//! the store, or where that is one of the choices.

mod files;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use velociraptor::env::{Clock, Env, FileSystem};

pub use files::Fate;
use files::{Mount, Server, Shared, lock};

use crate::net::{EPOCH, Inline, SimEntropy, SimNet};

/// What may happen, and how much of it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Choices of which all combinations are tried; later ones are made in turn.
    pub depth: usize,
    /// Answers lost in one run.
    pub lost: usize,
    /// Whether a call whose answer is lost may also be told as a failure, and be
    /// carried out at once or late.
    pub doubt: bool,
    /// Whether time may pass while calls wait: this much at a time, this often.
    pub pauses: (Duration, usize),
    /// Choices after which a run is given up as endless.
    pub most: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 10,
            lost: 0,
            doubt: false,
            pauses: (Duration::from_millis(500), 0),
            most: 5000,
        }
    }
}

/// The store and the processes of one run.
#[derive(Clone)]
pub struct Stage {
    shared: Shared,
    start: Instant,
    crypto: Arc<rustls::crypto::CryptoProvider>,
}

/// A world on this file system, outside turmoil: the wall clock begins at
/// [`EPOCH`] and goes with tokio's, from `start`.
pub fn env_on(fs: Arc<dyn FileSystem>, seed: u64, start: Instant) -> Env {
    env_with(fs, seed, start, Arc::new(crate::crypto::provider()))
}

fn env_with(
    fs: Arc<dyn FileSystem>,
    seed: u64,
    start: Instant,
    crypto: Arc<rustls::crypto::CryptoProvider>,
) -> Env {
    Env {
        net: Arc::new(SimNet),
        clock: Arc::new(Wall(start)),
        entropy: Arc::new(SimEntropy::new(seed)),
        fs,
        crypto,
        cpu: Arc::new(Inline),
        tasks: Arc::new(Inline),
        sabotage: Default::default(),
    }
}

struct Wall(Instant);

impl Clock for Wall {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + EPOCH + self.0.elapsed()
    }
}

impl Stage {
    fn env_of(&self, process: Option<usize>) -> Env {
        let fs = Arc::new(Mount { shared: self.shared.clone(), process });
        let seed = process.map_or(0, |p| p as u64 + 1);
        env_with(fs, seed, self.start, self.crypto.clone())
    }

    /// The world as a process sees it: its calls wait to be chosen.
    pub fn env(&self, process: usize) -> Env {
        self.env_of(Some(process))
    }

    /// A world whose calls are served at once, to prepare and to look.
    pub fn god(&self) -> Env {
        self.env_of(None)
    }

    /// All names at the server.
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared).names()
    }

    /// The process makes no call any more.
    pub fn kill(&self, process: usize) {
        let mut s = lock(&self.shared);
        s.dead.insert(process);
        s.waiting.retain(|w| w.process != process);
    }
}

/// Where choices come from, and what they were.
struct Choices {
    /// Made already; after them the first is taken, or by chance.
    planned: Vec<usize>,
    chance: Option<SmallRng>,
    /// How many there were to choose from at each.
    widths: Vec<usize>,
    taken: Vec<usize>,
}

impl Choices {
    fn choose(&mut self, width: usize, depth: usize) -> usize {
        let at = self.taken.len();
        let pick = match (self.planned.get(at), &mut self.chance) {
            (Some(p), _) => *p,
            (None, Some(rng)) => rng.random_range(0..width),
            (None, None) if at < depth => 0,
            // Beyond what is tried out everybody gets a turn.
            (None, None) => at % width,
        };
        self.widths.push(width);
        self.taken.push(pick);
        pick
    }

    /// The next combination within `depth`.
    fn next(&self, depth: usize) -> Option<Vec<usize>> {
        let n = self.taken.len().min(depth);
        let at = (0..n).rev().find(|i| self.taken[*i] + 1 < self.widths[*i])?;
        let mut planned = self.taken[..at].to_vec();
        planned.push(self.taken[at] + 1);
        Some(planned)
    }
}

/// One thing that may happen next.
enum Step {
    Serve(usize, Fate),
    Land(usize),
    Pause,
}

async fn drive(stage: Stage, limits: Limits, choices: &mut Choices) -> bool {
    let (mut lost, mut pauses) = (limits.lost, limits.pauses.1);
    loop {
        // Everybody gets as far as they can.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        let mut steps = Vec::new();
        {
            let mut s = lock(&stage.shared);
            let dead = s.dead.clone();
            s.waiting.retain(|w| !dead.contains(&w.process) && !w.go.is_closed());
            for (i, w) in s.waiting.iter().enumerate() {
                steps.push(Step::Serve(i, Fate::Done));
                if lost > 0 && w.changes {
                    steps.push(Step::Serve(i, Fate::Repeated));
                    if limits.doubt {
                        steps.push(Step::Serve(i, Fate::Doubtful));
                        steps.push(Step::Serve(i, Fate::Late));
                    }
                }
            }
            steps.extend((0..s.orphans.len()).map(Step::Land));
        }
        if steps.is_empty() {
            tokio::time::advance(limits.pauses.0).await;
            continue;
        }
        if pauses > 0 {
            steps.push(Step::Pause);
        }
        if choices.taken.len() >= limits.most {
            return false;
        }
        match steps.swap_remove(choices.choose(steps.len(), limits.depth)) {
            Step::Serve(i, fate) => {
                lost -= usize::from(fate != Fate::Done);
                let w = lock(&stage.shared).waiting.remove(i);
                let _ = w.go.send(fate);
            }
            Step::Land(i) => {
                let mut s = lock(&stage.shared);
                let late = s.orphans.remove(i);
                late(&mut s);
            }
            Step::Pause => {
                pauses -= 1;
                tokio::time::advance(limits.pauses.0).await;
            }
        }
    }
}

/// Runs once. `Err`: it did not end, or what `scenario` found wrong, with all calls.
fn once<F: Future<Output = Result<(), String>> + Send + 'static>(
    crypto: &Arc<rustls::crypto::CryptoProvider>,
    limits: Limits,
    choices: &mut Choices,
    scenario: &impl Fn(Stage) -> F,
) -> Result<(), String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let stage = Stage {
            shared: Arc::new(Mutex::new(Server::default())),
            start: Instant::now(),
            crypto: crypto.clone(),
        };
        let run: BoxFuture<'static, _> = scenario(stage.clone()).boxed();
        let run = tokio::spawn(run);
        let done = tokio::select! {
            biased;
            done = run => done.map_err(|e| e.to_string()).and_then(|r| r),
            _ = drive(stage.clone(), limits, choices) => Err("it does not end".into()),
        };
        done.map_err(|e| {
            let log = stage.shared.lock().unwrap_or_else(PoisonError::into_inner).log.join("\n");
            format!("{e}\n{log}")
        })
    })
}

/// Tries all orders up to `limits.depth`. Returns how many there were.
pub fn all<F: Future<Output = Result<(), String>> + Send + 'static>(
    limits: Limits,
    scenario: impl Fn(Stage) -> F,
) -> Result<usize, String> {
    let crypto = Arc::new(crate::crypto::provider());
    let (mut planned, mut runs) = (Vec::new(), 0);
    loop {
        let mut choices = Choices { planned, chance: None, widths: vec![], taken: vec![] };
        once(&crypto, limits, &mut choices, &scenario)
            .map_err(|e| format!("choices {:?}: {e}", choices.taken))?;
        runs += 1;
        match choices.next(limits.depth) {
            Some(next) => planned = next,
            None => return Ok(runs),
        }
    }
}

/// Tries `runs` orders at random.
pub fn some<F: Future<Output = Result<(), String>> + Send + 'static>(
    limits: Limits,
    seeds: std::ops::Range<u64>,
    scenario: impl Fn(Stage) -> F,
) -> Result<(), String> {
    let crypto = Arc::new(crate::crypto::provider());
    for seed in seeds {
        let chance = Some(SmallRng::seed_from_u64(seed));
        let mut choices = Choices { planned: vec![], chance, widths: vec![], taken: vec![] };
        once(&crypto, limits, &mut choices, &scenario).map_err(|e| format!("seed {seed}: {e}"))?;
    }
    Ok(())
}
