//! From a file to something that can be worked with.

use std::io;
use std::time::SystemTime;

use super::check::{self, Finding, Level, Role};
use super::role::{self, Flags, NodePlan, Place, RoleError};
use super::{Config, Document, ServerIdentity, Settings, settings};
use crate::crypto::Revocations;
use crate::env::Env;
use crate::env::fs::read_limited;

/// Largest file read, bytes.
const MAX_BYTES: usize = 32 << 20;

/// A configuration that a role can use.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The typed view.
    pub config: Config,
    /// The file as it is, for rewriting.
    pub document: Document,
    /// Our own settings.
    pub settings: Settings,
    /// Where the settings are, or would be.
    pub settings_path: String,
    /// Notes and warnings, none of which is an error.
    pub findings: Vec<Finding>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not usable for the role; every reason, one a line.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
    /// The settings file is not usable.
    #[error("{0}: {1}")]
    Settings(String, yaml_serde::Error),
    /// Keys or certificates could not be made.
    #[error(transparent)]
    Crypto(#[from] crate::crypto::certs::CertError),
    /// The files do not fit the role asked for.
    #[error("{0}: {1}")]
    Role(String, RoleError),
    /// A change that cannot be made.
    #[error("{0}")]
    Change(String),
}

fn lines(findings: &[Finding]) -> String {
    let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
    all.join("\n")
}

impl From<Finding> for ConfigError {
    fn from(f: Finding) -> Self {
        ConfigError::Invalid(vec![f])
    }
}

/// A path as the environment wants it.
pub fn absolute(path: &str) -> Result<String, ConfigError> {
    let abs = std::path::absolute(path)?;
    abs.into_os_string()
        .into_string()
        .map_err(|_| ConfigError::Change(format!("{path}: not a UTF-8 path")))
}

async fn text(env: &Env, path: &str) -> Result<String, ConfigError> {
    let bytes = read_limited(&*env.fs, &absolute(path)?, MAX_BYTES).await?;
    String::from_utf8(bytes).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{path}: not UTF-8")).into()
    })
}

/// Reads a file as a document, whatever it is for.
pub async fn document(env: &Env, path: &str) -> Result<Document, ConfigError> {
    Ok(Document::parse(&text(env, path).await?, path)?)
}

/// Our own settings: from `given`, which must exist, or from the first of
/// [`settings::candidates`] that does. Also where they are, or would be, and what is
/// to be said of files that were passed over.
pub async fn load_settings(
    env: &Env,
    config: &str,
    given: Option<&str>,
    node: Option<&str>,
) -> Result<(Settings, String, Vec<Finding>), ConfigError> {
    let (found, over) = match given {
        Some(path) => (Some((path.to_owned(), text(env, path).await?)), Vec::new()),
        None => nearest(env, settings::candidates(config, node)).await?,
    };
    let Some((path, text)) = found else {
        let path = settings::candidates(config, None).pop().unwrap_or_default();
        return Ok((Settings::default(), path, Vec::new()));
    };
    let settings = Settings::parse(&text).map_err(|e| ConfigError::Settings(path.clone(), e))?;
    let over = over.into_iter().map(|other| Finding {
        level: Level::Warning,
        origin: other,
        line: 1,
        path: String::new(),
        message: format!("is not read, because there is {path}"),
    });
    let over = over.collect();
    Ok((settings, path, over))
}

/// `cluster.revoked_nodes` of the settings at `path`, as they are now.
pub async fn revocations(env: &Env, path: &str) -> Result<Revocations, ConfigError> {
    let settings = Settings::parse(&text(env, path).await?)
        .map_err(|e| ConfigError::Settings(path.to_owned(), e))?;
    role::revocations(&settings).map_err(|e| ConfigError::Role(path.to_owned(), e.without_place()))
}

