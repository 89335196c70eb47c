//! The other artifacts a query calls, which a client must be given: it never
//! uses definitions of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use regex::Regex;
use velociraptor_proto::proto::{Artifact, ArtifactParameter, ArtifactSource};

use super::{CompileError, tools};
use crate::services::repository::{Repository, statements};

/// How a call of another artifact looks; anything built at run time is not seen.
static CALL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"Artifact\.([^\s(]+)\(").ok());

/// Artifacts one collection may pull in; a guard against absurd definitions.
const MAX: usize = 1000;

/// Everything reachable from `texts` and `imports`, stripped to what clients use.
pub(super) fn collect<'a>(
    repository: &Repository,
    of: &str,
    texts: impl IntoIterator<Item = &'a str>,
    options: &super::CompileOptions<'_>,
) -> Result<Vec<Artifact>, CompileError> {
    let mut found: BTreeMap<String, Artifact> = BTreeMap::new();
    let mut open: Vec<(String, String)> =
        texts.into_iter().flat_map(calls).map(|n| (of.to_owned(), n)).collect();
    while let Some((caller, name)) = open.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let lost = || CompileError::UnknownReference { caller: caller.clone(), name: name.clone() };
        let artifact = repository.get(&name).ok_or_else(lost)?;
        let stripped = strip(&artifact, options)?;
        for text in all_texts(&stripped) {
            open.extend(calls(text).map(|n| (name.clone(), n)));
        }
        open.extend(artifact.imports.iter().map(|n| (name.clone(), n.clone())));
        found.insert(name, stripped);
        if found.len() > MAX {
            return Err(CompileError::TooManyDependencies(of.to_owned()));
        }
    }
    Ok(found.into_values().collect())
}

/// Names called in a text.
fn calls(text: &str) -> impl Iterator<Item = String> + '_ {
    let captures = CALL.as_ref().into_iter().flat_map(|r| r.captures_iter(text));
    captures.filter_map(|c| c.get(1)).map(|m| m.as_str().to_owned())
}

fn all_texts(artifact: &Artifact) -> impl Iterator<Item = &str> {
    let sources = artifact.sources.iter();
    let of_sources =
        sources.flat_map(|s| s.queries.iter().map(String::as_str).chain([s.precondition.as_str()]));
    [artifact.precondition.as_str(), artifact.export.as_str()].into_iter().chain(of_sources)
}

fn strip(
    artifact: &Arc<Artifact>,
    options: &super::CompileOptions<'_>,
) -> Result<Artifact, CompileError> {
    let mut parameters: Vec<_> = artifact
        .parameters
        .iter()
        .map(|p| ArtifactParameter {
            name: p.name.clone(),
            r#type: p.r#type.clone(),
            default: super::default_of(p, options),
            ..Default::default()
        })
        .collect();
    for (name, default) in tools::environment(artifact, options)? {
        parameters.push(ArtifactParameter { name, default, ..Default::default() });
    }
    let mut sources = Vec::new();
    for source in &artifact.sources {
        let parsed = statements(source).map_err(|e| CompileError::vql(&artifact.name, e))?;
        sources.push(ArtifactSource {
            name: source.name.clone(),
            precondition: source.precondition.clone(),
            queries: parsed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        });
    }
    Ok(Artifact {
        name: artifact.name.clone(),
        r#type: artifact.r#type.clone(),
        precondition: artifact.precondition.clone(),
        export: artifact.export.clone(),
        imports: artifact.imports.clone(),
        parameters,
        sources,
        ..Default::default()
    })
}
