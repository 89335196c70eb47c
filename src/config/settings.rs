//! Settings of this implementation alone, in a file of their own.
//!
//! The stock program refuses files with keys it does not know, so these never go
//! into its configuration. The file is optional; every field has a default.

use std::time::Duration;

use super::steering::{Balance, Drain};
use serde::{Deserialize, Serialize};

/// Name of the file beside the configuration when `--settings` is not given.
pub const FILE_NAME: &str = "velociraptor-fleet.yaml";

/// All settings. Unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The write-ahead journal.
    pub journal: Journal,
    /// When received data gets its final names.
    pub settle: Settle,
    /// Limits the stock configuration has no key for.
    pub limits: Limits,
    /// The web GUI and the HTTP API behind it.
    pub gui: Gui,
    /// Which node of the cluster this is.
    pub node: Node,
    /// What the nodes of the cluster know of each other.
    pub cluster: Cluster,
    /// How a node that is taken out of service sends its clients away.
    pub drain: Drain,
    /// How clients are shared among nodes.
    pub balance: Balance,
    /// Keys of earlier rotations.
    pub rotation: Rotation,
    /// Stores outside that event rows go to.
    pub forward: Vec<Forward>,
    /// Archives of collections and hunts.
    pub exports: Exports,
    /// Programs of others that artifacts need on endpoints.
    pub tools: Tools,
}

/// `journal`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Bytes that are committed together at most; so many only where each commit takes
    /// long (1 MiB for each 4 ms).
    pub group_bytes: u64,
    /// Payloads larger than this, in bytes, go to a spill file of their own.
    pub spill_bytes: u64,
    /// Bytes after which the next journal file is begun.
    pub file_bytes: u64,
    /// Bytes of closed journal files of one process above which flows that go on, and
    /// tasks that wait, are put into stock files so that old ones can go; 0: never.
    pub keep_bytes: u64,
    /// Milliseconds after which a POST that is not durable yet is answered 500.
    pub commit_timeout_ms: u64,
    /// Bytes kept free for decisions and the ends of flows when the store is full;
    /// 0 keeps none. Default 64 MiB, and 8 MiB for `gui`. Uploads are refused while
    /// less than this is free beside it, everything but decisions when half of it
    /// is used up.
    pub reserve_bytes: Option<u64>,
    /// Breaks the promise that nothing acknowledged is lost: answers before the
    /// journal is written. For the test that shows that such a server is caught.
    pub danger_acknowledge_early: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            group_bytes: 16 << 20,
            spill_bytes: 256 << 10,
            file_bytes: 256 << 20,
            keep_bytes: 1 << 30,
            commit_timeout_ms: 20_000,
            reserve_bytes: None,
            danger_acknowledge_early: false,
        }
    }
}

impl Journal {
    /// [`Journal::reserve_bytes`] or its default.
    pub fn reserve(&self) -> u64 {
        self.reserve_bytes.unwrap_or(64 << 20)
    }

    /// [`Journal::commit_timeout_ms`] as a duration.
    pub fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.commit_timeout_ms)
    }
}

/// `settle`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settle {
    /// Milliseconds between two looks at what has become complete.
    pub interval_ms: u64,
}

impl Default for Settle {
    fn default() -> Self {
        Self { interval_ms: 500 }
    }
}

/// Default of [`Limits::query_memory_bytes`].
const QUERY_MEMORY: u64 = 64 << 20;

/// `limits`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of client data waiting to be committed before more is refused.
    pub pending_bytes: u64,
    /// Milliseconds any call to the store may take.
    pub store_timeout_ms: u64,
    /// Bytes all lists of one packet may have after inflation.
    pub packet_inflated_bytes: u64,
    /// Connections open at once; 0 leaves it to the file descriptor limit.
    pub connections: u64,
    /// Bytes of rows that one sort, grouping or materialised set of a server's query
    /// holds in memory; the rest goes to temporary files.
    pub query_memory_bytes: u64,
    /// Clients' connections begin with a PROXY protocol version 2 header.
    pub proxy_protocol: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_bytes: 256 << 20,
            store_timeout_ms: 20_000,
            packet_inflated_bytes: crate::crypto::envelope::MAX_TOTAL_BYTES as u64,
            connections: 0,
            proxy_protocol: false,
            query_memory_bytes: QUERY_MEMORY,
        }
    }
}

