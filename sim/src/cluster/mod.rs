//! A whole deployment in one thread: frontends that run the production node, a
//! shared store, virtual clients, and a script that is the scenario.
//!
//! ```no_run
//! use sim::cluster::Cluster;
//! use sim::plan::Plan;
//!
//! let outcome = Cluster::seed(7).clients(20).run(|c| async move {
//!     let flow = c.collect(3, Plan::rows(4, 25)).await;
//!     c.crash("server").await;
//!     c.start("server").await;
//!     flow.map(drop).ok_or("not scheduled".to_owned())
//! });
//! assert!(outcome.violations.is_empty(), "{outcome}");
//! ```
//!
//! What a script does not do itself, every run does after it: all troubles end,
//! the clients get time to deliver, and the checkers look at everything.

mod collect;
mod config;
mod frontend;
mod handle;
mod run;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use velociraptor::env::Mutant;

pub use config::{HUNT_RATE, MAX_POLL, STORE, node_name};
pub use frontend::{Gone, Remote as FrontendRemote};
pub use handle::Handle;

use crate::check::Violation;
use crate::faults::Menu;
use crate::nfs::MountOptions;

/// Host name of the machine that stands ready.
pub const SPARE: &str = "spare";

/// What scripts return: a reason to fail the run that is no invariant.
pub type Script = Result<(), String>;

/// What a run is made of. See the module.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) seed: u64,
    pub(crate) minions: usize,
    pub(crate) clients: usize,
    pub(crate) sockets: usize,
    pub(crate) old: usize,
    pub(crate) eager: usize,
    pub(crate) clones: usize,
    pub(crate) balanced: bool,
    pub(crate) steady: bool,
    pub(crate) events: Duration,
    pub(crate) store: Duration,
    pub(crate) network: (Duration, Duration),
    pub(crate) tick: Duration,
    pub(crate) limit: Duration,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) mount: MountOptions,
    pub(crate) faults: Option<Menu>,
    pub(crate) journal_bytes: u64,
    pub(crate) keep_bytes: u64,
    pub(crate) traced: bool,
    pub(crate) start_spread: Duration,
    pub(crate) spare: Option<String>,
}

impl Cluster {
    /// One frontend and a few clients; everything that is random comes from `seed`.
    pub fn seed(seed: u64) -> Self {
        Self {
            seed,
            minions: 0,
            clients: 4,
            sockets: 0,
            old: 0,
            eager: 0,
            clones: 0,
            balanced: false,
            steady: false,
            events: Duration::from_millis(500),
            store: Duration::from_millis(1),
            network: (Duration::from_millis(1), Duration::from_millis(20)),
            tick: Duration::from_millis(5),
            limit: Duration::from_secs(1200),
            mutant: None,
            mount: MountOptions::default(),
            faults: None,
            journal_bytes: 256 << 10,
            keep_bytes: 1 << 30,
            traced: false,
            start_spread: Duration::from_secs(2),
            spare: None,
        }
    }

    /// Frontends besides the master.
    pub fn minions(mut self, n: usize) -> Self {
        self.minions = n;
        self
    }

    /// How many clients (at most 64).
    pub fn clients(mut self, n: usize) -> Self {
        self.clients = n;
        self
    }

    /// The first `n` of them use WebSockets.
    pub fn sockets(mut self, n: usize) -> Self {
        self.sockets = n;
        self
    }

    /// The last `n` of them are too old to be asked about flows.
    pub fn old(mut self, n: usize) -> Self {
        self.old = n;
        self
    }

    /// The first `n` of them have data to send before they are enrolled.
    pub fn eager(mut self, n: usize) -> Self {
        self.eager = n;
        self
    }

    /// The first `n` clients each have a twin with the same key and id.
    pub fn clones(mut self, n: usize) -> Self {
        self.clones = n;
        self
    }

    /// A balancer stands before the frontends: every POST may go to any of them.
    pub fn balanced(mut self, yes: bool) -> Self {
        self.balanced = yes;
        self
    }

    /// Clients that were not answered always send the very same POST again.
    pub fn steady(mut self) -> Self {
        self.steady = true;
        self
    }

    /// Event queries of a client rest at least this long between rows, and at most
    /// seven times as long.
    pub fn events_every(mut self, least: Duration) -> Self {
        self.events = least;
        self
    }

    /// Every call to the file server takes this long.
    pub fn nfs(mut self, latency: Duration) -> Self {
        self.store = latency;
        self
    }

    /// How the frontends mount it.
    pub fn mounted(mut self, options: MountOptions) -> Self {
        self.mount = options;
        self
    }

    /// Every packet takes between these.
    pub fn network(mut self, least: Duration, most: Duration) -> Self {
        self.network = (least, most);
        self
    }

    /// The grain of time. 5 ms is cheap; measuring wake-ups wants 1 ms.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Longest virtual time.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// With this fault in the frontends.
    pub fn mutant(mut self, mutant: Option<Mutant>) -> Self {
        self.mutant = mutant;
        self
    }

    /// Troubles from this menu happen, by the seed.
    pub fn faults(mut self, menu: Menu) -> Self {
        self.faults = Some(menu);
        self
    }

    /// Journal files are rolled at this size.
    pub fn journal_bytes(mut self, bytes: u64) -> Self {
        self.journal_bytes = bytes;
        self
    }

    /// What lives long is put into stock files when this much is kept.
    pub fn keep_bytes(mut self, bytes: u64) -> Self {
        self.keep_bytes = bytes;
        self
    }

    /// Keeps the trace: every packet and log event with its time.
    pub fn traced(mut self) -> Self {
        self.traced = true;
        self
    }

    /// Clients start within this time instead of at once.
    pub fn arriving(mut self, within: Duration) -> Self {
        self.start_spread = within;
        self
    }

    /// A second machine stands ready with the configuration of this frontend: see
    /// [`Handle::succeed`].
    pub fn spare(mut self, of: &str) -> Self {
        self.spare = Some(of.to_owned());
        self
    }

    /// Runs `script` against it, then checks everything.
    pub fn run<F, Fut>(self, script: F) -> Outcome
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future<Output = Script> + Send + 'static,
    {
        run::run(self, script)
    }

    /// Whether the client with this book uses WebSockets.
    pub fn is_socket(&self, book: usize) -> bool {
        let twin_of = book.checked_sub(self.clients);
        twin_of.unwrap_or(book) < self.sockets
    }

    /// Simulated hosts on which the clients are.
    pub(crate) fn edges(&self) -> usize {
        (self.clients + self.clones.min(self.clients)).div_ceil(run::PER_EDGE)
    }

    /// Names of the frontends, the master's first.
    pub fn frontends(&self) -> Vec<String> {
        let minions = (1..=self.minions).map(|i| format!("minion{i}"));
        std::iter::once("server".to_owned()).chain(minions).collect()
    }
}

/// What a run left.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Promises that were broken; empty if all is well.
    pub violations: Vec<Violation>,
    /// What happened that is worth counting.
    pub coverage: BTreeMap<&'static str, u64>,
    /// Packets and events, if asked for.
    pub trace: Vec<String>,
    /// What led to the violations, in the order of time.
    pub story: Vec<String>,
    /// What the frontends logged at warn and above.
    pub log: Vec<String>,
    /// Virtual time it took.
    pub virtual_time: Duration,
}

impl Outcome {
    /// Whether this invariant was found broken.
    pub fn broke(&self, invariant: &str) -> bool {
        self.violations.iter().any(|v| v.invariant == invariant)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for v in &self.violations {
            writeln!(f, "{v}")?;
        }
        Ok(())
    }
}
