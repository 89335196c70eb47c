//! What was deleted: clients, flows, and the flows of hunts. What comes of them
//! later is dropped.
//!
//! A client's id is a function of its key, so the same client can enrol again. What
//! tells its lives apart is when the key file was made (`enroll_time`): every POST
//! says which one proved it. Pure: no I/O, time is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hunts::hunt_of_flow;
use super::ids::flow_time;
use super::state::{FlowKey, MONITORING, STATUS};
use crate::store::journal::Segment;

/// How long it is remembered that something was deleted, microseconds: 90 days. A
/// process whose journal is read for the first time after that brings data back.
pub const KEPT: u64 = 90 * SECOND * 86_400;

/// So long ago, microseconds, a deposed master may have ended that wrote a file of
/// something deleted: a day.
const LATE: u64 = 86_400 * SECOND;

const SECOND: u64 = 1_000_000;

/// A client that was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadClient {
    /// When it was deleted last, microseconds.
    pub at: u64,
    /// Its lives that are over: when each key was made, seconds.
    pub lives: BTreeSet<u64>,
    /// It has enrolled again.
    pub lives_again: bool,
    /// Flows of its present life whose ids look older: those of hunts.
    pub since: BTreeSet<String>,
}

/// The records behind what was decided and not carried out: they are needed.
type Pins = BTreeSet<Arc<Segment>>;

/// Everything deleted in an organisation.
#[derive(Clone, Debug, Default)]
pub struct Deleted {
    clients: BTreeMap<String, DeadClient>,
    flows: BTreeMap<FlowKey, u64>,
    hunts: BTreeMap<String, u64>,
    /// Clients (no flow) and flows of which files may be left.
    suspects: BTreeMap<FlowKey, Pins>,
    /// Hunts of whose flows files may be left.
    open_hunts: BTreeMap<String, Pins>,
}

impl Deleted {
    /// A client was deleted at `at`, microseconds, with its lives so far. Whoever
    /// has files of it gives the record that says so, as `pin`.
    pub fn delete_client(
        &mut self,
        client: &str,
        at: u64,
        lives: impl IntoIterator<Item = u64>,
        pin: Option<&Arc<Segment>>,
    ) {
        let dead = self.clients.entry(client.to_owned()).or_default();
        dead.lives.extend(lives);
        // Of a repetition of what is known nothing follows.
        if at > dead.at {
            (dead.at, dead.lives_again) = (at, false);
            dead.since.clear();
        }
        if let Some(pin) = pin {
            self.suspects.entry(whole(client)).or_default().insert(pin.clone());
        }
    }

    /// A flow was deleted at `at`, microseconds.
    pub fn delete_flow(&mut self, key: FlowKey, at: u64, pin: Option<&Arc<Segment>>) {
        if let Some(pin) = pin {
            self.suspects.entry(key.clone()).or_default().insert(pin.clone());
        }
        self.flows.insert(key, at);
    }

    /// All flows that a hunt began were deleted at `at`, microseconds.
    pub fn delete_hunt(&mut self, hunt: &str, at: u64, pin: Option<&Arc<Segment>>) {
        if let Some(pin) = pin {
            self.open_hunts.entry(hunt.to_owned()).or_default().insert(pin.clone());
        }
        self.hunts.insert(hunt.to_owned(), at);
    }

    /// The client has a key that was made at `life`. `false`: an earlier one, of
    /// which it is heard late.
    pub fn enrolled(&mut self, client: &str, life: u64) -> bool {
        let Some(dead) = self.clients.get_mut(client) else { return true };
        let new = !dead.lives.contains(&life);
        dead.lives_again |= new;
        new
    }

    /// Whether the client is deleted and has not enrolled since.
    pub fn is_gone(&self, client: &str) -> bool {
        self.clients.get(client).is_some_and(|d| !d.lives_again)
    }

    /// Whether a key made at `life` belongs to a life that is over.
    pub fn is_over(&self, client: &str, life: u64) -> bool {
        self.clients.get(client).is_some_and(|d| d.lives.contains(&life))
    }

    /// Whether something decided about a client at `time`, microseconds, was about
    /// a life that is over.
    pub fn precedes(&self, client: &str, time: u64) -> bool {
        self.clients.get(client).is_some_and(|d| time <= d.at || !d.lives_again)
    }

    /// When the client was deleted last, microseconds; 0: never.
    pub fn when(&self, client: &str) -> u64 {
        self.clients.get(client).map_or(0, |d| d.at)
    }

