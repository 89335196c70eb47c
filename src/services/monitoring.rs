//! Event tables: which event queries a client is to run, and in which version.
//!
//! A version stands for one content and is stable: an agent that has the
//! content is not sent it again, whatever restarts. Versions are nanoseconds,
//! and always above what the client claims, since it ignores smaller ones.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prost::Message;
use serde::{Deserialize, Serialize};
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, ArtifactSpec, ClientEventTable, Tool, VeloMessage, VqlCollectorArgs,
    VqlEventTable,
};

use super::compiler::{self, CompileError, EventDefaults};
use super::flows::job::hash;
use super::server::{Org, Server, ServiceError};
use super::state::MONITORING;
use crate::store::paths::SERVER_CLIENT;
use crate::store::{StoreError, paths};

/// Versions remembered per content; more means that clients come from many
/// other servers.
const VERSIONS: usize = 8;

/// An organisation's monitoring.
#[derive(Debug, Default)]
pub struct Monitoring {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    table: ClientEventTable,
    /// What the server itself watches, and how often that was changed.
    server: ArtifactCollectorArgs,
    server_changes: u64,
    /// Content hash (hex) to the versions that stand for it, oldest first.
    versions: Versions,
    contents: Contents,
}

/// What the table comes to for clients with the same labels. Every client that is held is
/// looked at now and then, and nearly always has what it should.
#[derive(Debug, Default)]
struct Contents {
    /// The definitions that these were compiled from: [`Repository::version`].
    ///
    /// [`Repository::version`]: super::repository::Repository::version
    repository: u64,
    /// By the label events that apply.
    of: BTreeMap<Vec<usize>, Content>,
}

#[derive(Debug, Clone)]
struct Content {
    /// Its hash, hex: the name of its versions.
    key: String,
    /// No query at all.
    empty: bool,
}

impl Inner {
    fn set(&mut self, table: ClientEventTable) {
        self.table = table;
        self.contents.of.clear();
    }

    /// Whether a client with these labels has what it should, as far as that is known.
    fn is_current(&self, repository: u64, labels: &[String], claim: u64) -> bool {
        let content = match self.contents.repository == repository {
            true => self.contents.of.get(&applying(&self.table, labels)),
            false => None,
        };
        content.is_some_and(|c| self.stands_for(c, claim))
    }

    fn stands_for(&self, c: &Content, claim: u64) -> bool {
        let versions = self.versions.0.get(&c.key);
        versions.is_some_and(|v| v.contains(&claim)) || (c.empty && claim == 0)
    }

    /// Notes what `table` was compiled to, unless it has been replaced meanwhile.
    fn note(&mut self, repository: u64, table: &ClientEventTable, labels: &[String], c: Content) {
        if self.table.version != table.version {
            return;
        }
        if self.contents.repository != repository {
            self.contents = Contents { repository, of: BTreeMap::new() };
        }
        self.contents.of.insert(applying(&self.table, labels), c);
    }
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Versions(BTreeMap<String, Vec<u64>>);

impl Monitoring {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The stored table.
    pub fn table(&self) -> ClientEventTable {
        self.with(|i| i.table.clone())
    }

    /// The event artifacts that run on the server.
    pub fn server_table(&self) -> ArtifactCollectorArgs {
        self.with(|i| i.server.clone())
    }

