//! Taking a chain, and holding it for as long as the process lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chain::{Chain, Link};
use super::running::{self, Running};
use super::watch::{Rules, Verdict, Watch};
use crate::env::Env;
use crate::store::StoreError;
use crate::store::journal::ProcessId;

/// Why a chain could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody has it, and lives.
    #[error("{}", .0.describe())]
    Held(Holder),
    /// Its file is gone, though its directory shows that it was begun.
    #[error(
        "{0} holds no sign of life and was used before: if certainly no process of this \
         deployment runs, remove that directory"
    )]
    Missing(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which start of which node.
    pub process: ProcessId,
    /// What the process said of itself.
    pub running: Option<Running>,
    /// The term it holds.
    pub term: u64,
}

impl Holder {
    /// For people: node, epoch, process, host and since when.
    pub fn describe(&self) -> String {
        let who = format!("node {} (epoch {}", self.process.node, self.process.epoch);
        match &self.running {
            None => format!("{who})"),
            Some(r) => {
                let since = jiff::Timestamp::from_second(r.since as i64).unwrap_or_default();
                format!("{who}, {}) since {since}", r.describe())
            }
        }
    }
}

/// Why it could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Nobody ever had it.
    New,
    /// It was given up in good order.
    Free,
    /// Whoever had it has certainly ended.
    Ended,
    /// Whoever had it gave no sign of life.
    Silent,
    /// It was taken away from somebody who may live.
    Forced,
}

#[derive(Debug)]
struct State {
    link: Link,
    /// A step of which it is not known whether it happened.
    trying: Option<Link>,
    /// When the last step that succeeded was begun, by two clocks: one of them
    /// may stand still while the machine is suspended.
    since: (Instant, SystemTime),
    lost_to: Option<Holder>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    fleet: String,
    chain: Chain,
    beat: Duration,
    state: Mutex<State>,
    /// One step at a time.
    step: tokio::sync::Mutex<()>,
    lost: CancellationToken,
}

/// A chain that is held. Dropped without [`Hold::release`], it looks like a
/// process that has died.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    stop: CancellationToken,
    because: Because,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Tries that lost a race before the watcher sleeps again.
const RACES: u32 = 16;

impl Hold {
    /// Takes the chain in `dir`, unless somebody holds it and lives; with `force`
    /// also then. `least` is the lowest term it may get.
    pub async fn acquire(
        env: &Env,
        fleet: &str,
        dir: String,
        me: (&ProcessId, &Running),
        rules: Rules,
        (least, force): (u64, bool),
    ) -> Result<Self, HoldError> {
        let chain = Chain::new(env, fleet, dir, me.0);
        let store = StoreError::from;
        let start = Instant::now();
        let mut watch = Watch::new(rules);
        let (mut races, mut nothing) = (0, Duration::ZERO);
        let mut told = None;
        loop {
            let (asked, began) = (Instant::now(), start.elapsed());
            let top = chain.look().await.map_err(store)?.pop();
            let taken = match &top {
                None => {
                    let first = Link::default().taken_by(me.0, least.max(1));
                    let done = chain.begin(&first).await.map_err(store)?;
                    done.then_some((first, Because::New))
                }
                // A try of ours of which no reply came.
                Some(l) if l.holder.as_ref() == Some(me.0) => Some((l.clone(), Because::Silent)),
                Some(l) => {
                    let because = match &l.holder {
                        None => Some(Because::Free),
                        Some(p) => {
                            let who = running::of(env, fleet, p).await?;
                            let ended = match &who {
                                Some(w) => w.has_ended(env, me.1).await,
                                None => false,
                            };
                            let verdict = watch.see(l, began, start.elapsed());
                            let holder = Holder { process: p.clone(), running: who, term: l.term };
                            if told.as_ref() != Some(p) && !ended && !force {
                                tracing::info!(
                                    holder = holder.describe(),
                                    dir = chain.dir(),
                                    "waiting to see whether another process lives"
                                );
                                told = Some(p.clone());
                            }
                            match (ended, force, verdict) {
                                (true, ..) => Some(Because::Ended),
                                (_, true, _) => Some(Because::Forced),
                                (_, _, Verdict::Gone) => Some(Because::Silent),
                                (_, _, Verdict::Alive) => return Err(HoldError::Held(holder)),
                                (_, _, Verdict::Wait) => None,
                            }
                        }
                    };
                    match because {
                        None => None,
                        Some(because) => {
                            let to = l.taken_by(me.0, least);
                            let done = chain.shift(l, &to).await.map_err(store)?;
                            if !done && races < RACES {
                                races += 1;
                                continue;
                            }
                            done.then_some((to, because))
                        }
                    }
                }
            };
            if let Some((link, because)) = taken {
                chain.sync().await.map_err(store)?;
                chain.tidy(&link).await;
                return Ok(Self::start(env, fleet, chain, rules.beat, link, asked, because));
            }
            nothing = if top.is_none() { nothing + rules.poll() } else { Duration::ZERO };
            if nothing > rules.stale {
                return Err(HoldError::Missing(chain.dir().to_owned()));
            }
            races = 0;
            tokio::time::sleep(rules.poll()).await;
        }
    }

