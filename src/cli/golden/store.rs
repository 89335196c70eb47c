//! The datastore of the cases: empty, or a copy of one that is given. It goes with them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::env::Env;
use crate::env::fs::{create_synced, read_limited};

/// Most bytes of a file that is copied.
const MAX_FILE: usize = 256 << 20;

/// See the module.
pub(super) struct TempStore(pub PathBuf);

impl TempStore {
    pub async fn new(env: &Env, of: Option<&str>) -> anyhow::Result<TempStore> {
        let mut name = [0; 8];
        env.entropy.fill(&mut name);
        let dir = std::env::temp_dir().join(format!("golden.{}", hex::encode(name)));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let store = TempStore(dir);
        if let Some(of) = of {
            let from = crate::config::load::absolute(of)?;
            copy(env, Path::new(&from), &store.0).await?;
        }
        Ok(store)
    }
}

impl Drop for TempStore {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Copies a tree. The cases must not change what they are given.
async fn copy(env: &Env, from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let there = from.join(&dir);
        let shown = || format!("cannot copy {}", there.display());
        let all = std::fs::read_dir(&there).with_context(shown)?;
        for entry in all {
            let entry = entry.with_context(shown)?;
            let kind = entry.file_type().with_context(shown)?;
            let name = dir.join(entry.file_name());
            let (source, target) = (from.join(&name), to.join(&name));
            let shown = || format!("cannot copy {}", source.display());
            if kind.is_dir() {
                std::fs::create_dir(&target).with_context(shown)?;
                open.push(name);
            } else if kind.is_symlink() {
                let link = std::fs::read_link(&source).with_context(shown)?;
                symlink(link, &target).with_context(shown)?;
            } else {
                let (Some(source), Some(target)) = (source.to_str(), target.to_str()) else {
                    anyhow::bail!("{}: the name is not UTF-8", source.display());
                };
                let data = read_limited(&*env.fs, source, MAX_FILE).await.with_context(shown)?;
                create_synced(&*env.fs, target, &data).await.with_context(shown)?;
            }
        }
    }
    Ok(())
}
