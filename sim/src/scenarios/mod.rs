//! Scenarios: what users, clients and fate do in a run. One file each; each is a
//! function from a seed to a cluster and a script.

mod arrivals;
mod backlog;
mod bursts;
mod calm;
mod clones;
mod crashes;
mod deletions;
mod drain;
mod failover;
mod faraway;
mod fleet;
mod hunts;
mod keeping;
mod masterless;
mod repeats;
mod roaming;
mod shells;
mod sleepers;
mod store;
mod takeover;
mod weather;
mod work;

use velociraptor::env::Mutant;

use crate::cluster::Outcome;

/// A scenario by name.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, in a line.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(u64, Settings) -> Outcome,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What the runner may change in every scenario.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// A fault in the frontends.
    pub mutant: Option<Mutant>,
    /// Keep packets and events.
    pub traced: bool,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    calm::SCENARIO,
    crashes::SCENARIO,
    arrivals::SCENARIO,
    backlog::SCENARIO,
    bursts::SCENARIO,
    store::SCENARIO,
    failover::SCENARIO,
    failover::BALANCED,
    fleet::SCENARIO,
    drain::SCENARIO,
    takeover::SCENARIO,
    masterless::SCENARIO,
    clones::SCENARIO,
    hunts::SCENARIO,
    sleepers::SCENARIO,
    roaming::SCENARIO,
    shells::SCENARIO,
    repeats::SCENARIO,
    faraway::SCENARIO,
    deletions::SCENARIO,
    keeping::SCENARIO,
    weather::SCENARIO,
];

/// By name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}

/// A cluster with what the runner wants.
fn cluster(seed: u64, s: Settings) -> crate::cluster::Cluster {
    let c = crate::cluster::Cluster::seed(seed).mutant(s.mutant);
    if s.traced { c.traced() } else { c }
}
