//! The invariants, each with a checker. What they compare: the books of clients
//! and users, what the API tells, and what lies in the store.
//!
//! Some look during the run ([`during`]), most when all trouble is over
//! ([`after`]), and the rest at the books alone ([`ledger`]).

mod books;
mod coverage;
mod flows;
mod grants;
mod hunts;
mod progress;
mod store;
mod story;

use std::fmt;
use std::time::Duration;

use tokio::time::sleep;

use crate::cluster::{Cluster, Handle};
use crate::ledger::{Ledger, now};

pub use coverage::{REQUIRED, count, short};
pub use story::tell;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.story)
    }
}

/// Violations found so far.
#[derive(Debug, Default)]
pub struct Found(Vec<Violation>);

impl Found {
    /// Adds one.
    pub fn add(&mut self, invariant: &'static str, story: impl Into<String>) {
        self.0.push(Violation { invariant, story: story.into() });
    }

    /// Adds one unless `holds`.
    pub fn check(&mut self, holds: bool, invariant: &'static str, story: impl FnOnce() -> String) {
        if !holds {
            self.add(invariant, story());
        }
    }
}

/// A clean store and clean clients need no longer than this to come to rest:
/// a client's longest wait, the minute after which a silent flow is asked
/// about, and the hold of a poll.
const REST: Duration = Duration::from_secs(240);

/// Looks at what users see while the run goes on.
pub async fn during(c: Handle) {
    progress::watch(c).await;
}

/// Ends all troubles, lets everything come to rest, and looks at it: live, after
/// a crash of everything, and after a clean stop.
pub async fn after(c: &Handle) -> Vec<Violation> {
    let mut found = Found::default();
    recover(c, &mut found).await;
    rest(c, &mut found).await;
    hunts::audit(c, "at rest", &mut found).await;
    flows::audit(c, "at rest", &mut found).await;
    if c.cluster().seed.is_multiple_of(2) {
        for f in c.cluster().frontends() {
            c.power_off(&f).await;
        }
        recover(c, &mut found).await;
        rest(c, &mut found).await;
        hunts::audit(c, "after a crash of everything", &mut found).await;
        flows::audit(c, "after a crash of everything", &mut found).await;
    }
    store::at_rest(c, &mut found).await;
    store::settled(c, &mut found).await;
    found.0
}

/// What the books alone tell.
pub fn ledger(ledger: &Ledger, cluster: &Cluster) -> Vec<Violation> {
    let mut found = Found::default();
    for (invariant, story) in &ledger.complaints {
        found.add(invariant, story.clone());
    }
    books::check(ledger, cluster, &mut found);
    grants::check(ledger, &mut found);
    hunts::pace(ledger, &mut found);
    found.0
}

/// Waits for what is planned, and starts what is down.
async fn recover(c: &Handle, found: &mut Found) {
    while c.hosts().pending() {
        c.seconds(1).await;
    }
    c.hosts().store().clear_rules();
    for f in c.cluster().frontends() {
        if !c.frontend(&f).is_up() && !c.start(&f).await {
            found.add("NO_HANG", format!("{f} does not start within a minute"));
        }
    }
    let mut books = c.books().lock();
    for t in 0..books.troubles.len() {
        books.end(t, Duration::ZERO);
    }
}

/// Waits until clients have delivered what they have and flows are over.
async fn rest(c: &Handle, found: &mut Found) {
    let end = now() + REST;
    loop {
        let waiting: Vec<String> = {
            let books = c.books().lock();
            (books.clients.iter().enumerate())
                .filter_map(|(i, b)| match b.back {
                    // One that comes back works on: what it was asked for is not at rest.
                    Some(at) if at < end => Some(format!("client {i} is to start at {at:?}")),
                    _ if b.awake && b.waiting > 64 => {
                        Some(format!("client {i} has {} messages", b.waiting))
                    }
                    _ => None,
                })
                .collect()
        };
        hunts::adopt(c);
        let mut open = flows::open(c).await;
        open.extend(hunts::open(c).await);
        if waiting.is_empty() && open.is_empty() {
            // What is complete gets its place.
            sleep(Duration::from_secs(2)).await;
            return;
        }
        if now() >= end {
            for w in waiting {
                found.add("NO_HANG", format!("all is well for {REST:?}, and still {w} to deliver"));
            }
            for o in open {
                found.add("NO_HANG", format!("all is well for {REST:?}, and still {o}"));
            }
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}
