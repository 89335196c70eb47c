//! Recruiting: clients that a hunt wants get their flow, at one pace for all hunts
//! and organisations.
//!
//! Clients are looked at when they come, when a fact about them changes, and all
//! that are connected when a hunt starts; whoever does not match then is looked at
//! again when that may have changed. Nothing of this is kept: what is durable is
//! who has become a client of which hunt, and a new master looks at everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::proto::HuntMutation;
use velociraptor_proto::proto::hunt::State;

use super::table::Chosen;
use super::{Pace, ops};
use crate::env::Mutant;
use crate::services::server::{Org, Server};
use crate::store::journal::CommitError;

/// Decisions under way at the same time: each waits for one commit, which they share.
const AT_ONCE: usize = 64;

/// How often hunts are looked at whose time may be over, and how long is waited
/// after a failure.
const TICK: Duration = Duration::from_secs(1);

/// Counters of recruitment since the start of the process, and its signal.
#[derive(Debug, Default)]
pub struct Recruitment {
    /// Clients recruited.
    pub recruited: AtomicU64,
    /// Decisions that could not be stored.
    pub failed: AtomicU64,
    pub(in crate::services) signal: Arc<Notify>,
}

/// What became of a client that was chosen.
enum Became {
    Member,
    /// The hunt was being changed, or nothing could be decided: looked at again.
    Later,
    Nothing,
}

impl Server {
    /// Recruits until `stop` is cancelled, on a master.
    pub async fn recruit(self: Arc<Self>, stop: CancellationToken) {
        if !self.is_master() {
            return;
        }
        let mut pace = Pace::new(self.options.hunt_rate, Instant::now());
        let mut going = FuturesUnordered::new();
        let mut rest = Instant::now();
        let signal = self.recruitment.signal.clone();
        loop {
            self.end_hunts().await;
            self.look_at_connected();
            // The same moment on both clocks: the pace is kept on one, and seen on the other.
            let (now, at) = (Instant::now(), self.env.clock.micros());
            let unpaced = self.env.sabotage.is(Mutant::HuntWithoutPace);
            let may = now >= rest && (now >= pace.next() || unpaced) && going.len() < AT_ONCE;
            let chosen = if may { self.choose() } else { None };
            let idle = may && chosen.is_none();
            if let Some((org, chosen)) = chosen {
                pace.take(now);
                let server = self.clone();
                going.push(async move { server.enlist(org, chosen, at).await });
            }
            let next = match (idle, going.len() < AT_ONCE, unpaced) {
                (true, _, _) | (_, false, _) => now + TICK,
                (false, true, true) => now.max(rest),
                (false, true, false) => pace.next().max(rest),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(later) = going.next(), if !going.is_empty() => {
                    if later {
                        rest = Instant::now() + Duration::from_millis(50);
                    }
                }
                () = signal.notified(), if idle => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
        // What is being written will count: whoever stops waits for it.
        while going.next().await.is_some() {}
    }

    fn look_at_connected(&self) {
        for org in self.orgs() {
            if !org.state().hunts.take_all() {
                continue;
            }
            let connected = self.sessions.clients_of(&org.id);
            let mut state = org.state();
            connected.iter().for_each(|c| state.hunts.look_at(c));
        }
    }

    fn choose(&self) -> Option<(Arc<Org>, Chosen)> {
        if !self.standing.may_decide() {
            return None;
        }
        let now = self.env.clock.micros();
        for org in self.orgs() {
            let mut guard = org.state();
            let state = &mut *guard;
            let info = |id: &str| {
                self.sessions.held(&org.id, id)?;
                state.clients.get(id).map(|c| c.info.clone())
            };
            if let Some(chosen) = state.hunts.choose(now, info) {
                drop(guard);
                return Some((org, chosen));
            }
        }
        None
    }

    /// Decides that a client is one of a hunt's. `true`: nothing can be decided
    /// just now. `at`: when its turn was, microseconds.
    async fn enlist(&self, org: Arc<Org>, chosen: Chosen, at: u64) -> bool {
        let became = self.decide_member(&org, &chosen, at).await;
        let mut state = org.state();
        state.hunts.released(&chosen);
        match became {
            Became::Member => {
                self.recruitment.recruited.fetch_add(1, Ordering::Relaxed);
                false
            }
            Became::Later => {
                state.hunts.look_at(&chosen.client);
                true
            }
            Became::Nothing => false,
        }
    }

    async fn decide_member(&self, org: &Org, chosen: &Chosen, at: u64) -> Became {
        // Whoever changes a hunt waits for those that are being recruited, and nobody
        // is meanwhile: records are in the order in which memory changes.
        let Some(_inside) = org.gates.enter(vec![ops::gate(&chosen.hunt)]).now_or_never() else {
            return Became::Later;
        };
        let request = {
            let state = org.state();
            state.hunts.get(&chosen.hunt).and_then(|h| h.request_for(&chosen.client))
        };
        let Some(request) = request else { return Became::Nothing };
        let creator = request.creator.clone();
        let planned = self.plan_flow(org, &creator, request);
        let mut schedule = match planned {
            Ok(s) => s,
            Err(e) => {
                tracing::warn!(hunt = chosen.hunt, client = chosen.client, error = %e, "not recruited");
                return Became::Nothing;
            }
        };
        schedule.hunt_id.clone_from(&chosen.hunt);
        // Its turn was then, however long this waited for a processor: who looks at the
        // flows' times sees the pace that was kept.
        if let Some(c) = &mut schedule.context {
            c.create_time = c.create_time.min(at);
        }
        let client = &chosen.client;
        loop {
            // The very same again: of two that were written the first counts.
            let kind = Kind::Schedule(schedule.clone());
            match self.decide(org, client, &creator, kind).await {
                Ok(()) | Err(CommitError::Refused { written: true }) => break,
                Err(e) => {
                    self.recruitment.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(hunt = chosen.hunt, client, error = %e, "recruitment not stored");
                    match e {
                        CommitError::Full(_) | CommitError::Refused { .. } => {
                            return Became::Later;
                        }
                        CommitError::Closed => return Became::Nothing,
                        // Nobody knows whether it was written.
                        CommitError::Io(_) | CommitError::Deadline(_) => {}
                    }
                }
            }
            tokio::time::sleep(TICK).await;
        }
        self.launched(org, client, &schedule);
        Became::Member
    }

    /// Stops hunts whose time is over or that have all the clients they may have.
    async fn end_hunts(&self) {
        if !self.standing.may_decide() {
            return;
        }
        let now = self.env.clock.micros();
        for org in self.orgs() {
            let over = org.state().hunts.over(now);
            for hunt_id in over {
                let stop = HuntMutation {
                    hunt_id: hunt_id.clone(),
                    state: State::Stopped.into(),
                    ..Default::default()
                };
                match self.modify_hunt(&org, "", &stop).await {
                    Ok(()) => tracing::info!(org = %org.id, hunt = hunt_id, "hunt is over"),
                    Err(e) => {
                        tracing::warn!(hunt = hunt_id, error = %e, "end of a hunt not stored")
                    }
                }
            }
        }
    }
}
