//! Files that people uploaded for a parameter (`public/temp`): clients fetch them when a
//! collection runs, so they stay for months, and then go.
//!
//! A collection that a client takes up after that cannot have its file, and its log says
//! so; `gui.upload_days` says how long that may be.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use super::server::{Server, ServiceError};
use crate::store::{StoreError, paths};

/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Server {
    /// Removes those older than `Options::form_days`, and returns how many.
    pub(super) async fn remove_old_form_files(&self) -> Result<usize, ServiceError> {
        let Some(age) = u32::try_from(self.options.form_days).ok().filter(|d| *d > 0) else {
            return Ok(0);
        };
        let fs = &*self.env.fs;
        let store = |e: io::Error| ServiceError::from(StoreError::from(e));
        let oldest = Duration::from_secs(self.env.clock.unix()).saturating_sub(DAY * age);
        let root = self.tree.root.dir(&paths::form_uploads()).map_err(StoreError::from)?;
        let mut removed = 0;
        for dir in fs.list(&root).await.map_err(store)? {
            // Others have nothing to do with forms.
            if !dir.is_dir || dir.name.len() != 64 || hex::decode(&dir.name).is_err() {
                continue;
            }
            let at = format!("{root}/{}", dir.name);
            let mut left = false;
            for file in fs.list(&at).await.map_err(store)? {
                let path = format!("{at}/{}", file.name);
                let changed = fs.stat(&path).await.map_err(store)?.modified;
                let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
                if file.is_dir || changed >= oldest {
                    left = true;
                    continue;
                }
                fs.remove(&path).await.map_err(store)?;
                removed += 1;
            }
            if !left {
                // One that was just given a file is not empty, and stays.
                let _ = fs.remove_dir(&at).await;
            }
        }
        if removed > 0 {
            tracing::info!(removed, days = age, "old files of forms were removed");
        }
        Ok(removed)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // dates files of the test's own
mod tests {
    use super::*;
    use crate::plugins::server::tests::server;

    #[tokio::test]
    async fn files_of_forms_go_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir).await;
        let (old, new) = ("ab".repeat(32), "cd".repeat(32));
        let put = async |hash: &str, name: &str| {
            server.tree.set_file(&paths::form_upload(hash, name), b"x").await.unwrap();
            dir.path().join("public/temp").join(hash).join(name)
        };
        let date = |path: &std::path::Path, days: u32| {
            let at = std::time::SystemTime::now() - DAY * days;
            std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
        };
        let most = u32::try_from(server.options.form_days).unwrap();
        let (a, b) = (put(&old, "a").await, put(&new, "b").await);
        let theirs = put("not-of-a-form", "c").await;
        date(&a, most + 1);
        date(&b, most - 1);
        date(&theirs, most + 1);
        assert_eq!(server.remove_old_form_files().await.unwrap(), 1);
        assert!(!a.parent().unwrap().exists() && b.exists() && theirs.exists());
        assert_eq!(server.remove_old_form_files().await.unwrap(), 0);
    }
}