    /// Whether a POST received at `received`, microseconds, and proved by a key
    /// made at `life` (0: not known) is to be kept.
    pub fn admits(&mut self, client: &str, life: u64, received: u64) -> bool {
        let Some(dead) = self.clients.get_mut(client) else { return true };
        let kept = match life {
            0 => received > dead.at && dead.lives_again && !dead.lives.contains(&0),
            life => !dead.lives.contains(&life),
        };
        // Its enrolment may be read later, from another process.
        dead.lives_again |= kept;
        kept
    }

    /// A flow is begun for a client.
    pub fn scheduled(&mut self, client: &str, flow: &str) {
        if let Some(dead) = self.clients.get_mut(client)
            && looks_older(flow, dead.at)
        {
            dead.since.insert(flow.to_owned());
        }
    }

    /// Whether a flow was deleted: by itself, with its hunt or with its client.
    pub fn has_flow(&self, client: &str, flow: &str) -> bool {
        if self.clients.is_empty() && self.flows.is_empty() && self.hunts.is_empty() {
            return false;
        }
        let with_client = |d: &DeadClient| looks_older(flow, d.at) && !d.since.contains(flow);
        self.was_deleted_alone(client, flow) || self.clients.get(client).is_some_and(with_client)
    }

    /// Whether a flow was deleted by itself or with its hunt: its id is used up.
    pub fn was_deleted_alone(&self, client: &str, flow: &str) -> bool {
        self.flows.contains_key(&(client.to_owned(), flow.to_owned()))
            || hunt_of_flow(flow).is_some_and(|h| self.hunts.contains_key(&h))
    }

    /// Clients (no flow) and flows of which files may be left.
    pub fn suspects(&self) -> Vec<FlowKey> {
        self.suspects.keys().cloned().collect()
    }

    /// Somebody removes these files now; needed until that is done is what is
    /// returned. Give it back if it cannot be done.
    pub fn take_suspect(&mut self, key: &FlowKey) -> Pins {
        self.suspects.remove(key).unwrap_or_default()
    }

    /// Files of this client or flow may be left still.
    pub fn suspect(&mut self, key: FlowKey, pins: Pins) {
        self.suspects.entry(key).or_default().extend(pins);
    }

    /// Hunts of whose flows files may be left.
    pub fn open_hunts(&self) -> Vec<String> {
        self.open_hunts.keys().cloned().collect()
    }

    /// As [`Deleted::take_suspect`], for the flows of a hunt.
    pub fn take_open_hunt(&mut self, hunt: &str) -> Pins {
        self.open_hunts.remove(hunt).unwrap_or_default()
    }

    /// Files of this hunt's flows may be left still.
    pub fn reopen_hunt(&mut self, hunt: &str, pins: Pins) {
        self.open_hunts.entry(hunt.to_owned()).or_default().extend(pins);
    }

    /// At a start, at `now` microseconds: a master before this one may have written
    /// files of what was deleted lately.
    pub fn suspect_recent(&mut self, now: u64) {
        let recent = |at: u64| at.saturating_add(LATE) >= now;
        let clients = self.clients.iter().filter(|(_, d)| recent(d.at)).map(|(c, _)| whole(c));
        let flows = self.flows.iter().filter(|(_, at)| recent(**at)).map(|(k, _)| k.clone());
        for key in clients.chain(flows) {
            self.suspects.entry(key).or_default();
        }
    }

    /// What is known from before: a checkpoint.
    pub fn remember(&mut self, client: &str, dead: DeadClient) {
        let old = self.clients.entry(client.to_owned()).or_default();
        old.lives.extend(dead.lives);
        if dead.at > old.at {
            (old.at, old.lives_again, old.since) = (dead.at, dead.lives_again, dead.since);
        } else if dead.at == old.at {
            old.lives_again |= dead.lives_again;
            old.since.extend(dead.since);
        }
    }

    /// Forgets what was deleted before `time`, microseconds.
    pub fn expire(&mut self, time: u64) {
        self.clients.retain(|_, d| d.at >= time);
        self.flows.retain(|_, at| *at >= time);
        self.hunts.retain(|_, at| *at >= time);
    }

    /// What is known of a client that was deleted.
    pub fn get(&self, client: &str) -> Option<&DeadClient> {
        self.clients.get(client)
    }

    /// All clients, by id.
    pub fn clients(&self) -> impl Iterator<Item = (&String, &DeadClient)> {
        self.clients.iter()
    }

    /// All flows that were deleted by themselves, and when.
    pub fn flows(&self) -> impl Iterator<Item = (&FlowKey, u64)> {
        self.flows.iter().map(|(k, at)| (k, *at))
    }

    /// All hunts whose flows were deleted, and when.
    pub fn hunts(&self) -> impl Iterator<Item = (&String, u64)> {
        self.hunts.iter().map(|(k, at)| (k, *at))
    }

