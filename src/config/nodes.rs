//! The files of a cluster: one configuration and one settings file for each node.
//!
//! Values in, values out; reading and writing them is the command's business. What
//! goes into a configuration is what the stock program knows and its own
//! `config frontend` sets, so every file written here loads there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::load::ConfigError;
use super::settings::{Issued, Node, NodeKind};
use super::{Config, Document, Settings, check, document, role, split};
use crate::crypto::certs::Authority;
use crate::crypto::{NodeIdentity, NodeName};
use crate::env::Entropy;

/// The CA's key, apart from everything else.
pub const CA_KEY_FILE: &str = "ca.key";
/// The master's configuration.
pub const MASTER_FILE: &str = "server.config.yaml";
/// The master's settings.
pub const MASTER_SETTINGS_FILE: &str = "server.fleet.yaml";
/// The agents' configuration.
pub const CLIENT_FILE: &str = "client.config.yaml";

/// Keys that only a master needs and that hold secrets.
const MASTERS_ALONE: [&str; 4] = ["CA", "api_config", "Mail", "Frontend.dyn_dns"];
/// What a minion keeps of `GUI`, which it does not serve: where people find it.
const GUI_KEPT: [&str; 5] =
    ["bind_address", "bind_port", "use_plain_http", "base_path", "public_url"];

/// A minion to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMinion {
    /// Public name or address.
    pub hostname: String,
    /// Port for clients; `None` is the master's.
    pub port: Option<u16>,
    /// Listening address.
    pub bind_address: String,
}

/// What becomes of the master's own URL in `Client.server_urls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MasterUrl {
    /// It stays as it is.
    #[default]
    AsIs,
    /// Clients connect to the master too.
    Keep,
    /// Clients connect to minions alone.
    Remove,
}

/// A change to a deployment's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Minions to add.
    pub add: Vec<NewMinion>,
    /// Name under which minions reach the master's API; `None` is what stands in the
    /// file, else the master's public name.
    pub api_hostname: Option<String>,
    /// Where the API listens; `None` opens it to all interfaces if it is on loopback.
    pub api_bind_address: Option<String>,
    /// The master's URL.
    pub master_url: MasterUrl,
    /// `Client.server_urls` is left alone: a load balancer stands in front.
    pub keep_urls: bool,
}

fn fail<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Change(message.into()))
}

/// Makes the change in the master's configuration. Returns what an operator should
/// know.
pub fn extend(doc: &mut Document, change: &Change) -> Result<Vec<String>, ConfigError> {
    let config = check::model(doc)?;
    let mut entries =
        doc.get("ExtraFrontends").and_then(Value::as_array).cloned().unwrap_or_default();
    for new in &change.add {
        entries.push(json!({
            "hostname": new.hostname,
            "bind_address": new.bind_address,
            "bind_port": new.port.unwrap_or(config.frontend.bind_port()),
        }));
    }
    if entries.is_empty() {
        return fail("there is no minion yet: name one with --hostname");
    }
    doc.set("ExtraFrontends", entries.into());
    let config = check::model(doc)?;
    unique(&config)?;
    let mut notes = api(doc, &config, change);
    if !change.keep_urls {
        urls(doc, &config, change.master_url)?;
    }
    // What the stock program runs on several nodes with.
    doc.set("Datastore.master_implementation", "MemcacheFileDataStore".into());
    doc.set("Datastore.minion_implementation", "RemoteFileDataStore".into());
    doc.remove("Datastore.implementation");
    let store = [config.datastore.location(), config.datastore.filestore_directory()];
    if store.iter().any(|d| d.starts_with("/var/tmp") || d.starts_with("/tmp")) {
        notes.push(format!(
            "Datastore.location is {}: it must be one directory that every node sees",
            store[0]
        ));
    }
    Ok(notes)
}

fn unique(config: &Config) -> Result<(), ConfigError> {
    let mut names = config.node_names();
    names.sort();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => fail(format!("ExtraFrontends: two nodes would be called {}", twice[0])),
        None => Ok(()),
    }
}

