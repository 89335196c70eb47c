//! Tools: programs of others that artifacts need on endpoints.
//!
//! Definitions name a tool and say where it is on the web; administrators may say otherwise, or
//! upload it. Clients are told its address and hash, so a server fetches what it does not know the
//! hash of before it tasks them. What is known of an organisation's tools is one object
//! (`config/inventory`), which the master alone writes; contents are files (`public/<name>`),
//! each written once. How clients fetch them is not known here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use velociraptor_proto::proto::{ThirdParty, Tool};

use super::audit::audit;
use super::compiler::name_file;
use super::server::{Counters, Org, Server, ServiceError};
use crate::store::paths;

mod choose;
mod content;
#[cfg(test)]
mod tests;

use choose::{has_source, in_definitions, is_called, recorded};
pub use content::{Complete, Content};

/// How tools are fetched and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where clients reach frontends by HTTP, without a slash at the end.
    pub public_bases: Vec<String>,
    /// Most bytes of a tool.
    pub max_bytes: u64,
    /// How long fetching one may take.
    pub fetch_timeout: Duration,
    /// Where GitHub answers questions about releases.
    pub github_api: String,
    /// Tools are not fetched from elsewhere (`disable_inventory_service_external_access`).
    pub offline: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            public_bases: Vec::new(),
            max_bytes: 2 << 30,
            fetch_timeout: Duration::from_secs(600),
            github_api: "https://api.github.com".into(),
            offline: false,
        }
    }
}

/// What is known of the tools of an organisation.
#[derive(Debug, Default)]
pub struct Inventory {
    known: Mutex<Arc<ThirdParty>>,
    /// Held while one is fetched: so none is fetched twice.
    fetching: tokio::sync::Mutex<()>,
    /// Held while what is known changes, so no change is lost; not while something is fetched,
    /// which may take long.
    changing: tokio::sync::Mutex<()>,
    /// What event queries wait for.
    wanted: Mutex<Vec<Tool>>,
}

impl Inventory {
    fn known(&self) -> Arc<ThirdParty> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, by: ThirdParty) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(by);
    }

    /// Notes that event queries wait for a tool; it is fetched in the background.
    pub fn want(&self, tool: Tool) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !wanted.contains(&tool) {
            wanted.push(tool);
        }
    }
}

impl Server {
    /// Reads what is known of the tools of an organisation.
    pub(super) async fn load_inventory(&self, org: &Org) -> Result<(), ServiceError> {
        let known = self.tree.get(&paths::inventory(&org.id)).await?;
        org.inventory.replace(known.unwrap_or_default());
        Ok(())
    }

    /// What is known for an organisation: its own, and what it does not know itself of root's.
    fn known_tools(&self, org: &Org) -> Vec<Tool> {
        let mut all = org.inventory.known().tools.clone();
        if !org.id.is_root() {
            let own = |t: &Tool| all.iter().any(|o| o.name == t.name && o.version == t.version);
            let of_root = self.root().inventory.known();
            let more: Vec<Tool> = of_root.tools.iter().filter(|t| !own(t)).cloned().collect();
            all.extend(more);
        }
        all
    }

    /// All tools: what administrators decided, and what definitions name.
    pub fn tools(&self, org: &Org) -> Vec<Tool> {
        let known = self.known_tools(org);
        let mut all: Vec<Tool> = known.iter().filter(|t| t.admin_override).cloned().collect();
        for tool in in_definitions(&org.repository, |_| true) {
            if all.iter().any(|t| t.name == tool.name && t.version == tool.version) {
                continue;
            }
            let fetched = recorded(&known, &tool).filter(|t| !t.admin_override);
            all.push(fetched.cloned().unwrap_or(tool));
        }
        for tool in &mut all {
            self.address(tool);
        }
        all
    }

    /// A tool by its name, and its version if one is given, with all that definitions say of it.
    pub fn tool(&self, org: &Org, name: &str, version: &str) -> Option<Tool> {
        let versions = in_definitions(&org.repository, |t| is_called(t, name, version));
        let first = versions.iter().find(|t| has_source(t)).or_else(|| versions.first());
        let definition = first.cloned().unwrap_or_else(|| Tool {
            name: name.to_owned(),
            version: version.to_owned(),
            ..Tool::default()
        });
        let found = recorded(&self.known_tools(org), &definition).cloned();
        let mut tool = found.or_else(|| first.cloned())?;
        tool.versions = versions;
        self.address(&mut tool);
        Some(tool)
    }

