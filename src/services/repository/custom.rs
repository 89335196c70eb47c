//! Definitions people wrote, as files of the datastore:
//! `artifact_definitions/<A>/<B>/<C>.yaml` for `A.B.C`. Written by the master
//! only, each replaced as a whole.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use velociraptor_proto::proto::Artifact;

use super::load::{MAX_DEPTH, MAX_FILE, Skipped};
use super::{ArtifactError, Origin, Repository};
use crate::store::path::PathSpec;
use crate::store::{DirPath, FilePath, Org, PathType, StoreError, Tree, paths};

/// Why a definition could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CustomError {
    /// It is not acceptable.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The store failed.
    #[error("artifact definition: {0}")]
    Store(#[from] StoreError),
}

/// Loads what people wrote for an organisation, and what is marked about all
/// its definitions. Files that are not acceptable are reported and skipped.
pub async fn load(
    tree: &Tree,
    org: &Org,
    repository: &Repository,
) -> Result<Vec<Skipped>, StoreError> {
    let mut skipped = Vec::new();
    for file in files(tree, paths::artifact_definitions_dir(org).0, MAX_DEPTH).await? {
        let path = tree.root.file(&file)?;
        let loaded = match tree.get_file(&file, MAX_FILE).await?.map(String::from_utf8) {
            None => continue,
            Some(Err(_)) => Err("not UTF-8".to_owned()),
            Some(Ok(text)) => {
                repository.add(&text, Origin::Custom).map(drop).map_err(|e| e.to_string())
            }
        };
        if let Err(reason) = loaded {
            tracing::warn!(%path, %reason, "stored artifact definition skipped");
            skipped.push(Skipped { path, reason });
        }
    }
    if let Some(stored) = tree.get(&paths::repository_metadata(org)).await? {
        repository.set_metadata(&stored.metadata.into_iter().collect());
    }
    Ok(skipped)
}

/// Definition files below a directory.
fn files(
    tree: &Tree,
    dir: PathSpec,
    depth: usize,
) -> BoxFuture<'_, Result<Vec<FilePath>, StoreError>> {
    async move {
        let mut found = Vec::new();
        for child in tree.files(&DirPath::files(dir.clone())).await? {
            let at = dir.clone().escaped_child(&[&child.name]);
            if child.is_dir && depth > 0 {
                found.extend(files(tree, at, depth - 1).await?);
            } else if child.kind == PathType::Yaml {
                found.push(FilePath(at.typed(PathType::Yaml)));
            }
        }
        Ok(found)
    }
    .boxed()
}

/// Checks, stores, then publishes a definition.
pub async fn set(
    tree: &Tree,
    org: &Org,
    repository: &Repository,
    text: &str,
) -> Result<Arc<Artifact>, CustomError> {
    let artifact = repository.check(text)?;
    tree.set_file(&paths::artifact_definition(org, &artifact.name), text.as_bytes()).await?;
    Ok(repository.set(text)?)
}

/// Removes, then withdraws a definition. One that was never stored is only
/// withdrawn.
pub async fn remove(
    tree: &Tree,
    org: &Org,
    repository: &Repository,
    name: &str,
) -> Result<(), CustomError> {
    match repository.get(name) {
        None => return Err(ArtifactError::NotFound(name.to_owned()).into()),
        Some(a) if a.built_in => return Err(ArtifactError::BuiltIn(name.to_owned()).into()),
        Some(_) => {}
    }
    tree.delete_file(&paths::artifact_definition(org, name)).await?;
    Ok(repository.remove(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreRoot;

    #[tokio::test]
    async fn written_definitions_come_back_and_go() {
        let env = crate::env::real::env();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let tree = Tree::new(&env, StoreRoot::single(root));
        let text = "name: Custom.A_.B\nsources:\n- query:\n    SELECT a FROM scope()\n";
        for org in [Org::root(), Org::new("O1")] {
            set(&tree, &org, &Repository::empty(), text).await.unwrap();
            let again = Repository::empty();
            assert!(load(&tree, &org, &again).await.unwrap().is_empty());
            assert_eq!(again.get("Custom.A_.B").unwrap().raw, text);
            assert!(!again.get("Custom.A_.B").unwrap().built_in);
            remove(&tree, &org, &again, "Custom.A_.B").await.unwrap();
            assert!(again.get("Custom.A_.B").is_none());
            let empty = Repository::empty();
            load(&tree, &org, &empty).await.unwrap();
            assert!(empty.names().is_empty());
            assert!(remove(&tree, &org, &empty, "Custom.A_.B").await.is_err());
        }
    }
}
