//! The machines and processes of a run, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;
use velociraptor::env::{Env, FileSystem, Sabotage};

use super::links::{Cause, Links, State};
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

/// How long packets of a machine that has lost power may still arrive.
const LAST_WORDS: Duration = Duration::from_millis(25);

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

struct Process {
    machine: String,
    gate: Gate,
    runs: bool,
    incarnation: u64,
    /// What a trip of the gate does: whether to the machine, and for how long.
    at_trip: Option<(bool, Duration)>,
}

#[derive(Default)]
struct Owned {
    machines: BTreeMap<String, Machine>,
    processes: BTreeMap<String, Process>,
    /// Other turmoil hosts, for links.
    peers: BTreeSet<String>,
    links: Links,
    /// How often each lasting state was asked for.
    lasting: BTreeMap<(&'static str, String), u32>,
    schedule: Schedule,
    /// Machines without power whose last packets are still under way: when they
    /// have arrived.
    dying: BTreeMap<String, Duration>,
    rng: Option<SmallRng>,
    gone: Vec<String>,
    seen: BTreeMap<&'static str, u64>,
}

/// See the module. Clones are the same hosts.
#[derive(Clone)]
pub struct Hosts {
    owned: Arc<Mutex<Owned>>,
    store: FileServer,
    seed: u64,
}

impl Hosts {
    /// No hosts yet, around a file server.
    pub fn new(seed: u64, store: FileServer) -> Hosts {
        let owned = Owned { rng: Some(SmallRng::seed_from_u64(seed)), ..Owned::default() };
        Hosts { owned: Arc::new(Mutex::new(owned)), store, seed }
    }

    fn lock(&self) -> MutexGuard<'_, Owned> {
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
        let Owned { machines, processes, .. } = &mut *owned;
        let p = processes.get_mut(process)?;
        let m = machines.get(&p.machine)?.clone();
        p.incarnation += 1;
        p.gate.reset();
        p.at_trip = None;
        let seed = seed_of(self.seed, process, p.incarnation);
        let (gate, host) = (p.gate.clone(), p.machine.clone());
        drop(owned);
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
        let mut all = self.lock().seen.clone();
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

    fn note(&self, what: &'static str) {
        *self.lock().seen.entry(what).or_default() += 1;
    }

    /// Lets something happen now, between two steps.
    pub fn happen(&self, sim: &mut Sim<'_>, fault: &Fault) {
        self.note(fault.kind());
        match fault {
            Fault::Cut(a, b) => self.link(sim, a, b, Cause::Cut, true),
            Fault::Uncut(a, b) => self.link(sim, a, b, Cause::Cut, false),
            Fault::CutOneWay(a, b) => self.link(sim, a, b, Cause::OneWay, true),
            Fault::UncutOneWay(a, b) => self.link(sim, a, b, Cause::OneWay, false),
            Fault::Hold(a, b) => self.link(sim, a, b, Cause::Hold, true),
            Fault::Release(a, b) => self.link(sim, a, b, Cause::Hold, false),
            Fault::Flaky(a, b, share) => {
                sim.set_link_fail_rate(a.as_str(), b.as_str(), *share);
            }
            Fault::Kill(p) => self.kill(sim, p),
            Fault::Start(p) => self.start(sim, p),
            Fault::KillAtCall(p, n, rest) => self.trip(p, *n, false, *rest),
            Fault::PowerOffAtCall(p, n, rest) => self.trip(p, *n, true, *rest),
            Fault::PowerOff(m) => self.power_off(sim, m),
            Fault::PowerOn(m) => self.power_on(sim, m),
            Fault::Stop(m) => self.stop(sim.elapsed(), m, true, false),
            Fault::Freeze(m) => self.stop(sim.elapsed(), m, true, true),
            Fault::Continue(m) => self.stop(sim.elapsed(), m, false, false),
            Fault::ClockJump(m, ms) => self.with_machine(m, |m| m.clock.jump(*ms)),
            Fault::ClockDrift(m, ppm) => self.with_machine(m, |m| m.clock.drift(*ppm)),
            Fault::StoreOff => {
                self.lasting("off", "", true);
                self.store.power_off();
            }
            Fault::StoreOn => {
                if self.lasting("off", "", false) {
                    self.store.power_on();
                }
            }
            Fault::StoreStall => {
                self.lasting("stall", "", true);
                self.store.stall(true);
            }
            Fault::StoreResume => {
                if self.lasting("stall", "", false) {
                    self.store.stall(false);
                }
            }
            Fault::StoreCut(m) => {
                self.lasting("cut", m, true);
                self.store.cut(m, true);
            }
            Fault::StoreUncut(m) => {
                if self.lasting("cut", m, false) {
                    self.store.cut(m, false);
                }
            }
            Fault::StoreLatency(m, least, most) => {
                self.store.link(m, |l| l.latency = *least..*most);
            }
            Fault::StoreCapacity(bytes) => self.store.set_capacity(*bytes),
            Fault::StoreNearlyFull(bytes) => {
                self.store.set_capacity(Some(self.store.used() + bytes))
            }
            Fault::StoreReadOnly(yes) => self.store.set_read_only(*yes),
            Fault::StoreForgets => self.store.forget_replies(),
            Fault::StoreCall(rule) => self.store.inject(rule.clone()),
            Fault::DiskCapacity(m, bytes) => self.with_machine(m, |m| m.disk.set_capacity(*bytes)),
        }
    }

