//! `Artifact.Name(...)`: runs a definition here: on a server one of the query's
//! organisation, elsewhere one of the repository in the scope.

use std::sync::Arc;

use futures::StreamExt;
use velociraptor_proto::proto::{Artifact, ArtifactSource};
use vql::syntax::ast::Statement;
use vql::{Args, Dict, Emitter, Error, Limits, Registry, Scope, Signature, Value};

use super::session::Session;
use crate::services::acl::Permission;
use crate::services::compiler::{conversions, tool_variables};
use crate::services::repository::{self, Kind, Repository, source_name};

/// Nested calls beyond this are a definition that calls itself.
const MAX_NESTING: i64 = 10;
/// Counts nested calls in the callee's scope.
const NESTING: &str = "$artifact_nesting";

/// Adds the `Artifact` namespace.
pub fn register(r: &mut Registry) {
    let sig = Signature::new("Artifact", "Runs an artifact here.").any_args().namespace();
    r.plugin_async(sig, |scope, args, emitter| async move { call(&scope, &args, &emitter).await });
    let import = Signature::new("import", "Makes what an artifact exports known to the query.")
        .required("artifact", vql::ArgType::String, "The artifact.");
    r.function_async(import, |scope, args| async move {
        let name = args.string("artifact")?;
        let artifact = repository_of(&scope)?.get(&name);
        let artifact =
            artifact.ok_or_else(|| Error::failed(format!("Artifact {name} not found")))?;
        if artifact.export.trim().is_empty() {
            return Ok(Value::Bool(true));
        }
        let root = scope.root();
        // What is exported may refer to parameters.
        for p in &artifact.parameters {
            if root.resolve(&p.name).is_none() {
                root.set(p.name.clone(), p.default.clone());
                for text in conversions::statements(p) {
                    run(vql::parse(&text).map_err(Error::failed)?, &root).await;
                }
            }
        }
        run(vql::parse(&artifact.export).map_err(Error::failed)?, &root).await;
        Ok(Value::Bool(true))
    });
}

/// The definitions of the query's organisation, or of the scope.
fn repository_of(scope: &Scope) -> Result<Arc<Repository>, Error> {
    match Session::of(scope) {
        Ok(session) => Ok(session.org.repository.clone()),
        Err(_) => scope.extension().ok_or_else(|| Error::failed("no artifacts are known here")),
    }
}

async fn call(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::of(scope).ok();
    let repository = repository_of(scope)?;
    let name = args.call_name().strip_prefix("Artifact.").unwrap_or_default();
    let artifact = repository.get(name);
    let artifact = artifact.ok_or_else(|| Error::failed(format!("Artifact {name} not found")))?;
    if let Some(session) = &session {
        permitted(session, &artifact)?;
    }
    let depth = scope.resolve(NESTING).and_then(|v| v.as_int()).unwrap_or(0) + 1;
    if depth > MAX_NESTING {
        return Err(Error::failed(format!("{name}: artifacts call each other too deeply")));
    }
    let mut given = args.to_dict();
    if let Some(Value::Dict(all)) = given.get("**") {
        given = (**all).clone();
    }
    let wanted = given.remove("source").map(|v| v.to_text());
    let check = given.remove("preconditions").is_some_and(|v| matches!(v, Value::Bool(true)));
    // What the caller knows is known, as to any other query it calls.
    let inner = scope.child();
    inner.set(NESTING, depth);
    bind(&artifact, given, &inner)?;
    if let Some(session) = &session {
        bind_tools(&artifact, session, &inner).await?;
    }
    for text in preamble(&repository, &artifact) {
        run(vql::parse(&text).map_err(Error::failed)?, &inner).await;
    }
    if check && !passes(&artifact.precondition, &inner).await? {
        return Ok(());
    }
    let mut sources = Vec::new();
    for source in &artifact.sources {
        let other = wanted.as_ref().is_some_and(|w| *w != source.name);
        if !other && (!check || passes(&source.precondition, &inner).await?) {
            sources.push(source);
        }
    }
    if Kind::of(&artifact).is_event() {
        let each = sources.into_iter().map(|s| rows(&artifact, s, inner.child(), emitter));
        futures::future::try_join_all(each).await?;
    } else {
        for source in sources {
            rows(&artifact, source, inner.clone(), emitter).await?;
        }
    }
    Ok(())
}

/// Fails unless the caller holds everything the artifact requires.
fn permitted(session: &Session, artifact: &Artifact) -> Result<(), Error> {
    for needed in &artifact.required_permissions {
        let permission = Permission::parse(needed).ok_or_else(|| {
            Error::failed(format!("{} needs the unknown right {needed}", artifact.name))
        })?;
        session.require(permission)?;
    }
    Ok(())
}

/// Sets parameters as variables; what is given keeps its kind of value.
fn bind(artifact: &Arc<Artifact>, mut given: Dict, scope: &Scope) -> Result<(), Error> {
    for p in &artifact.parameters {
        match given.remove(&p.name) {
            Some(value) => scope.set(p.name.clone(), value),
            None => scope.set(p.name.clone(), p.default.clone()),
        }
    }
    match given.keys().next() {
        None => Ok(()),
        Some(key) => Err(Error::Arg(format!("{} has no parameter {key}", artifact.name))),
    }
}

/// Sets the variables of the tools an artifact needs; tools not known yet are fetched.
async fn bind_tools(artifact: &Artifact, session: &Session, scope: &Scope) -> Result<(), Error> {
    for tool in &artifact.tools {
        let ready = session.server.prepare_tool(&session.org, tool).await;
        let ready = ready.map_err(|e| Error::failed(format!("{}: {e}", artifact.name)))?;
        for (name, value) in tool_variables(&tool.name, &ready) {
            scope.set(name, value);
        }
    }
    Ok(())
}

/// Conversions of parameters, then exports.
fn preamble(repository: &Repository, artifact: &Artifact) -> Vec<String> {
    let mut texts: Vec<_> = artifact.parameters.iter().flat_map(conversions::statements).collect();
    texts.push(artifact.export.clone());
    let imported = artifact.imports.iter().filter_map(|n| repository.get(n));
    texts.extend(imported.map(|a| a.export.clone()));
    texts.retain(|t| !t.trim().is_empty());
    texts
}

async fn run(statements: Vec<Statement>, scope: &Scope) {
    let mut rows = vql::eval(statements, scope, Limits::default());
    while rows.next().await.is_some() {}
}

async fn passes(precondition: &str, scope: &Scope) -> Result<bool, Error> {
    if precondition.trim().is_empty() {
        return Ok(true);
    }
    let statements = vql::parse(precondition).map_err(Error::failed)?;
    Ok(vql::eval(statements, scope, Limits::default()).next().await.is_some())
}

async fn rows(
    artifact: &Artifact,
    source: &ArtifactSource,
    scope: Scope,
    emitter: &Emitter,
) -> Result<(), Error> {
    let name = source_name(&artifact.name, &source.name);
    let statements = repository::statements(source).map_err(Error::failed)?;
    let mut rows = vql::eval(statements, &scope, Limits::default());
    while let Some(row) = rows.next().await {
        let mut row = row.into_row();
        // Last, whatever the artifact calls itself.
        row.set("_Source", name.as_str());
        emitter.send(row).await?;
    }
    Ok(())
}
