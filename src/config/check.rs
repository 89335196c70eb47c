//! What is wrong with a configuration for a role, each finding with its place.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::document::Document;
use super::identity::{self, ServerIdentity};
use super::schema::{self, TOP, Treatment, Type};
use super::{Config, Settings};
use crate::crypto::certs::{CertError, Usage};
use crate::crypto::node::CN_PREFIX;

/// Who is going to use the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A frontend, GUI or API server.
    Server,
    /// A frontend that serves clients alone, led by a master.
    Minion,
    /// An agent on an endpoint.
    Agent,
    /// A caller of the API.
    ApiClient,
    /// A tool that only rewrites the file: its shape must be right, no more.
    Tool,
}

impl Role {
    /// Whether agents connect to it.
    pub fn serves(self) -> bool {
        matches!(self, Role::Server | Role::Minion)
    }
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Works, but not for long or not as meant.
    Warning,
    /// The role cannot start.
    Error,
}

/// One thing to say about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How serious.
    pub level: Level,
    /// Which file.
    pub origin: String,
    /// Line in it, from 1.
    pub line: usize,
    /// The key, as `Client.server_urls[0]`; empty for the file itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.origin, self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Finding {}

/// Certificates that end sooner than this are warned about.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// Everything there is to say about `doc` for `role`, in the order of the file.
pub fn check(doc: &Document, settings: &Settings, role: Role, now: SystemTime) -> Vec<Finding> {
    let mut c = Checker { doc, role, out: doc.problems().to_vec() };
    c.section(&doc.value, TOP, "");
    if role.serves() {
        for (path, message) in super::authenticator::problems(&doc.value["GUI"]) {
            c.error(&path, message);
        }
    }
    if let Ok(config) = model(doc) {
        match role {
            Role::Tool => {}
            Role::Agent => c.agent(&config),
            Role::ApiClient => c.api_client(&config, now),
            Role::Server | Role::Minion => c.server(&config, settings, now),
        }
    }
    c.out.sort_by_key(|f| f.line);
    c.out
}

/// The typed view of a document.
pub fn model(doc: &Document) -> Result<Config, Finding> {
    serde_json::from_value(without_nulls(&doc.value))
        .map_err(|e| doc.finding(Level::Error, "", format!("cannot be used: {e}")))
}

/// A key without a value is an absent key.
fn without_nulls(v: &Value) -> Value {
    match v {
        Value::Object(m) => Value::Object(
            m.iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k.clone(), without_nulls(v)))
                .collect(),
        ),
        Value::Array(a) => {
            Value::Array(a.iter().filter(|v| !v.is_null()).map(without_nulls).collect())
        }
        other => other.clone(),
    }
}

/// Whether a value is as good as absent.
fn is_default(v: &Value) -> bool {
    match v {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.values().all(is_default),
    }
}

struct Checker<'a> {
    doc: &'a Document,
    role: Role,
    out: Vec<Finding>,
}

