//! From a decoded file to a definition the server works with: what kind it is
//! and whether it may be loaded.

use std::sync::LazyLock;

use regex::Regex;
use velociraptor_proto::proto;
use vql::syntax::ast::Statement;

use super::yaml::{self, YamlError};
use crate::services::acl::Permission;

static NAME: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("^[a-zA-Z0-9_.]+$").ok());

/// What runs an artifact, and where its results go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Client,
    ClientEvent,
    Server,
    ServerEvent,
    Notebook,
    Internal,
}

impl Kind {
    /// Reads a type name in any case; empty is [`Kind::Client`].
    pub fn parse(text: &str) -> Option<Kind> {
        use Kind::*;
        if text.trim().is_empty() {
            return Some(Client);
        }
        let all = [Client, ClientEvent, Server, ServerEvent, Notebook, Internal];
        all.into_iter().find(|k| k.name().eq_ignore_ascii_case(text.trim()))
    }

    /// The kind of a loaded definition.
    pub fn of(artifact: &proto::Artifact) -> Kind {
        Kind::parse(&artifact.r#type).unwrap_or(Kind::Client)
    }

    /// Lower-case type name as definitions carry it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Client => "client",
            Kind::ClientEvent => "client_event",
            Kind::Server => "server",
            Kind::ServerEvent => "server_event",
            Kind::Notebook => "notebook",
            Kind::Internal => "internal",
        }
    }

    /// Queries that go on for ever.
    pub fn is_event(self) -> bool {
        matches!(self, Kind::ClientEvent | Kind::ServerEvent)
    }

    /// Runs on endpoints.
    pub fn is_client(self) -> bool {
        matches!(self, Kind::Client | Kind::ClientEvent)
    }
}

