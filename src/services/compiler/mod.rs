//! From artifacts and parameters to what clients run.
//!
//! A client knows no artifacts: each request carries its variables, its
//! queries one statement at a time, the definitions those call, and its
//! limits. Pure: definitions in, requests out, and the same request always
//! compiles to the same bytes.

use std::collections::BTreeMap;

use velociraptor_proto::proto::{
    Artifact, ArtifactCollectorArgs, ArtifactParameter, ArtifactSource, ArtifactSpec, FlowRequest,
    Tool, VqlCollectorArgs, VqlEnv, VqlRequest, flow_request,
};

use super::repository::{self, Kind, Repository, source_name};

pub mod conversions;
mod dependencies;
mod events;
mod launch;
mod limits;
mod tools;

pub use events::{EventDefaults, event_requests};
pub use launch::{Denied, check_launch};
pub use tools::{FindTool, name_file, variables as tool_variables};

/// Upload cap of a collection that names none, in bytes.
pub const DEFAULT_MAX_UPLOAD: u64 = 1 << 30;

/// Rows a client puts in one packet when nobody says otherwise.
pub const DEFAULT_MAX_ROW: u64 = 1000;

/// How long a client gathers log lines, in milliseconds, when the
/// configuration says nothing.
pub const DEFAULT_LOG_BATCH_MS: u64 = 2000;

/// Comment that marks a variable whose value must not be shown again.
const REDACTED: &str = "redacted";

/// Why a request does not compile.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// No such artifact.
    #[error("artifact {0} not found")]
    NotFound(String),
    /// An artifact calls or imports one that does not exist.
    #[error("artifact {caller} refers to artifact {name}, which does not exist")]
    UnknownReference {
        /// The one that refers.
        caller: String,
        /// The one that is missing.
        name: String,
    },
    /// A query does not parse.
    #[error("artifact {artifact}: {message}")]
    Vql {
        /// The artifact.
        artifact: String,
        /// What the parser says.
        message: String,
    },
    /// The kind of artifact does not belong into this request.
    #[error("artifact {name} is of type {kind} and can not be collected here")]
    WrongKind {
        /// The artifact.
        name: String,
        /// Its type.
        kind: &'static str,
    },
    /// There is nothing to run.
    #[error("nothing to collect: no artifact with a query is named")]
    Empty,
    /// A tool has no address clients can fetch it from.
    #[error("artifact {artifact} needs the tool {}, and it is not known where to fetch it", tool.name)]
    ToolUnavailable {
        /// The artifact.
        artifact: String,
        /// The tool, as the artifact has it.
        tool: Box<Tool>,
    },
    /// More definitions than any client should be sent.
    #[error("artifact {0} pulls in too many others")]
    TooManyDependencies(String),
}

impl CompileError {
    fn vql(artifact: &str, e: impl std::fmt::Display) -> CompileError {
        CompileError::Vql { artifact: artifact.to_owned(), message: e.to_string() }
    }
}

/// What the server adds to every request.
#[derive(Default, Clone, Copy)]
pub struct CompileOptions<'a> {
    /// Turns result-set names into what clients see; `None` leaves them readable.
    pub obfuscate: Option<&'a (dyn Fn(&str) -> String + Send + Sync)>,
    /// Rows per packet (configuration `defaults.max_rows`); 0 for the default.
    pub max_row: u64,
    /// Seconds a partial packet waits (`defaults.max_batch_wait`); 0 for the client's own.
    pub max_wait: u64,
    /// Bytes of a packet (`defaults.max_row_buffer_size`); 0 for the client's own.
    pub max_row_buffer: u64,
    /// Finds tools; without, their definitions alone say where they are.
    pub find_tool: Option<&'a FindTool<'a>>,
    /// A tool that can not be served is no error; its variables say nothing.
    pub any_tool: bool,
    /// Values for parameters of type `server_metadata`.
    pub server_metadata: Option<&'a BTreeMap<String, String>>,
}

/// A compiled collection.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compiled {
    /// One query run each; ids count from 1.
    pub requests: Vec<VqlCollectorArgs>,
    /// The request with the limits that were left open filled in.
    pub limits: limits::Collection,
}

