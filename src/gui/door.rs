//! How often somebody may be wrong: counts failed log-ins by user and address and
//! says when the next is looked at. It knows no passwords.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Names and addresses remembered at most; beyond it the oldest are forgotten.
const MAX_KEYS: usize = 20_000;
/// An address may fail this many times as often as one user from there.
const ADDRESS_FACTOR: u32 = 5;
/// A user may fail this many times as often from everywhere.
const USER_FACTOR: u32 = 10;

/// How often, and for how long then.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Failures of one user from one address; 0 for no limit.
    pub failures: u32,
    /// How long a lock-out lasts, and how long a failure is remembered.
    pub lock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { failures: 5, lock: Duration::from_secs(300) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Pair(String, IpAddr),
    Address(IpAddr),
    User(String),
}

#[derive(Debug)]
struct Count {
    failures: u32,
    last: Instant,
}

/// All counts.
#[derive(Debug, Default)]
pub struct Door {
    limits: Limits,
    counts: Mutex<BTreeMap<Key, Count>>,
    /// Log-ins that failed.
    pub failed: AtomicU64,
    /// Log-ins that were not looked at.
    pub refused: AtomicU64,
}

fn keys(user: &str, from: IpAddr) -> [Key; 3] {
    // A network of IPv6 is one household.
    let from = match from {
        IpAddr::V6(a) => {
            let [a, b, c, d, ..] = a.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    };
    let user = user.to_lowercase();
    [Key::Pair(user.clone(), from), Key::Address(from), Key::User(user)]
}

impl Door {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    fn most(&self, key: &Key) -> u32 {
        self.limits.failures.saturating_mul(match key {
            Key::Pair(..) => 1,
            Key::Address(_) => ADDRESS_FACTOR,
            Key::User(_) => USER_FACTOR,
        })
    }

    /// Whether a password may be looked at; else for how long not. Whether the
    /// user exists makes no difference.
    pub fn admit(&self, user: &str, from: IpAddr) -> Result<(), Duration> {
        if self.limits.failures == 0 {
            return Ok(());
        }
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys(user, from) {
            let Some(c) = counts.get(&key) else { continue };
            let left = self.limits.lock.saturating_sub(c.last.elapsed());
            if c.failures >= self.most(&key) && !left.is_zero() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(left);
            }
        }
        Ok(())
    }

    /// A wrong password, or an unknown user. `true` when this locks somebody out.
    pub fn failed(&self, user: &str, from: IpAddr) -> bool {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if counts.len() >= MAX_KEYS {
            let lock = self.limits.lock;
            counts.retain(|_, c| c.last.elapsed() < lock);
            while counts.len() >= MAX_KEYS {
                let oldest = counts.iter().min_by_key(|(_, c)| c.last).map(|(k, _)| k.clone());
                let Some(oldest) = oldest else { break };
                counts.remove(&oldest);
            }
        }
        let mut locks = false;
        for key in keys(user, from) {
            let most = self.most(&key);
            let c = counts.entry(key).or_insert(Count { failures: 0, last: now });
            if c.last.elapsed() >= self.limits.lock {
                c.failures = 0;
            }
            c.failures += 1;
            c.last = now;
            locks |= most > 0 && c.failures == most;
        }
        locks
    }

    /// A right password: what this user did wrong from there is forgotten. What
    /// came from elsewhere, or was tried there with other names, is not.
    pub fn passed(&self, user: &str, from: IpAddr) {
        let [pair, ..] = keys(user, from);
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).remove(&pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_is_locked_out_where_they_failed() {
        let door = Door::default();
        for n in 1..=5 {
            assert!(door.admit("Ann", ip(1)).is_ok());
            assert_eq!(door.failed("ann", ip(1)), n == 5);
        }
        assert!(door.admit("ANN", ip(1)).is_err());
        assert!(door.admit("ann", ip(2)).is_ok() && door.admit("bob", ip(1)).is_ok());
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(door.admit("ann", ip(1)).is_ok());
        // The count began anew.
        assert!(!door.failed("ann", ip(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn many_names_from_one_address_and_one_name_from_many() {
        let door = Door::default();
        for n in 0..25 {
            assert!(door.admit(&format!("u{n}"), ip(1)).is_ok());
            door.failed(&format!("u{n}"), ip(1));
        }
        assert!(door.admit("u99", ip(1)).is_err() && door.admit("u99", ip(2)).is_ok());
        let door = Door::default();
        for n in 0..50 {
            assert!(door.admit("ann", ip(n)).is_ok());
            door.failed("ann", ip(n));
        }
        assert!(door.admit("ann", ip(99)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_password_forgets_and_memory_has_a_limit() {
        let door = Door::default();
        for _ in 0..4 {
            door.failed("ann", ip(1));
        }
        door.passed("ann", ip(1));
        assert!(!door.failed("ann", ip(1)));
        for n in 0..MAX_KEYS {
            door.failed(&format!("u{n}"), ip(3));
        }
        assert!(door.counts.lock().unwrap().len() <= MAX_KEYS + 3);
    }
}
