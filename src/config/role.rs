//! What a process is in the cluster, from its files and flags.
//!
//! A pure function: whoever starts a node, makes its files or checks them asks here.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use super::settings::NodeKind;
use super::{Config, Document, Settings, check, identity, split};
use crate::crypto::certs::Certificate;
use crate::crypto::{NodeError, NodeIdentity, NodeName, Revocations};

/// What the command line says: `frontend --minion --node NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Run as a minion.
    pub minion: bool,
    /// As which node.
    pub node: Option<String>,
}

/// A process and its place in the cluster.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its name, which no other node has.
    pub name: NodeName,
    /// What it does.
    pub role: NodeRole,
    /// The configuration as this node sees it: on a minion its `ExtraFrontends` entry
    /// lies over `Frontend`.
    pub config: Config,
    /// The same as a document.
    pub document: Document,
    /// The deployment's CA, which node certificates are checked against.
    pub ca: Certificate,
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum NodeRole {
    /// Everything: there is no other node.
    Single,
    /// Serves clients, the API, the GUI and the minions. Also without any minion, if
    /// its settings say that it is a master.
    Master {
        /// The minions the configuration names; a certificate proves one.
        minions: Vec<Minion>,
        /// Whose certificates are no longer believed.
        revoked: Revocations,
        /// Its own, if it has one. It listens with `Frontend.certificate`.
        identity: Option<NodeIdentity>,
    },
    /// Serves clients.
    Minion {
        /// Where the master listens, with the API's TLS.
        master: Address,
        /// What it shows there.
        identity: NodeIdentity,
    },
}

/// One of `ExtraFrontends`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minion {
    /// Its name.
    pub name: NodeName,
    /// Public host name.
    pub hostname: String,
    /// Port for clients.
    pub port: u16,
}

impl NodePlan {
    /// What it shows other nodes, if it has that.
    pub fn identity(&self) -> Option<&NodeIdentity> {
        match &self.role {
            NodeRole::Single => None,
            NodeRole::Master { identity, .. } => identity.as_ref(),
            NodeRole::Minion { identity, .. } => Some(identity),
        }
    }

    /// The word for the role, as in logs and the cluster's status.
    pub fn role_name(&self) -> &'static str {
        match &self.role {
            NodeRole::Single => "single",
            NodeRole::Master { .. } => "master",
            NodeRole::Minion { .. } => "minion",
        }
    }
}

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Without brackets.
    pub host: String,
    /// From 1.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bare {
            Some(h) => h.parse::<std::net::Ipv6Addr>().map(|_| h).map_err(|_| bad())?,
            None if host.contains([':', '[', ']', '/', '@']) => return Err(bad()),
            None => host,
        };
        let port: u16 = port.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?;
        if host.is_empty() || host.chars().any(char::is_whitespace) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Why there is no plan, and where it is to be mended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{path}: {message}")]
pub struct RoleError {
    /// Which file, or the command line.
    pub place: Place,
    /// The key, as `cluster.master_address`, or the flag.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Where a plan's error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The configuration.
    Config,
    /// Our own settings.
    Settings,
    /// The flags of the command.
    CommandLine,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Config | Place::CommandLine => "",
            Place::Settings => "settings: ",
        })
    }
}

impl RoleError {
    /// For a message that names the file already.
    pub(super) fn without_place(self) -> Self {
        Self { place: Place::Config, ..self }
    }
}

type Result<T, E = RoleError> = std::result::Result<T, E>;

fn wrong<T>(place: Place, path: &str, message: impl Into<String>) -> Result<T> {
    Err(RoleError { place, path: path.to_owned(), message: message.into() })
}

/// The plan of the node that these files and flags describe, at time `now`.
pub fn resolve(
    document: &Document,
    config: &Config,
    settings: &Settings,
    flags: &Flags,
    now: SystemTime,
) -> Result<NodePlan> {
    let ca = identity::certificate("Client.ca_certificate", &config.client.ca_certificate)
        .or_else(|(path, e)| wrong(Place::Config, path, e.to_string()))?;
    check_role(settings, flags)?;
    if flags.minion {
        minion(document, config, settings, flags, ca, now)
    } else {
        leader(document, config, settings, flags, ca, now)
    }
}

/// Whether the files were made for the role that the flags ask for.
pub fn check_role(settings: &Settings, flags: &Flags) -> Result<()> {
    match (settings.node.role, flags.minion) {
        (Some(NodeKind::Minion), false) => {
            let message = "is minion: start it with --minion, or a second master would run";
            wrong(Place::Settings, "node.role", message)
        }
        (Some(NodeKind::Master), true) => {
            wrong(Place::Settings, "node.role", "is master, and --minion was given")
        }
        _ => Ok(()),
    }
}

fn minion(
    document: &Document,
    config: &Config,
    settings: &Settings,
    flags: &Flags,
    ca: Certificate,
    now: SystemTime,
) -> Result<NodePlan> {
    let asked = flags.node.as_deref().filter(|n| !n.is_empty());
    let Some(name) = asked.or(settings.node_name()) else {
        return wrong(Place::CommandLine, "--node", "missing: which of ExtraFrontends is this?");
    };
    if let Some(own) = settings.node_name().filter(|own| *own != name) {
        let message = format!("is {own}, and --node {name} was given");
        return wrong(Place::Settings, "node.name", message);
    }
    let known = config.node_names();
    let Some(index) = known.iter().rposition(|n| n == name) else {
        let message = format!("no frontend is called {name}; there are: {}", known.join(", "));
        return wrong(Place::Config, "ExtraFrontends", message);
    };
    let document = split::minion(document, index.checked_sub(1));
    let merged = check::model(&document).or_else(|f| wrong(Place::Config, &f.path, f.message))?;
    let name = node_name(Place::CommandLine, "--node", name)?;
    let master = master_address(config, settings, index > 0)?;
    let Some(identity) = own_identity(settings, &name, &ca, now)? else {
        let message = "missing: with it a minion proves itself to the master; \
                       `config frontend` makes one for every node";
        return wrong(Place::Settings, "node.certificate", message);
    };
    let role = NodeRole::Minion { master, identity };
    Ok(NodePlan { name, role, config: merged, document, ca })
}

