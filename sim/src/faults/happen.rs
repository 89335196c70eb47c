//! What each fault does.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use super::Fault;
use super::hosts::{Hosts, Machine};
use super::links::{Cause, State};

/// How long packets of a machine that has lost power may still arrive.
const LAST_WORDS: Duration = Duration::from_millis(25);

impl Hosts {
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
            Fault::Kill(p) | Fault::Exit(p) => self.kill(sim, p),
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
    pub(super) fn go_dark(&self, sim: &mut Sim<'_>, machine: &str) {
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
        *self.lock().boots.entry(machine.to_owned()).or_default() += 1;
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