/// `gui`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gui {
    /// Minutes a log-in lasts; a page in use renews it.
    pub session_minutes: u64,
    /// Failed log-ins of one user from one address before both are locked out
    /// together; 0 never locks. An address may fail 5 times as often with different
    /// names, a user 10 times as often from everywhere.
    pub login_failures: u32,
    /// Seconds a lock-out lasts, and a failure is remembered.
    pub login_lock_seconds: u64,
    /// Pages that may be told of changes at once.
    pub live_streams: u64,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Bytes of a file that is uploaded: a pack, a parameter, an attachment.
    pub upload_bytes: u64,
    /// Days that the file of a parameter is kept; 0: for ever.
    pub upload_days: u64,
    /// Rows of a result set that are looked at for one filter, order or count.
    pub scan_rows: u64,
    /// Rows of a result set that are put in order: those that come first.
    pub sort_rows: u64,
    /// Row numbers kept of filtered and sorted sets, 4 bytes each.
    pub kept_rows: u64,
    /// Rows of one day of events that are shown as a table.
    pub event_rows: u64,
    /// Rows that one query of a notebook's cell leaves.
    pub notebook_rows: u64,
    /// Cells of notebooks that are worked out at once.
    pub notebook_cells: u64,
}

impl Default for Gui {
    fn default() -> Self {
        Self {
            session_minutes: 720,
            login_failures: 5,
            login_lock_seconds: 300,
            live_streams: 500,
            body_bytes: 4 << 20,
            upload_bytes: 16 << 20,
            upload_days: 90,
            scan_rows: 50_000_000,
            sort_rows: 1_000_000,
            kept_rows: 16_000_000,
            event_rows: 200_000,
            notebook_rows: 1_000_000,
            notebook_cells: 5,
        }
    }
}

/// One of `forward`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// Name of the store, of letters, digits, `-` and `_`: what was delivered is
    /// remembered under it.
    pub name: String,
    /// Where rows are POSTed to, one JSON object a line.
    pub url: String,
    /// Event artifacts, each with all its sources or as `Artifact/Source`.
    pub artifacts: Vec<String>,
    /// A file of further headers, one `Name: value` a line; read each time.
    pub headers_file: String,
    /// A file of certificates to trust besides the system's, PEM.
    pub root_ca_file: String,
    /// Take any certificate.
    pub skip_verify: bool,
    /// Rows of a delivery.
    pub batch_rows: u64,
    /// Bytes of a delivery.
    pub batch_bytes: u64,
    /// Seconds a delivery may take.
    pub timeout_seconds: u64,
    /// Bytes that may wait in journals for a store that is away; beyond, the oldest
    /// are given up and counted.
    pub backlog_bytes: u64,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            artifacts: vec![],
            headers_file: String::new(),
            root_ca_file: String::new(),
            skip_verify: false,
            batch_rows: 1000,
            batch_bytes: 4 << 20,
            timeout_seconds: 30,
            backlog_bytes: 4 << 30,
        }
    }
}

impl Forward {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(format!("forward: the name {name:?} is not letters, digits, - and _"));
        }
        let url = url::Url::parse(&self.url).map_err(|e| format!("forward {name}: url: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!("forward {name}: url is not http or https"));
        }
        if self.artifacts.is_empty() {
            return Err(format!("forward {name}: no artifacts are named"));
        }
        for (what, value) in [
            ("batch_rows", self.batch_rows),
            ("batch_bytes", self.batch_bytes),
            ("timeout_seconds", self.timeout_seconds),
            ("backlog_bytes", self.backlog_bytes),
        ] {
            if value == 0 {
                return Err(format!("forward {name}: {what} is 0; the least is 1"));
            }
        }
        Ok(())
    }
}

/// `tools`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tools {
    /// Most bytes of a tool that is fetched or uploaded.
    pub max_bytes: u64,
    /// Seconds that fetching one may take.
    pub fetch_seconds: u64,
    /// Where questions about GitHub's releases go.
    pub github_api: String,
}

impl Default for Tools {
    fn default() -> Self {
        let github_api = "https://api.github.com".into();
        Self { max_bytes: 2 << 30, fetch_seconds: 600, github_api }
    }
}

/// `exports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exports {
    /// Archives made at the same time; others wait.
    pub at_once: u64,
}

