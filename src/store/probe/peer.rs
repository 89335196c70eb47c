//! Two nodes try one directory together: does each see what the other does, and does
//! the file server decide between them?
//!
//! Both are started with the same token. They meet in `temp/check-<token>`; the first
//! to make the file `a` there leads. Names are agreed on beforehand and looked up before
//! they exist, which is the case in which a network file system is slow to tell.

use std::io;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::{Level, Line, clock, nanos, offset, refused};
use crate::env::fs::{create_synced, read_limited};
use crate::env::{Env, FileSystem, Open};

/// Times each thing is tried.
const ROUNDS: usize = 5;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Looks between two changes made to be told more.
const NUDGE: u32 = 5;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the other one is there.
    pub start: Duration,
    /// Until what the other one did is seen.
    pub each: Duration,
    /// What is seen later than this is worth a word.
    pub slow: Duration,
    /// How long before both reach for one name they agree on the moment.
    pub ahead: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(300),
            each: Duration::from_secs(90),
            slow: Duration::from_secs(2),
            ahead: Duration::from_millis(400),
        }
    }
}

/// Who takes part, for the other's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Name of the node.
    pub node: String,
    /// Name of the host.
    pub host: String,
    /// User id of the process.
    pub uid: u32,
}

/// What each writes first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    id: String,
    /// The id it answers: what an earlier process left answers another.
    to: String,
    who: Who,
    /// The file server's clock minus this host's, nanoseconds, as text.
    offset: String,
}

/// Whether `text` can be a token.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

struct Peer<'a> {
    env: &'a Env,
    fs: &'a dyn FileSystem,
    dir: String,
    /// Told from every other process by this.
    id: String,
    leads: bool,
    offset: i128,
    patience: Patience,
    out: Vec<Line>,
}

/// Meets the process that was started with the same `token` on another node, and tries
/// `dir` with it.
pub async fn meet(env: &Env, dir: &str, token: &str, who: &Who, patience: Patience) -> Vec<Line> {
    let mut peer = Peer {
        env,
        fs: &*env.fs,
        dir: format!("{dir}/temp/check-{token}"),
        id: format!("{:016x}", env.entropy.next_u64()),
        leads: false,
        offset: 0,
        patience,
        out: Vec::new(),
    };
    if let Err(e) = peer.run(who).await {
        peer.out.push(Line::new("the two nodes", Level::Failed, e.to_string()));
    }
    peer.out
}