/// The first of these files that exists, with its text, and which others exist too.
async fn nearest(
    env: &Env,
    paths: Vec<String>,
) -> Result<(Option<(String, String)>, Vec<String>), ConfigError> {
    let (mut found, mut over) = (None, Vec::new());
    for path in paths {
        match text(env, &path).await {
            Ok(_) if found.is_some() => over.push(path),
            Ok(text) => found = Some((path, text)),
            Err(ConfigError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok((found, over))
}

/// Loads `path` for `role`. An API client's file may hold its section's keys at
/// the top, as `config api_client` writes them.
pub async fn load(
    env: &Env,
    path: &str,
    settings: Option<&str>,
    role: Role,
) -> Result<Loaded, ConfigError> {
    let settings = load_settings(env, path, settings, None).await?;
    with_settings(env, path, settings, role).await
}

/// Loads `path` for the node that the flags name: what is loaded is the configuration
/// as that node sees it.
pub async fn load_node(
    env: &Env,
    path: &str,
    settings: Option<&str>,
    flags: &Flags,
) -> Result<(Loaded, NodePlan), ConfigError> {
    let node = flags.node.as_deref().filter(|n| flags.minion && !n.is_empty());
    let role = if flags.minion { Role::Minion } else { Role::Server };
    let settings = load_settings(env, path, settings, node).await?;
    // Before what a file for another role lacks.
    role::check_role(&settings.0, flags)
        .map_err(|e| ConfigError::Role(settings.1.clone(), e.without_place()))?;
    with_settings(env, path, settings, role).await?.for_node(flags, env.clock.now())
}

async fn with_settings(
    env: &Env,
    path: &str,
    (settings, settings_path, over): (Settings, String, Vec<Finding>),
    role: Role,
) -> Result<Loaded, ConfigError> {
    let text = text(env, path).await?;
    let document = match role {
        Role::ApiClient => Document::parse_api_client(&text, path)?,
        _ => Document::parse(&text, path)?,
    };
    let mut loaded = Loaded::of(document, settings, settings_path, role, env.clock.now())?;
    loaded.findings.extend(over);
    Ok(loaded)
}

impl Loaded {
    /// Checks a document for `role` at time `now`, wherever it comes from.
    pub fn of(
        document: Document,
        settings: Settings,
        settings_path: String,
        role: Role,
        now: SystemTime,
    ) -> Result<Loaded, ConfigError> {
        let findings = check::check(&document, &settings, role, now);
        let (errors, findings): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|f| f.level == Level::Error);
        if !errors.is_empty() {
            return Err(ConfigError::Invalid(errors));
        }
        let config = check::model(&document)?;
        Ok(Loaded { config, document, settings, settings_path, findings })
    }

    /// The same as the node that the flags name sees it, and that node's plan.
    pub fn for_node(
        self,
        flags: &Flags,
        now: SystemTime,
    ) -> Result<(Loaded, NodePlan), ConfigError> {
        let plan = role::resolve(&self.document, &self.config, &self.settings, flags, now)
            .map_err(|e| self.role_error(e))?;
        let (config, document) = (plan.config.clone(), plan.document.clone());
        Ok((Loaded { config, document, ..self }, plan))
    }

    fn role_error(&self, e: RoleError) -> ConfigError {
        match e.place {
            Place::Config => self.document.finding(Level::Error, &e.path, e.message).into(),
            Place::Settings => ConfigError::Role(self.settings_path.clone(), e.without_place()),
            Place::CommandLine => ConfigError::Change(e.to_string()),
        }
    }

    /// The server's keys and certificates, which [`load`] has checked for servers.
    pub fn identity(&self) -> Result<ServerIdentity, ConfigError> {
        ServerIdentity::of(&self.config, &self.settings)
            .map_err(|(path, e)| self.document.finding(Level::Error, path, e.to_string()).into())
    }
}

/// Refuses to go on as another user than `Frontend.run_as_user` names.
pub async fn check_user(env: &Env, config: &Config) -> Result<(), ConfigError> {
    let wanted = config.frontend.run_as_user.as_str();
    if wanted.is_empty() {
        return Ok(());
    }
    let users = text(env, "/etc/passwd").await?;
    let id = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(wanted)).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
    });
    if id == Some(rustix::process::geteuid().as_raw()) {
        return Ok(());
    }
    let message = format!("Frontend.run_as_user: this process must be started as user {wanted}");
    Err(ConfigError::Change(message))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