impl Default for Exports {
    fn default() -> Self {
        Self { at_once: 2 }
    }
}

/// `node`: written by `config frontend`, one for each node.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// This node's name; empty derives it from the frontend's host name and port.
    pub name: String,
    /// What the files were made for. A start in another role is refused.
    pub role: Option<NodeKind>,
    /// The certificate with which it proves itself to other nodes, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub private_key: String,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({:?}, {:?})", self.name, self.role)
    }
}

/// `node.role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Serves the API and the GUI, and decides.
    Master,
    /// Serves clients, led by the master.
    Minion,
}

/// `cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Older spelling of `node.name`.
    pub node: String,
    /// Where minions find the master, `host:port`; empty derives it from
    /// `API.hostname` and `API.bind_port`.
    pub master_address: String,
    /// Nodes that are no longer believed: a name, or serial number or SHA-256
    /// fingerprint of a certificate. In force where it stands: on the master.
    pub revoked_nodes: Vec<String>,
    /// On a minion: journal bytes that the master has not applied, beyond which
    /// clients are refused and keep their data; 0 is 16 GiB.
    pub unreplicated_bytes: u64,
    /// The certificates that were issued, for `config frontend` and
    /// `config revoke_node`; nothing is allowed or refused by this list.
    pub issued: Vec<Issued>,
    /// Milliseconds between two beats on the stream between nodes, both ways.
    pub beat_ms: u64,
    /// So many beats that do not come end the stream.
    pub missed_beats: u32,
    /// Milliseconds for connecting to the master, TLS included.
    pub connect_ms: u64,
    /// Milliseconds a minion waits for the master's welcome, once connected.
    pub welcome_ms: u64,
    /// Milliseconds before the first attempt to connect again; doubles.
    pub backoff_ms: u64,
    /// Milliseconds between attempts at most.
    pub backoff_max_ms: u64,
    /// The same as long as nobody answers there.
    pub backoff_unreached_ms: u64,
    /// Milliseconds a frame may wait for a minion that does not take it.
    pub stall_ms: u64,
    /// Frames that wait in one direction of one stream.
    pub queue_frames: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Bytes of the largest frame: what must pass within `missed_beats`.
    pub frame_bytes: u64,
    /// Frames under way that the master has not acknowledged.
    pub window_frames: u64,
    /// Changes of sessions a minion keeps for a master that does not take them.
    pub session_backlog: u64,
    /// Milliseconds between two signs of life of a process on the store.
    pub store_beat_ms: u64,
    /// Seconds without a sign of life after which a master may be replaced. One
    /// that could give none for half as long stops deciding.
    pub master_stale_seconds: u64,
    /// Seconds without a sign of life after which a node may be started anew
    /// elsewhere.
    pub node_stale_seconds: u64,
    /// Seconds without a master after which a minion takes tasks that were left in
    /// files.
    pub claim_after_seconds: u64,
    /// On a master: seconds between two looks at the store for processes, and for
    /// what those without a stream wrote.
    pub tail_seconds: u64,
    /// On a master: what was settled is remembered until everything that any process
    /// committed up to so many seconds later has been applied.
    pub tombstone_seconds: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            node: String::new(),
            master_address: String::new(),
            revoked_nodes: vec![],
            unreplicated_bytes: 0,
            issued: vec![],
            beat_ms: 1000,
            missed_beats: 3,
            connect_ms: 5000,
            welcome_ms: 30_000,
            backoff_ms: 100,
            backoff_max_ms: 5000,
            backoff_unreached_ms: 1000,
            stall_ms: 10_000,
            queue_frames: 1024,
            queue_bytes: 16 << 20,
            frame_bytes: 16 << 20,
            window_frames: 64,
            session_backlog: 100_000,
            store_beat_ms: 1000,
            master_stale_seconds: 8,
            node_stale_seconds: 8,
            claim_after_seconds: 5,
            tail_seconds: 5,
            tombstone_seconds: 600,
        }
    }
}

