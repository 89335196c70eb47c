//! What goes wrong in a run: single faults, schedules of them from a seed, and
//! the machines and processes they happen to.
//!
//! A scenario describes its machines and processes to [`Hosts`], takes each
//! process's environment from there, and calls [`Hosts::after_step`] after every
//! step of the simulation. Faults come from a [`Schedule`], or one by one from
//! the scenario ([`Hosts::happen`]).

mod draw;
mod happen;
mod hosts;
mod links;
mod schedule;
#[cfg(test)]
mod schedule_tests;

use std::time::Duration;

use crate::nfs::Rule;

pub use hosts::{Hosts, Machine};
pub use schedule::{Menu, Schedule, Trouble};

/// Something that happens to a machine (its kernel, clock, disk), a process, a
/// link or the file server. Names are those given to [`Hosts`]. What can last
/// is counted: two stops need two returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// What is sent between two processes is lost, what is under way, too.
    /// Connections that were open stall for ever: turmoil does not resend.
    Cut(String, String),
    /// Undoes one [`Fault::Cut`].
    Uncut(String, String),
    /// What the first sends to the second is lost.
    CutOneWay(String, String),
    /// Undoes one [`Fault::CutOneWay`].
    UncutOneWay(String, String),
    /// What is sent between two processes waits, as TCP would make good.
    Hold(String, String),
    /// Undoes one [`Fault::Hold`]; what waited arrives.
    Release(String, String),
    /// Each message between two processes breaks their link with this chance;
    /// it heals by chance (the builder's repair rate).
    Flaky(String, String, f64),
    /// `kill -9`: sockets are closed by the kernel, written files are sent.
    Kill(String),
    /// The process ends by itself: as [`Fault::Kill`].
    Exit(String),
    /// The process starts again, unless it runs or its machine is off.
    Start(String),
    /// [`Fault::Kill`] before the process's `n`th call from now; it starts again
    /// after the time given.
    KillAtCall(String, u64, Duration),
    /// The machine loses power: peers hear nothing, unsynced data is gone.
    PowerOff(String),
    /// It boots, and all its processes start.
    PowerOn(String),
    /// [`Fault::PowerOff`] before the process's `n`th call from now.
    PowerOffAtCall(String, u64, Duration),
    /// The machine is stopped: its processes and kernel stand still, timers run
    /// on (SIGSTOP, suspend).
    Stop(String),
    /// The same from outside (a virtual machine): boot time stands still, too.
    Freeze(String),
    /// It goes on, with what it believed.
    Continue(String),
    /// The machine's wall clock jumps by milliseconds.
    ClockJump(String, i64),
    /// The machine's wall clock runs fast by parts per million.
    ClockDrift(String, i64),
    /// The file server loses power.
    StoreOff,
    /// It is back, without what was in its memory only.
    StoreOn,
    /// The file server answers nobody; calls pile up.
    StoreStall,
    /// It answers.
    StoreResume,
    /// A machine's way to the file server is cut.
    StoreCut(String),
    /// Undoes one [`Fault::StoreCut`].
    StoreUncut(String),
    /// A machine's calls to the file server take this long.
    StoreLatency(String, Duration, Duration),
    /// Bytes that fit on the file server; `None` is no limit.
    StoreCapacity(Option<u64>),
    /// Only so many more bytes fit on the file server.
    StoreNearlyFull(u64),
    /// The file server refuses changes, or takes them.
    StoreReadOnly(bool),
    /// The file server forgets replies it keeps for calls sent again.
    StoreForgets,
    /// A fault aimed at single calls to the file server.
    StoreCall(Rule),
    /// Bytes that fit on a machine's own disk; `None` is no limit.
    DiskCapacity(String, Option<u64>),
}

impl Fault {
    /// Name of its kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Cut(..) => "link cut",
            Fault::Uncut(..) => "link mended",
            Fault::CutOneWay(..) => "link cut one way",
            Fault::UncutOneWay(..) => "link mended one way",
            Fault::Hold(..) => "link held",
            Fault::Release(..) => "link released",
            Fault::Flaky(..) => "link flaky",
            Fault::Kill(_) => "process killed",
            Fault::Exit(_) => "process ended by itself",
            Fault::Start(_) => "process started",
            Fault::KillAtCall(..) => "kill at a call planned",
            Fault::PowerOff(_) => "machine off",
            Fault::PowerOn(_) => "machine on",
            Fault::PowerOffAtCall(..) => "power off at a call planned",
            Fault::Stop(_) => "machine stopped",
            Fault::Freeze(_) => "machine frozen",
            Fault::Continue(_) => "machine goes on",
            Fault::ClockJump(..) => "clock jumped",
            Fault::ClockDrift(..) => "clock drifts",
            Fault::StoreOff => "store off",
            Fault::StoreOn => "store on",
            Fault::StoreStall => "store stalled",
            Fault::StoreResume => "store answers",
            Fault::StoreCut(_) => "store cut off",
            Fault::StoreUncut(_) => "store reachable",
            Fault::StoreLatency(..) => "store latency",
            Fault::StoreCapacity(_) => "store capacity",
            Fault::StoreNearlyFull(_) => "store nearly full",
            Fault::StoreReadOnly(_) => "store read-only",
            Fault::StoreForgets => "store forgets replies",
            Fault::StoreCall(_) => "store call hit",
            Fault::DiskCapacity(..) => "disk capacity",
        }
    }
}
