//! How many connections each listener of a node holds: what the configuration says, or
//! what the process may have of open files, less what its store, its journals and its
//! people need. A server whose clients took every descriptor could neither write what
//! they send nor let anybody in to look.

use crate::comms::server::AcceptLimits;
use crate::config::Loaded;
use crate::env::Env;

/// Whose connections a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Clients.
    Clients,
    /// People with a browser.
    People,
    /// Programs, and the other nodes.
    Programs,
}

/// New connections a second for each core, where the configuration says nothing: with
/// the session that follows, one costs two to three milliseconds of a busy core, so
/// that a herd leaves about half of the machine to those who are there.
const CONNECTIONS_PER_CORE: u64 = 200;

/// Open files kept from clients: a sixteenth of all, within these bounds. The store
/// has at most 160 in its calls at once, and some for journals and what people read.
const KEPT: std::ops::RangeInclusive<u64> = 256..=8192;

/// Cores this process counts on. A simulated run must not depend on the machine.
pub(super) fn cores(env: &Env) -> usize {
    if env.net.simulated() { 4 } else { crate::env::real::cores() }
}

/// Open files this process may have.
fn files(env: &Env) -> u64 {
    if env.net.simulated() { 1 << 20 } else { crate::env::real::open_files() }
}

/// Limits of the listener that takes connections of `whose`.
pub(super) fn limits(env: &Env, loaded: &Loaded, whose: Whose) -> AcceptLimits {
    let rate = loaded.config.frontend.limits().connections_per_second;
    let rate = rate.unwrap_or((CONNECTIONS_PER_CORE * cores(env) as u64).min(1000)) as u32;
    AcceptLimits {
        connections_per_second: rate,
        // As many as a rate of 100, the one that stock writes, may do in ten seconds.
        connection_burst: rate.saturating_mul(10).min(1000),
        max_connections: most(files(env), loaded.settings.limits.connections, whose),
        ..AcceptLimits::default()
    }
}

/// Connections at once, of a process that may have `files` open, with `asked` by the
/// configuration (0: nothing).
fn most(files: u64, asked: u64, whose: Whose) -> usize {
    let kept = (files / 16).clamp(*KEPT.start(), *KEPT.end()).min(files / 2);
    let most = match whose {
        Whose::Clients if asked > 0 => asked.min(files - kept),
        Whose::Clients => files - kept,
        // The other half of what is kept is the store's.
        Whose::People | Whose::Programs => kept / 4,
    };
    usize::try_from(most.max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Whose::{Clients, People, Programs};

    #[test]
    fn clients_leave_files_to_the_store_and_to_people() {
        for files in [64, 1024, 20_000, 1 << 20] {
            let all: usize = [Clients, People, Programs].iter().map(|w| most(files, 0, *w)).sum();
            let store = files - all as u64;
            assert!(
                store >= (files / 4).min(128),
                "{files}: {all} connections, {store} for the store"
            );
        }
        assert_eq!(most(20_000, 0, Clients), 18_750);
        assert_eq!(most(20_000, 0, People), 312);
        assert_eq!(most(1024, 0, Clients), 768);
    }

    #[test]
    fn what_is_asked_for_counts_as_far_as_there_are_files() {
        assert_eq!(most(20_000, 5_000, Clients), 5_000);
        assert_eq!(most(20_000, 5_000, Programs), 312, "it is about clients");
        assert_eq!(most(20_000, 50_000, Clients), 18_750);
        assert_eq!(most(1, 0, Clients), 1);
    }
}
