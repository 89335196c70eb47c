//! The machines and processes of a run, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use turmoil::Sim;
use velociraptor::env::{Env, FileSystem, Sabotage};

use super::links::Links;
use super::{Fault, Schedule};
use crate::clock::MachineClock;
use crate::crypto;
use crate::disk::Disk;
use crate::gate::Gate;
use crate::mounts::Mounts;
use crate::net::{Inline, SimEntropy, SimNet};
use crate::nfs::{FileServer, MountOptions};

/// Latency of a call to a local disk.
const DISK: Duration = Duration::from_millis(1);

/// One machine: a kernel, a clock, a disk.
#[derive(Clone)]
pub struct Machine {
    /// How it mounts the file server, and where; `None` does not.
    pub store: Option<(String, MountOptions)>,
    /// Its own disk, for everything else.
    pub disk: Disk,
    /// Its clocks.
    pub clock: MachineClock,
}

impl Machine {
    /// A machine that mounts the file server at `at`.
    pub fn with_store(at: &str, options: MountOptions) -> Machine {
        Machine { store: Some((at.to_owned(), options)), ..Machine::alone() }
    }

    /// A machine with its own disk only.
    pub fn alone() -> Machine {
        Machine { store: None, disk: Disk::default(), clock: MachineClock::default() }
    }
}

pub(super) struct Process {
    pub(super) machine: String,
    pub(super) gate: Gate,
    pub(super) runs: bool,
    incarnation: u64,
    /// What a trip of the gate does: whether to the machine, and for how long.
    pub(super) at_trip: Option<(bool, Duration)>,
}

#[derive(Default)]
pub(super) struct Owned {
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) processes: BTreeMap<String, Process>,
    /// Other turmoil hosts, for links.
    pub(super) peers: BTreeSet<String>,
    pub(super) links: Links,
    /// How often each lasting state was asked for.
    pub(super) lasting: BTreeMap<(&'static str, String), u32>,
    schedule: Schedule,
    /// Machines without power whose last packets are still under way: when they
    /// have arrived.
    pub(super) dying: BTreeMap<String, Duration>,
    pub(super) rng: Option<SmallRng>,
    pub(super) gone: Vec<String>,
    /// How often each machine was switched on again.
    pub(super) boots: BTreeMap<String, u64>,
    seen: BTreeMap<&'static str, u64>,
}

/// See the module. Clones are the same hosts.
#[derive(Clone)]
pub struct Hosts {
    owned: Arc<Mutex<Owned>>,
    pub(super) store: FileServer,
    seed: u64,
}

impl Hosts {
    /// No hosts yet, around a file server.
    pub fn new(seed: u64, store: FileServer) -> Hosts {
        let owned = Owned { rng: Some(SmallRng::seed_from_u64(seed)), ..Owned::default() };
        Hosts { owned: Arc::new(Mutex::new(owned)), store, seed }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file server.
    pub fn store(&self) -> &FileServer {
        &self.store
    }

    /// Adds a machine.
    pub fn machine(&self, name: &str, machine: Machine) {
        self.lock().machines.insert(name.to_owned(), machine);
    }

    /// Adds a process on a machine. It is a turmoil host of this name, which
    /// the scenario makes with [`Sim::host`] and the environment from
    /// [`Hosts::env`].
    pub fn process(&self, name: &str, machine: &str) {
        let (machine, gate) = (machine.to_owned(), Gate::default());
        let p = Process { machine, gate, runs: true, incarnation: 0, at_trip: None };
        self.lock().processes.insert(name.to_owned(), p);
    }

    /// Adds a turmoil host that nothing happens to but at its links.
    pub fn peer(&self, name: &str) {
        self.lock().peers.insert(name.to_owned());
    }

    /// The environment of a process that starts now. Its randomness depends on
    /// the seed, its name and how often it was started. `None`: no such process.
    pub fn env(&self, process: &str) -> Option<Env> {
        let mut owned = self.lock();
        let Owned { machines, processes, boots, .. } = &mut *owned;
        let p = processes.get_mut(process)?;
        let m = machines.get(&p.machine)?.clone();
        p.incarnation += 1;
        p.gate.reset();
        p.at_trip = None;
        let seed = seed_of(self.seed, process, p.incarnation);
        let (gate, host, incarnation) = (p.gate.clone(), p.machine.clone(), p.incarnation);
        let boot = boots.get(&host).copied().unwrap_or(0);
        drop(owned);
        proc(&m.disk, &host, boot, process, incarnation);
        let mut table: Vec<(String, Arc<dyn FileSystem>)> =
            vec![("/".to_owned(), m.disk.mount(&host, DISK))];
        if let Some((at, options)) = m.store {
            table.push((at, self.store.mount(&host, options)));
        }
        let env = Env {
            net: Arc::new(SimNet),
            clock: Arc::new(m.clock),
            entropy: Arc::new(SimEntropy::new(seed)),
            fs: Arc::new(Mounts::new(table)),
            crypto: Arc::new(crypto::provider()),
            cpu: Arc::new(Inline),
            tasks: Arc::new(Inline),
            sabotage: Sabotage::NONE,
        };
        Some(gate.guard(env))
    }

    /// The gate of a process.
    pub fn gate(&self, process: &str) -> Option<Gate> {
        Some(self.lock().processes.get(process)?.gate.clone())
    }

    /// Whether a process runs.
    pub fn runs(&self, process: &str) -> bool {
        self.lock().processes.get(process).is_some_and(|p| p.runs)
    }

    /// Processes that have ended since this was asked last.
    pub fn gone(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().gone)
    }

