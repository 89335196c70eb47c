//! Who holds something that only one process may hold: a chain of renames.
//!
//! A directory holds one file without content. Its name says who holds the thing
//! and how often the holder has shown that it lives; every step is a RENAME of
//! that name, and of all who try, the file server lets exactly one succeed. A
//! holder whose own step finds the name gone has been deposed.
//!
//! A name is made by one process only and never twice, so a rename whose reply
//! was lost is resolved by looking whether its target is there. Listings only
//! suggest what to try.
//!
//! Does not know what is held.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::env::fs::create_own;
use crate::env::{Env, FileSystem, Open};
use crate::store::journal::ProcessId;
use crate::store::objects::read_whole;

/// The file's name: `<term>.<beat>`, and `.<node>.<epoch>` while it is held.
/// Later names are greater.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Counts holders, from 1.
    pub term: u64,
    /// Counts the holder's signs of life.
    pub beat: u64,
    /// Who holds it; nobody after an end in good order.
    pub holder: Option<ProcessId>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.beat)?;
        match &self.holder {
            Some(p) => write!(f, ".{}.{}", p.node, p.epoch),
            None => Ok(()),
        }
    }
}

impl Link {
    /// From a name; `None` if it is not of that form.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        let term = number(parts.next()?)?;
        let beat = number(parts.next()?)?;
        let holder = match parts.next() {
            None => None,
            Some(who) => {
                let (node, epoch) = who.rsplit_once('.')?;
                if node.is_empty() || epoch.is_empty() {
                    return None;
                }
                Some(ProcessId::new(node, epoch))
            }
        };
        Some(Self { term, beat, holder })
    }

    /// The holder's next sign of life.
    pub fn next(&self) -> Self {
        Self { beat: self.beat + 1, ..self.clone() }
    }

    /// Held by `who` from now on; `least` is the lowest term it may get.
    pub fn taken_by(&self, who: &ProcessId, least: u64) -> Self {
        Self { term: (self.term + 1).max(least), beat: 0, holder: Some(who.clone()) }
    }

    /// Given up in good order.
    pub fn given_up(&self) -> Self {
        Self { holder: None, ..self.next() }
    }
}

/// Digits only, without leading zeros: one number has one name.
fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let n: u64 = text.parse().ok()?;
    (plain && n.to_string() == text).then_some(n)
}

/// A chain as one process works on it.
pub struct Chain {
    env: Env,
    fleet: String,
    dir: String,
    me: ProcessId,
    looks: AtomicU64,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Prefix of the files by which a host asks the server for a directory as it is.
const LOOK: &str = "look.";

impl Chain {
    /// The chain in the directory `dir` (absolute), for the process `me` below
    /// the directory `fleet`.
    pub fn new(env: &Env, fleet: &str, dir: String, me: &ProcessId) -> Self {
        Self {
            env: env.clone(),
            fleet: fleet.to_owned(),
            dir,
            me: me.clone(),
            looks: AtomicU64::new(0),
        }
    }

    fn fs(&self) -> &dyn FileSystem {
        &*self.env.fs
    }

    /// Who works on it.
    pub fn me(&self) -> &ProcessId {
        &self.me
    }

    /// The directory.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    fn path(&self, l: &Link) -> String {
        format!("{}/{l}", self.dir)
    }

    /// Makes this host forget what it believes of the directory, by changing it:
    /// the reply to a change carries the directory's state at the server. Without
    /// that, a listing or an absent name can be a minute old.
    async fn refresh(&self) -> io::Result<()> {
        let n = self.looks.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}/{LOOK}{}.{}.{n}", self.dir, self.me.node, self.me.epoch);
        match self.fs().open(&path, Open::CreateNew).await {
            Ok(f) => f.close().await?,
            // Ours of a reply that was lost.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        match self.fs().remove(&path).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The names there, in order: normally one, and while it is being renamed
    /// perhaps none or two.
    pub async fn look(&self) -> io::Result<Vec<Link>> {
        self.refresh().await?;
        let names = self.fs().list(&self.dir).await?;
        let mut links: Vec<Link> = names.iter().filter_map(|e| Link::parse(&e.name)).collect();
        links.sort();
        Ok(links)
    }

    /// Whether that very name is there now.
    pub async fn is_there(&self, l: &Link) -> io::Result<bool> {
        self.refresh().await?;
        match self.fs().stat(&self.path(l)).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Renames `from` to `to`, a name that only this process makes. `false`:
    /// `from` is gone, and not to `to`. An error: it is not known, and the rename
    /// may still happen.
    pub async fn shift(&self, from: &Link, to: &Link) -> io::Result<bool> {
        self.shift_path(&self.path(from), to).await
    }

    async fn shift_path(&self, from: &str, to: &Link) -> io::Result<bool> {
        match self.fs().rename(from, &self.path(to)).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => self.is_there(to).await,
            Err(e) => Err(e),
        }
    }

    /// Makes names of this directory survive power loss.
    pub async fn sync(&self) -> io::Result<()> {
        self.fs().sync_dir(&self.dir).await
    }

    /// Begins the chain, or takes it up if whoever began it got no further.
    /// `false`: it goes on somewhere, look again.
    ///
    /// The first file is made under a private name. That name is written in
    /// `origin`, which exactly one process can make, and which stays; so all who
    /// find no link rename the same file.
    pub async fn begin(&self, to: &Link) -> io::Result<bool> {
        let origin = format!("{}/origin", self.dir);
        let what = self.dir.rsplit('/').next().unwrap_or("chain");
        // Relative: hosts may have the store mounted at different places. Another
        // name for each try: a late call of an earlier one may have given it away.
        let n = self.looks.fetch_add(1, Ordering::Relaxed);
        let mine = format!("{}/{}/first-{what}.{n}", self.me.node, self.me.epoch);
        let named = format!("{}/{mine}.name", self.fleet);
        let first = match read_whole(self.fs(), &origin, LIMIT).await? {
            Some(name) => name,
            None => {
                create_own(self.fs(), &format!("{}/{mine}", self.fleet), b"").await?;
                create_own(self.fs(), &named, mine.as_bytes()).await?;
                match self.fs().link(&named, &origin).await {
                    Ok(()) => {}
                    // Whoever came first, or this process if a reply was lost.
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                    Err(e) => return Err(e),
                }
                self.sync().await?;
                self.refresh().await?;
                read_whole(self.fs(), &origin, LIMIT).await?.ok_or(ErrorKind::NotFound)?
            }
        };
        let first = String::from_utf8(first).map_err(io::Error::other)?;
        let began = self.shift_path(&format!("{}/{first}", self.fleet), to).await?;
        self.drop_name(&named).await;
        if first != mine {
            self.drop_name(&format!("{}/{mine}", self.fleet)).await;
        }
        Ok(began)
    }

    async fn drop_name(&self, path: &str) {
        match self.fs().remove(path).await {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::debug!(path, error = %e, "name not removed");
            }
            _ => {}
        }
    }

