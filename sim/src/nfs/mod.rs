//! NFS as several Linux hosts see one export, from a seed.
//!
//! The server is atomic per call. Everything surprising lies between: caches of
//! attributes, names (absent ones too) and pages on each host; data that leaves
//! a host late or, after a crash, never; calls that land after their sender is
//! gone; replies that are lost; a server that forgets what it had only in
//! memory. What was measured on real kernels, and where this differs from them:
//! docs/NFS.md.
//!
//! Not modelled: locks (nothing here takes any), delegations, mmap, soft
//! mounts, permissions.

mod call;
mod caller;
mod handle;
mod inject;
mod kernel;
mod machine;
mod mount;
mod options;
mod paths;
mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use velociraptor::env::FileSystem;

pub use call::Kind;
pub use inject::{Effect, Rule};
use kernel::{Changed, Host};
use machine::{Machine, Time};
use mount::Mount;
pub use options::{Link, LookupCache, MountOptions, Removed, ServerOptions, Version};

use crate::tree::ROOT;

type Name = Arc<str>;
type Shared = Arc<Mutex<Machine>>;

fn lock(m: &Shared) -> MutexGuard<'_, Machine> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file server and the network to it. Clones are the same server.
#[derive(Clone)]
pub struct FileServer(Shared);

impl FileServer {
    /// A server for hosts of one turmoil simulation.
    pub fn new(seed: u64, options: ServerOptions) -> FileServer {
        FileServer::with_time(seed, options, Arc::new(turmoil::sim_elapsed))
    }

    /// A server on the current (paused) tokio runtime's time, without turmoil.
    pub fn on_tokio(seed: u64, options: ServerOptions) -> FileServer {
        let start = tokio::time::Instant::now();
        FileServer::with_time(seed, options, Arc::new(move || Some(start.elapsed())))
    }

    fn with_time(seed: u64, options: ServerOptions, time: Time) -> FileServer {
        FileServer(Arc::new(Mutex::new(Machine::new(seed, options, time))))
    }

    fn at(&self) -> MutexGuard<'_, Machine> {
        let mut m = lock(&self.0);
        m.tick();
        m
    }

    /// Lets everything happen that is due. Needed only when no host is active.
    pub fn settle(&self) {
        drop(self.at());
    }

    /// The export as a new process of `host` sees it. Processes of one host
    /// share its caches, which outlive them; the first to mount after a boot
    /// sets the options.
    pub fn mount(&self, host: &str, options: MountOptions) -> Arc<dyn FileSystem> {
        let mut m = self.at();
        let name: Name = host.into();
        m.links.entry(name.clone()).or_default();
        let slots = options.slots;
        let (root, now) = (m.server.tree.attr(ROOT).ok(), m.now);
        let h = m.hosts.entry(name.clone()).or_insert_with(|| Host::new(options.clone()));
        if let Some(root) = root
            && h.inodes.is_empty()
        {
            h.opts = options;
            h.learn(root, Changed::Unknown, now);
        }
        let boot = h.boot;
        let process = m.next_process();
        drop(m);
        Arc::new(Mount::new(self.0.clone(), name, boot, process, slots))
    }

    /// Changes a host's way to the server.
    pub fn link(&self, host: &str, change: impl FnOnce(&mut Link)) {
        change(self.at().links.entry(host.into()).or_default());
    }

    /// Cuts a host off, or lets it through again. What is on its way lands.
    pub fn cut(&self, host: &str, cut: bool) {
        self.link(host, |l| l.cut = cut);
    }

    /// Stops a host's kernel, or lets it go on with what it believed.
    pub fn pause(&self, host: &str, paused: bool) {
        let mut m = self.at();
        let name: Name = host.into();
        if paused {
            if let Some(h) = m.hosts.get_mut(&name) {
                h.paused = true;
            }
        } else {
            m.resume_host(&name);
        }
    }

    /// The host loses power. Must come before its processes are dropped, which
    /// would otherwise close their files in good order.
    pub fn crash_host(&self, host: &str) {
        self.at().crash_host(&host.into());
    }

    /// The server stops answering, with calls piling up, or answers them.
    pub fn stall(&self, stalled: bool) {
        let mut m = self.at();
        if stalled { m.stalled = true } else { m.resume_server() }
    }

    /// The server loses power.
    pub fn power_off(&self) {
        self.at().server_down();
    }

    /// The server is back, without what was in its memory only.
    pub fn power_on(&self) {
        self.at().server_up();
    }

    /// Bytes that fit, from now on; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.at().server.tree.capacity = bytes;
    }

    /// Bytes used by files.
    pub fn used(&self) -> u64 {
        self.at().server.tree.used()
    }

    /// Refuses every change.
    pub fn set_read_only(&self, read_only: bool) {
        self.at().server.read_only = read_only;
    }

    /// Aims a fault at single calls.
    pub fn inject(&self, rule: Rule) {
        self.at().rules.push(rule);
    }

    /// Takes back injected faults that have not hit.
    pub fn clear_rules(&self) {
        self.at().rules.clear();
    }

    /// The server forgets the replies it keeps for calls that are sent again.
    pub fn forget_replies(&self) {
        self.at().server.forget_replies();
    }

    /// Paths under which no file may be written.
    pub fn set_finished_names(&self, finished: impl Fn(&str) -> bool + Send + 'static) {
        self.at().oracle.finished = Some(Box::new(finished));
    }

    /// What no correct program does; empty if all is well.
    pub fn faults(&self) -> Vec<String> {
        self.at().oracle.faults.iter().cloned().collect()
    }

    /// Calls carried out, by host and kind.
    pub fn counts(&self) -> BTreeMap<(String, Kind), u64> {
        let m = self.at();
        m.server.counts.iter().map(|((h, k), n)| ((h.to_string(), *k), *n)).collect()
    }

    /// How often something unusual happened, by name: proof that a run met it.
    pub fn seen(&self) -> BTreeMap<&'static str, u64> {
        self.at().seen.clone()
    }

    /// Puts a file there before the run.
    pub fn put(&self, path: &str, data: &[u8]) {
        self.at().server.tree.put(path, data);
    }

    /// The bytes of a file at the server, those not yet stable included.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.at().server.tree.get(path)
    }

    /// All files' paths at the server, in order.
    pub fn names(&self) -> Vec<String> {
        self.at().server.tree.files()
    }
}