/// Makes the master's API reachable for minions.
fn api(doc: &mut Document, config: &Config, change: &Change) -> Vec<String> {
    let mut notes = Vec::new();
    let hostname = change.api_hostname.as_deref().unwrap_or(match config.api.hostname.as_str() {
        "" => config.frontend.hostname(),
        name => name,
    });
    doc.set("API.hostname", hostname.into());
    let here = hostname == "localhost" || hostname.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if here {
        notes.push(format!(
            "API.hostname is {hostname}: minions on other hosts will not find the master there"
        ));
    }
    let tcp = config.api.bind_scheme() == "tcp";
    let loopback = config.api.bind_address().parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let address = match &change.api_bind_address {
        Some(a) => Some(a.as_str()),
        None if loopback || !tcp => Some("0.0.0.0"),
        None => None,
    };
    if let Some(address) = address {
        doc.set("API.bind_address", address.into());
        notes.push(format!(
            "the API listens on {address} port {} now: let only the minions and API clients reach it",
            config.api.bind_port()
        ));
    }
    if !tcp {
        doc.set("API.bind_scheme", "tcp".into());
    }
    notes
}

/// Where a URL leads: what tells one node's from another's.
fn place(url: &Url) -> (String, Option<u16>) {
    let host = url.host_str().unwrap_or_default();
    (host.to_ascii_lowercase(), url.port_or_known_default())
}

/// Gives agents a URL for each node, after the pattern of the first there is.
fn urls(doc: &mut Document, config: &Config, master: MasterUrl) -> Result<(), ConfigError> {
    let read = |(i, text): (usize, &String)| {
        Url::parse(text).or_else(|e| fail(format!("Client.server_urls[{i}]: not a URL: {e}")))
    };
    let mut all: Vec<Url> =
        config.client.server_urls.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    let Some(pattern) = all.first().cloned() else {
        return fail("Client.server_urls: missing");
    };
    let of = |hostname: &str, port: u16| -> Result<Url, ConfigError> {
        let host = match hostname.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => hostname.to_owned(),
        };
        let mut url = pattern.clone();
        let set = url.set_host(Some(&host)).is_ok() && url.set_port(Some(port)).is_ok();
        if set { Ok(url) } else { fail(format!("{hostname:?} can stand in no URL")) }
    };
    let add = |all: &mut Vec<Url>, url: Url| {
        if !all.iter().any(|u| place(u) == place(&url)) {
            all.push(url);
        }
    };
    let masters = of(config.frontend.hostname(), config.frontend.bind_port())?;
    match master {
        MasterUrl::AsIs => {}
        MasterUrl::Keep => add(&mut all, masters.clone()),
        MasterUrl::Remove => all.retain(|u| place(u) != place(&masters)),
    }
    for minion in role::minions(config).or_else(|e| fail(e.to_string()))? {
        add(&mut all, of(&minion.hostname, minion.port)?);
    }
    doc.set("Client.server_urls", all.iter().map(Url::as_str).collect::<Vec<_>>().into());
    Ok(())
}

/// Which nodes get a new certificate though they have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reissue(Vec<String>);

impl Reissue {
    /// These nodes; `all` is every one.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    fn has(&self, name: &NodeName) -> bool {
        self.0.iter().any(|n| n == "all" || n == name.as_str())
    }

    /// The first that is no node.
    fn unknown(&self, known: &[String]) -> Option<&String> {
        self.0.iter().find(|n| *n != "all" && !known.contains(n))
    }
}

/// What certificates are made with.
pub struct Issuing<'a> {
    /// The CA with its key; `None` if that is not at hand.
    pub authority: Option<&'a Authority>,
    /// Of serial numbers.
    pub entropy: &'a dyn Entropy,
    /// From when they are valid.
    pub now: SystemTime,
    /// For how long.
    pub days: u32,
    /// For whom again.
    pub reissue: &'a Reissue,
}

/// A file to write, readable by its owner alone.
pub struct NodeFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its contents.
    pub text: Zeroizing<String>,
}

/// The files of all nodes, in the order in which they should be written, and what an
/// operator should know.
pub struct Made {
    /// The files.
    pub files: Vec<NodeFile>,
    /// The remarks.
    pub notes: Vec<String>,
}

/// Name of a minion's configuration file.
pub fn minion_file(name: &NodeName) -> String {
    format!("minion.{name}.config.yaml")
}

/// Name of a minion's settings file.
pub fn minion_settings_file(name: &NodeName) -> String {
    format!("minion.{name}.fleet.yaml")
}