/// Why an artifact is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// The file is not an artifact.
    #[error("artifact does not parse: {0}")]
    Yaml(#[from] YamlError),
    /// It parses but is not acceptable.
    #[error("artifact {name}: {message}")]
    Invalid {
        /// The artifact.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The name is that of a definition that came with the server.
    #[error("artifact {0} is built in and can not be changed; use a name beginning with Custom.")]
    BuiltIn(String),
    /// No artifact of that name.
    #[error("artifact {0} not found")]
    NotFound(String),
}

impl ArtifactError {
    pub(super) fn invalid(name: &str, message: impl Into<String>) -> ArtifactError {
        ArtifactError::Invalid { name: name.to_owned(), message: message.into() }
    }
}

/// Decodes and makes the checks every definition gets, built-in or not.
pub fn parse(text: &str) -> Result<proto::Artifact, ArtifactError> {
    let mut artifact = yaml::decode(text)?;
    check_name(&artifact.name)?;
    for alias in &artifact.aliases {
        check_name(alias)?;
    }
    let kind = Kind::parse(&artifact.r#type).ok_or_else(|| {
        ArtifactError::invalid(&artifact.name, format!("unknown type `{}`", artifact.r#type))
    })?;
    artifact.r#type = kind.name().to_owned();
    for report in &artifact.reports {
        check_report(&artifact.name, &report.r#type)?;
    }
    Ok(artifact)
}

fn check_name(name: &str) -> Result<(), ArtifactError> {
    let shaped = NAME.as_ref().is_some_and(|r| r.is_match(name));
    let digit = |part: &str| part.is_empty() || part.starts_with(|c: char| c.is_ascii_digit());
    if !shaped || name.split('.').any(digit) {
        let message = "names are letters, digits and underscores in parts joined by dots, \
                       and no part begins with a digit";
        return Err(ArtifactError::invalid(name, message));
    }
    Ok(())
}

fn check_report(name: &str, kind: &str) -> Result<(), ArtifactError> {
    const KNOWN: [&str; 7] =
        ["client", "server_event", "hunt", "internal", "monitoring_daily", "templates", "html"];
    if KNOWN.iter().any(|k| k.eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    Err(ArtifactError::invalid(name, format!("unknown report type `{kind}`")))
}

/// The further checks an edited definition must pass.
pub fn validate(artifact: &proto::Artifact) -> Result<(), ArtifactError> {
    let fail = |m: String| ArtifactError::invalid(&artifact.name, m);
    for name in artifact.required_permissions.iter().chain(&artifact.implied_permissions) {
        if Permission::parse(name).is_none() {
            return Err(fail(format!("unknown permission `{name}`")));
        }
    }
    let parses = |what: &str, text: &str| {
        vql::parse(text).map_err(|e| fail(format!("{what}: {e}"))).map(drop)
    };
    if !artifact.precondition.trim().is_empty() {
        parses("precondition", &artifact.precondition)?;
        if artifact.sources.iter().any(|s| !s.precondition.trim().is_empty()) {
            return Err(fail("preconditions both of the artifact and of a source".to_owned()));
        }
    }
    if !artifact.export.trim().is_empty() {
        parses("export", &artifact.export)?;
    }
    for source in &artifact.sources {
        let what = source_name(&artifact.name, &source.name);
        if !source.precondition.trim().is_empty() {
            parses(&format!("{what}: precondition"), &source.precondition)?;
        }
        let statements = statements(source).map_err(|e| fail(format!("{what}: {e}")))?;
        ends_in_its_only_select(&statements).map_err(|e| fail(format!("{what}: {e}")))?;
        for cell in &source.notebook {
            check_cell(&artifact.name, &cell.r#type)?;
        }
    }
    Ok(())
}

fn check_cell(name: &str, kind: &str) -> Result<(), ArtifactError> {
    const KNOWN: [&str; 6] = ["md", "markdown", "vql", "vql_suggestion", "notebook", "none"];
    if KNOWN.iter().any(|k| k.eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    Err(ArtifactError::invalid(name, format!("unknown notebook cell type `{kind}`")))
}

/// All but the last statement are LET and the last is a SELECT.
fn ends_in_its_only_select(statements: &[Statement]) -> Result<(), String> {
    let Some((last, lets)) = statements.split_last() else { return Ok(()) };
    if lets.iter().any(|s| matches!(s, Statement::Select(_))) {
        return Err("only the last statement may be a SELECT".to_owned());
    }
    match last {
        Statement::Select(_) => Ok(()),
        Statement::Let(_) => Err("the last statement must be a SELECT".to_owned()),
    }
}

/// The statements of a source, from either way of writing them.
pub fn statements(source: &proto::ArtifactSource) -> Result<Vec<Statement>, vql::ParseError> {
    let texts = source.queries.iter().map(String::as_str).chain([source.query.as_str()]);
    let mut all = Vec::new();
    for text in texts.filter(|t| !t.trim().is_empty()) {
        all.extend(vql::parse(text)?);
    }
    Ok(all)
}

/// `Artifact/Source`, or `Artifact` for a source without a name.
pub fn source_name(artifact: &str, source: &str) -> String {
    if source.is_empty() { artifact.to_owned() } else { format!("{artifact}/{source}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let a = parse(text).map_err(|e| e.to_string())?;
        validate(&a).map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_types() {
        assert_eq!(parse("name: A.B_1\n").unwrap().r#type, "client");
        assert_eq!(parse("name: A\ntype: Server_EVENT\n").unwrap().r#type, "server_event");
        for bad in
            ["name: A.1b\n", "name: 'A B'\n", "name: A..B\n", "name:\n", "name: A\ntype: x\n"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("name: A\nreports:\n- type: poem\n").is_err());
    }

    #[test]
    fn a_source_ends_in_its_only_select() {
        assert_eq!(
            check("name: A\nsources:\n- query:\n    LET a = 1 SELECT a FROM scope()\n"),
            Ok(())
        );
        let e = check("name: A\nsources:\n- query:\n    LET a = 1\n").unwrap_err();
        assert!(e.contains("must be a SELECT"), "{e}");
        let two = "name: A\nsources:\n- query:\n    SELECT a FROM b() SELECT c FROM d()\n";
        assert!(check(two).unwrap_err().contains("only the last"));
        assert!(check("name: A\nsources:\n- query:\n    SELEC a FROM b()\n").is_err());
    }

    #[test]
    fn preconditions_are_of_one_level() {
        let p = "SELECT OS FROM info()";
        let e = check(&format!(
            "name: A\nprecondition: {p}\nsources:\n- precondition: {p}\n  query: {p}\n"
        ));
        assert!(e.unwrap_err().contains("both"));
        assert!(check("name: A\nrequired_permissions: [FLY]\n").unwrap_err().contains("FLY"));
        assert_eq!(check("name: A\nrequired_permissions: [EXECVE]\n"), Ok(()));
    }
}
