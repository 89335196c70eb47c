//! What the services need to know of the configuration.

use std::collections::BTreeSet;
use std::time::Duration;

use super::acl::Permission;
use super::fleet::{self, Role, standing};
use super::inventory;
use crate::store::journal;

/// What the services need to know of the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// This frontend's name among all.
    pub node: String,
    /// Master or minion.
    pub role: Role,
    /// How it takes its place among processes.
    pub standing: standing::Options,
    /// How a master treats other processes.
    pub fleet: fleet::Options,
    /// There are or may be minions: a master leaves tasks for clients that nobody
    /// holds where they find them.
    pub minions: bool,
    /// Nonce of the root organisation.
    pub root_nonce: String,
    /// Key of query name obfuscation.
    pub obfuscation_nonce: String,
    /// Whether query names are sent obfuscated.
    pub obfuscate: bool,
    /// Whether agents are asked to compress what they send.
    pub compress: bool,
    /// Flows a client may have at once: 2 + `Client.concurrency`.
    pub flows_in_flight: usize,
    /// Pattern that marks a log line as an error; `None` leaves the agent's own.
    pub collection_error_regex: Option<String>,
    /// How the journal behaves.
    pub journal: journal::Options,
    /// Bytes of closed journal files of one process above which what lives long is put
    /// into stock files before its end; 0: never.
    pub keep_bytes: u64,
    /// Upload chunks of more than this many bytes go to files beside the journal.
    pub spill_bytes: usize,
    /// On a minion: journal bytes that the master has not applied, beyond which
    /// clients are refused; statuses get twice as much.
    pub unreplicated_bytes: u64,
    /// Bytes of rows a part of a query holds in memory.
    pub query_memory_bytes: usize,
    /// How often the server looks at what has become complete.
    pub settle_every: Duration,
    /// Clients recruited by hunts in a second, in the whole cluster.
    pub hunt_rate: u64,
    /// How long a hunt runs unless it says otherwise.
    pub hunt_expiry: Duration,
    /// How often client records are written to the stock snapshot, seconds.
    pub snapshot_seconds: u64,
    /// Days that files uploaded for parameters are kept; 0: for ever.
    pub form_days: u64,
    /// Event artifacts of every client until an administrator chooses.
    pub default_client_monitoring: Vec<String>,
    /// How archives of collections and hunts are made.
    pub exports: super::exports::Options,
    /// Event artifacts of the server itself until an administrator chooses.
    pub default_server_monitoring: Vec<String>,
    /// The mail server.
    pub mail: super::mail::Options,
    /// The certificate that clients meet, PEM; empty: not said.
    pub frontend_certificate: String,
    /// Where people open the GUI; empty: not said.
    pub public_url: String,
    /// How tools are fetched and kept.
    pub tools: inventory::Options,
    /// First parts of paths in the datastore that are nobody's to read.
    pub denied_prefixes: Vec<String>,
    /// Stores outside that event rows go to.
    pub forward: Vec<super::forward::Sink>,
    /// Longest an event row waits on the client, seconds, and its spread.
    pub event_max_wait: (u64, u64),
    /// Folders of artifact definitions that count as built in.
    pub definitions: Vec<String>,
    /// Names no user can have: the server's and the gateway's.
    pub reserved_users: Vec<String>,
    /// Permissions nobody holds (lockdown).
    pub denied_permissions: BTreeSet<Permission>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: "master".into(),
            role: Role::Master,
            standing: standing::Options::default(),
            fleet: fleet::Options::default(),
            minions: false,
            root_nonce: String::new(),
            obfuscation_nonce: String::new(),
            obfuscate: true,
            compress: true,
            flows_in_flight: 4,
            collection_error_regex: None,
            journal: journal::Options::default(),
            keep_bytes: 1 << 30,
            spill_bytes: 256 << 10,
            query_memory_bytes: 64 << 20,
            unreplicated_bytes: 16 << 30,
            settle_every: Duration::from_millis(500),
            hunt_rate: 100,
            hunt_expiry: Duration::from_secs(7 * 24 * 3600),
            snapshot_seconds: 300,
            form_days: 90,
            default_client_monitoring: Vec::new(),
            default_server_monitoring: Vec::new(),
            exports: Default::default(),
            forward: Vec::new(),
            mail: Default::default(),
            frontend_certificate: String::new(),
            public_url: String::new(),
            tools: Default::default(),
            denied_prefixes: DENIED_PREFIXES.map(str::to_owned).into(),
            event_max_wait: (120, 20),
            definitions: Vec::new(),
            reserved_users: vec!["VelociraptorServer".into(), "GRPC_GW".into()],
            denied_permissions: BTreeSet::new(),
        }
    }
}

/// Parts of the datastore that are shown to nobody, unless configured
/// (`security.denied_fs_accessor_prefix`).
pub const DENIED_PREFIXES: [&str; 6] = ["acl", "backups", "config", "orgs", "secrets", "users"];
