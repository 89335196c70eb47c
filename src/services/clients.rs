//! Client records in memory, and finding them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use velociraptor_proto::journal::PostClass;
use velociraptor_proto::proto::{AgentInformation, ApiClient, ClientInfo, Uname};

use super::deleted::Deleted;
use super::flows::job::Hash;
use super::tasks::Queue;
use crate::store::journal::Segment;

/// A client counts as online when it was heard this recently (15 minutes, as
/// stock), µs.
pub const ONLINE: u64 = 900_000_000;

/// POSTs remembered per class: a stock agent has one of a class in flight, so a
/// repeat is its last; the rest is margin for clones.
const RING: usize = 4;

#[derive(Clone, Debug)]
struct Remembered {
    hash: Hash,
    received: u64,
    at: Weak<Segment>,
}

/// The last POSTs of one class.
///
/// The last as they were received, and as they were applied: the journal of a
/// process that was cut off can bring old ones late, and clocks differ.
#[derive(Clone, Debug, Default)]
pub struct Ring(VecDeque<Remembered>);

impl Ring {
    /// Remembers a POST received at `received`, microseconds; `at` holds its
    /// record, as long as it exists.
    pub fn push(&mut self, hash: Hash, received: u64, at: Weak<Segment>) {
        if self.has(&hash) {
            return;
        }
        self.0.push_back(Remembered { hash, received, at });
        if self.0.len() <= RING {
            return;
        }
        let mut times: Vec<u64> = self.0.iter().map(|p| p.received).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let (newest, late) = (times[RING - 1], self.0.len() - RING);
        let mut i = 0;
        self.0.retain(|p| {
            i += 1;
            i > late || p.received >= newest
        });
        while self.0.len() > 2 * RING {
            self.0.pop_front();
        }
    }

    /// Whether it is one of the last.
    pub fn has(&self, h: &Hash) -> bool {
        self.0.iter().any(|p| p.hash == *h)
    }

    /// Those whose record is gone, or about to go, with the time each was
    /// received; oldest first. The others are found in journals.
    pub fn without_record(&self) -> impl Iterator<Item = (&Hash, u64)> {
        let gone = |p: &&Remembered| p.at.upgrade().is_none_or(|s| s.is_doomed());
        self.0.iter().filter(gone).map(|p| (&p.hash, p.received))
    }
}

/// One client.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The stock record.
    pub info: ClientInfo,
    /// Tasks and their delivery.
    pub queue: Queue,
    rings: [Ring; 3],
    /// The event table version the client last claimed.
    pub table_claim: Option<u64>,
    /// Last time an interrogation was asked for, to ask once.
    pub interrogating: bool,
    /// Its agent is told to end when it is heard next. Told once, and not remembered
    /// when this server ends: an agent must not end again and again.
    pub to_end: bool,
}

impl Client {
    /// The ring of a class of POSTs.
    pub fn ring(&mut self, class: PostClass) -> &mut Ring {
        &mut self.rings[class as usize % 3]
    }

    /// All rings with their class.
    pub fn rings(&self) -> impl Iterator<Item = (PostClass, &Ring)> {
        [PostClass::Normal, PostClass::Urgent, PostClass::Reader].into_iter().zip(&self.rings)
    }

    /// The stock record as it is now, with what the client works on.
    pub fn record(&self) -> ClientInfo {
        let seconds = |at: &u64| i64::try_from(at / 1_000_000).unwrap_or(i64::MAX);
        let flows = self.queue.inflight().iter().map(|(f, at)| (f.clone(), seconds(at)));
        ClientInfo { in_flight_flows: flows.collect(), ..self.info.clone() }
    }

    /// Whether this agent answers questions about flows: stock from 0.73 on, and
    /// our own.
    pub fn can_ask(&self) -> bool {
        self.info.client_name == crate::AGENT_NAME
            || version_at_least(&self.info.client_version, (0, 73))
    }
}

/// Whether a `major.minor[.patch][-tag]` version is at least `least`.
/// Unknown text is not.
pub fn version_at_least(text: &str, least: (u32, u32)) -> bool {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
    let mut next = || parts.next().and_then(|p| p.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor) >= least,
        _ => false,
    }
}

/// The clients of an organisation.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    map: BTreeMap<String, Client>,
    /// Records that changed since the last snapshot hold their journal here.
    pub pins: BTreeSet<Arc<Segment>>,
    /// A snapshot is due.
    pub dirty: bool,
    /// Clients with tasks that came from files of the stock queue.
    pub with_files: BTreeSet<String>,
    /// What was deleted and may still be heard of.
    pub deleted: Deleted,
    /// What is said of a client that was deleted goes here, and nowhere.
    nobody: Client,
}