/// Compiles a collection for one client (or the server itself).
pub fn compile(
    repository: &Repository,
    request: &ArtifactCollectorArgs,
    options: &CompileOptions<'_>,
) -> Result<Compiled, CompileError> {
    let mut compiled = Compiled { limits: limits::Collection::of(request), ..Default::default() };
    for spec in specs(request) {
        let artifact = repository
            .resolve(&spec.artifact, request.allow_custom_overrides)
            .ok_or_else(|| CompileError::NotFound(spec.artifact.clone()))?;
        let kind = Kind::of(&artifact);
        if kind.is_event() || kind == Kind::Internal {
            return Err(CompileError::WrongKind { name: spec.artifact, kind: kind.name() });
        }
        for mut one in artifact_requests(repository, &artifact, &spec, options)? {
            limits::apply(&mut one, request, &spec, &artifact, options);
            compiled.limits.meet(&one, &artifact);
            compiled.requests.push(one);
        }
    }
    if compiled.requests.is_empty() {
        return Err(CompileError::Empty);
    }
    compiled.limits.finish();
    number(&mut compiled.requests);
    Ok(compiled)
}

/// The requests of one artifact of any kind, for those who only want to know
/// whether it compiles. An artifact without a query gives none.
pub fn dry_run(
    repository: &Repository,
    artifact: &Artifact,
) -> Result<Vec<VqlCollectorArgs>, CompileError> {
    let spec = ArtifactSpec { artifact: artifact.name.clone(), ..Default::default() };
    let options = CompileOptions { any_tool: true, ..Default::default() };
    let requests = artifact_requests(repository, artifact, &spec, &options)?;
    // Clients read each statement on its own.
    for query in requests.iter().flat_map(|r| &r.query) {
        let read = vql::parse(&query.vql).map_err(|e| CompileError::vql(&artifact.name, e))?;
        if read.len() != 1 {
            let message = format!("not one statement: {}", query.vql);
            return Err(CompileError::vql(&artifact.name, message));
        }
    }
    Ok(requests)
}

/// The message a client gets for a compiled collection.
///
/// `log_batch_ms` is used when the request names no time of its own.
pub fn flow_request(
    request: &ArtifactCollectorArgs,
    compiled: &Compiled,
    log_batch_ms: u64,
    log_error_regex: &str,
    compress: bool,
) -> FlowRequest {
    let own = request.log_batch_time;
    let compression =
        if compress { flow_request::Compression::Zlib } else { flow_request::Compression::None };
    FlowRequest {
        vql_client_actions: compiled.requests.clone(),
        log_batch_time: if own > 0 { own } else { log_batch_ms },
        max_rows: compiled.limits.max_rows,
        max_upload_bytes: compiled.limits.max_upload_bytes,
        max_logs: request.max_logs,
        log_error_regex: log_error_regex.to_owned(),
        compression: compression as i32,
        ..Default::default()
    }
}

/// Replaces the values of redacted parameters, for everything that is stored
/// or shown.
pub fn redact(request: &mut VqlCollectorArgs) {
    for env in request.env.iter_mut().filter(|e| e.comment == REDACTED) {
        env.value = "XXXXX".to_owned();
    }
}

/// The specs of a request; names without one get an empty one.
pub fn specs(request: &ArtifactCollectorArgs) -> Vec<ArtifactSpec> {
    let mut specs = request.specs.clone();
    for name in &request.artifacts {
        if !specs.iter().any(|s| s.artifact == *name) {
            specs.push(ArtifactSpec { artifact: name.clone(), ..Default::default() });
        }
    }
    specs
}

fn number(requests: &mut [VqlCollectorArgs]) {
    let total = requests.len() as i64;
    for (i, r) in requests.iter_mut().enumerate() {
        r.query_id = i as i64 + 1;
        r.total_queries = total;
    }
}

/// One run: sources that share a scope.
struct Unit<'a> {
    precondition: &'a str,
    sources: Vec<&'a ArtifactSource>,
}

fn units(artifact: &Artifact) -> Vec<Unit<'_>> {
    let blank = |text: &str| text.trim().is_empty();
    let parallel = Kind::of(artifact).is_event()
        || blank(&artifact.precondition)
            && artifact.sources.iter().any(|s| !blank(&s.precondition));
    if !parallel {
        let sources = artifact.sources.iter().collect();
        return vec![Unit { precondition: &artifact.precondition, sources }];
    }
    artifact
        .sources
        .iter()
        .map(|source| {
            let own = !blank(&source.precondition);
            let of = if own { &source.precondition } else { &artifact.precondition };
            Unit { precondition: of, sources: vec![source] }
        })
        .collect()
}