impl Checker<'_> {
    fn say(&mut self, level: Level, path: &str, message: impl Into<String>) {
        self.out.push(self.doc.finding(level, path, message));
    }

    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.say(Level::Error, path, message);
    }

    /// Treats every key of a section as the table says.
    fn section(&mut self, value: &Value, section: &str, at: &str) {
        let (Value::Object(map), Some(keys)) = (value, schema::section(section)) else { return };
        for (name, v) in map {
            let Some(key) = keys.get(name.as_str()) else { continue };
            let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            if !is_default(v) {
                match (key.treatment, self.role) {
                    (Treatment::RestrictsServer, r) if r.serves() => self.error(
                        &path,
                        "restricts what the server allows, and this server does not honour it; \
                         remove it to start without that restriction",
                    ),
                    (Treatment::RestrictsAgent, Role::Agent) => self.error(
                        &path,
                        "restricts what the agent does, and this agent does not honour it",
                    ),
                    (Treatment::Feature, r) if r.serves() => {
                        self.say(Level::Note, &path, "not offered by this server; ignored");
                    }
                    _ => {}
                }
            }
            match &key.ty {
                Type::Section(s) => self.section(v, s, &path),
                Type::List(s) => {
                    for (i, v) in v.as_array().into_iter().flatten().enumerate() {
                        self.section(v, s, &format!("{path}[{i}]"));
                    }
                }
                _ => {}
            }
        }
    }

    fn require(&mut self, path: &str) -> bool {
        let there = self.doc.get(path).is_some_and(|v| !is_default(v));
        if !there {
            self.error(path, "missing");
        }
        there
    }

    fn parsed<T>(&mut self, result: Result<T, (&'static str, CertError)>) -> Option<T> {
        result.map_err(|(path, e)| self.error(path, e.to_string())).ok()
    }

    /// What both an agent and a server need of `Client`.
    fn client(&mut self, config: &Config) {
        if self.require("Client.ca_certificate") {
            let pem = &config.client.ca_certificate;
            let ca = identity::certificate("Client.ca_certificate", pem);
            self.parsed(ca);
        }
        self.require("Client.nonce");
        if self.require("Client.server_urls") {
            for (i, u) in config.client.server_urls.iter().enumerate() {
                if let Err(e) = check_url(u) {
                    self.error(&format!("Client.server_urls[{i}]"), e);
                }
            }
        }
        if config.client.pinned_server_name().contains('-') {
            let message = "contains a dash; agents take what follows it for an organisation";
            self.error("Client.pinned_server_name", message);
        }
        for (path, name) in [
            ("Client.pinned_server_name", config.client.pinned_server_name()),
            ("API.pinned_gw_name", config.api.pinned_gw_name()),
        ] {
            if name.starts_with(CN_PREFIX) {
                self.error(path, format!("begins with {CN_PREFIX}, as the names of nodes do"));
            }
        }
        let mode = config.client.crypto.certificate_verification_mode.to_ascii_uppercase();
        if !["", "PKI", "PKI_OR_THUMBPRINT", "THUMBPRINT_ONLY"].contains(&mode.as_str()) {
            let message = "should be PKI, PKI_OR_THUMBPRINT or THUMBPRINT_ONLY";
            self.error("Client.Crypto.certificate_verification_mode", message);
        }
    }

    fn agent(&mut self, config: &Config) {
        if self.doc.get("Client").is_none() {
            self.error("Client", "missing: this is not an agent's or server's file");
            return;
        }
        self.client(config);
        let mode = &config.client.crypto.certificate_verification_mode;
        if mode.eq_ignore_ascii_case("THUMBPRINT_ONLY") {
            let message = "this agent does not pin certificates by thumbprint";
            self.error("Client.Crypto.certificate_verification_mode", message);
        }
        if self.doc.get("CA.private_key").is_some()
            || self.doc.get("Frontend.private_key").is_some()
        {
            let message = "holds the server's secrets; give agents the output of `config client`";
            self.say(Level::Warning, "", message);
        }
    }

    fn api_client(&mut self, config: &Config, now: SystemTime) {
        let api = &config.api_config;
        let mut whole = true;
        for key in ["ca_certificate", "client_cert", "client_private_key", "api_connection_string"]
        {
            whole &= self.require(&format!("api_config.{key}"));
        }
        if !whole {
            return;
        }
        let ca = identity::certificate("api_config.ca_certificate", &api.ca_certificate);
        let own = identity::pair(
            ("api_config.client_cert", &api.client_cert),
            ("api_config.client_private_key", &api.client_private_key),
        );
        if let (Some(ca), Some((cert, _))) = (self.parsed(ca), self.parsed(own)) {
            self.certificate("api_config.client_cert", &cert, &ca, now, &[Usage::Client]);
        }
    }

    fn certificate(
        &mut self,
        path: &'static str,
        cert: &crate::crypto::certs::Certificate,
        ca: &crate::crypto::certs::Certificate,
        now: SystemTime,
        usages: &[Usage],
    ) {
        for usage in usages {
            if let Err(e) = cert.verify(ca, now, *usage) {
                let hint = match e {
                    CertError::OutOfDate { .. } => "; see `config reissue_certs`",
                    _ => "",
                };
                self.error(path, format!("{e}{hint}"));
                return;
            }
        }
        if cert.check_dates(now + SOON).is_err() {
            let message = "ends within 30 days; see `config reissue_certs`";
            self.say(Level::Warning, path, message);
        }
    }

    fn server(&mut self, config: &Config, settings: &Settings, now: SystemTime) {
        let mut whole = true;
        let gateway = self.role == Role::Server;
        let sections = ["Client", "API", "Frontend", "Datastore"];
        for section in sections.into_iter().chain(gateway.then_some("GUI")) {
            if self.doc.get(section).is_none() {
                self.error(section, "section missing: this is not a server's file");
                whole = false;
            }
        }
        if !whole {
            return;
        }
        self.client(config);
        // A minion's file may hold anything there, or nothing.
        if gateway {
            whole &= self.require("GUI.gw_certificate");
            whole &= self.require("GUI.gw_private_key");
        }
        whole &= self.require("Frontend.certificate");
        whole &= self.require("Frontend.private_key");
        if whole
            && !config.client.ca_certificate.is_empty()
            && let Some(id) = self.parsed(ServerIdentity::of(config, settings))
        {
            let both = [Usage::Server, Usage::Client];
            self.certificate("Frontend.certificate", &id.certificate, &id.ca, now, &both);
            self.name("Frontend.certificate", id.source(), config.client.pinned_server_name());
            if let (true, Some((cert, _))) = (gateway, &id.gateway) {
                self.certificate("GUI.gw_certificate", cert, &id.ca, now, &both);
                let name = cert.name().unwrap_or_default();
                self.name("GUI.gw_certificate", name, config.api.pinned_gw_name());
            }
        }
        self.paths_and_ports(config);
    }

    fn name(&mut self, path: &str, found: &str, wanted: &str) {
        if found != wanted {
            self.error(path, format!("is for {found:?}, but the pinned name is {wanted:?}"));
        }
    }

    fn paths_and_ports(&mut self, config: &Config) {
        for (path, dir) in [
            ("Datastore.location", config.datastore.location()),
            ("Datastore.filestore_directory", config.datastore.filestore_directory()),
        ] {
            if !dir.starts_with('/') {
                self.error(path, "should be an absolute path");
            }
        }
        for key in ["implementation", "master_implementation", "minion_implementation"] {
            let path = format!("Datastore.{key}");
            let known = ["", "FileBaseDataStore", "MemcacheFileDataStore", "RemoteFileDataStore"];
            if !self.doc.text(&path).is_none_or(|s| known.contains(&s)) {
                self.error(&path, "only the file based engines are offered");
            }
        }
        for section in ["API", "GUI", "Frontend", "Monitoring"] {
            let path = format!("{section}.bind_port");
            let number = self.doc.get(&path).and_then(Value::as_u64);
            if number.is_some_and(|n| n > 65_535) {
                self.error(&path, "no such port");
            }
        }
        if !["tcp", "unix"].contains(&config.api.bind_scheme()) {
            self.error("API.bind_scheme", "should be tcp or unix");
        }
        for (path, base) in [
            ("Frontend.base_path", &config.frontend.base_path),
            ("GUI.base_path", &config.gui.base_path),
        ] {
            if !base.is_empty() && (!base.starts_with('/') || base.ends_with('/')) {
                self.error(path, "should begin and not end with a slash");
            }
        }
        let tls = (
            config.frontend.tls_certificate_filename.is_empty(),
            config.frontend.tls_private_key_filename.is_empty(),
        );
        if tls.0 != tls.1 {
            let path = "Frontend.tls_certificate_filename";
            self.error(path, "needs tls_private_key_filename, and the other way round");
        }
        if let Err(e) = regex::Regex::new(&config.frontend.collection_error_regex) {
            self.error("Frontend.collection_error_regex", format!("not a regular expression: {e}"));
        }
        for (i, entry) in self
            .doc
            .get("ExtraFrontends")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            if entry.get("bind_port").and_then(Value::as_u64).is_some_and(|n| n > 65_535) {
                self.error(&format!("ExtraFrontends[{i}].bind_port"), "no such port");
            }
        }
        let mut names = config.node_names();
        names.sort();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            self.error("ExtraFrontends", format!("two nodes are called {}", twice[0]));
        }
    }
}

/// Whether agents can use a base URL.
pub fn check_url(text: &str) -> Result<(), String> {
    if !text.ends_with('/') {
        return Err("must end in /".into());
    }
    let url = url::Url::parse(text).map_err(|e| format!("not a URL: {e}"))?;
    if !["https", "http", "wss", "ws"].contains(&url.scheme()) {
        return Err(format!("scheme {:?}; should be https, http, wss or ws", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query or fragment".into());
    }
    Ok(())
}
