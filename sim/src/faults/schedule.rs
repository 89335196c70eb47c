//! Which faults happen when, from a seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Fault;
use super::draw::{draw, pick, time};

/// Kinds of trouble, each a fault and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Two processes cannot reach each other.
    Cut,
    /// One process cannot reach another, which can reach it.
    CutOneWay,
    /// Messages between two processes wait.
    Hold,
    /// Messages between two processes are lost now and then.
    Flaky,
    /// A process is killed.
    Kill,
    /// A process is killed before some call.
    KillAtCall,
    /// A machine loses power.
    PowerOff,
    /// A machine loses power before some call of a process.
    PowerOffAtCall,
    /// A machine stands still.
    Stop,
    /// A machine stands still, its boot time, too.
    Freeze,
    /// A machine's wall clock jumps, forth or back.
    ClockJump,
    /// A machine's wall clock drifts.
    ClockDrift,
    /// The file server loses power.
    StoreOff,
    /// The file server stalls.
    StoreStall,
    /// A machine is cut off the file server.
    StoreCut,
    /// The file server is slow for a machine.
    StoreSlow,
    /// The file server is full.
    StoreFull,
    /// The file server is read-only.
    StoreReadOnly,
    /// Calls to the file server fail with an input/output error.
    StoreBroken,
    /// Handles of files become stale.
    StoreStale,
    /// Replies of the file server are lost, and what it remembers of them.
    StoreForgets,
    /// A call to the file server takes long enough to land after its sender is
    /// gone.
    StoreLate,
    /// A machine's own disk is full.
    DiskFull,
}

impl Trouble {
    /// All kinds.
    pub const ALL: &'static [Trouble] = &[
        Trouble::Cut,
        Trouble::CutOneWay,
        Trouble::Hold,
        Trouble::Flaky,
        Trouble::Kill,
        Trouble::KillAtCall,
        Trouble::PowerOff,
        Trouble::PowerOffAtCall,
        Trouble::Stop,
        Trouble::Freeze,
        Trouble::ClockJump,
        Trouble::ClockDrift,
        Trouble::StoreOff,
        Trouble::StoreStall,
        Trouble::StoreCut,
        Trouble::StoreSlow,
        Trouble::StoreFull,
        Trouble::StoreReadOnly,
        Trouble::StoreBroken,
        Trouble::StoreStale,
        Trouble::StoreForgets,
        Trouble::StoreLate,
        Trouble::DiskFull,
    ];
}

/// What a schedule may choose from.
#[derive(Clone, Debug)]
pub struct Menu {
    /// Kinds of trouble; one named twice comes twice as often.
    pub troubles: Vec<Trouble>,
    /// Processes that may be killed and cut off.
    pub processes: Vec<String>,
    /// Further ends of links: clients.
    pub peers: Vec<String>,
    /// Machines that may lose power, stop, be cut off the file server.
    pub machines: Vec<String>,
    /// When troubles begin.
    pub during: Range<Duration>,
    /// How many.
    pub count: Range<usize>,
    /// How long one lasts.
    pub lasting: Range<Duration>,
    /// Calls a process makes before it is stopped at one.
    pub calls: Range<u64>,
}

impl Menu {
    /// Every kind of trouble for these processes on these machines, within a
    /// minute from 5 s on.
    pub fn all(processes: &[&str], machines: &[&str]) -> Menu {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let s = Duration::from_secs;
        Menu {
            troubles: Trouble::ALL.to_vec(),
            processes: owned(processes),
            peers: Vec::new(),
            machines: owned(machines),
            during: s(5)..s(65),
            count: 1..6,
            lasting: Duration::from_millis(200)..s(20),
            calls: 1..400,
        }
    }

    /// Only these kinds.
    pub fn only(self, troubles: &[Trouble]) -> Menu {
        Menu { troubles: troubles.to_vec(), ..self }
    }
}

/// Faults by virtual time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule(BTreeMap<(Duration, u64), Fault>);

impl Schedule {
    /// Adds a fault.
    pub fn add(&mut self, at: Duration, fault: Fault) {
        let n = self.0.len() as u64;
        let free = (n..).find(|n| !self.0.contains_key(&(at, *n))).unwrap_or(u64::MAX);
        self.0.insert((at, free), fault);
    }

    /// Adds another schedule.
    pub fn merge(&mut self, other: Schedule) {
        for ((at, _), fault) in other.0 {
            self.add(at, fault);
        }
    }

    /// Takes what is due.
    pub fn due(&mut self, now: Duration) -> Vec<Fault> {
        let mut out = Vec::new();
        while let Some(e) = self.0.first_entry()
            && e.key().0 <= now
        {
            out.push(e.remove());
        }
        out
    }

    /// Whether nothing is left to happen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the last fault happens.
    pub fn end(&self) -> Duration {
        self.0.last_key_value().map_or(Duration::ZERO, |(k, _)| k.0)
    }

    /// The faults with their times.
    pub fn faults(&self) -> impl Iterator<Item = (Duration, &Fault)> {
        self.0.iter().map(|(k, f)| (k.0, f))
    }

    /// Draws troubles from a menu. Every one of them ends; kinds that nothing on
    /// the menu can happen to are left out.
    pub fn from_seed(seed: u64, menu: &Menu) -> Schedule {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xfa17_5c4e);
        let mut out = Schedule::default();
        let count = if menu.count.is_empty() { 0 } else { rng.random_range(menu.count.clone()) };
        for _ in 0..count {
            let Some(what) = pick(&mut rng, &menu.troubles) else { break };
            let begin = time(&mut rng, &menu.during);
            let end = begin + time(&mut rng, &menu.lasting);
            for (at, fault) in draw(&mut rng, menu, what, begin, end).unwrap_or_default() {
                out.add(at, fault);
            }
        }
        out
    }
}