    /// The tool that a definition names, if clients can be told of it now.
    pub fn ready_tool(&self, org: &Org, definition: &Tool) -> Option<Tool> {
        let mut tool = recorded(&self.known_tools(org), definition)?.clone();
        self.address(&mut tool);
        (!tool.hash.is_empty() && !tool.serve_url.is_empty()).then_some(tool)
    }

    /// The tool that a definition names, fetched if it is not known yet.
    pub async fn prepare_tool(&self, org: &Org, definition: &Tool) -> Result<Tool, ServiceError> {
        if let Some(ready) = self.ready_tool(org, definition) {
            return Ok(ready);
        }
        let _fetching = org.inventory.fetching.lock().await;
        loop {
            if let Some(ready) = self.ready_tool(org, definition) {
                return Ok(ready);
            }
            let before = recorded(&self.known_tools(org), definition).cloned();
            let mut tool = before.as_ref().unwrap_or(definition).clone();
            self.materialize(org, &mut tool).await?;
            let _changing = org.inventory.changing.lock().await;
            // Somebody said something else of it meanwhile: that counts.
            if recorded(&self.known_tools(org), definition) != before.as_ref() {
                continue;
            }
            self.record(org, tool.clone()).await?;
            self.address(&mut tool);
            return Ok(tool);
        }
    }

    /// Changes whenever a tool that an organisation can use does.
    pub(super) fn tools_version(&self, org: &Org) -> u64 {
        let own = org.inventory.known().version;
        match org.id.is_root() {
            true => own,
            false => own.wrapping_add(self.root().inventory.known().version),
        }
    }

    /// As [`Server::learn_tool`], counted.
    async fn materialize(&self, org: &Org, tool: &mut Tool) -> Result<(), ServiceError> {
        let done = self.learn_tool(org, tool).await;
        Counters::inc(match done {
            Ok(()) => &self.counters.tools_fetched,
            Err(_) => &self.counters.tools_failed,
        });
        done
    }

