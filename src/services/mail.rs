//! Mail: which server takes it, and how often it is sent. Not how.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What queries need not say (`Mail` of the configuration).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The server.
    pub server: String,
    /// Its port; 0 is the usual one.
    pub port: u64,
    /// Who sends.
    pub from: String,
    /// For authentication.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Take any certificate.
    pub skip_verify: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mail({:?})", self.server)
    }
}

/// The mails of this process.
#[derive(Debug, Default)]
pub struct Mails(Mutex<Option<Instant>>);

impl Mails {
    /// Whether the last one was sent so long ago; if so, one is sent now.
    pub fn may_send(&self, period: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_some_and(|at| now.duration_since(at) < period) {
            return false;
        }
        *last = Some(now);
        true
    }
}