/// Splits the extended configuration into the files of the nodes.
///
/// `settings` are the master's, and go into its file with what was issued here.
/// `existing` holds the settings of nodes from an earlier run by file name: what is
/// there is kept, but for the keys that all nodes share.
pub fn files(
    doc: &Document,
    settings: &Settings,
    issuing: &Issuing<'_>,
    existing: &BTreeMap<String, String>,
) -> Result<Made, ConfigError> {
    let config = check::model(doc)?;
    if let Some(name) = issuing.reissue.unknown(&config.node_names()) {
        let known = config.node_names().join(", ");
        return fail(format!("--reissue {name}: no such node; there are: {known}"));
    }
    let mut issuer = Issuer { issuing, settings: settings.clone() };
    let mut made = Made { files: Vec::new(), notes: Vec::new() };
    let mut push = |name: String, text: Zeroizing<String>| made.files.push(NodeFile { name, text });
    for (i, minion) in role::minions(&config).or_else(|e| fail(e.to_string()))?.iter().enumerate() {
        let file = minion_settings_file(&minion.name);
        let before = existing
            .get(&file)
            .map(|text| Settings::parse(text).map_err(|e| ConfigError::Settings(file.clone(), e)));
        let again = issuing.reissue.has(&minion.name);
        let own = match before.transpose()? {
            Some(s) if !s.node.certificate.is_empty() && !again => Some(s),
            None if !again && issuer.has_issued(&minion.name) => None,
            before => Some(issuer.settings_of(&minion.name, before)?),
        };
        let identity = own.as_ref().map(|s| &s.node);
        push(minion_file(&minion.name), minion_document(doc, &config, i, identity));
        match own {
            Some(mut own) => {
                own.rotation = settings.rotation.clone();
                push(file, own.to_yaml().into());
            }
            None => made.notes.push(format!(
                "{file} was made earlier and is not here: the one that node {0} has stays good \
                 (--reissue {0} makes a new one)",
                minion.name
            )),
        }
    }
    push(CLIENT_FILE.into(), document::to_yaml(&split::client(doc, None)?).into());
    let master = issuer.master(&config)?;
    push(MASTER_SETTINGS_FILE.into(), master.to_yaml().into());
    // Last: with it the rest counts.
    let mut server = doc.clone();
    server.remove("CA");
    push(MASTER_FILE.into(), server.to_yaml().into());
    Ok(made)
}

/// A minion's configuration: its own entry, and no secret that is not the cluster's.
fn minion_document(
    doc: &Document,
    config: &Config,
    index: usize,
    identity: Option<&Node>,
) -> Zeroizing<String> {
    let mut out = doc.clone();
    MASTERS_ALONE.iter().for_each(|path| out.remove(path));
    let entry = doc.get("ExtraFrontends").and_then(|e| e.get(index)).cloned();
    out.set("ExtraFrontends", Value::Array(entry.into_iter().collect()));
    let mut gui = serde_json::Map::new();
    for key in GUI_KEPT {
        if let Some(v) = doc.get(&format!("GUI.{key}")) {
            gui.insert(key.into(), v.clone());
        }
    }
    // The stock program will not start without; this certificate opens nothing there.
    if let Some(id) = identity {
        gui.insert("gw_certificate".into(), id.certificate.as_str().into());
        gui.insert("gw_private_key".into(), id.private_key.as_str().into());
    }
    out.set("GUI", gui.into());
    // Nodes of one host need ports of their own for metrics; the first keeps the port.
    let hosts =
        std::iter::once(config.frontend.hostname()).chain(config.extra_frontends.iter().map(|f| {
            match f.hostname_text() {
                "" => config.frontend.hostname(),
                name => name,
            }
        }));
    let hosts: Vec<&str> = hosts.collect();
    let before = hosts[..=index].iter().filter(|h| **h == hosts[index + 1]).count();
    if let (true, Ok(n)) = (before > 0, u16::try_from(before)) {
        let port = config.monitoring.bind_port().saturating_add(n);
        out.set("Monitoring.bind_port", port.into());
    }
    out.to_yaml().into()
}

struct Issuer<'a> {
    issuing: &'a Issuing<'a>,
    /// The master's settings, which record what is issued.
    settings: Settings,
}