/// The requests of one artifact, without limits and numbers.
fn artifact_requests(
    repository: &Repository,
    artifact: &Artifact,
    spec: &ArtifactSpec,
    options: &CompileOptions<'_>,
) -> Result<Vec<VqlCollectorArgs>, CompileError> {
    let conversions: Vec<_> =
        artifact.parameters.iter().flat_map(conversions::statements).collect();
    let mut preamble = Vec::new();
    for text in &conversions {
        preamble.extend(canonical(&artifact.name, text)?);
    }
    for (name, export) in exports(repository, artifact)? {
        preamble.extend(canonical(&name, &export)?);
    }
    let mut all = Vec::new();
    for unit in units(artifact) {
        let mut query: Vec<VqlRequest> = preamble.iter().map(|vql| unnamed(vql.clone())).collect();
        let before = query.len();
        for source in unit.sources {
            query.extend(source_queries(artifact, source, options)?);
        }
        if query.len() == before {
            continue;
        }
        let precondition = precondition(&conversions, unit.precondition);
        let texts = query.iter().map(|q| q.vql.as_str()).chain([precondition.as_str()]);
        let artifacts = dependencies::collect(repository, &artifact.name, texts, options)?;
        all.push(VqlCollectorArgs {
            query,
            env: environment(artifact, spec, options)?,
            artifacts,
            precondition,
            effective_principal: artifact.impersonate.clone(),
            ..Default::default()
        });
    }
    Ok(all)
}

fn unnamed(vql: String) -> VqlRequest {
    VqlRequest { vql, name: String::new() }
}

/// Each statement of a text on its own, in canonical form.
fn canonical(artifact: &str, text: &str) -> Result<Vec<String>, CompileError> {
    let parsed = vql::parse(text).map_err(|e| CompileError::vql(artifact, e))?;
    Ok(parsed.iter().map(ToString::to_string).collect())
}

/// The artifact's own export, then those of what it imports.
fn exports(
    repository: &Repository,
    artifact: &Artifact,
) -> Result<Vec<(String, String)>, CompileError> {
    let mut all = vec![(artifact.name.clone(), artifact.export.clone())];
    for name in &artifact.imports {
        let imported = repository.get(name).ok_or_else(|| CompileError::UnknownReference {
            caller: artifact.name.clone(),
            name: name.clone(),
        })?;
        all.push((name.clone(), imported.export.clone()));
    }
    all.retain(|(_, export)| !export.trim().is_empty());
    Ok(all)
}

fn source_queries(
    artifact: &Artifact,
    source: &ArtifactSource,
    options: &CompileOptions<'_>,
) -> Result<Vec<VqlRequest>, CompileError> {
    let parsed =
        repository::statements(source).map_err(|e| CompileError::vql(&artifact.name, e))?;
    let mut queries: Vec<_> = parsed.iter().map(|s| unnamed(s.to_string())).collect();
    if let Some(last) = queries.last_mut() {
        let name = source_name(&artifact.name, &source.name);
        last.name = options.obfuscate.map_or_else(|| name.clone(), |hide| hide(&name));
    }
    Ok(queries)
}

fn precondition(conversions: &[String], text: &str) -> String {
    if text.trim().is_empty() {
        return String::new();
    }
    let mut parts = conversions.to_vec();
    parts.push(text.to_owned());
    parts.join("\n\n")
}

/// The default a parameter starts from.
fn default_of(parameter: &ArtifactParameter, options: &CompileOptions<'_>) -> String {
    let from_server = parameter.r#type.eq_ignore_ascii_case("server_metadata");
    let known = options.server_metadata.filter(|_| from_server);
    known.and_then(|m| m.get(&parameter.name)).unwrap_or(&parameter.default).clone()
}

fn environment(
    artifact: &Artifact,
    spec: &ArtifactSpec,
    options: &CompileOptions<'_>,
) -> Result<Vec<VqlEnv>, CompileError> {
    let mut env: Vec<VqlEnv> = Vec::new();
    for p in &artifact.parameters {
        let redacted = p.r#type.eq_ignore_ascii_case("redacted");
        let comment = if redacted { REDACTED.to_owned() } else { String::new() };
        env.push(VqlEnv { key: p.name.clone(), value: default_of(p, options), comment });
    }
    let given = spec.parameters.iter().flat_map(|p| &p.env);
    for item in given {
        match env.iter_mut().find(|e| e.key == item.key) {
            Some(e) => e.value = item.value.clone(),
            None => env.push(item.clone()),
        }
    }
    for (key, value) in tools::environment(artifact, options)? {
        env.push(VqlEnv { key, value, comment: String::new() });
    }
    Ok(env)
}

#[cfg(test)]
mod tests;