    fn with_machine(&self, name: &str, change: impl FnOnce(&Machine)) {
        if let Some(m) = self.lock().machines.get(name) {
            change(m);
        }
    }

    /// Counts a lasting state up or down; whether nothing asks for it any more.
    fn lasting(&self, what: &'static str, whom: &str, begins: bool) -> bool {
        let mut owned = self.lock();
        let n = owned.lasting.entry((what, whom.to_owned())).or_default();
        *n = if begins { *n + 1 } else { n.saturating_sub(1) };
        *n == 0
    }

    fn link(&self, sim: &mut Sim<'_>, a: &str, b: &str, cause: Cause, begins: bool) {
        self.lock().links.cause(a, b, cause, begins);
        self.relink(sim);
    }

    /// Tells turmoil of the links that have changed.
    fn relink(&self, sim: &mut Sim<'_>) {
        let changes = {
            let mut owned = self.lock();
            let names: Vec<String> =
                owned.processes.keys().chain(owned.peers.iter()).cloned().collect();
            owned.links.changes(&names)
        };
        for (a, b, was, is) in changes {
            let (a, b) = (a.as_str(), b.as_str());
            match was {
                State::Held => sim.release(a, b),
                _ => sim.repair(a, b),
            }
            match is {
                State::Whole => {}
                State::Cut => sim.partition(a, b),
                State::CutThere => sim.partition_oneway(a, b),
                State::CutBack => sim.partition_oneway(b, a),
                State::Held => sim.hold(a, b),
            }
        }
    }

    fn trip(&self, process: &str, n: u64, machine: bool, rest: Duration) {
        if let Some(p) = self.lock().processes.get_mut(process) {
            p.gate.trip_after(n);
            p.at_trip = Some((machine, rest));
        }
    }

    fn kill(&self, sim: &mut Sim<'_>, process: &str) {
        let ran = {
            let mut owned = self.lock();
            let p = owned.processes.get_mut(process);
            p.is_some_and(|p| std::mem::replace(&mut p.runs, false))
        };
        if ran {
            sim.crash(process);
            self.lock().gone.push(process.to_owned());
        }
    }

    fn start(&self, sim: &mut Sim<'_>, process: &str) {
        let starts = {
            let mut owned = self.lock();
            let off = owned.links.off.contains(process);
            let p = owned.processes.get_mut(process);
            p.is_some_and(|p| !off && !std::mem::replace(&mut p.runs, true))
        };
        if starts {
            sim.bounce(process);
        }
    }

    fn on(&self, machine: &str) -> Vec<String> {
        let owned = self.lock();
        let here = owned.processes.iter().filter(|(_, p)| p.machine == machine);
        here.map(|(name, _)| name.clone()).collect()
    }

    fn power_off(&self, sim: &mut Sim<'_>, machine: &str) {
        // What was not synced goes first, so that no process closes its files
        // in good order.
        self.store.crash_host(machine);
        self.with_machine(machine, |m| m.disk.crash(machine));
        let linger = {
            let mut owned = self.lock();
            owned
                .processes
                .values()
                .filter(|p| p.machine == machine)
                .for_each(|p| p.gate.close(true));
            // A packet that had left may arrive, or be lost with the rest.
            let rng = owned.rng.get_or_insert_with(|| SmallRng::seed_from_u64(0));
            let linger = if rng.random_bool(0.5) { LAST_WORDS } else { Duration::ZERO };
            owned.dying.insert(machine.to_owned(), sim.elapsed() + linger);
            linger
        };
        if linger.is_zero() {
            self.go_dark(sim, machine);
        }
    }

    /// The end of [`Hosts::power_off`]: links first, so that nobody hears of it.
    fn go_dark(&self, sim: &mut Sim<'_>, machine: &str) {
        if self.lock().dying.remove(machine).is_none() {
            return;
        }
        let processes = self.on(machine);
        self.lock().links.off.extend(processes.iter().cloned());
        self.relink(sim);
        for p in &processes {
            self.kill(sim, p);
        }
        // A stopped machine that loses power is not stopped when it comes back.
        while !self.lasting("stop", machine, false) {}
        self.stop(sim.elapsed(), machine, false, false);
    }

    fn power_on(&self, sim: &mut Sim<'_>, machine: &str) {
        self.go_dark(sim, machine);
        let processes = self.on(machine);
        for p in &processes {
            self.lock().links.off.remove(p);
        }
        self.relink(sim);
        for p in &processes {
            self.start(sim, p);
        }
    }

    fn stop(&self, now: Duration, machine: &str, stops: bool, freeze: bool) {
        let none_left = self.lasting("stop", machine, stops);
        if !stops && !none_left {
            return;
        }
        self.store.pause(machine, stops);
        let owned = self.lock();
        for p in owned.processes.values().filter(|p| p.machine == machine) {
            p.gate.close(stops);
        }
        if let Some(m) = owned.machines.get(machine)
            && (freeze || !stops)
        {
            m.clock.stop(now, stops);
        }
    }
}

/// Mixes a name and a number into a seed.
fn seed_of(seed: u64, name: &str, n: u64) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let named = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, step);
    named.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
