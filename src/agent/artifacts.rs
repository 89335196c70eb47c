//! The artifacts a request brings along, callable as `Artifact.Name(...)`. An
//! agent knows no other definitions.

use std::collections::BTreeMap;

use futures::StreamExt;
use velociraptor_proto::proto::{Artifact, ArtifactSource, VqlCollectorArgs};
use vql::{Args, Dict, Emitter, Error, Limits, Registry, Scope, Signature, Value};

use crate::services::compiler::conversions;

/// Nested calls beyond this are a definition that calls itself.
const MAX_NESTING: i64 = 10;
/// Counts nested calls in the callee's scope.
const NESTING: &str = "$artifact_nesting";

/// See the module.
#[derive(Debug, Default)]
pub struct Artifacts(BTreeMap<String, Artifact>);

impl Artifacts {
    /// Of a request.
    pub fn new(artifacts: &[Artifact]) -> Artifacts {
        Artifacts(artifacts.iter().map(|a| (a.name.clone(), a.clone())).collect())
    }
}

/// Adds the `Artifact` namespace.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("Artifact", "Runs another artifact.").any_args().namespace();
    registry.plugin_async(signature, |scope, args, emitter| async move {
        call(&scope, &args, &emitter).await
    });
}

async fn call(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let known = scope.extension::<Artifacts>().unwrap_or_default();
    let name = args.call_name().strip_prefix("Artifact.").unwrap_or_default().to_owned();
    let Some(artifact) = known.0.get(&name) else {
        return Err(Error::failed(format!("Unknown artifact {name}")));
    };
    let nesting = scope.resolve(NESTING).and_then(|v| v.as_int()).unwrap_or(0) + 1;
    if nesting > MAX_NESTING {
        return Err(Error::failed(format!("{name}: too many nested artifacts")));
    }
    let mut given = args.to_dict();
    if let Some(Value::Dict(all)) = given.get("**") {
        given = (**all).clone();
    }
    let wanted = given.remove("source").map(|v| v.to_text());
    let check = match given.remove("preconditions") {
        Some(v) => vql::truth(&v, scope).await,
        None => false,
    };
    for key in given.keys() {
        if !artifact.parameters.iter().any(|p| p.name == key.as_str()) {
            return Err(Error::Arg(format!("Unknown parameter {key} provided to {name}")));
        }
    }
    // What the caller knows is known: so helpers find the variables of their callers' tools.
    let inner = scope.child();
    inner.set(NESTING, nesting);
    for p in &artifact.parameters {
        match given.get(&p.name) {
            Some(v) => inner.set(p.name.clone(), v.clone()),
            None => inner.set(p.name.clone(), p.default.as_str()),
        }
    }
    let mut preamble: Vec<String> =
        artifact.parameters.iter().flat_map(conversions::statements).collect();
    if !artifact.export.is_empty() {
        preamble.push(artifact.export.clone());
    }
    for import in &artifact.imports {
        preamble.extend(known.0.get(import).map(|a| a.export.clone()));
    }
    run_silently(&preamble, &inner).await?;
    if check && !passes(&artifact.precondition, &inner).await? {
        return Ok(());
    }
    let is_event = artifact.r#type.to_ascii_lowercase().ends_with("_event");
    let mut streams = Vec::new();
    for source in &artifact.sources {
        if wanted.as_ref().is_some_and(|w| *w != source.name) {
            continue;
        }
        if check && !passes(&source.precondition, &inner).await? {
            continue;
        }
        let label = match source.name.as_str() {
            "" => name.clone(),
            s => format!("{name}/{s}"),
        };
        let scope = if is_event { inner.child() } else { inner.clone() };
        streams.push(source_rows(statements(source)?, scope, label, emitter.clone()));
    }
    if is_event {
        futures::future::try_join_all(streams).await?;
    } else {
        for s in streams {
            s.await?;
        }
    }
    Ok(())
}

/// The statements of a source, from its compiled list or its text.
fn statements(source: &ArtifactSource) -> Result<Vec<vql::syntax::ast::Statement>, Error> {
    let mut all = Vec::new();
    let text = std::iter::once(&source.query).filter(|_| source.queries.is_empty());
    for q in source.queries.iter().chain(text).filter(|q| !q.trim().is_empty()) {
        all.extend(vql::parse(q).map_err(Error::failed)?);
    }
    Ok(all)
}

async fn source_rows(
    statements: Vec<vql::syntax::ast::Statement>,
    scope: Scope,
    label: String,
    emitter: Emitter,
) -> Result<(), Error> {
    let mut rows = vql::eval(statements, &scope, Limits::default());
    while let Some(row) = rows.next().await {
        let mut row: Dict = row.into_row();
        // Last, whatever the artifact calls itself.
        row.set("_Source", label.as_str());
        emitter.send(row).await?;
    }
    Ok(())
}

async fn run_silently(texts: &[String], scope: &Scope) -> Result<(), Error> {
    for text in texts {
        let statements = vql::parse(text).map_err(Error::failed)?;
        let mut rows = vql::eval(statements, scope, Limits::default());
        while rows.next().await.is_some() {}
    }
    Ok(())
}

async fn passes(precondition: &str, scope: &Scope) -> Result<bool, Error> {
    if precondition.trim().is_empty() {
        return Ok(true);
    }
    let statements = vql::parse(precondition).map_err(Error::failed)?;
    Ok(vql::eval(statements, scope, Limits::default()).next().await.is_some())
}

/// Compares what the stock client compares to decide about a restart: queries
/// and variables, in order.
pub fn same_queries(a: &VqlCollectorArgs, b: &VqlCollectorArgs) -> bool {
    let env = |x: &VqlCollectorArgs| -> Vec<(String, String)> {
        x.env.iter().map(|e| (e.key.clone(), e.value.clone())).collect()
    };
    a.query == b.query && env(a) == env(b)
}