    /// Changes whenever that table does.
    pub fn server_changes(&self) -> u64 {
        self.with(|i| i.server_changes)
    }
}

fn versions_path(server: &Server, org: &Org) -> String {
    format!("{}/event_versions/{}.json", super::server::fleet_dir(&server.tree.root), org.id)
}

/// Which label events apply to a client with these labels, in stored order.
fn applying(table: &ClientEventTable, labels: &[String]) -> Vec<usize> {
    let applies = |label: &str| labels.iter().any(|x| x.eq_ignore_ascii_case(label));
    (table.label_events.iter().enumerate())
        .filter(|(_, l)| applies(&l.label))
        .map(|(i, _)| i)
        .collect()
}

/// The specs that apply to a client with these labels, in stored order.
fn specs_for(table: &ClientEventTable, labels: &[String]) -> Vec<ArtifactSpec> {
    let mut out: Vec<ArtifactSpec> = table.artifacts.iter().flat_map(compiler::specs).collect();
    for l in applying(table, labels).into_iter().filter_map(|i| table.label_events.get(i)) {
        out.extend(l.artifacts.iter().flat_map(compiler::specs));
    }
    out
}

impl Server {
    pub(super) async fn load_monitoring(&self, org: &Org) -> Result<(), ServiceError> {
        let stored = self.tree.get(&paths::client_monitoring(&org.id)).await?;
        let table = stored.unwrap_or_else(|| ClientEventTable {
            artifacts: Some(ArtifactCollectorArgs {
                artifacts: self.options.default_client_monitoring.clone(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let path = versions_path(self, org);
        let data = crate::store::objects::read_whole(&*self.env.fs, &path, 64 << 20).await;
        let data = data.map_err(StoreError::from)?;
        let versions = data.and_then(|d| serde_json::from_slice(&d).ok()).unwrap_or_default();
        let server = self.tree.get(&paths::server_monitoring(&org.id)).await?;
        let server = server.unwrap_or_else(|| ArtifactCollectorArgs {
            artifacts: self.options.default_server_monitoring.clone(),
            ..Default::default()
        });
        org.monitoring.with(|i| {
            i.set(table);
            i.versions = versions;
            i.server = server;
            i.server_changes += 1;
        });
        Ok(())
    }

    /// Replaces what the server itself watches; its queries are restarted if that
    /// makes others of them.
    pub async fn set_server_monitoring(
        &self,
        org: &Org,
        table: ArtifactCollectorArgs,
    ) -> Result<(), ServiceError> {
        let specs = compiler::specs(&table);
        for spec in &specs {
            if org.repository.get(&spec.artifact).is_none() {
                return Err(ServiceError::NotFound(format!("artifact {}", spec.artifact)));
            }
        }
        self.check_events(org, SERVER_CLIENT, &specs).await?;
        self.tree.set(&paths::server_monitoring(&org.id), &table).await?;
        org.monitoring.with(|i| {
            i.server = table;
            i.server_changes += 1;
        });
        Ok(())
    }

    /// The event queries of the server itself, as they are compiled now.
    pub fn server_events(&self, org: &Org) -> Result<VqlEventTable, ServiceError> {
        let specs = compiler::specs(&org.monitoring.server_table());
        let event = self.events_of(org, SERVER_CLIENT, &specs)?;
        Ok(VqlEventTable { event, version: 0 })
    }

    /// Replaces the table; connected clients get theirs at once.
    pub async fn set_monitoring(
        &self,
        org: &Org,
        mut table: ClientEventTable,
    ) -> Result<(), ServiceError> {
        for spec in table.artifacts.iter().flat_map(compiler::specs) {
            self.check_events(org, "", std::slice::from_ref(&spec)).await?;
        }
        for l in &table.label_events {
            let specs: Vec<_> = l.artifacts.iter().flat_map(compiler::specs).collect();
            self.check_events(org, "", &specs).await?;
        }
        let before = org.monitoring.table().version;
        table.version = self.env.clock.nanos().max(before + 1);
        self.decided.set(&paths::client_monitoring(&org.id), &table).await?;
        org.monitoring.with(|i| i.set(table));
        self.sessions.wake_all(&org.id);
        Ok(())
    }

    /// Whether a table compiles; tools that are not known yet are fetched.
    async fn check_events(
        &self,
        org: &Org,
        client: &str,
        specs: &[ArtifactSpec],
    ) -> Result<(), ServiceError> {
        let mut fetched = Vec::new();
        loop {
            let (_, missing) = self.compile_events(org, client, specs, &fetched)?;
            let mut waiting = missing.iter();
            let Some(tool) = waiting.find(|e| matches!(e, CompileError::ToolUnavailable { .. }))
            else {
                return Ok(());
            };
            if let Some(done) = self.mend(org, tool, &mut fetched).await {
                done?;
            }
        }
    }

    /// The events of a table that can run now.
    fn events_of(
        &self,
        org: &Org,
        client: &str,
        specs: &[ArtifactSpec],
    ) -> Result<Vec<VqlCollectorArgs>, ServiceError> {
        let (events, missing) = self.compile_events(org, client, specs, &[])?;
        for why in missing {
            tracing::warn!(%why, "event artifact left out");
            if let CompileError::ToolUnavailable { tool, .. } = why {
                org.inventory.want(*tool);
            }
        }
        Ok(events)
    }

    fn compile_events(
        &self,
        org: &Org,
        client: &str,
        specs: &[ArtifactSpec],
        fetched: &[(Tool, Tool)],
    ) -> Result<(Vec<VqlCollectorArgs>, Vec<CompileError>), ServiceError> {
        let (max_wait, jitter) = self.options.event_max_wait;
        let defaults = match client {
            // Its rows have no way to go: nothing is gained by waiting for more.
            SERVER_CLIENT => EventDefaults { max_wait: 1, jitter: 0 },
            _ => EventDefaults { max_wait, jitter },
        };
        let hide = |name: &str| self.hide(name);
        let metadata = BTreeMap::new();
        let find = self.find_tool(org, fetched);
        let options = self.compile_options(&hide, &metadata, &find);
        Ok(compiler::event_requests(&org.repository, specs, client, defaults, &options)?)
    }

    /// The table a client must get, if what it claims to have is another.
    pub async fn event_table(
        &self,
        org: &Org,
        client: &str,
        claim: u64,
    ) -> Result<Option<VeloMessage>, ServiceError> {
        let labels = {
            let state = org.state();
            state.clients.get(client).map(|c| c.info.labels.clone()).unwrap_or_default()
        };
        // Before it is compiled: what changes meanwhile is looked at again.
        let repository = org.repository.version().wrapping_add(self.tools_version(org));
        if org.monitoring.with(|i| i.is_current(repository, &labels, claim)) {
            return Ok(None);
        }
        let table = org.monitoring.table();
        let event = self.events_of(org, client, &specs_for(&table, &labels))?;
        // The spread of waiting times differs per client and is not content.
        let mut content = VqlEventTable { event: event.clone(), version: 0 };
        for e in &mut content.event {
            e.max_wait = 0;
        }
        let key = hex::encode(hash(&content.encode_to_vec()));
        let content = Content { key: key.clone(), empty: event.is_empty() };
        let (known, has) = org.monitoring.with(|i| {
            let has = i.stands_for(&content, claim);
            i.note(repository, &table, &labels, content);
            (i.versions.0.get(&key).cloned().unwrap_or_default(), has)
        });
        if has {
            return Ok(None);
        }
        let version = match known.last() {
            Some(v) if *v > claim => *v,
            last => {
                let v = self.env.clock.nanos().max(claim + 1).max(last.copied().unwrap_or(0) + 1);
                self.remember_version(org, key, v).await?;
                v
            }
        };
        Ok(Some(VeloMessage {
            session_id: MONITORING.into(),
            update_event_table: Some(VqlEventTable { event, version }),
            ..Default::default()
        }))
    }

    async fn remember_version(&self, org: &Org, key: String, v: u64) -> Result<(), ServiceError> {
        let all = org.monitoring.with(|i| {
            let list = i.versions.0.entry(key).or_default();
            list.push(v);
            if list.len() > VERSIONS {
                list.remove(0);
            }
            i.versions.clone()
        });
        let data = serde_json::to_vec(&all).map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let tmp = self.tree.temp(crate::store::StoreKind::Files);
        let path = versions_path(self, org);
        let done = crate::env::fs::replace(&*self.env.fs, &tmp, &path, &data).await;
        done.map_err(StoreError::from)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::LabelEvents;

    #[test]
    fn labels_add_events() {
        let args = |name: &str| ArtifactCollectorArgs {
            artifacts: vec![name.to_owned()],
            ..Default::default()
        };
        let table = ClientEventTable {
            artifacts: Some(args("A")),
            label_events: vec![LabelEvents {
                label: "Quarantine".into(),
                artifacts: Some(args("B")),
            }],
            ..Default::default()
        };
        let names = |labels: &[&str]| {
            let labels: Vec<String> = labels.iter().map(|l| l.to_string()).collect();
            specs_for(&table, &labels).into_iter().map(|s| s.artifact).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["A"]);
        assert_eq!(names(&["quarantine"]), ["A", "B"]);
    }
}