impl Peer<'_> {
    async fn run(&mut self, who: &Who) -> io::Result<()> {
        self.fs.create_dir(&self.dir).await?;
        self.leads = self.take_seat().await?;
        let (offset, _) = offset(self.env, &self.path(&format!("clock.{}", self.id))).await?;
        self.offset = offset;
        let other = self.greet(who).await?;
        self.compare(who, &other);
        self.names().await?;
        self.replaced().await?;
        self.race("exclusive create by both", "only").await?;
        self.race("link by both to one name", "prize").await?;
        self.owner(who.uid).await;
        self.part().await
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// `mine` of the leader is `theirs` of the other.
    fn sides(&self) -> (&'static str, &'static str) {
        if self.leads { ("a", "b") } else { ("b", "a") }
    }

    async fn take_seat(&self) -> io::Result<bool> {
        for (seat, leads) in [("a", true), ("b", false)] {
            match create_synced(self.fs, &self.path(seat), self.id.as_bytes()).await {
                Ok(()) => return Ok(leads),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("two processes have met under this token already: take a new one"))
    }

    /// Makes a file that appears whole.
    async fn put(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let tmp = self.path(&format!("{name}.{}.tmp", self.id));
        let data = serde_json::to_vec(value).map_err(io::Error::other)?;
        create_synced(self.fs, &tmp, &data).await?;
        self.fs.rename(&tmp, &self.path(name)).await
    }

    /// Looks for a file of the other's until it is there, and `good`, in such a way that
    /// it is seen soon whatever the mount remembers of names: every change made here
    /// makes an NFS client ask again.
    async fn wait<T: DeserializeOwned>(
        &self,
        name: &str,
        limit: Duration,
        good: impl Fn(&T) -> bool,
    ) -> io::Result<T> {
        self.look(name, limit, true, good).await
    }

    async fn nudge(&self) -> io::Result<()> {
        let path = self.path(&format!("nudge.{}", self.id));
        create_synced(self.fs, &path, b"").await?;
        self.fs.remove(&path).await
    }

    /// Looks for a file of the other's; only `nudging` helps it to be seen.
    async fn look<T: DeserializeOwned>(
        &self,
        name: &str,
        limit: Duration,
        nudging: bool,
        good: impl Fn(&T) -> bool,
    ) -> io::Result<T> {
        let path = self.path(name);
        let start = Instant::now();
        let mut looks = 0u32;
        loop {
            looks += 1;
            if nudging && looks.is_multiple_of(NUDGE) {
                self.nudge().await?;
            }
            match read_limited(self.fs, &path, 1 << 20).await {
                Ok(data) => {
                    // It was renamed into place: half a file is a fault.
                    let value = serde_json::from_slice(&data).map_err(|_| {
                        io::Error::other(format!(
                            "{path}: seen half written ({} bytes)",
                            data.len()
                        ))
                    })?;
                    if good(&value) {
                        return Ok(value);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // What was replaced while it was open may be stale: look again.
                Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle => {}
                Err(e) => return Err(e),
            }
            if start.elapsed() > limit {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{path}: nothing seen of the other node within {limit:?}"),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A name that is looked up before it exists, and found as the mount has it.
    async fn unaided(&self, name: &str) -> io::Result<usize> {
        self.look(name, self.patience.each, false, |_| true).await
    }

    async fn each<T: DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        self.wait(name, self.patience.each, |_| true).await
    }

    async fn greet(&self, who: &Who) -> io::Result<Hello> {
        let hello = |to: String| Hello {
            id: self.id.clone(),
            to,
            who: who.clone(),
            offset: self.offset.to_string(),
        };
        let start = self.patience.start;
        let answer = |h: &Hello| h.to == self.id;
        let other = if self.leads {
            self.put("leader", &self.id).await?;
            let other: Hello = self.wait("hello.b", start, answer).await?;
            self.put("hello.a", &hello(other.id.clone())).await?;
            other
        } else {
            let leader = self.wait("leader", start, |_: &String| true).await?;
            self.put("hello.b", &hello(leader)).await?;
            self.wait("hello.a", start, answer).await.map_err(|e| {
                let text = format!("{e}; if an earlier try broke off, take a new token");
                io::Error::new(e.kind(), text)
            })?
        };
        Ok(other)
    }

    fn compare(&mut self, who: &Who, other: &Hello) {
        let o = &other.who;
        let name = format!("{} on {}, uid {}", o.node, o.host, o.uid);
        self.out.push(Line::new("the other node", Level::Ok, name));
        let line = match o.uid == who.uid {
            true => Line::new("user id on both", Level::Ok, o.uid.to_string()),
            false => {
                let note = format!("{} here, {} there: they must be equal", who.uid, o.uid);
                Line::new("user id on both", Level::Failed, note)
            }
        };
        self.out.push(line);
        let line = match o.host == who.host {
            false => Line::new("host names differ", Level::Ok, ""),
            true => {
                let note = format!(
                    "both are {}: one host, or two that an NFS server takes for one",
                    o.host
                );
                Line::new("host names differ", Level::Warning, note)
            }
        };
        self.out.push(line);
        let theirs: i128 = other.offset.parse().unwrap_or_default();
        // Both offsets are from the same clock: their difference is that of the hosts.
        let (level, note) = clock(self.offset - theirs);
        self.out.push(Line::new("clock of the other node", level, note));
    }

    fn seen(&mut self, what: &str, times: &mut [Duration], slow: &str) {
        let mut line = Line::timed(what, times, "");
        if line.took.is_some_and(|(_, longest)| longest > self.patience.slow) {
            line.level = Level::Warning;
            line.note = slow.to_owned();
        }
        self.out.push(line);
    }

    /// There and back: each name was looked up before the other node made it.
    async fn names(&mut self) -> io::Result<()> {
        let mut times = Vec::new();
        for n in 0..ROUNDS {
            let (ping, pong) = (format!("ping.{n}"), format!("pong.{n}"));
            let again = format!("again.{n}");
            if self.leads {
                // By then the other one has looked.
                tokio::time::sleep(self.patience.ahead).await;
                let start = Instant::now();
                self.put(&ping, &n).await?;
                self.unaided(&pong).await?;
                times.push(start.elapsed());
                // Once is enough if it takes long.
                let more = start.elapsed() <= self.patience.slow;
                self.put(&again, &more).await?;
                if !more {
                    break;
                }
            } else {
                self.unaided(&ping).await?;
                let start = Instant::now();
                self.put(&pong, &n).await?;
                times.push(start.elapsed());
                if !self.each::<bool>(&again).await? {
                    break;
                }
            }
        }
        if self.leads {
            let slow = "names that were looked up too early stay unseen: lookupcache=positive";
            self.seen("a new name, there and back", &mut times, slow);
        } else {
            self.out.push(Line::timed("make a name", &mut times, ""));
        }
        Ok(())
    }

    /// One file replaced again and again by one node is read by the other.
    async fn replaced(&mut self) -> io::Result<()> {
        let filler = "x".repeat(64 << 10);
        let mut times = Vec::new();
        for n in 0..ROUNDS {
            let ack = format!("replaced.{n}");
            if self.leads {
                let start = Instant::now();
                self.put("object", &json!({"n": n, "filler": filler})).await?;
                self.each::<usize>(&ack).await?;
                times.push(start.elapsed());
            } else {
                let object: serde_json::Value = self
                    .wait("object", self.patience.each, |v: &serde_json::Value| v["n"] == n)
                    .await?;
                if object["filler"] != filler.as_str() {
                    return Err(io::Error::other("a replaced file is seen in parts"));
                }
                self.put(&ack, &n).await?;
            }
        }
        if self.leads {
            let slow = "a replaced file is seen late: see the attribute cache of the mount";
            self.seen("a replaced file, there and back", &mut times, slow);
        }
        Ok(())
    }

    /// Both reach for one name at one moment: exactly one may get it.
    async fn race(&mut self, what: &str, name: &str) -> io::Result<()> {
        let (mine, theirs) = self.sides();
        let (mut won, mut fault) = (0, None);
        for n in 0..ROUNDS {
            let (go, prize) = (format!("go.{name}.{n}"), self.path(&format!("{name}.{n}")));
            let ticket = self.path(&format!("ticket.{name}.{n}.{mine}"));
            create_synced(self.fs, &ticket, self.id.as_bytes()).await?;
            // The moment is told in the file server's time, which both know.
            let at: i64 = if self.leads {
                let at = self.server_micros() + self.patience.ahead.as_micros() as i64;
                self.put(&go, &at).await?;
                at
            } else {
                self.each(&go).await?
            };
            // Neither clock is that exact: a little luck decides who is first.
            let luck = self.env.entropy.below(self.patience.ahead.as_micros() as u64 / 8);
            let pause = u64::try_from(at - self.server_micros()).unwrap_or(0) + luck;
            tokio::time::sleep(Duration::from_micros(pause).min(self.patience.ahead * 2)).await;
            let got = match name {
                "only" => self.claim(&prize).await,
                _ => self.fs.link(&ticket, &prize).await,
            };
            let got = match got {
                Ok(()) => true,
                other => {
                    refused(other)?;
                    false
                }
            };
            won += usize::from(got);
            self.put(&format!("got.{name}.{n}.{mine}"), &got).await?;
            let other: bool = self.each(&format!("got.{name}.{n}.{theirs}")).await?;
            let holder = read_limited(self.fs, &prize, 1 << 10).await?;
            let mine = holder == self.id.as_bytes();
            fault = fault.or(match (got, other) {
                (true, true) => Some("both nodes were given one name"),
                (false, false) => Some("neither node was given a free name"),
                _ if got != mine => {
                    Some("the name leads to the file of the node that did not get it")
                }
                _ => None,
            });
        }
        self.out.push(match fault {
            Some(why) => Line::new(what, Level::Failed, why),
            None => {
                let note = format!("one wins each time: here {won} of {ROUNDS}");
                Line::new(what, Level::Ok, note)
            }
        });
        Ok(())
    }

    async fn claim(&self, path: &str) -> io::Result<()> {
        let f = self.fs.open(path, Open::CreateNew).await?;
        f.write_at(0, bytes::Bytes::copy_from_slice(self.id.as_bytes())).await?;
        f.sync().await?;
        f.close().await
    }

    /// The file server's time by this host's clock, microseconds since 1970.
    fn server_micros(&self) -> i64 {
        let now: SystemTime = self.env.clock.now();
        i64::try_from((nanos(now) + self.offset) / 1000).unwrap_or(i64::MAX)
    }

    /// What the other node made belongs to the same user, seen from here.
    async fn owner(&mut self, uid: u32) {
        let (_, theirs) = self.sides();
        let what = "owner of the other's files";
        let line = match self.fs.details(&self.path(&format!("hello.{theirs}"))).await {
            Ok(d) if d.uid == uid => Line::new(what, Level::Ok, format!("uid {uid}")),
            Ok(d) => Line::new(what, Level::Failed, format!("uid {}, and {uid} here", d.uid)),
            Err(e) => Line::new(what, Level::Failed, e.to_string()),
        };
        self.out.push(line);
    }

    /// The leader waits for the other to have seen everything, and clears up.
    async fn part(&mut self) -> io::Result<()> {
        if !self.leads {
            return self.put("done", &true).await;
        }
        self.each::<bool>("done").await?;
        for entry in self.fs.list(&self.dir).await? {
            self.fs.remove(&self.path(&entry.name)).await?;
        }
        self.fs.remove_dir(&self.dir).await
    }
}