impl Clients {
    /// The client, if known.
    pub fn get(&self, id: &str) -> Option<&Client> {
        self.map.get(id)
    }

    /// The client, if known.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Client> {
        self.map.get_mut(id)
    }

    /// The client, made if it is new. Of one that was deleted and has not enrolled
    /// since nothing is kept.
    pub fn entry(&mut self, id: &str) -> &mut Client {
        if self.deleted.is_gone(id) {
            self.nobody = Client::default();
            return &mut self.nobody;
        }
        self.map.entry(id.to_owned()).or_insert_with(|| Client {
            info: ClientInfo { client_id: id.to_owned(), ..Default::default() },
            ..Default::default()
        })
    }

    /// Forgets the record of a client if it is of a life that is over. One that is
    /// newer than the deletion shows that the client lives again.
    pub fn remove_dead(&mut self, id: &str) {
        let life = self.map.get(id).map_or(0, |c| c.info.first_seen_at);
        if (life > 0 && self.deleted.is_over(id, life)) || (life == 0 && self.deleted.is_gone(id)) {
            self.remove(id);
        } else if life > 0 {
            self.deleted.enrolled(id, life);
        }
    }

    /// Forgets a client.
    pub fn remove(&mut self, id: &str) {
        self.dirty |= self.map.remove(id).is_some();
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Client)> {
        self.map.iter()
    }

    /// All, by id.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.map.values_mut()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Clients that match a search in stock syntax, in order of id.
    ///
    /// `all` or nothing finds everyone; `C.…` a client; `host:`, `label:`,
    /// `mac:`, `ip:` and indexed metadata keys match from the start, with `*`
    /// as a wildcard or `prefix/regex/`; `label:none` finds clients without
    /// one. Other text is looked for in ids, host names and labels. Comparison
    /// ignores case.
    pub fn found(&self, query: &str) -> impl Iterator<Item = &Client> {
        let matcher = Matcher::new(query);
        // The server's own pseudo client is in stock snapshots, and is no client.
        let matches =
            move |id: &str, c: &Client| id.starts_with("C.") && matcher.matches(id, &c.info);
        self.map.iter().filter(move |(id, c)| matches(id, c)).map(|(_, c)| c)
    }

    /// The ids of those [found](Self::found).
    pub fn search(&self, query: &str) -> Vec<String> {
        self.found(query).map(|c| c.info.client_id.clone()).collect()
    }
}

enum Matcher {
    All,
    Field(String, Pattern),
    Any(Pattern),
}

/// Text with `*` wildcards, lower case, or a regular expression after a prefix.
enum Pattern {
    Parts(Vec<String>),
    Regex(String, regex::Regex),
}

impl Pattern {
    /// A whole value with wildcards.
    fn new(text: &str) -> Self {
        Self::Parts(text.to_lowercase().split('*').map(str::to_owned).collect())
    }