    /// How much is remembered.
    pub fn len(&self) -> usize {
        self.clients.len() + self.flows.len() + self.hunts.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn whole(client: &str) -> FlowKey {
    (client.to_owned(), String::new())
}

/// Whether a flow's id was made at `at`, microseconds, or before. An id that does
/// not say when is old.
fn looks_older(flow: &str, at: u64) -> bool {
    flow != MONITORING && flow != STATUS && flow_time(flow).unwrap_or(0) <= at / SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND;

    #[test]
    fn a_life_that_is_over_stays_over_and_a_new_one_begins() {
        let mut d = Deleted::default();
        assert!(d.admits("C.1", 100, 100 * S) && d.enrolled("C.1", 100));
        let pin = Arc::new(Segment::of_path("p"));
        d.delete_client("C.1", 200 * S, [100], Some(&pin));
        assert!(d.is_gone("C.1") && d.is_over("C.1", 100));
        assert!(!d.admits("C.1", 100, 300 * S), "a process that has not heard of it");
        assert!(!d.admits("C.1", 0, 150 * S) && !d.admits("C.1", 0, 250 * S));
        assert!(!d.enrolled("C.1", 100), "an enrolment that is read late");
        assert!(d.is_gone("C.1"));
        // The data may be read before the enrolment that it follows.
        assert!(d.admits("C.1", 210, 211 * S) && !d.is_gone("C.1"));
        assert!(d.enrolled("C.1", 210));
        assert!(!d.admits("C.1", 100, 300 * S), "still");
        assert!(d.admits("C.1", 0, 250 * S));
        assert!(d.precedes("C.1", 200 * S) && !d.precedes("C.1", 200 * S + 1));
        // The record of the deletion, read back after what followed it.
        d.delete_client("C.1", 200 * S, [100], Some(&pin));
        assert!(!d.is_gone("C.1"));
        d.delete_client("C.1", 300 * S, [210], Some(&pin));
        assert!(!d.admits("C.1", 210, 310 * S) && !d.admits("C.1", 100, 310 * S));
        assert!(d.admits("C.2", 100, 1));
        assert_eq!(d.suspects(), [whole("C.1")]);
        assert_eq!(d.take_suspect(&whole("C.1")).len(), 1);
        assert!(d.suspects().is_empty());
        d.expire(301 * S);
        assert!(d.admits("C.1", 210, 310 * S));
    }

    #[test]
    fn checkpoints_of_several_nodes_are_one_memory() {
        let dead = |at, life, lives_again| DeadClient {
            at,
            lives: [life].into(),
            lives_again,
            ..DeadClient::default()
        };
        let mut d = Deleted::default();
        d.remember("C.1", dead(5, 1, false));
        d.remember("C.1", dead(5, 1, true));
        d.remember("C.1", dead(5, 1, false));
        assert!(!d.is_gone("C.1"), "of the same moment: whoever saw it enrol knows more");
        d.remember("C.1", dead(9, 2, false));
        d.remember("C.1", dead(5, 1, true));
        assert!(d.is_gone("C.1") && d.is_over("C.1", 1) && d.is_over("C.1", 2));
    }

    #[test]
    fn flows_go_alone_with_their_client_or_with_their_hunt() {
        let mut d = Deleted::default();
        let env = crate::env::real::env();
        let old = crate::services::ids::new_flow_id(&env);
        let now = flow_time(&old).unwrap();
        d.delete_client("C.1", now * S, [], None);
        assert!(d.has_flow("C.1", &old) && d.has_flow("C.1", "F.1") && !d.has_flow("C.2", &old));
        assert!(!d.has_flow("C.1", MONITORING) && !d.has_flow("C.1", STATUS));
        // A hunt that is older than the deletion takes the client again.
        let hunts = format!("{old}.H");
        assert!(d.has_flow("C.1", &hunts));
        d.enrolled("C.1", 7);
        d.scheduled("C.1", &hunts);
        assert!(!d.has_flow("C.1", &hunts) && d.has_flow("C.1", &old));
        d.delete_client("C.1", (now + 1) * S, [], None);
        assert!(d.has_flow("C.1", &hunts), "and is deleted with it again");
        d.delete_flow(("C.2".into(), "F.1".into()), 5, None);
        assert!(d.has_flow("C.2", "F.1"));
        d.delete_hunt("H.X", 5, None);
        assert!(d.has_flow("C.3", "F.X.H") && !d.has_flow("C.3", "F.Y.H"));
        d.expire(6);
        assert!(!d.has_flow("C.2", "F.1") && !d.has_flow("C.3", "F.X.H"));
    }
}