impl Issuer<'_> {
    /// Whether the node has a certificate from an earlier run.
    fn has_issued(&self, name: &NodeName) -> bool {
        self.settings.cluster.issued.iter().any(|i| i.node == name.as_str())
    }

    fn issue(&mut self, name: &NodeName) -> Result<NodeIdentity, ConfigError> {
        let Some(ca) = self.issuing.authority else {
            return fail(format!(
                "node {name} needs a certificate, and the CA's key is not here: give --ca_key FILE"
            ));
        };
        self.admit(name)?;
        let i = self.issuing;
        let id = NodeIdentity::issue(ca, i.entropy, i.now, i.days, name)?;
        let now = i.now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let issued = &mut self.settings.cluster.issued;
        issued.retain(|i| i.not_after >= now);
        issued.push(Issued {
            node: name.to_string(),
            serial: id.serial.clone(),
            not_after: id.not_after,
        });
        Ok(id)
    }

    /// A revoked name that is to be used again: its old certificates stay revoked, each
    /// by its number.
    fn admit(&mut self, name: &NodeName) -> Result<(), ConfigError> {
        let revoked = role::revocations(&self.settings).or_else(|e| fail(e.to_string()))?;
        if !revoked.has_name(name) {
            return Ok(());
        }
        let cluster = &mut self.settings.cluster;
        let of_name = cluster.issued.iter().filter(|i| i.node == name.as_str());
        let serials: Vec<String> = of_name.map(|i| i.serial.clone()).collect();
        if serials.is_empty() {
            return fail(format!(
                "node {name} is revoked, and the serial numbers of its old certificates are not \
                 known: give the new node another name, or replace {name} in \
                 cluster.revoked_nodes by those numbers"
            ));
        }
        cluster.revoked_nodes.retain(|e| e.trim() != name.as_str());
        for serial in serials {
            if !cluster.revoked_nodes.contains(&serial) {
                cluster.revoked_nodes.push(serial);
            }
        }
        Ok(())
    }

    /// A minion's settings with a new identity: the rest is what it had, else the
    /// master's tuning.
    fn settings_of(
        &mut self,
        name: &NodeName,
        before: Option<Settings>,
    ) -> Result<Settings, ConfigError> {
        let id = self.issue(name)?;
        let mut out = before
            .unwrap_or_else(|| Settings { cluster: Default::default(), ..self.settings.clone() });
        out.node = node(&id, NodeKind::Minion);
        Ok(out)
    }

    /// The master's settings, with an identity.
    fn master(mut self, config: &Config) -> Result<Settings, ConfigError> {
        let own = config.frontend.node_name();
        let name = self.settings.node_name().unwrap_or(&own).to_owned();
        let name = NodeName::parse(&name).or_else(|e| fail(format!("node.name: {e}")))?;
        if self.settings.node.certificate.is_empty() || self.issuing.reissue.has(&name) {
            let id = self.issue(&name)?;
            self.settings.node = node(&id, NodeKind::Master);
            self.settings.cluster.node.clear();
        }
        Ok(self.settings)
    }
}

fn node(id: &NodeIdentity, role: NodeKind) -> Node {
    Node {
        name: id.name.to_string(),
        role: Some(role),
        certificate: id.certificate_pem.clone(),
        private_key: id.private_key_pem.to_string(),
    }
}

/// Adds a node to `cluster.revoked_nodes`: all certificates of its name, whatever was
/// issued. `Ok(false)` if it was there.
pub fn revoke(settings: &mut Settings, config: &Config, node: &str) -> Result<bool, ConfigError> {
    let own = config.frontend.node_name();
    let own = settings.node_name().unwrap_or(&own);
    if node == own {
        return fail(format!("--node {node}: that is the master these settings belong to"));
    }
    let issued = settings.cluster.issued.iter().map(|i| i.node.as_str());
    let mut known: Vec<String> = config.node_names().into_iter().skip(1).collect();
    known.extend(issued.filter(|n| *n != own).map(str::to_owned));
    known.sort();
    known.dedup();
    if !known.iter().any(|n| n == node) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return fail(format!("--node {node}: no such node; known are: {known}"));
    }
    let list = &mut settings.cluster.revoked_nodes;
    if list.iter().any(|e| e.trim() == node) {
        return Ok(false);
    }
    list.push(node.to_owned());
    Ok(true)
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