impl Cluster {
    /// What is wrong with the numbers, if anything.
    pub fn check(&self) -> Result<(), String> {
        let stale = self.store_beat_ms.saturating_mul(4).div_ceil(1000);
        for (name, value, least) in [
            ("beat_ms", self.beat_ms, 10),
            ("missed_beats", self.missed_beats.into(), 1),
            ("connect_ms", self.connect_ms, 1),
            ("welcome_ms", self.welcome_ms, 1),
            ("backoff_ms", self.backoff_ms, 1),
            ("backoff_max_ms", self.backoff_max_ms, self.backoff_ms),
            ("backoff_unreached_ms", self.backoff_unreached_ms, 1),
            ("stall_ms", self.stall_ms, 1),
            ("queue_frames", self.queue_frames, 1),
            ("queue_bytes", self.queue_bytes, 1),
            // A frame of session changes or reports ends after 1 MiB.
            ("frame_bytes", self.frame_bytes, 2 << 20),
            ("window_frames", self.window_frames, 1),
            ("store_beat_ms", self.store_beat_ms, 10),
            // Four signs of life must be missed.
            ("master_stale_seconds", self.master_stale_seconds, stale),
            ("node_stale_seconds", self.node_stale_seconds, stale),
            ("tail_seconds", self.tail_seconds, 1),
            // A POST is under way at two processes for as long as an agent waits.
            ("tombstone_seconds", self.tombstone_seconds, 60),
        ] {
            if value < least {
                return Err(format!("cluster.{name} is {value}; the least is {least}"));
            }
        }
        Ok(())
    }
}

/// One of `cluster.issued`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Issued {
    /// To which node.
    pub node: String,
    /// Serial number, hex.
    pub serial: String,
    /// Last second of validity, since 1970.
    pub not_after: i64,
}

/// `rotation`: written by `config rotate_keys`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// Earlier private keys of the frontend, PEM, newest first: agents that have not
    /// fetched the new certificate yet still encrypt to them.
    pub old_private_keys: Vec<String>,
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rotation({} keys)", self.old_private_keys.len())
    }
}

impl Settings {
    /// From YAML; an empty file is all defaults. Numbers with which nothing would work
    /// are errors.
    pub fn parse(text: &str) -> Result<Self, yaml_serde::Error> {
        let value: Option<Self> = yaml_serde::from_str(text)?;
        let value = value.unwrap_or_default();
        value.check().map_err(<yaml_serde::Error as serde::de::Error>::custom)?;
        Ok(value)
    }

    fn check(&self) -> Result<(), String> {
        self.cluster.check()?;
        let mut names = std::collections::BTreeSet::new();
        for f in &self.forward {
            f.check()?;
            if !names.insert(&f.name) {
                return Err(format!("forward: {} is there twice", f.name));
            }
        }
        Ok(())
    }

    /// As YAML: only what differs from the defaults.
    pub fn to_yaml(&self) -> String {
        let value = |s: &Self| yaml_serde::to_value(s).unwrap_or_default();
        match difference(&value(self), &value(&Self::default())) {
            None => "{}\n".to_owned(),
            Some(v) => yaml_serde::to_string(&v).unwrap_or_default(),
        }
    }

    /// The node's name as it stands here, in either spelling.
    pub fn node_name(&self) -> Option<&str> {
        [&self.node.name, &self.cluster.node]
            .into_iter()
            .map(String::as_str)
            .find(|n| !n.is_empty())
    }
}

/// The part of a value that is not in `default`.
fn difference(value: &yaml_serde::Value, default: &yaml_serde::Value) -> Option<yaml_serde::Value> {
    use yaml_serde::Value::Mapping;
    match (value, default) {
        (v, d) if v == d => None,
        (Mapping(v), Mapping(d)) => {
            let part = |(k, v): (&yaml_serde::Value, &yaml_serde::Value)| match d.get(k) {
                None => Some((k.clone(), v.clone())),
                Some(d) => difference(v, d).map(|v| (k.clone(), v)),
            };
            Some(Mapping(v.iter().filter_map(part).collect()))
        }
        (v, _) => Some(v.clone()),
    }
}