    /// Whether something planned has not happened yet.
    pub fn pending(&self) -> bool {
        let owned = self.lock();
        !owned.schedule.is_empty()
            || !owned.dying.is_empty()
            || owned.processes.values().any(|p| p.at_trip.is_some() && p.gate.tripped())
    }

    /// Adds to what is to happen.
    pub fn plan(&self, schedule: Schedule) {
        self.lock().schedule.merge(schedule);
    }

    /// Lets something happen at a virtual time.
    pub fn later(&self, at: Duration, fault: Fault) {
        self.lock().schedule.add(at, fault);
    }

    /// How often each thing happened, in the file server, too.
    pub fn coverage(&self) -> BTreeMap<&'static str, u64> {
        let owned = self.lock();
        let mut all = owned.seen.clone();
        for (what, n) in owned.processes.values().flat_map(|p| p.gate.errors()) {
            *all.entry(what).or_default() += n;
        }
        drop(owned);
        for (what, n) in self.store.seen() {
            *all.entry(what).or_default() += n;
        }
        all
    }

    /// Lets happen what is due. After every step.
    pub fn after_step(&self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        self.store.settle();
        let tripped: Vec<(String, String, bool, Duration)> = {
            let mut owned = self.lock();
            let gone = owned.processes.iter_mut().filter(|(_, p)| p.runs && p.gate.tripped());
            // Once: a machine takes a moment to go dark.
            gone.filter_map(|(name, p)| {
                let (whole, rest) = p.at_trip.take()?;
                Some((name.clone(), p.machine.clone(), whole, rest))
            })
            .collect()
        };
        for (process, machine, whole, rest) in tripped {
            let (fault, end) = if whole {
                self.note("machine off at a call");
                (Fault::PowerOff(machine.clone()), Fault::PowerOn(machine))
            } else {
                self.note("process killed at a call");
                (Fault::Kill(process.clone()), Fault::Start(process))
            };
            self.happen(sim, &fault);
            self.later(now + rest, end);
        }
        let dead: Vec<String> = {
            let owned = self.lock();
            owned.dying.iter().filter(|(_, at)| **at <= now).map(|(m, _)| m.clone()).collect()
        };
        for machine in dead {
            self.go_dark(sim, &machine);
        }
        let due = self.lock().schedule.due(now);
        for fault in due {
            self.happen(sim, &fault);
        }
    }

    pub(super) fn note(&self, what: &'static str) {
        *self.lock().seen.entry(what).or_default() += 1;
    }
}

/// What the kernel tells of a process of this machine that starts now; of the one
/// before it, nothing any more.
fn proc(disk: &Disk, machine: &str, boot: u64, process: &str, incarnation: u64) {
    let id = |n: u64| 1000 + n;
    let stat = |pid: u64| format!("{pid} ({process}) S{} {}", " 0".repeat(18), 100 * incarnation);
    disk.put("/proc/sys/kernel/random/boot_id", format!("{machine}-{boot}").as_bytes());
    disk.put("/proc/sys/kernel/hostname", machine.as_bytes());
    if disk.read("/proc/self/ns/pid").is_none() {
        disk.put("/proc/self/ns/pid", b""); // its inode is what counts
    }
    let now = stat(id(incarnation));
    disk.put("/proc/self/stat", now.as_bytes());
    disk.put(&format!("/proc/{}/stat", id(incarnation)), now.as_bytes());
    disk.put(&format!("/proc/{}/stat", id(incarnation - 1)), b"");
}

/// Mixes a name and a number into a seed.
fn seed_of(seed: u64, name: &str, n: u64) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let named = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, step);
    named.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
