//! Definitions people wrote, as files of the datastore:
//! `artifact_definitions/<A>/<B>/<C>.yaml` for `A.B.C`. Written by the master
//! only, each replaced as a whole.

use std::io;

use velociraptor_proto::proto::Artifact;

use super::load::{self, Skipped};
use super::{ArtifactError, Origin, Repository};
use crate::env::{Env, fs};

/// Why a definition could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CustomError {
    /// It is not acceptable.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The store failed.
    #[error("artifact definition: {0}")]
    Store(#[from] io::Error),
}

/// Loads what people wrote for the organisation whose file store is at `root`.
/// Files that are not acceptable are reported and skipped.
pub async fn load(env: &Env, repository: &Repository, root: &str) -> io::Result<Vec<Skipped>> {
    let mut skipped = Vec::new();
    for path in load::tree(env, &format!("{root}/artifact_definitions")).await? {
        let loaded = match load::text(env, &path).await {
            Err(e) => Err(e.to_string()),
            Ok(text) => repository.add(&text, Origin::Custom).map(drop).map_err(|e| e.to_string()),
        };
        if let Err(reason) = loaded {
            tracing::warn!(%path, %reason, "stored artifact definition skipped");
            skipped.push(Skipped { path, reason });
        }
    }
    Ok(skipped)
}

/// Checks, stores, then publishes a definition.
pub async fn set(
    env: &Env,
    repository: &Repository,
    root: &str,
    text: &str,
) -> Result<std::sync::Arc<Artifact>, CustomError> {
    let artifact = repository.check(text)?;
    let path = path(root, &artifact.name);
    let tmp = format!("{root}/temp/artifact-{:016x}", env.entropy.next_u64());
    fs::replace(&*env.fs, &tmp, &path, text.as_bytes()).await?;
    Ok(repository.set(text)?)
}

/// Withdraws, then removes a definition. One that was never stored is only
/// withdrawn.
pub async fn remove(
    env: &Env,
    repository: &Repository,
    root: &str,
    name: &str,
) -> Result<(), CustomError> {
    match repository.get(name) {
        None => return Err(ArtifactError::NotFound(name.to_owned()).into()),
        Some(a) if a.built_in => return Err(ArtifactError::BuiltIn(name.to_owned()).into()),
        Some(_) => {}
    }
    match env.fs.remove(&path(root, name)).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => Ok(repository.remove(name)?),
    }
}

/// Where a definition is stored. Names hold only letters, digits, dots and
/// underscores, so the one escape that can apply is that of a last `_`.
fn path(root: &str, name: &str) -> String {
    let part = |p: &str| if p.ends_with('_') { format!("{p}_") } else { p.to_owned() };
    let parts: Vec<_> = name.split('.').map(part).collect();
    format!("{root}/artifact_definitions/{}.yaml", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn written_definitions_come_back_and_go() {
        let env = crate::env::real::env();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let text = "name: Custom.A_.B\nsources:\n- query:\n    SELECT a FROM scope()\n";
        set(&env, &Repository::empty(), root, text).await.unwrap();
        assert!(
            env.fs.stat(&format!("{root}/artifact_definitions/Custom/A__/B.yaml")).await.is_ok()
        );
        let again = Repository::empty();
        assert!(load(&env, &again, root).await.unwrap().is_empty());
        assert_eq!(again.get("Custom.A_.B").unwrap().raw, text);
        assert!(!again.get("Custom.A_.B").unwrap().built_in);
        remove(&env, &again, root, "Custom.A_.B").await.unwrap();
        assert!(again.get("Custom.A_.B").is_none());
        let empty = Repository::empty();
        load(&env, &empty, root).await.unwrap();
        assert!(empty.names().is_empty());
        assert!(remove(&env, &empty, root, "Custom.A_.B").await.is_err());
    }
}
