//! Whether a directory can be a datastore: tries what the store relies on, from one
//! node ([`directory`]) or from two at once ([`peer::meet`]), and says how long it took.
//!
//! Works below `temp/` of the directory, which nobody reads, and removes what it made.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::env::{Env, FileSystem, Open};

pub mod peer;

/// Times each operation is tried.
const ROUNDS: usize = 10;
/// Bytes written before each sync.
const BYTES: usize = 64 << 10;
/// A file server's clock may differ by this much before it is worth a word.
const CLOCK_WARN: Duration = Duration::from_secs(1);
/// And by this much before it is wrong: certificates and event days go by it.
const CLOCK_FAIL: Duration = Duration::from_secs(60);
/// Less free space than this is worth a word.
const LITTLE_SPACE: u64 = 1 << 30;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but should be looked at.
    Warning,
    /// Must be mended before a frontend uses it.
    Failed,
}

impl Level {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failed => "FAILED",
        }
    }
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was checked.
    pub what: String,
    /// How it went.
    pub level: Level,
    /// Median and longest time, if it was timed.
    pub took: Option<(Duration, Duration)>,
    /// What is to be said about it.
    pub note: String,
}

impl Line {
    /// A line that was not timed.
    pub fn new(what: &str, level: Level, note: impl Into<String>) -> Line {
        Line { what: what.to_owned(), level, took: None, note: note.into() }
    }

    fn timed(what: &str, times: &mut [Duration], note: impl Into<String>) -> Line {
        times.sort();
        let took = times.get(times.len() / 2).zip(times.last()).map(|(m, l)| (*m, *l));
        Line { took, ..Line::new(what, Level::Ok, note) }
    }

    fn failed(what: &str, e: impl ToString) -> Line {
        Line::new(what, Level::Failed, e.to_string())
    }
}

/// Tries `dir` as a datastore. `uid` is the user this process runs as.
pub async fn directory(env: &Env, dir: &str, uid: u32) -> Vec<Line> {
    let mut lab = Lab {
        fs: &*env.fs,
        env,
        dir: format!("{dir}/temp/check-{:016x}", env.entropy.next_u64()),
        files: Vec::new(),
        out: Vec::new(),
    };
    if let Err(e) = lab.fs.create_dir(&lab.dir).await {
        return vec![Line::failed("make a directory", e)];
    }
    lab.create_and_sync().await;
    lab.owner(uid).await;
    lab.clock().await;
    lab.exclusive().await;
    lab.rename().await;
    lab.link().await;
    lab.read_back().await;
    lab.space(dir).await;
    lab.tidy().await;
    lab.out
}

struct Lab<'a> {
    fs: &'a dyn FileSystem,
    env: &'a Env,
    dir: String,
    files: Vec<String>,
    out: Vec<Line>,
}

/// Runs one operation and adds its time.
async fn time<T>(
    times: &mut Vec<Duration>,
    op: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let start = Instant::now();
    let result = op.await;
    times.push(start.elapsed());
    result
}

/// Contents that differ from file to file.
fn contents(n: usize) -> Vec<u8> {
    (0..BYTES).map(|i| (i.wrapping_mul(31) ^ n) as u8).collect()
}

