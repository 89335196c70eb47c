//! The master role: one process at a time has it, for a term of its own.
//!
//! Terms only grow. A master that finds itself deposed must end: what it decided
//! since does not count. Does not know what a master decides.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::hold::{Because, Hold, HoldError, Holder};
use super::running::Running;
use super::watch::Rules;
use crate::env::Env;
use crate::store::StoreError;
use crate::store::journal::ProcessId;

/// How the role is taken and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often a master shows that it lives (`cluster.beat_ms`).
    pub beat: Duration,
    /// A master that did not for this long may be replaced
    /// (`cluster.master_stale_seconds`).
    pub stale: Duration,
    /// Take the role even from a master that lives (`--takeover`).
    pub takeover: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { beat: Duration::from_secs(1), stale: Duration::from_secs(8), takeover: false }
    }
}

impl Options {
    /// When a holder counts as alive or gone.
    pub fn rules(&self) -> Rules {
        Rules { beat: self.beat, stale: self.stale, moves: 2 }
    }

    /// For how long after a sign of life a master may decide: well before
    /// another could have taken over.
    fn lease(&self) -> Duration {
        self.stale / 2
    }
}

/// Why the role was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// Somebody has it.
    #[error(
        "another master works on this datastore: {}. Stop it first; if it cannot be stopped, \
         --takeover takes the role away from it", .0.describe()
    )]
    Held(Holder),
    /// It was taken and lost again at once.
    #[error("{0}")]
    Lost(String),
    /// See [`HoldError::Missing`].
    #[error("no master can be told: {0}")]
    Missing(HoldError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The role, while this process has it.
#[derive(Debug)]
pub struct Term {
    hold: Hold,
    lease: Duration,
}

/// Where masters show that they live.
pub fn dir(fleet: &str) -> String {
    format!("{fleet}/master")
}

impl Term {
    /// Takes the role for the process `me`, or says who has it.
    ///
    /// Returns once decisions of the process that had it before can no longer
    /// be told to anybody: what its journal holds then is all that counts.
    pub async fn acquire(
        env: &Env,
        fleet: &str,
        me: &ProcessId,
        here: &Running,
        options: &Options,
    ) -> Result<Self, TermError> {
        let how = (1, options.takeover);
        let hold = Hold::acquire(env, fleet, dir(fleet), (me, here), options.rules(), how).await;
        let hold = match hold {
            Ok(h) => h,
            Err(HoldError::Held(h)) => return Err(TermError::Held(h)),
            Err(HoldError::Store(e)) => return Err(TermError::Store(e)),
            Err(e) => return Err(TermError::Missing(e)),
        };
        let term = Self { hold, lease: options.lease() };
        let because = term.hold.because();
        tracing::info!(term = term.number(), ?because, "this process is the master");
        if because == Because::Forced {
            // The other one may live: until its lease is over it answers people.
            tokio::time::sleep(term.lease).await;
        }
        while !term.may_decide() {
            if term.deposed().is_cancelled() {
                return Err(TermError::Lost(term.deposed_by()));
            }
            tokio::time::sleep(options.beat / 4).await;
        }
        Ok(term)
    }

    /// Counts masters.
    pub fn number(&self) -> u64 {
        self.hold.term()
    }

    /// Goes on with a term of at least `term`: one that records know of.
    pub async fn at_least(&self, term: u64) -> Result<(), StoreError> {
        self.hold.raise(term).await
    }

    /// Whether this process may decide: not when another may have taken the role
    /// without this one having noticed, as after a stall of the store. Data is
    /// received all the same.
    ///
    /// To be asked before a decision is written, and again before anybody is told
    /// of it: a decision that was durable while this says yes counts.
    pub fn may_decide(&self) -> bool {
        self.hold.held_within(self.lease)
    }

    /// Time since the last sign of life that the store took.
    pub fn age(&self) -> Duration {
        self.hold.age()
    }

    /// Cancelled when another process has the role: this one must end.
    pub fn deposed(&self) -> &CancellationToken {
        self.hold.lost()
    }

    /// What to say of being deposed.
    pub fn deposed_by(&self) -> String {
        match self.hold.lost_to() {
            Some(h) => format!(
                "deposed: {} has the master role now (term {}); what this process was doing is in \
                 its journal, and the new master reads that",
                h.describe(),
                h.term
            ),
            None => "deposed: another process has taken the master role".into(),
        }
    }

    /// Gives the role up, so that the next process need not wait.
    pub async fn release(&self) {
        self.hold.release().await;
    }
}