    /// Removes what others left: lower names than the one that this process
    /// holds (of a copied tree), and files of looks that were not finished.
    pub async fn tidy(&self, held: &Link) {
        let Ok(names) = self.fs().list(&self.dir).await else { return };
        for e in names {
            let lower = Link::parse(&e.name).is_some_and(|l| l.term < held.term);
            if lower || e.name.starts_with(LOOK) {
                self.drop_name(&format!("{}/{}", self.dir, e.name)).await;
            }
        }
    }
}

/// Longest content of `origin`, bytes.
const LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_ordered() {
        let p = ProcessId::new("web.example.com-8000", "00000003-0a0b0c0d");
        let free = Link { term: 3, beat: 12, holder: None };
        let held = free.taken_by(&p, 0);
        assert_eq!(held.to_string(), "4.0.web.example.com-8000.00000003-0a0b0c0d");
        assert_eq!(free.taken_by(&p, 9).term, 9);
        for l in [&free, &held, &held.next(), &held.given_up()] {
            assert_eq!(Link::parse(&l.to_string()).as_ref(), Some(l));
        }
        assert!(free < held && held < held.next() && held.next() == held.given_up().held_by(&p));
        assert!(Link { term: 10, ..Link::default() } > Link { term: 9, beat: 5, holder: None });
        let bad =
            ["", "1", "1.", "x.1", "1.x", "01.2", "1.2.", "1.2.n", "1.2.n.", "1.2..e", "+1.2"];
        for name in bad {
            assert_eq!(Link::parse(name), None, "{name}");
        }
        assert_eq!(Link::parse("00000001-abcd"), None, "epochs of a node of that name");
    }

    impl Link {
        fn held_by(self, p: &ProcessId) -> Self {
            Self { holder: Some(p.clone()), ..self }
        }
    }

    #[tokio::test]
    async fn one_of_two_takes_it_and_the_other_sees_that() {
        let tmp = tempfile::tempdir().unwrap();
        let fleet = tmp.path().to_str().unwrap();
        let env = crate::env::real::env();
        let make = |n: &str| {
            Chain::new(&env, fleet, format!("{fleet}/master"), &ProcessId::new(n, "00000001-aa"))
        };
        let (a, b) = (make("a"), make("b"));
        assert!(a.look().await.unwrap().is_empty());
        let first = Link::default().taken_by(a.me(), 1);
        assert!(a.begin(&first).await.unwrap());
        assert!(!b.begin(&Link::default().taken_by(b.me(), 1)).await.unwrap());
        assert_eq!(b.look().await.unwrap(), std::slice::from_ref(&first));
        let second = first.next();
        assert!(a.shift(&first, &second).await.unwrap());
        assert!(a.shift(&first, &second).await.unwrap(), "a lost reply is resolved");
        let taken = second.taken_by(b.me(), 0);
        assert!(!b.shift(&first, &first.taken_by(b.me(), 0).next()).await.unwrap(), "moved on");
        assert!(b.shift(&second, &taken).await.unwrap());
        assert!(!a.shift(&second, &second.next()).await.unwrap(), "deposed");
        assert_eq!(a.look().await.unwrap(), std::slice::from_ref(&taken));
        // What a careless copy of the tree brought back.
        env.fs.open(&format!("{fleet}/master/{first}"), Open::CreateNew).await.unwrap();
        b.tidy(&taken).await;
        assert_eq!(b.look().await.unwrap(), [taken]);
        let left: Vec<_> = env.fs.list(&format!("{fleet}/a/00000001-aa")).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}