/// Where the settings of a configuration file may be, the first that exists counts:
/// with the node's name (for a configuration all nodes share), with the
/// configuration's own name (`server.config.yaml`: `server.fleet.yaml`), or
/// [`FILE_NAME`]. All in its directory.
pub fn candidates(config: &str, node: Option<&str>) -> Vec<String> {
    let (dir, file) = config.rfind('/').map_or(("", config), |i| config.split_at(i + 1));
    let stem = [".config.yaml", ".config.yml", ".yaml", ".yml", ".json"]
        .iter()
        .find_map(|end| file.strip_suffix(end))
        .unwrap_or(file);
    let mut out: Vec<String> =
        node.map(|n| format!("{dir}minion.{n}.fleet.yaml")).into_iter().collect();
    let own = format!("{dir}{stem}.fleet.yaml");
    if !out.contains(&own) {
        out.push(own);
    }
    out.push(format!("{dir}{FILE_NAME}"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_default_and_unknown_keys_are_errors() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert_eq!(Settings::parse("# nothing\n").unwrap(), Settings::default());
        let s = Settings::parse("journal:\n  group_bytes: 5\n").unwrap();
        assert_eq!(s.journal.group_bytes, 5);
        assert_eq!(s.journal.spill_bytes, Journal::default().spill_bytes);
        for bad in ["jurnal: {}\n", "journal:\n  group: 5\n", "journal: 3\n", "- a\n"] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
        let refused = |text: &str| Settings::parse(text).unwrap_err().to_string();
        let e = refused("cluster:\n  beat_ms: 0\n");
        assert!(e.contains("cluster.beat_ms is 0; the least is 10"), "{e}");
        let forward = |more: &str| format!("forward:\n- name: a\n  url: http://h/x\n{more}");
        let good = forward("  artifacts: [A]\n");
        assert_eq!(Settings::parse(&good).unwrap().forward[0].batch_rows, 1000);
        let e = refused(&forward(""));
        assert!(e.contains("forward a: no artifacts are named"), "{e}");
        let e = refused(&forward("  artifacts: [A]\n  batch_rows: 0\n"));
        assert!(e.contains("batch_rows is 0"), "{e}");
        let e = refused("forward:\n- {name: a/b, url: 'http://h/', artifacts: [A]}\n");
        assert!(e.contains("a/b"), "{e}");
        let e = refused("forward:\n- {name: a, url: 'ftp://h/', artifacts: [A]}\n");
        assert!(e.contains("not http or https"), "{e}");
        let e = refused(&format!("{good}{}", good.replace("forward:\n", "")));
        assert!(e.contains("a is there twice"), "{e}");
        let e = refused("cluster:\n  backoff_ms: 9000\n");
        assert!(e.contains("cluster.backoff_max_ms is 5000; the least is 9000"), "{e}");
    }

    #[test]
    fn only_what_differs_is_written() {
        assert_eq!(Settings::default().to_yaml(), "{}\n");
        let mut s = Settings::default();
        s.journal.group_bytes = 5;
        s.node.role = Some(NodeKind::Minion);
        s.cluster.issued = vec![Issued { node: "b-1".into(), ..Default::default() }];
        let text = s.to_yaml();
        assert!(text.starts_with("journal:\n  group_bytes: 5\nnode:\n  role: minion\n"), "{text}");
        assert_eq!(Settings::parse(&text).unwrap(), s);
        assert_eq!(Settings::parse("{}\n").unwrap(), Settings::default());
    }

    #[test]
    fn the_nearest_file_comes_first() {
        assert_eq!(
            candidates("/etc/v/server.config.yaml", None),
            ["/etc/v/server.fleet.yaml", "/etc/v/velociraptor-fleet.yaml"]
        );
        assert_eq!(
            candidates("minion.b-1.config.yaml", Some("b-1")),
            ["minion.b-1.fleet.yaml", "velociraptor-fleet.yaml"]
        );
        assert_eq!(
            candidates("v/s.yaml", Some("b-1")),
            ["v/minion.b-1.fleet.yaml", "v/s.fleet.yaml", "v/velociraptor-fleet.yaml"]
        );
    }

    proptest::proptest! {
        #[test]
        fn settings_survive_their_file(
            name in "\\PC{0,20}", key in "([ -~]{0,10}\n){0,3}", n: u64, minion: bool,
            revoked in proptest::collection::vec("[0-9a-f:~#-]{0,9}", 0..3),
        ) {
            let role = minion.then_some(NodeKind::Minion);
            let node = Node { name, role, certificate: key.clone(), private_key: key };
            let mut s = Settings { node, ..Settings::default() };
            s.limits.pending_bytes = n;
            s.cluster.revoked_nodes = revoked;
            proptest::prop_assert_eq!(Settings::parse(&s.to_yaml()).unwrap(), s);
        }
    }
}
