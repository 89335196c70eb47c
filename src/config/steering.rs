//! `drain` and `balance`: settings for sending clients from one node to another.

use serde::{Deserialize, Serialize};

/// `drain`: a node that is taken out of service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Clients that are sent away in a second; 0: all at once. A process that is told to
    /// end goes faster if it has to, to be done in `stop_seconds`.
    pub clients_per_second: u32,
    /// Seconds that a process told to end takes at most to send its clients away,
    /// before it ends as it does without other nodes; 0: it does not.
    pub stop_seconds: u64,
    /// Behind a balancer: seconds between the first bad answer of `/healthz` and the
    /// first client that is sent away, so that the balancer sends it elsewhere.
    pub notice_seconds: u64,
}

impl Default for Drain {
    fn default() -> Self {
        // As many as another node lets in by default.
        Self { clients_per_second: 100, stop_seconds: 30, notice_seconds: 3 }
    }
}

/// `balance`: a node with fewer clients than others gets some of theirs. On the master.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// Clients that each node with too many sends to others in a second; 0: none.
    pub clients_per_second: u32,
    /// Percent above the mean that a node may have.
    pub tolerance_percent: u32,
}

impl Default for Balance {
    fn default() -> Self {
        Self { clients_per_second: 0, tolerance_percent: 10 }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::settings::Settings;

    #[test]
    fn settings_are_read_and_unknown_ones_refused() {
        let s =
            Settings::parse("drain:\n  clients_per_second: 5\nbalance:\n  clients_per_second: 2\n")
                .unwrap();
        assert_eq!((s.drain.clients_per_second, s.drain.stop_seconds), (5, 30));
        assert_eq!((s.balance.clients_per_second, s.balance.tolerance_percent), (2, 10));
        assert!(Settings::parse("drain:\n  clients: 5\n").is_err());
    }
}