    /// As a search term: a prefix unless it has wildcards.
    fn term(text: &str) -> Self {
        if let Some((prefix, rest)) = text.split_once('/')
            && let Some(re) = rest.strip_suffix('/')
            && let Ok(re) = regex::Regex::new(&format!("(?i)^(?:{re})"))
        {
            return Self::Regex(prefix.to_lowercase(), re);
        }
        if text.contains('*') { Self::new(text) } else { Self::new(&format!("{text}*")) }
    }

    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Parts(p) if p[0] == word)
    }

    fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let parts = match self {
            Self::Regex(prefix, re) => {
                return text.strip_prefix(prefix.as_str()).is_some_and(|rest| re.is_match(rest));
            }
            Self::Parts(parts) => parts,
        };
        let [parts @ .., last] = parts.as_slice() else { return false };
        let Some((first, middle)) = parts.split_first() else { return text == *last };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for m in middle {
            match rest.find(m.as_str()) {
                Some(i) => rest = &rest[i + m.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

impl Matcher {
    fn new(query: &str) -> Self {
        let q = query.trim();
        if q.is_empty() || q == "all" || q == "*" || q == "." {
            return Self::All;
        }
        if let Some((field, value)) = q.split_once(':') {
            return Self::Field(field.to_lowercase(), Pattern::term(value));
        }
        if q.starts_with("C.") {
            return Self::Field("client".into(), Pattern::new(&format!("{q}*")));
        }
        Self::Any(Pattern::new(&format!("*{q}*")))
    }

    fn matches(&self, id: &str, info: &ClientInfo) -> bool {
        match self {
            Self::All => true,
            Self::Field(field, p) => match field.as_str() {
                "client" => p.matches(id),
                "host" | "hostname" => p.matches(&info.hostname) || p.matches(&info.fqdn),
                "label" if p.is("none") => info.labels.is_empty(),
                "label" => info.labels.iter().any(|l| p.matches(l)),
                "mac" => info.mac_addresses.iter().any(|m| p.matches(m)),
                "ip" => {
                    p.matches(&info.ip_address)
                        || info.ip_address.rsplit_once(':').is_some_and(|(a, _)| p.matches(a))
                }
                "os" | "system" => p.matches(&info.system),
                key => info.metadata.get(key).is_some_and(|v| p.matches(v)),
            },
            Self::Any(p) => {
                p.matches(id)
                    || p.matches(&info.hostname)
                    || p.matches(&info.fqdn)
                    || info.labels.iter().any(|l| p.matches(l))
            }
        }
    }
}

/// The shape the API gives a client. `connected` clients are shown as seen now.
pub fn api_client(info: &ClientInfo, now: Option<u64>) -> ApiClient {
    ApiClient {
        client_id: info.client_id.clone(),
        agent_information: Some(AgentInformation {
            version: info.client_version.clone(),
            name: info.client_name.clone(),
            build_time: info.build_time.clone(),
            build_url: info.build_url.clone(),
        }),
        os_info: Some(Uname {
            system: info.system.clone(),
            hostname: info.hostname.clone(),
            release: info.release.clone(),
            machine: info.architecture.clone(),
            fqdn: info.fqdn.clone(),
            mac_addresses: info.mac_addresses.clone(),
        }),
        first_seen_at: info.first_seen_at,
        last_seen_at: now.unwrap_or(info.ping),
        last_ip: info.ip_address.clone(),
        labels: info.labels.clone(),
        last_interrogate_flow_id: info.last_interrogate_flow_id.clone(),
        last_interrogate_artifact_name: info.last_interrogate_artifact_name.clone(),
        last_hunt_timestamp: info.last_hunt_timestamp,
        last_event_table_version: info.last_event_table_version,
        last_label_timestamp: info.labels_timestamp,
        in_flight_flows: info.in_flight_flows.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Clients {
        let mut t = Clients::default();
        for (id, host, labels) in [
            ("C.0000000000000001", "web-1", vec!["prod", "Linux"]),
            ("C.0000000000000002", "WEB-2", vec![]),
            ("C.0000000000000003-O1", "db", vec!["prod"]),
            ("server", "server", vec![]),
        ] {
            let c = t.entry(id);
            c.info.hostname = host.into();
            c.info.labels = labels.into_iter().map(str::to_owned).collect();
        }
        t
    }

    #[test]
    fn searches() {
        let t = table();
        let n = |q: &str| t.search(q).len();
        assert_eq!(n("all"), 3);
        assert_eq!(n(""), 3);
        assert_eq!(n("host:web*"), 2);
        assert_eq!(n("host:web-1"), 1);
        assert_eq!(n("host:web"), 2);
        assert_eq!(n("host:web-/[2-9]/"), 1);
        assert_eq!(n("label:prod"), 2);
        assert_eq!(n("label:linux"), 1);
        assert_eq!(n("label:none"), 1);
        assert_eq!(n("C.0000000000000002"), 1);
        assert_eq!(n("web"), 2);
        assert_eq!(n("host:*e*1"), 1);
        assert_eq!(n("nothing"), 0);
    }

    #[test]
    fn rings_forget_the_oldest() {
        let mut r = Ring::default();
        let mut push = |i: u8, at: u64| {
            r.push([i; 16], at, Weak::new());
            r.clone()
        };
        for i in 0..6 {
            push(i, i.into());
            push(i, 99);
        }
        let r = push(5, 5);
        assert!(r.has(&[5; 16]) && r.has(&[2; 16]) && !r.has(&[1; 16]));
        // A journal that comes late brings many that are older.
        let push = |r: &Ring, i: u8, at: u64| {
            let mut r = r.clone();
            r.push([i; 16], at, Weak::new());
            r
        };
        let mut late = r.clone();
        for i in 100..120 {
            late = push(&late, i, 1);
        }
        assert!((2..6).chain(116..120).all(|i| late.has(&[i; 16])) && late.0.len() == 8);
        // A clock that is ahead does not keep newer ones out.
        let mut ahead = push(&r, 200, 1 << 40);
        for i in 201..205 {
            ahead = push(&ahead, i, (1 << 40) + u64::from(i));
        }
        let ahead = push(&ahead, 9, 9);
        assert!(ahead.has(&[9; 16]) && ahead.has(&[204; 16]));
    }

    #[test]
    fn versions() {
        assert!(version_at_least("0.77.2", (0, 73)));
        assert!(version_at_least("1.0", (0, 73)));
        assert!(!version_at_least("0.7.0-3", (0, 73)));
        assert!(!version_at_least("0.72.4", (0, 73)));
        assert!(!version_at_least("", (0, 73)));
    }
}
