//! Artifact definitions by name: what came with the server, what its folders
//! and configuration add, and what people wrote.
//!
//! The root organisation has a repository of its own; every other one looks
//! there for names it does not know itself. Nothing here runs a query or
//! touches files; [`load`] and [`custom`] read and write them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use velociraptor_proto::proto::{Artifact, ArtifactMetadata};

pub mod custom;
mod definition;
pub mod load;
mod preprocess;
mod yaml;

pub use definition::{ArtifactError, Kind, parse, source_name, statements, validate};
pub use yaml::YamlError;

/// Prefix of definitions people edit.
pub const CUSTOM: &str = "Custom.";

/// `(file name, text)` of every definition in the binary.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/builtin_artifacts.rs"));

/// Where a definition came from; it decides who may replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the binary.
    Compiled,
    /// In a folder or the configuration of this server: like built-in.
    Folder,
    /// Written by a person.
    Custom,
}

/// The definitions of one organisation.
#[derive(Debug, Default)]
pub struct Repository {
    parent: Option<Arc<Repository>>,
    state: RwLock<State>,
}

#[derive(Debug, Default, Clone)]
struct State {
    /// Aliases included, each a copy of its own.
    artifacts: BTreeMap<String, Arc<Artifact>>,
    /// What is stored beside definitions, those that are inherited too.
    metadata: BTreeMap<String, ArtifactMetadata>,
    version: u64,
}

impl Repository {
    /// Without any definition.
    pub fn empty() -> Repository {
        Repository::default()
    }

    /// With the definitions of this binary.
    pub fn built_in() -> Result<Repository, ArtifactError> {
        let repository = Repository::default();
        for (file, text) in BUILT_IN {
            let add = repository.add(text, Origin::Compiled);
            add.map_err(|e| ArtifactError::invalid(file, e.to_string()))?;
        }
        Ok(repository)
    }

    /// For an organisation below root.
    pub fn child_of(parent: Arc<Repository>) -> Repository {
        Repository { parent: Some(parent), state: RwLock::default() }
    }

    fn read(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a definition under its name and aliases, replacing what the same
    /// or a weaker origin had there. An alias that is taken is an error.
    pub fn add(&self, text: &str, origin: Origin) -> Result<Arc<Artifact>, ArtifactError> {
        self.insert(parse(text)?, origin)
    }

    /// As [`Repository::add`], with the checks made for what people write.
    pub fn set(&self, text: &str) -> Result<Arc<Artifact>, ArtifactError> {
        let artifact = self.check(text)?;
        self.insert(artifact, Origin::Custom)
    }

    /// What [`Repository::set`] would refuse, without setting anything.
    pub fn check(&self, text: &str) -> Result<Artifact, ArtifactError> {
        let artifact = parse(text)?;
        validate(&artifact)?;
        if self.get(&artifact.name).is_some_and(|a| a.built_in) {
            return Err(ArtifactError::BuiltIn(artifact.name));
        }
        Ok(artifact)
    }

    fn insert(
        &self,
        mut artifact: Artifact,
        origin: Origin,
    ) -> Result<Arc<Artifact>, ArtifactError> {
        artifact.built_in = origin != Origin::Custom;
        artifact.compiled_in = origin == Origin::Compiled;
        let name = artifact.name.clone();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if origin == Origin::Custom && state.artifacts.get(&name).is_some_and(|a| a.built_in) {
            return Err(ArtifactError::BuiltIn(name));
        }
        let old = state.artifacts.get(&name).map(|a| a.aliases.clone()).unwrap_or_default();
        for alias in artifact.aliases.iter().filter(|alias| !old.contains(alias)) {
            if state.artifacts.contains_key(alias) {
                return Err(ArtifactError::invalid(&name, format!("alias {alias} is taken")));
            }
        }
        old.iter().for_each(|alias| drop(state.artifacts.remove(alias)));
        for alias in &artifact.aliases {
            let copy = Artifact { name: alias.clone(), is_alias: true, ..artifact.clone() };
            state.artifacts.insert(alias.clone(), Arc::new(copy));
        }
        if let Some(kept) = state.metadata.get(&name) {
            artifact.metadata = Some(kept.clone());
        }
        let added = Arc::new(artifact);
        state.artifacts.insert(name, added.clone());
        state.version += 1;
        Ok(added)
    }

    /// Removes a definition somebody wrote.
    pub fn remove(&self, name: &str) -> Result<(), ArtifactError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match state.artifacts.get(name).cloned() {
            None => Err(ArtifactError::NotFound(name.to_owned())),
            Some(a) if a.built_in => Err(ArtifactError::BuiltIn(name.to_owned())),
            Some(a) => {
                state.artifacts.remove(name);
                a.aliases.iter().for_each(|alias| drop(state.artifacts.remove(alias)));
                state.version += 1;
                Ok(())
            }
        }
    }

    /// The definition of that name, here or in root.
    pub fn get(&self, name: &str) -> Option<Arc<Artifact>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(a) = state.artifacts.get(name) {
            return Some(a.clone());
        }
        let kept = state.metadata.get(name).cloned();
        drop(state);
        self.parent.as_ref().and_then(|p| p.get(name)).map(|a| inherited(a, kept.as_ref()))
    }

    /// As [`Repository::get`]; with `overrides` a `Custom.` version of the
    /// name wins.
    pub fn resolve(&self, name: &str, overrides: bool) -> Option<Arc<Artifact>> {
        let custom = overrides.then(|| self.get(&format!("{CUSTOM}{name}"))).flatten();
        custom.or_else(|| self.get(name))
    }

    /// The kind behind a result-set name (`Artifact` or `Artifact/Source`).
    pub fn kind_of(&self, result_set: &str) -> Option<Kind> {
        let name = result_set.split('/').next().unwrap_or(result_set);
        self.get(name).map(|a| Kind::of(&a))
    }

    /// Every definition in name order.
    pub fn all(&self) -> Vec<Arc<Artifact>> {
        let own = self.read();
        let here = |a: Arc<Artifact>| {
            let kept = own.metadata.get(&a.name);
            (a.name.clone(), inherited(a, kept))
        };
        let mut all: BTreeMap<String, Arc<Artifact>> = match &self.parent {
            None => BTreeMap::new(),
            Some(p) => p.all().into_iter().map(here).collect(),
        };
        all.extend(own.artifacts);
        all.into_values().collect()
    }

    /// Every name in order.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = self.parent.as_ref().map(|p| p.names()).unwrap_or_default();
        names.extend(self.read().artifacts.into_keys());
        names
    }

    /// Changes whenever a definition here or in root does.
    pub fn version(&self) -> u64 {
        let own = self.state.read().unwrap_or_else(PoisonError::into_inner).version;
        own + self.parent.as_ref().map_or(0, |p| p.version())
    }

    /// Attaches what is stored beside definitions, now and when they are replaced.
    pub fn set_metadata(&self, metadata: &BTreeMap<String, ArtifactMetadata>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.metadata.clone_from(metadata);
        for (name, meta) in metadata {
            if let Some(a) = state.artifacts.get_mut(name) {
                Arc::make_mut(a).metadata = Some(meta.clone());
            }
        }
        state.version += 1;
    }
}

/// A definition of root as another organisation sees it, with what that notes of it.
fn inherited(artifact: Arc<Artifact>, noted: Option<&ArtifactMetadata>) -> Arc<Artifact> {
    let mut a = artifact;
    let own = Arc::make_mut(&mut a);
    own.is_inherited = true;
    if let Some(noted) = noted {
        own.metadata = Some(noted.clone());
    }
    a
}

#[cfg(test)]
mod tests;
