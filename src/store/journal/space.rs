//! What is still taken when the store runs out of space.
//!
//! A reserve, a file without meaning, is made at the start and given up when the
//! store is full, so that decisions and the ends of flows still get through
//! while data is refused. What is worth least is refused first. This module
//! knows how much is free and what a record is worth, not what it says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::env::{Env, Open};

/// What a record is worth, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Content of files.
    Upload,
    /// Rows, logs, events.
    Rows,
    /// What flows say of themselves.
    Status,
    /// What the server decides: tasks, cancels, enrolments.
    Decision,
}

impl Worth {
    const ALL: [Worth; 4] = [Worth::Upload, Worth::Rows, Worth::Status, Worth::Decision];

    /// Its name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Worth::Upload => "uploads",
            Worth::Rows => "rows",
            Worth::Status => "statuses",
            Worth::Decision => "decisions",
        }
    }
}

/// How much room there is, as what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Roomy,
    /// No uploads: less than the reserve's size is free beside it.
    Low,
    /// No rows either: there is no reserve.
    Full,
    /// Decisions alone: half of the reserve is used up.
    Last,
}

impl Level {
    /// Whether something of that worth is taken.
    pub fn takes(self, worth: Worth) -> bool {
        worth
            >= match self {
                Level::Roomy => Worth::Upload,
                Level::Low => Worth::Rows,
                Level::Full => Worth::Status,
                Level::Last => Worth::Decision,
            }
    }
}

/// Something is refused: the store has too little space for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datastore is nearly full: no {} are taken{}", .worth.name(), Free(*.free))]
pub struct Refused {
    /// What is refused.
    pub worth: Worth,
    /// Bytes that were free at the last look, if that is known.
    pub free: Option<u64>,
}

struct Free(Option<u64>);

impl std::fmt::Display for Free {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(n) => write!(f, " ({n} bytes are free)"),
            None => Ok(()),
        }
    }
}

/// Whether an error says that there is no space left.
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Bytes of the reserve written at once.
const BLOCK: u64 = 1 << 20;

#[derive(Debug)]
struct State {
    level: Level,
    free: Option<u64>,
    /// Number of the reserve's file while there is one.
    held: Option<u64>,
    next: u64,
}

