//! Keeps a second process of one node from working on a datastore.
//!
//! Every process, master or minion, holds a chain of renames below its node's
//! directory. A second one waits to see whether it moves; an old one that was
//! only paused finds its own gone when it wakes, and ends.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fleet::chain::{Chain, Link};
use super::fleet::hold::{Hold, HoldError};
use super::fleet::running::{self, Running};
use super::fleet::watch::Rules;
use super::server::ServiceError;
use crate::env::Env;
use crate::store::StoreError;
use crate::store::journal::ProcessId;

/// The right to be a node, while this process has it.
#[derive(Debug)]
pub struct Twin {
    hold: Hold,
}

/// A node's last sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    /// The epoch of the process that gave it.
    pub epoch: String,
    /// Changes with each sign.
    pub count: u64,
}

/// Where the processes of a node show that they live.
pub(super) fn dir(fleet: &str, node: &str) -> String {
    format!("{fleet}/{node}/alive")
}

/// The last sign of life of a node, for the process `me`; `None`: it ended in good
/// order, or never began.
pub(super) async fn sign(
    env: &Env,
    fleet: &str,
    node: &str,
    me: &ProcessId,
) -> Result<Option<Sign>, ServiceError> {
    let chain = Chain::new(env, fleet, dir(fleet, node), me);
    let top = chain.look().await.map_err(StoreError::from)?.pop();
    let sign = |l: Link| Some(Sign { epoch: l.holder?.epoch, count: l.term << 40 | l.beat });
    Ok(top.and_then(sign))
}

/// Whether certainly no process of this node runs. `false` says nothing.
pub(super) async fn nobody(env: &Env, fleet: &str, node: &str) -> Result<bool, ServiceError> {
    let names = env.fs.list(&dir(fleet, node)).await.map_err(StoreError::from)?;
    let last = names.iter().filter_map(|e| Link::parse(&e.name)).max();
    let Some(holder) = last.and_then(|l| l.holder) else { return Ok(true) };
    match running::of(env, fleet, &holder).await? {
        Some(r) => Ok(r.has_ended(env, &Running::here(env).await).await),
        None => Ok(false),
    }
}

impl Twin {
    /// Takes the node's name for the process `me`; refuses if another process
    /// that lives has it. `beat`: how often a process shows that it lives;
    /// `stale`: one that did not for this long is taken for gone.
    pub async fn acquire(
        env: &Env,
        fleet: &str,
        me: &ProcessId,
        here: &Running,
        (beat, stale): (Duration, Duration),
    ) -> Result<Self, ServiceError> {
        let dir = dir(fleet, &me.node);
        let rules = Rules { beat, stale, moves: 2 };
        match Hold::acquire(env, fleet, dir, (me, here), rules, (1, false)).await {
            Ok(hold) => Ok(Self { hold }),
            Err(HoldError::Store(e)) => Err(e.into()),
            Err(HoldError::Held(h)) => Err(ServiceError::NotMaster(format!(
                "another process is running as this node: {}; stop it, or give this one another \
                 name (cluster.node in the settings)",
                h.describe()
            ))),
            Err(e) => Err(ServiceError::Invalid(e.to_string())),
        }
    }

    /// Cancelled when another process has the name: this one must end.
    pub fn lost(&self) -> &CancellationToken {
        self.hold.lost()
    }

    /// What to say of having lost it.
    pub fn lost_to(&self) -> String {
        let who = self.hold.lost_to().map_or_else(|| "another process".into(), |h| h.describe());
        format!("this node's name was taken while this process stood still: {who} runs now")
    }

    /// The process ends in good order.
    pub async fn release(&self) {
        self.hold.release().await;
    }
}