    /// Fetches what event queries wait for. What fails is tried again when it is asked for again.
    pub(super) async fn prepare_wanted(&self) {
        for org in self.orgs() {
            let wanted = {
                let mut all = org.inventory.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *all)
            };
            for tool in wanted {
                if let Err(error) = self.prepare_tool(&org, &tool).await {
                    tracing::warn!(org = %org.id, %error, "event queries go on waiting for a tool");
                }
            }
        }
    }

    /// Learns the hash of a tool, and keeps its content if clients fetch it here.
    async fn learn_tool(&self, org: &Org, tool: &mut Tool) -> Result<(), ServiceError> {
        let refused = |why: &str| ServiceError::Invalid(format!("tool {}: {why}", tool.name));
        if !has_source(tool) {
            return Err(refused(
                "no file was uploaded for it, and no definition says where it can be fetched; \
                 upload it with `tools upload`",
            ));
        }
        if self.options.tools.offline {
            // A client may reach what the server must not.
            if !tool.serve_locally && !tool.url.is_empty() && !tool.expected_hash.is_empty() {
                tool.hash = tool.expected_hash.clone();
                name_file(tool);
                return Ok(());
            }
            return Err(refused(
                "security.disable_inventory_service_external_access forbids to fetch it; \
                 upload it with `tools upload`",
            ));
        }
        if !tool.github_project.is_empty() {
            let (url, name) = content::release(self, tool).await?;
            tool.url = url;
            if tool.filename.is_empty() {
                tool.filename = name;
            }
        }
        let complete = content::fetch(self, tool).await?;
        // A hash that somebody gave for a file that is not here yet.
        let expected = if tool.expected_hash.is_empty() { &tool.hash } else { &tool.expected_hash };
        let (got, expected) = (complete.hash.clone(), expected.to_ascii_lowercase());
        if !expected.is_empty() && got != expected {
            complete.abandon(&self.env).await;
            return Err(ServiceError::Invalid(format!(
                "tool {}: {} has the SHA-256 {got}, and {expected} is expected",
                tool.name, tool.url
            )));
        }
        tracing::info!(org = %org.id, tool = tool.name, bytes = complete.bytes, "tool fetched");
        name_file(tool);
        tool.invalid_hash.clear();
        match tool.serve_locally {
            true => complete.keep(self, org, tool).await,
            false => {
                complete.abandon(&self.env).await;
                tool.hash = got;
                Ok(())
            }
        }
    }

    /// Replaces what is known of a tool by what an administrator says.
    pub async fn set_tool(
        &self,
        org: &Org,
        principal: &str,
        tool: Tool,
    ) -> Result<Tool, ServiceError> {
        if tool.name.is_empty() {
            return Err(ServiceError::Invalid("a tool needs a name".into()));
        }
        let mut tool = Tool { admin_override: true, versions: Vec::new(), ..tool };
        let fetch = std::mem::take(&mut tool.materialize);
        if fetch {
            tool.hash.clear();
            tool.filestore_path.clear();
            self.materialize(org, &mut tool).await?;
        }
        let _changing = org.inventory.changing.lock().await;
        self.record(org, tool.clone()).await?;
        let details = json!({
            "tool": tool.name, "version": tool.version, "url": tool.url, "hash": tool.hash,
        });
        audit(self, org, principal, "SetToolInfo", details).await;
        Ok(tool)
    }

    /// Keeps an uploaded content as that of a tool; clients fetch it here.
    pub async fn upload_tool(
        &self,
        org: &Org,
        principal: &str,
        tool: Tool,
        content: Complete,
    ) -> Result<Tool, ServiceError> {
        let mut tool = Tool {
            serve_locally: true,
            url: String::new(),
            github_project: String::new(),
            github_asset_regex: String::new(),
            materialize: false,
            ..tool
        };
        if tool.name.is_empty() {
            content.abandon(&self.env).await;
            return Err(ServiceError::Invalid("a tool needs a name".into()));
        }
        if tool.filename.is_empty() {
            tool.filename.clone_from(&tool.name);
        }
        content.keep(self, org, &mut tool).await?;
        self.set_tool(org, principal, tool).await
    }

    /// Forgets what was decided or found about a tool of this name; definitions count again.
    /// Contents stay for clients that were told of them.
    pub async fn remove_tool(
        &self,
        org: &Org,
        principal: &str,
        name: &str,
        version: &str,
    ) -> Result<usize, ServiceError> {
        let _changing = org.inventory.changing.lock().await;
        let mut known = (*org.inventory.known()).clone();
        let before = known.tools.len();
        known.tools.retain(|t| !is_called(t, name, version));
        let removed = before - known.tools.len();
        if removed > 0 {
            self.save(org, known).await?;
            let details = json!({ "tool": name, "version": version });
            audit(self, org, principal, "RemoveTool", details).await;
        }
        Ok(removed)
    }

    async fn record(&self, org: &Org, mut tool: Tool) -> Result<(), ServiceError> {
        tool.versions.clear();
        self.address(&mut tool);
        let mut known = (*org.inventory.known()).clone();
        let same = |t: &&mut Tool| t.name == tool.name && t.version == tool.version;
        match known.tools.iter_mut().find(same) {
            Some(there) => *there = tool,
            None => known.tools.push(tool),
        }
        self.save(org, known).await
    }

    async fn save(&self, org: &Org, mut known: ThirdParty) -> Result<(), ServiceError> {
        if !self.is_master() {
            return Err(ServiceError::NotMaster("tools are changed on the master".into()));
        }
        known.version = self.env.clock.nanos().max(known.version + 1);
        self.decided.set(&paths::inventory(&org.id), &known).await?;
        org.inventory.replace(known);
        Ok(())
    }

    /// Says where clients fetch a tool, as the configuration is now.
    fn address(&self, tool: &mut Tool) {
        name_file(tool);
        let here = |base: &String| format!("{base}/public/{}", tool.filestore_path);
        tool.serve_urls = match tool.serve_locally {
            true if tool.filestore_path.is_empty() => Vec::new(),
            true => self.options.tools.public_bases.iter().map(here).collect(),
            false => vec![tool.url.clone()],
        };
        tool.serve_url = tool.serve_urls.first().cloned().unwrap_or_default();
    }
}