/// See the module.
pub struct Space {
    env: Env,
    /// The process's directory.
    dir: String,
    reserve: u64,
    state: Mutex<State>,
    /// Held while the reserve is made or given up.
    busy: tokio::sync::Mutex<()>,
    refused: [AtomicU64; 4],
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Space {
    /// Keeps a reserve of `reserve` bytes in the directory `dir`; 0 keeps none, and
    /// nothing is refused but by a store that is read-only. Nothing is made before
    /// [`Space::watch`].
    pub fn new(env: &Env, dir: String, reserve: u64) -> Self {
        let state = State { level: Level::Roomy, free: None, held: None, next: 0 };
        Self {
            env: env.clone(),
            dir,
            reserve,
            state: Mutex::new(state),
            busy: tokio::sync::Mutex::default(),
            refused: Default::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, n: u64) -> String {
        reserve_path(&self.dir, n)
    }

    /// What is taken now.
    pub fn level(&self) -> Level {
        self.state().level
    }

    /// Bytes free at the last look.
    pub fn free(&self) -> Option<u64> {
        self.state().free
    }

    /// Bytes of the reserve that is there now.
    pub fn held(&self) -> u64 {
        self.state().held.map_or(0, |_| self.reserve)
    }

    /// How often something was refused, by what it was worth.
    pub fn refused(&self) -> [(&'static str, u64); 4] {
        Worth::ALL.map(|w| (w.name(), self.refused[w as usize].load(Ordering::Relaxed)))
    }

    /// Refuses what there is no room for.
    pub fn admit(&self, worth: Worth) -> Result<(), Refused> {
        let (level, free) = {
            let s = self.state();
            (s.level, s.free)
        };
        if level.takes(worth) {
            return Ok(());
        }
        self.refused[worth as usize].fetch_add(1, Ordering::Relaxed);
        Err(Refused { worth, free })
    }

    /// What `/healthz` says: an error if anything is refused.
    pub fn health(&self) -> Result<(), Refused> {
        let s = self.state();
        let worst = Worth::ALL.into_iter().rev().find(|w| !s.level.takes(*w));
        worst.map_or(Ok(()), |worth| Err(Refused { worth, free: s.free }))
    }

    /// Looks how much is free, and makes the reserve when there is room for it.
    /// To be called every second or so.
    pub async fn watch(&self) {
        let free = match self.env.fs.free_space(&self.dir).await {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                let _busy = self.busy.lock().await;
                return self.set(Level::Last);
            }
            // Writing tells what asking does not.
            Err(e) => return tracing::debug!(error = %e, "free space of the datastore"),
        };
        let _busy = self.busy.lock().await;
        if self.reserve == 0 {
            self.state().free = Some(free);
            return self.set(Level::Roomy);
        }
        let (was, held) = {
            let mut s = self.state();
            s.free = Some(free);
            (s.level, s.held.is_some())
        };
        // There is room again when as much is free beside the reserve.
        let ample = free >= 2 * self.reserve;
        let level = match held {
            true if free < self.reserve => Level::Low,
            true if ample => Level::Roomy,
            // Nothing else ends this level while there is a reserve: the store could
            // not be written at all.
            true if was == Level::Last => Level::Low,
            true => was,
            false if free < self.reserve / 2 => Level::Last,
            false if !ample => Level::Full,
            false => match self.make().await {
                Ok(()) => Level::Roomy,
                Err(e) if is_full(&e) => Level::Full,
                // Not for want of space.
                Err(_) => was,
            },
        };
        self.set(level);
    }

    fn set(&self, level: Level) {
        let (was, free) = {
            let mut s = self.state();
            (std::mem::replace(&mut s.level, level), s.free)
        };
        let free = free.unwrap_or_default();
        if level > was {
            tracing::error!(
                free,
                ?level,
                "the datastore is filling up, or read-only: data is refused"
            );
        } else if level < was {
            tracing::warn!(free, ?level, "the datastore has space again");
        }
    }

    /// A write found the store full: gives the reserve up. Returns whether
    /// there is room now that there was not before.
    pub async fn met_full(&self) -> bool {
        if self.reserve == 0 {
            return false;
        }
        let _busy = self.busy.lock().await;
        self.set(self.level().max(Level::Full));
        let Some(n) = self.state().held.take() else { return false };
        let gone = self.env.fs.remove(&self.path(n)).await;
        if let Err(e) = &gone {
            tracing::error!(error = %e, "the reserve of space cannot be given up");
        }
        gone.is_ok()
    }

    /// The process ends in good order: its reserve is of no more use.
    pub async fn close(&self) {
        let _busy = self.busy.lock().await;
        let held = self.state().held.take();
        if let Some(n) = held
            && let Err(e) = self.env.fs.remove(&self.path(n)).await
        {
            tracing::warn!(error = %e, "reserve of space not removed");
        }
    }

    async fn make(&self) -> io::Result<()> {
        let n = {
            let mut s = self.state();
            s.next += 1;
            s.next
        };
        let path = self.path(n);
        let made = self.fill(&path).await;
        match &made {
            Ok(()) => self.state().held = Some(n),
            Err(e) => {
                tracing::warn!(error = %e, "no reserve of space");
                let _ = self.env.fs.remove(&path).await;
            }
        }
        made
    }

    /// Noise, so that no file system stores less than it says.
    async fn fill(&self, path: &str) -> io::Result<()> {
        let mut noise = vec![0; BLOCK.min(self.reserve) as usize];
        self.env.entropy.fill(&mut noise);
        let noise = Bytes::from(noise);
        let f = self.env.fs.open(path, Open::CreateNew).await?;
        let mut at = 0;
        while at < self.reserve {
            let n = BLOCK.min(self.reserve - at);
            f.write_at(at, noise.slice(..n as usize)).await?;
            at += n;
        }
        f.sync().await?;
        f.close().await
    }
}

fn reserve_path(dir: &str, n: u64) -> String {
    format!("{dir}/reserve/{n}")
}

/// Removes the reserves that an earlier process left in its directory `dir`:
/// they are of no more use, and a start may need the space.
pub async fn remove_reserves(env: &Env, dir: &str) -> io::Result<()> {
    let dir = format!("{dir}/reserve");
    for e in env.fs.list(&dir).await? {
        env.fs.remove(&format!("{dir}/{}", e.name)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use velociraptor_proto::journal::record::Kind;
    use velociraptor_proto::journal::{Post, Record};

    use super::super::{Journal, Options, ProcessId, journal_path, scan};
    use super::*;
    use crate::store::faulty::Faulty;

    #[test]
    fn what_is_worth_least_goes_first() {
        let taken = |l: Level| Worth::ALL.into_iter().filter(|w| l.takes(*w)).count();
        let levels = [Level::Roomy, Level::Low, Level::Full, Level::Last];
        assert_eq!(levels.map(taken), [4, 3, 2, 1]);
        assert!(Level::Last.takes(Worth::Decision) && !Level::Last.takes(Worth::Status));
        assert!(Level::Low.takes(Worth::Rows) && !Level::Low.takes(Worth::Upload));
    }

    fn record(n: u64) -> Record {
        let post = Post { received: n, ..Default::default() };
        Record { kind: Some(Kind::Post(post)) }
    }

    /// A journal in `dir` with a reserve of 64 KiB.
    async fn journal(dir: &str) -> (Env, Faulty, Journal) {
        let (env, disk) = Faulty::wrap(&crate::env::real::env());
        let options = Options { reserve_bytes: 64 << 10, ..Default::default() };
        let j = Journal::start(&env, dir, ProcessId::new("n", "1-a"), options, None).await;
        (env, disk, j.unwrap())
    }

    #[tokio::test]
    async fn a_group_that_finds_the_store_full_is_written_again_without_its_least() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_str().unwrap();
        let (env, disk, j) = journal(dir).await;
        j.space().watch().await;
        assert_eq!((j.space().held(), j.space().level()), (64 << 10, Level::Roomy));
        disk.leave(Some(1000));
        let big = || vec![Bytes::from(vec![7; 10_000])];
        let (upload, rows, decision) = tokio::join!(
            j.commit_worth(Worth::Upload, record(1), big(), vec![]),
            j.commit_worth(Worth::Rows, record(2), vec![], vec![]),
            j.commit(record(3), big(), vec![]),
        );
        assert!(upload.is_err() && rows.is_err());
        assert_eq!(decision.unwrap().end.file, 1, "never the descriptor that failed");
        assert_eq!((j.space().held(), j.space().level()), (0, Level::Full));
        let refused = j.commit_worth(Worth::Rows, record(4), vec![], vec![]).await.unwrap_err();
        assert!(refused.to_string().contains("no rows are taken"), "{refused}");
        let mut found = Vec::new();
        for file in 0..2 {
            let path = journal_path(dir, &ProcessId::new("n", "1-a"), file);
            scan(&*env.fs, &path, |f| match f.record.kind {
                Some(Kind::Post(p)) => found.push(p.received),
                _ => found.push(0),
            })
            .await
            .unwrap();
        }
        assert_eq!(found, [3]);
        assert_eq!(disk.faults(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_reserve_comes_and_goes_with_the_room_for_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_str().unwrap();
        let (env, disk, j) = journal(dir).await;
        let s = j.space();
        // Too little for a reserve and as much again.
        disk.leave(Some(100 << 10));
        s.watch().await;
        assert_eq!((s.held(), s.level()), (0, Level::Full));
        disk.leave(Some(20 << 10));
        s.watch().await;
        assert_eq!(s.level(), Level::Last);
        disk.leave(Some(200 << 10));
        s.watch().await;
        assert_eq!((s.held(), s.level(), s.free()), (64 << 10, Level::Roomy, Some(200 << 10)));
        disk.leave(Some(50 << 10));
        s.watch().await;
        assert_eq!((s.held(), s.level()), (64 << 10, Level::Low));
        // Not to and fro at the edge.
        disk.leave(Some(70 << 10));
        s.watch().await;
        assert_eq!(s.level(), Level::Low);
        disk.leave(Some(128 << 10));
        s.watch().await;
        assert_eq!(s.level(), Level::Roomy);
        assert!(s.met_full().await && !s.met_full().await);
        assert_eq!((s.held(), s.level()), (0, Level::Full));
        s.watch().await;
        assert_eq!((s.held(), s.level()), (64 << 10, Level::Roomy));
        // What a process leaves is found by the next.
        let dir = format!("{dir}/n/1-a");
        assert_eq!(env.fs.list(&format!("{dir}/reserve")).await.unwrap().len(), 1);
        remove_reserves(&env, &dir).await.unwrap();
        assert!(env.fs.list(&format!("{dir}/reserve")).await.unwrap().is_empty());
        assert_eq!(disk.faults(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_read_only_store_takes_nothing_from_clients_until_it_is_written_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_str().unwrap();
        let (_env, disk, j) = journal(dir).await;
        let s = j.space();
        s.watch().await;
        assert_eq!((s.level(), s.held()), (Level::Roomy, 64 << 10));
        disk.set_read_only(true);
        s.watch().await;
        assert!(s.health().is_err(), "{:?}", s.level());
        assert!(s.admit(Worth::Status).is_err() && s.admit(Worth::Decision).is_ok());
        disk.set_read_only(false);
        disk.leave(Some(100 << 10));
        s.watch().await;
        assert_eq!(s.level(), Level::Low, "back, with less room than before");
        disk.leave(None);
        s.watch().await;
        assert_eq!((s.level(), s.held()), (Level::Roomy, 64 << 10));
        // Without a reserve nothing is refused for want of space, but this is.
        let tmp = tempfile::tempdir().unwrap();
        let options = Options { reserve_bytes: 0, ..Default::default() };
        let (env, disk) = Faulty::wrap(&crate::env::real::env());
        let at = tmp.path().to_str().unwrap();
        let j = Journal::start(&env, at, ProcessId::new("n", "1-a"), options, None).await.unwrap();
        disk.leave(Some(0));
        j.space().watch().await;
        assert_eq!(j.space().level(), Level::Roomy);
        disk.set_read_only(true);
        j.space().watch().await;
        assert_eq!(j.space().level(), Level::Last);
        disk.set_read_only(false);
        j.space().watch().await;
        assert_eq!(j.space().level(), Level::Roomy);
    }
}
