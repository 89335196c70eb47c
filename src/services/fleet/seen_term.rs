//! The highest term of a master that a node has obeyed, kept over restarts of its
//! minion: a master that was displaced while the minion was down finds no ear.
//!
//! One empty file for each term, `<fleet>/<node>/term-<n>`, made once and never
//! changed, so that two processes of one node cannot undo what the other wrote.

use std::io;

use crate::env::fs::create_synced;
use crate::env::{Env, FileSystem};

fn dir(fleet: &str, node: &str) -> String {
    format!("{fleet}/{node}")
}

fn term_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("term-")?;
    (digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The highest term that processes of `node` have noted below the directory
/// `fleet`; 0: none.
pub(super) async fn read(env: &Env, fleet: &str, node: &str) -> io::Result<u64> {
    let names = env.fs.list(&dir(fleet, node)).await?;
    Ok(names.iter().filter_map(|e| term_of(&e.name)).max().unwrap_or(0))
}

/// Notes `term`; durable when this returns. What it replaces is removed.
pub(super) async fn write(env: &Env, fleet: &str, node: &str, term: u64) -> io::Result<()> {
    let (fs, dir): (&dyn FileSystem, _) = (&*env.fs, dir(fleet, node));
    match create_synced(fs, &format!("{dir}/term-{term}"), b"").await {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => fs.sync_dir(&dir).await?,
    }
    for e in fs.list(&dir).await? {
        if term_of(&e.name).is_some_and(|t| t < term) {
            // It says nothing any more; the next one tries again.
            let _ = fs.remove(&format!("{dir}/{}", e.name)).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_highest_counts() {
        let tmp = tempfile::tempdir().unwrap();
        let fleet = tmp.path().to_str().unwrap();
        let env = crate::env::real::env();
        assert_eq!(read(&env, fleet, "n").await.unwrap(), 0);
        for (term, highest) in [(3, 3), (9, 9), (9, 9), (5, 9)] {
            write(&env, fleet, "n", term).await.unwrap();
            assert_eq!(read(&env, fleet, "n").await.unwrap(), highest);
        }
        write(&env, fleet, "n", 10).await.unwrap();
        assert_eq!(read(&env, fleet, "n").await.unwrap(), 10);
        assert_eq!(
            env.fs.list(&dir(fleet, "n")).await.unwrap().len(),
            1,
            "the lower ones are gone"
        );
        assert_eq!(read(&env, fleet, "other").await.unwrap(), 0);
        assert!(term_of("term-").is_none() && term_of("term-+1").is_none());
        assert!(term_of("00000001-term").is_none());
    }
}
