//! What this process may be on a datastore: the node it says it is, and master.

use std::time::Duration;

use super::Role;
use super::running::{self, Running};
use super::term::{self, Term, TermError};
use crate::env::Env;
use crate::services::beat::Twin;
use crate::services::server::ServiceError;
use crate::store::journal::ProcessId;

/// How a process takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The master role.
    pub term: term::Options,
    /// A process of the same node that showed no life for this long may be
    /// replaced (`cluster.node_stale_seconds`).
    pub node_stale: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { term: term::Options::default(), node_stale: Duration::from_secs(8) }
    }
}

/// A process's place, while it has it.
#[derive(Debug)]
pub struct Standing {
    twin: Twin,
    term: Option<Term>,
}

impl Standing {
    /// Takes the node's name and, for a master, the role. On a refusal nothing is
    /// left of the process `me` but its epoch's number.
    pub async fn take(
        env: &Env,
        fleet: &str,
        me: &ProcessId,
        role: Role,
        options: &Options,
    ) -> Result<Self, ServiceError> {
        let taken = Self::try_take(env, fleet, me, role, options).await;
        if taken.is_err() {
            running::retract(env, fleet, me).await;
        }
        taken
    }

    async fn try_take(
        env: &Env,
        fleet: &str,
        me: &ProcessId,
        role: Role,
        options: &Options,
    ) -> Result<Self, ServiceError> {
        let here = Running::here(env).await;
        running::announce(env, fleet, me, &here).await?;
        let times = (options.term.beat, options.node_stale);
        let twin = Twin::acquire(env, fleet, me, &here, times).await?;
        if role == Role::Minion {
            return Ok(Self { twin, term: None });
        }
        match Term::acquire(env, fleet, me, &here, &options.term).await {
            Ok(term) => Ok(Self { twin, term: Some(term) }),
            Err(e) => {
                twin.release().await;
                Err(match e {
                    TermError::Store(e) => e.into(),
                    e => ServiceError::NotMaster(e.to_string()),
                })
            }
        }
    }

    /// The master role, on a master.
    pub fn term(&self) -> Option<&Term> {
        self.term.as_ref()
    }

    /// Whether decisions of this process count; see [`Term::may_decide`]. What a
    /// minion decides is within what it was given.
    pub fn may_decide(&self) -> bool {
        !self.twin.lost().is_cancelled() && self.term.as_ref().is_none_or(Term::may_decide)
    }

    /// Returns when this process must end, and why.
    pub async fn lost(&self) -> String {
        let deposed = async {
            match &self.term {
                Some(t) => t.deposed().cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = deposed => self.term.as_ref().map(Term::deposed_by).unwrap_or_default(),
            () = self.twin.lost().cancelled() => self.twin.lost_to(),
        }
    }

    /// Gives everything up, so that the next process need not wait.
    pub async fn release(&self) {
        if let Some(t) = &self.term {
            t.release().await;
        }
        self.twin.release().await;
    }
}