impl Lab<'_> {
    fn path(&mut self, name: &str) -> String {
        let path = format!("{}/{name}", self.dir);
        self.files.push(path.clone());
        path
    }

    fn report(&mut self, what: &str, result: io::Result<Line>) {
        self.out.push(result.unwrap_or_else(|e| Line::failed(what, e)));
    }

    async fn create_and_sync(&mut self) {
        let (mut made, mut synced) = (Vec::new(), Vec::new());
        let mut all = Ok(());
        for n in 0..ROUNDS {
            let path = self.path(&format!("f{n}"));
            let one = async {
                let f = time(&mut made, self.fs.open(&path, Open::CreateNew)).await?;
                let write = async {
                    f.write_at(0, Bytes::from(contents(n))).await?;
                    f.sync().await
                };
                time(&mut synced, write).await?;
                f.close().await
            };
            all = one.await;
            if all.is_err() {
                break;
            }
        }
        let created = match &all {
            Err(e) if made.len() > synced.len() || made.is_empty() => {
                Line::failed("create a file", e)
            }
            _ => Line::timed("create a file", &mut made, ""),
        };
        self.out.push(created);
        let note = format!("{} KiB each", BYTES >> 10);
        let what = "write and sync";
        self.report(what, all.map(|()| Line::timed(what, &mut synced, note)));
    }

    /// Files made here must belong to this user, or another node cannot replace them.
    async fn owner(&mut self, uid: u32) {
        let what = "owner of new files";
        let path = format!("{}/f0", self.dir);
        let line = match self.fs.details(&path).await {
            Ok(d) if d.uid == uid => Line::new(what, Level::Ok, format!("uid {uid}")),
            Ok(d) => {
                let note = format!(
                    "uid {}, but this process runs as {uid}: the server maps user ids \
                     (root_squash, all_squash, idmapd)",
                    d.uid
                );
                // Squashing root alone is usual, and frontends do not run as root.
                Line::new(what, if uid == 0 { Level::Warning } else { Level::Failed }, note)
            }
            Err(e) => Line::failed(what, e),
        };
        self.out.push(line);
    }

    async fn clock(&mut self) {
        let what = "clock of the file server";
        let path = self.path("clock");
        let result = offset(self.env, &path).await.map(|(offset, around)| {
            let (level, text) = clock(offset);
            Line::new(what, level, format!("{text}, ± {} ms", around.as_millis()))
        });
        self.report(what, result);
    }

    /// A name that is taken is refused.
    async fn exclusive(&mut self) {
        let what = "exclusive create";
        let mut times = Vec::new();
        let mut result = Ok(());
        for n in 0..ROUNDS {
            let path = format!("{}/f{n}", self.dir);
            result = refused(time(&mut times, self.fs.open(&path, Open::CreateNew)).await);
        }
        self.report(
            what,
            result.map(|()| Line::timed(what, &mut times, "a taken name is refused")),
        );
    }

    /// A rename replaces what is there, whole, and the old name is gone.
    async fn rename(&mut self) {
        let what = "rename over a file";
        let to = self.path("renamed");
        let mut times = Vec::new();
        let mut all = async |n: usize| -> io::Result<()> {
            let from = format!("{}/r{n}", self.dir);
            crate::env::fs::create_synced(self.fs, &from, &contents(n)).await?;
            time(&mut times, self.fs.rename(&from, &to)).await?;
            same(self.fs, &to, n).await?;
            match self.fs.stat(&from).await {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
                Ok(_) => Err(io::Error::other(format!("{from}: still there after a rename"))),
            }
        };
        let mut result = Ok(());
        for n in 0..ROUNDS {
            result = all(n).await;
            if result.is_err() {
                break;
            }
        }
        self.report(what, result.map(|()| Line::timed(what, &mut times, "")));
    }

    /// A second name for a file; one that is taken is refused.
    async fn link(&mut self) {
        let what = "hard link";
        let mut times = Vec::new();
        let mut result = Ok(());
        for n in 0..ROUNDS {
            let from = format!("{}/f{n}", self.dir);
            let to = self.path(&format!("l{n}"));
            let one = async {
                time(&mut times, self.fs.link(&from, &to)).await?;
                if self.fs.stat(&from).await?.inode != self.fs.stat(&to).await?.inode {
                    return Err(io::Error::other("two names of one file are two files"));
                }
                let other = format!("{}/f{}", self.dir, (n + 1) % ROUNDS);
                refused(self.fs.link(&other, &to).await)
            };
            result = one.await;
            if result.is_err() {
                break;
            }
        }
        let note = "a taken name is refused";
        self.report(what, result.map(|()| Line::timed(what, &mut times, note)));
    }

    async fn read_back(&mut self) {
        let what = "read";
        let mut times = Vec::new();
        let mut result = Ok(());
        for n in 0..ROUNDS {
            let path = format!("{}/l{n}", self.dir);
            result = time(&mut times, same(self.fs, &path, n)).await;
            if result.is_err() {
                break;
            }
        }
        self.report(what, result.map(|()| Line::timed(what, &mut times, "")));
        let what = "sync of a directory";
        let mut times = Vec::new();
        let result = time(&mut times, self.fs.sync_dir(&self.dir)).await;
        self.report(what, result.map(|()| Line::timed(what, &mut times, "")));
    }

    async fn space(&mut self, dir: &str) {
        let what = "free space";
        let result = self.fs.free_space(dir).await.map(|free| {
            let level = if free < LITTLE_SPACE { Level::Warning } else { Level::Ok };
            Line::new(what, level, format!("{} MiB", free >> 20))
        });
        self.report(what, result);
    }

    async fn tidy(&mut self) {
        let what = "remove";
        let mut times = Vec::new();
        let mut result = Ok(());
        for path in std::mem::take(&mut self.files) {
            match time(&mut times, self.fs.remove(&path)).await {
                Err(e) if e.kind() != io::ErrorKind::NotFound => result = Err(e),
                _ => {}
            }
        }
        if result.is_ok() {
            result = self.fs.remove_dir(&self.dir).await;
        }
        self.report(what, result.map(|()| Line::timed(what, &mut times, "")));
    }
}

/// That an operation on a taken name failed as it must.
fn refused<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(io::Error::other("a name that was taken was given away")),
    }
}

/// That a file holds `contents(n)`.
async fn same(fs: &dyn FileSystem, path: &str, n: usize) -> io::Result<()> {
    let data = crate::env::fs::read_limited(fs, path, BYTES).await?;
    match data == contents(n) {
        true => Ok(()),
        false => Err(io::Error::other(format!("{path}: reads back with other contents"))),
    }
}

/// How far the clock of the file server is ahead (nanoseconds), from the time it gives a
/// new file at `path`, and how long that took: the answer is no better than half of it.
async fn offset(env: &Env, path: &str) -> io::Result<(i128, Duration)> {
    let start = Instant::now();
    let before = nanos(env.clock.now());
    crate::env::fs::create_synced(&*env.fs, path, b"now").await?;
    let around = start.elapsed();
    let middle = before + (around.as_nanos() / 2) as i128;
    let made = nanos(env.fs.stat(path).await?.modified);
    Ok((made - middle, around / 2))
}

fn nanos(t: SystemTime) -> i128 {
    match t.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(d) => d.as_nanos() as i128,
        Err(e) => -(e.duration().as_nanos() as i128),
    }
}

/// What is to be said of two clocks that far apart.
fn clock(offset: i128) -> (Level, String) {
    let apart = Duration::from_nanos(u64::try_from(offset.unsigned_abs()).unwrap_or(u64::MAX));
    let level = match apart {
        a if a >= CLOCK_FAIL => Level::Failed,
        a if a >= CLOCK_WARN => Level::Warning,
        _ => Level::Ok,
    };
    let side = if offset >= 0 { "ahead" } else { "behind" };
    (level, format!("{:.3} s {side}", apart.as_secs_f64()))
}

#[cfg(test)]
mod tests;