    fn start(
        env: &Env,
        fleet: &str,
        chain: Chain,
        beat: Duration,
        link: Link,
        asked: Instant,
        because: Because,
    ) -> Self {
        let since = (asked, env.clock.now());
        let inner = Arc::new(Inner {
            env: env.clone(),
            fleet: fleet.to_owned(),
            chain,
            beat,
            state: Mutex::new(State { link, trying: None, since, lost_to: None }),
            step: tokio::sync::Mutex::default(),
            lost: CancellationToken::new(),
        });
        let stop = CancellationToken::new();
        env.spawn(inner.clone().keep(stop.clone()));
        Self { inner, stop, because }
    }

    /// Why it could be taken.
    pub fn because(&self) -> Because {
        self.because
    }

    /// The term it is held for.
    pub fn term(&self) -> u64 {
        self.inner.state().link.term
    }

    /// Whether it was certainly held at some moment within the last `lease`.
    pub fn held_within(&self, lease: Duration) -> bool {
        if self.inner.lost.is_cancelled() || self.stop.is_cancelled() {
            return false;
        }
        let (tick, wall) = self.inner.state().since;
        let slept = self.inner.env.clock.now().duration_since(wall).unwrap_or_default();
        tick.elapsed() <= lease && slept <= lease
    }

    /// How long ago it was certainly held.
    pub fn age(&self) -> Duration {
        self.inner.state().since.0.elapsed()
    }

    /// Cancelled when somebody else has taken it.
    pub fn lost(&self) -> &CancellationToken {
        &self.inner.lost
    }

    /// Who has taken it, if that is known.
    pub fn lost_to(&self) -> Option<Holder> {
        self.inner.state().lost_to.clone()
    }

    /// Goes on with a term of at least `term`.
    pub async fn raise(&self, term: u64) -> Result<(), StoreError> {
        let _one = self.inner.step.lock().await;
        if self.inner.finish_trying().await? && self.term() < term {
            let to = Link { term, beat: 0, ..self.inner.state().link.clone() };
            self.inner.step_to(to).await?;
        }
        Ok(self.inner.chain.sync().await?)
    }

    /// The end in good order: the next process need not wait.
    pub async fn release(&self) {
        self.stop.cancel();
        let _one = self.inner.step.lock().await;
        let done = async {
            if !self.inner.finish_trying().await? {
                return Ok(false);
            }
            let now = self.inner.state().link.clone();
            let done = self.inner.chain.shift(&now, &now.given_up()).await?;
            self.inner.chain.sync().await.map(|()| done)
        };
        match done.await {
            Ok(true) => {}
            Ok(false) => tracing::debug!("taken by somebody else at the end"),
            Err(e) => tracing::warn!(error = %e, "not given up; the next start will wait"),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows that this process lives, until `stop`.
    async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep(self.beat) => {}
            }
            let _one = self.step.lock().await;
            if stop.is_cancelled() {
                return;
            }
            let next = async {
                if self.finish_trying().await? {
                    let next = self.state().link.next();
                    self.step_to(next).await?;
                }
                Ok::<_, std::io::Error>(())
            };
            if let Err(e) = next.await {
                tracing::error!(error = %e, dir = self.chain.dir(),
                    "the datastore does not take this process's sign of life");
            }
        }
    }

    /// Brings a step to its end of which no answer came. `false`: it is lost.
    async fn finish_trying(&self) -> std::io::Result<bool> {
        let trying = self.state().trying.clone();
        match trying {
            Some(to) => self.step_to(to).await,
            None => Ok(!self.lost.is_cancelled()),
        }
    }

    /// `false`: somebody else has it.
    async fn step_to(&self, to: Link) -> std::io::Result<bool> {
        let begun = (Instant::now(), self.env.clock.now());
        let now = {
            let mut state = self.state();
            state.trying = Some(to.clone());
            state.link.clone()
        };
        if self.chain.shift(&now, &to).await? {
            let mut state = self.state();
            state.link = to;
            state.trying = None;
            state.since = begun;
            return Ok(true);
        }
        let who = self.who_took_it().await;
        self.state().lost_to = who;
        self.lost.cancel();
        Ok(false)
    }

    async fn who_took_it(&self) -> Option<Holder> {
        let top = self.chain.look().await.ok()?.pop()?;
        let process = top.holder?;
        let running = running::of(&self.env, &self.fleet, &process).await.ok().flatten();
        Some(Holder { process, running, term: top.term })
    }
}
