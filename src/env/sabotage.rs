//! Faults put in on purpose, one at a time, so that the simulator can show that
//! its checkers see them.
//!
//! The code under test is the code that ships, so the faults are in it, and
//! cannot happen: a [`Sabotage`] is made by [`Env::sabotage`] alone, which
//! refuses every environment whose network does not say that it is simulated
//! ([`super::Net::simulated`]), and nothing but the simulator says so. What is
//! left in production is the comparison of one byte that is always zero.

use super::Env;

/// At most one fault. Production has [`Sabotage::NONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage(Option<Mutant>);

impl Sabotage {
    /// No fault.
    pub const NONE: Sabotage = Sabotage(None);

    /// Whether this fault is to be shown.
    #[inline]
    pub fn is(self, mutant: Mutant) -> bool {
        self.0 == Some(mutant)
    }
}

impl Env {
    /// Puts a fault in. `false`, and nothing done, where the world is real.
    #[doc(hidden)]
    pub fn sabotage(&mut self, mutant: Mutant) -> bool {
        if self.net.simulated() {
            self.sabotage = Sabotage(Some(mutant));
        }
        self.net.simulated()
    }
}

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A small wrong step, placed where the code keeps a promise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $($(#[$doc])* $name,)+ }

        impl Mutant {
            /// All there are.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => stringify!($name),)+ }
            }
        }
    };
}

mutants! {
    /// A group of records is answered before it is written.
    AcknowledgeEarly,
    /// The journal is written and not synced.
    SkipJournalSync,
    /// Spill files are written and not synced.
    SkipSpillSync,
    /// The last POSTs of a client are not looked at.
    ForgetRing,
    /// What settled flows and events held is not looked at.
    ForgetTombstones,
    /// The last POSTs of a client are not read back from journals.
    RingNotRecovered,
    /// The checkpoint holds no last POSTs.
    CheckpointWithoutRings,
    /// A POST is remembered before it is committed.
    RingBeforeCommit,
    /// A POST that is being committed is acknowledged when it comes again.
    JoinWithoutWaiting,
    /// A message that is known already is taken as a new one.
    CountDuplicates,
    /// What may have been sent before a restart is sent again.
    NoDoubtAfterRestart,
    /// Any answer "I do not know it" makes a task go out again.
    RedeliverToAnyCipher,
    /// A task is sent before its right to be sent is durable.
    SendBeforeGrant,
    /// A cancel goes out although its flow was never sent.
    CancelWhatWasWithdrawn,
    /// A client is told to enrol and its data is not kept.
    EnrolWithoutParking,
    /// What was kept for clients that had not enrolled is forgotten at a restart.
    ForgetParked,
    /// A flow is settled as soon as its end is told.
    SettleAtComplete,
    /// What comes for a flow that was announced is acknowledged and dropped.
    DropLateRows,
    /// The index of a result set gets its name before its data.
    IndexBeforeData,
    /// Stock objects are written in place.
    WriteInPlace,
    /// A decision is told and not committed.
    TellWithoutCommit,
    /// Cancels are not read back from journals.
    ForgetCancel,
    /// Labels are not read back from journals.
    ForgetLabels,
    /// The last report of a flow replaces the ones before, whatever it says.
    LastReportWins,
    /// A held client is not woken for its tasks.
    IgnoreWake,
    /// A client that comes back is not given what waits for it.
    NothingOnArrival,
    /// A client may have any number of flows at once.
    NoFlowCap,
    /// Held readers are never forgotten.
    KeepSessions,
    /// Journal files are never deleted.
    KeepJournals,
    /// Which rows are of which run of a flow is not kept.
    ForgetRuns,
    /// Spill files are never deleted.
    KeepSpills,
    /// Spill files of records that repeat others are deleted while those stay.
    DeleteRepeatedSpills,
    /// Journal files are deleted although something in them is needed.
    DeleteJournalsEarly,
    /// That events are in day files is not recorded.
    SettleEventsTwice,
    /// A client is recruited although it has the hunt.
    RecruitTwice,
    /// Clients are recruited as fast as it goes.
    HuntWithoutPace,
    /// A hunt takes more clients than it may have.
    NoHuntLimit,
    /// Ends of flows of hunts are not read back from journals.
    ForgetHuntEnds,
    /// What comes late of something deleted is kept.
    UndeleteLate,
    /// Jitter comes from outside of the world.
    UnseededJitter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_world_cannot_be_sabotaged() {
        let mut env = crate::env::real::env();
        for m in Mutant::ALL {
            assert!(!env.sabotage(*m));
            assert!(!env.sabotage.is(*m), "{}", m.name());
        }
        assert_eq!(env.sabotage, Sabotage::NONE);
    }
}
