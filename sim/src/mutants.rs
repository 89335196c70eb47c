//! Which invariant each fault must be caught by, and where to look for it.

use velociraptor::env::Mutant;

/// A fault and who must see it.
#[derive(Clone, Copy, Debug)]
pub struct Catch {
    /// The fault.
    pub mutant: Mutant,
    /// The invariant whose checker must complain.
    pub invariant: &'static str,
    /// In which scenarios, in this order.
    pub scenarios: &'static [&'static str],
}

const fn catch(
    mutant: Mutant,
    invariant: &'static str,
    scenarios: &'static [&'static str],
) -> Catch {
    Catch { mutant, invariant, scenarios }
}

/// Seeds within which each must be caught.
pub const SEEDS: u64 = 50;

/// Faults that are placed and must be caught.
pub const CATCHES: &[Catch] = &[
    catch(Mutant::AcknowledgeEarly, "DURABLE_ACK", &["crashes"]),
    catch(Mutant::SkipJournalSync, "DURABLE_ACK", &["crashes"]),
    catch(Mutant::SkipSpillSync, "DURABLE_ACK", &["crashes"]),
    catch(Mutant::ForgetRing, "EXACTLY_ONCE", &["sleepers"]),
    catch(Mutant::ForgetTombstones, "EXACTLY_ONCE", &["crashes"]),
    catch(Mutant::RingNotRecovered, "EXACTLY_ONCE", &["sleepers"]),
    catch(Mutant::CheckpointWithoutRings, "EXACTLY_ONCE", &["sleepers"]),
    catch(Mutant::RingBeforeCommit, "DURABLE_ACK", &["store"]),
    catch(Mutant::JoinWithoutWaiting, "DURABLE_ACK", &["roaming"]),
    catch(Mutant::CountDuplicates, "EXACTLY_ONCE", &["crashes"]),
    catch(Mutant::NoDoubtAfterRestart, "TASK_ONCE", &["crashes"]),
    catch(Mutant::RedeliverToAnyCipher, "TASK_ONCE", &["crashes"]),
    catch(Mutant::SendBeforeGrant, "TASK_ONCE", &["crashes"]),
    catch(Mutant::CancelWhatWasWithdrawn, "TASK_ONCE", &["calm", "crashes"]),
    catch(Mutant::EnrolWithoutParking, "DURABLE_ACK", &["calm", "crashes"]),
    catch(Mutant::ForgetParked, "DURABLE_ACK", &["arrivals"]),
    catch(Mutant::SettleAtComplete, "FLOW_MONOTONIC", &["calm", "crashes"]),
    catch(Mutant::DropLateRows, "DURABLE_ACK", &["crashes"]),
    catch(Mutant::IndexBeforeData, "NO_TORN_READ", &["calm"]),
    catch(Mutant::WriteInPlace, "ONE_WRITER", &["calm"]),
    catch(Mutant::TellWithoutCommit, "DURABLE_ACK", &["crashes"]),
    catch(Mutant::ForgetCancel, "FLOW_MONOTONIC", &["crashes"]),
    catch(Mutant::ForgetRuns, "DURABLE_ACK", &["shells"]),
    catch(Mutant::ForgetLabels, "FACTS_CONVERGE", &["crashes"]),
    catch(Mutant::LastReportWins, "FLOW_MONOTONIC", &["backlog"]),
    catch(Mutant::IgnoreWake, "WAKE_BOUND", &["calm"]),
    catch(Mutant::NothingOnArrival, "WAKE_BOUND", &["calm"]),
    catch(Mutant::NoFlowCap, "LIMITS", &["bursts"]),
    catch(Mutant::KeepSessions, "BOUNDED", &["calm"]),
    catch(Mutant::KeepJournals, "BOUNDED", &["crashes"]),
    catch(Mutant::KeepSpills, "BOUNDED", &["calm"]),
    catch(Mutant::DeleteRepeatedSpills, "BOUNDED", &["repeats"]),
    catch(Mutant::DeleteJournalsEarly, "DURABLE_ACK", &["crashes"]),
    catch(Mutant::SettleEventsTwice, "EXACTLY_ONCE", &["sleepers"]),
    catch(Mutant::RecruitTwice, "HUNT_EXACT", &["hunts"]),
    catch(Mutant::NoHuntLimit, "HUNT_EXACT", &["hunts"]),
    catch(Mutant::ForgetHuntEnds, "HUNT_EXACT", &["hunts"]),
    catch(Mutant::HuntWithoutPace, "HUNT_RATE", &["hunts"]),
    catch(Mutant::UndeleteLate, "DURABLE_ACK", &["deletions"]),
    catch(Mutant::UnseededJitter, "SAME_SEED", &["calm"]),
];

/// Its line in the table.
pub fn find(name: &str) -> Option<&'static Catch> {
    CATCHES.iter().find(|c| c.mutant.name() == name)
}