fn leader(
    document: &Document,
    config: &Config,
    settings: &Settings,
    flags: &Flags,
    ca: Certificate,
    now: SystemTime,
) -> Result<NodePlan> {
    let own = config.frontend.node_name();
    let name = settings.node_name().unwrap_or(&own);
    if let Some(asked) = flags.node.as_deref().filter(|n| !n.is_empty() && *n != name && *n != own)
    {
        let message = match config.node_names().iter().any(|n| n == asked) {
            true => format!("{asked} is a minion: give --minion too"),
            false => format!("this is {name}, not {asked}"),
        };
        return wrong(Place::CommandLine, "--node", message);
    }
    let name = match settings.node_name() {
        Some(n) => node_name(Place::Settings, "node.name", n)?,
        None => node_name(Place::Config, "Frontend.hostname", &own)?,
    };
    let identity = own_identity(settings, &name, &ca, now)?;
    let revoked = revocations(settings)?;
    let minions = minions(config)?;
    let role = match minions.is_empty() && settings.node.role.is_none() {
        true => NodeRole::Single,
        false => NodeRole::Master { minions, revoked, identity },
    };
    Ok(NodePlan { name, role, config: config.clone(), document: document.clone(), ca })
}

/// Who is not believed any more.
pub fn revocations(settings: &Settings) -> Result<Revocations> {
    Revocations::parse(&settings.cluster.revoked_nodes)
        .or_else(|_| wrong(Place::Settings, "cluster.revoked_nodes", "one of the entries is empty"))
}

/// The minions a configuration names.
pub fn minions(config: &Config) -> Result<Vec<Minion>> {
    let entries = config.extra_frontends.iter().zip(config.node_names().into_iter().skip(1));
    entries
        .enumerate()
        .map(|(i, (f, name))| {
            let path = format!("ExtraFrontends[{i}].hostname");
            let of =
                |own: &str, masters: &str| if own.is_empty() { masters } else { own }.to_owned();
            Ok(Minion {
                name: node_name(Place::Config, &path, &name)?,
                hostname: of(f.hostname_text(), config.frontend.hostname()),
                port: f.port_or(config.frontend.bind_port()),
            })
        })
        .collect()
}

fn node_name(place: Place, path: &str, text: &str) -> Result<NodeName> {
    NodeName::parse(text).or_else(|e| wrong(place, path, e.to_string()))
}

/// Where the master listens. `Frontend` is still the master's here if it is `shared`:
/// a node's own entry lies over it only afterwards.
fn master_address(config: &Config, settings: &Settings, shared: bool) -> Result<Address> {
    let given = &settings.cluster.master_address;
    if !given.is_empty() {
        return given
            .parse()
            .or_else(|e: String| wrong(Place::Settings, "cluster.master_address", e));
    }
    if config.api.bind_scheme() != "tcp" {
        return wrong(Place::Config, "API.bind_scheme", "minions reach the master over tcp alone");
    }
    let loopback = config.api.bind_address().parse::<std::net::IpAddr>();
    let loopback = loopback.is_ok_and(|ip| ip.is_loopback());
    let host = match config.api.hostname.as_str() {
        "" if shared && !loopback => config.frontend.hostname(),
        "" => {
            let message = "missing: under which name do minions reach the master's API? \
                           (cluster.master_address in the settings can say it too)";
            return wrong(Place::Config, "API.hostname", message);
        }
        name => name,
    };
    let address = Address { host: host.to_owned(), port: config.api.bind_port() };
    address.to_string().parse().or_else(|e: String| wrong(Place::Config, "API.hostname", e))
}

/// What the settings hold, which must be `name`'s.
fn own_identity(
    settings: &Settings,
    name: &NodeName,
    ca: &Certificate,
    now: SystemTime,
) -> Result<Option<NodeIdentity>> {
    let node = &settings.node;
    match (node.certificate.is_empty(), node.private_key.is_empty()) {
        (true, true) => return Ok(None),
        (false, true) => return wrong(Place::Settings, "node.private_key", "missing"),
        (true, false) => return wrong(Place::Settings, "node.certificate", "missing"),
        (false, false) => {}
    }
    let id =
        NodeIdentity::from_pem(&node.certificate, &node.private_key, ca, now).or_else(|e| {
            let hint = match &e {
                NodeError::Cert(crate::crypto::certs::CertError::OutOfDate { .. }) => {
                    "; see `config frontend --reissue`"
                }
                _ => "",
            };
            wrong(Place::Settings, "node.certificate", format!("{e}{hint}"))
        })?;
    if id.name != *name {
        let message = format!("is that of node {}, not {name}", id.name);
        return wrong(Place::Settings, "node.certificate", message);
    }
    Ok(Some(id))
}

#[cfg(test)]
#[path = "role_tests.rs"]
mod tests;
