use futures::FutureExt;
use futures::future::BoxFuture;

use super::peer::{Patience, Who, is_token, meet};
use super::*;
use crate::env::{Details, DirEntry, File, Meta, real};

/// The real file system with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A link takes a name that is taken.
    LinkReplaces,
    /// An exclusive create opens what is there.
    CreateOpens,
    /// A rename copies: the old name stays.
    RenameCopies,
    /// Files belong to somebody else.
    Squashed,
    /// The clock is two hours ahead.
    Ahead,
    /// Links are not there.
    NoLinks,
    /// A sync fails.
    NoSync,
    /// Only on the second node: a name the other has is not seen.
    Blind,
}

struct Faulty(std::sync::Arc<dyn FileSystem>, Fault);

impl Faulty {
    fn has(&self, f: Fault) -> bool {
        self.1 == f
    }
}

#[derive(Debug)]
struct NoSync(Box<dyn File>);

impl File for NoSync {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.0.read_at(off, len)
    }
    fn write_at(&self, off: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.0.write_at(off, data)
    }
    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.0.size()
    }
    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        async { Err(io::Error::other("no space left on the server")) }.boxed()
    }
    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        self.0.close()
    }
}

impl FileSystem for Faulty {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        async move {
            if self.has(Fault::Blind) && how == Open::Read && path.contains("/ping.") {
                return Err(io::ErrorKind::NotFound.into());
            }
            let f = match self.0.open(path, how).await {
                Err(e)
                    if self.has(Fault::CreateOpens)
                        && e.kind() == io::ErrorKind::AlreadyExists
                        && !path.ends_with("/a") =>
                {
                    self.0.open(path, Open::Write).await?
                }
                other => other?,
            };
            Ok(if self.has(Fault::NoSync) { Box::new(NoSync(f)) as Box<dyn File> } else { f })
        }
        .boxed()
    }
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        self.0.list(dir)
    }
    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        async move {
            let mut m = self.0.stat(path).await?;
            if self.has(Fault::Ahead) {
                m.modified += Duration::from_secs(7200);
            }
            Ok(m)
        }
        .boxed()
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            if !self.has(Fault::RenameCopies) {
                return self.0.rename(from, to).await;
            }
            let data = crate::env::fs::read_limited(&*self.0, from, BYTES).await?;
            let _ = self.0.remove(to).await;
            crate::env::fs::create_synced(&*self.0, to, &data).await
        }
        .boxed()
    }
    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            if self.has(Fault::NoLinks) {
                return Err(io::ErrorKind::Unsupported.into());
            }
            if self.has(Fault::LinkReplaces) {
                let _ = self.0.remove(to).await;
            }
            self.0.link(from, to).await
        }
        .boxed()
    }
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.remove(path)
    }
    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.remove_dir(path)
    }
    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.create_dir(path)
    }
    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.sync_dir(dir)
    }
    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        self.0.free_space(path)
    }
    fn details<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Details>> {
        async move {
            let d = self.0.details(path).await?;
            Ok(if self.has(Fault::Squashed) { Details { uid: 65_534, ..d } } else { d })
        }
        .boxed()
    }
}

fn faulty(fault: Fault) -> Env {
    let env = real::env();
    Env { fs: std::sync::Arc::new(Faulty(env.fs.clone(), fault)), ..env }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn bad(lines: &[Line]) -> Vec<(&str, Level)> {
    let bad = lines.iter().filter(|l| l.level > Level::Ok && l.what != "free space");
    bad.map(|l| (l.what.as_str(), l.level)).collect()
}

#[tokio::test]
async fn a_good_directory_passes_and_is_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let lines = directory(&real::env(), root, uid()).await;
    assert_eq!(bad(&lines), [], "{lines:?}");
    let what: Vec<_> = lines.iter().map(|l| l.what.as_str()).collect();
    for w in
        ["create a file", "write and sync", "exclusive create", "rename over a file", "hard link"]
    {
        let line = &lines[what.iter().position(|x| *x == w).unwrap()];
        assert!(line.took.is_some_and(|(median, longest)| median <= longest), "{line:?}");
    }
    let left = real::env().fs.list(&format!("{root}/temp")).await.unwrap();
    assert_eq!(left, []);
}

/// Each thing the store relies on is missed when it is not there.
#[tokio::test]
async fn faults_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    for (fault, what) in [
        (Fault::LinkReplaces, "hard link"),
        (Fault::CreateOpens, "exclusive create"),
        (Fault::RenameCopies, "rename over a file"),
        (Fault::NoLinks, "hard link"),
        (Fault::NoSync, "write and sync"),
        (Fault::Ahead, "clock of the file server"),
    ] {
        let lines = directory(&faulty(fault), root, uid()).await;
        assert!(bad(&lines).contains(&(what, Level::Failed)), "{fault:?}: {lines:?}");
    }
    let lines = directory(&faulty(Fault::Squashed), root, 1000).await;
    assert_eq!(bad(&lines), [("owner of new files", Level::Failed)]);
    let lines = directory(&faulty(Fault::Squashed), root, 0).await;
    assert_eq!(bad(&lines), [("owner of new files", Level::Warning)]);
    let lines = directory(&real::env(), "/proc/none", uid()).await;
    assert!(
        lines.len() == 1 && lines[0].level == Level::Failed && lines[0].note.contains("/proc/none")
    );
}

#[test]
fn clocks() {
    let second = 1_000_000_000;
    assert_eq!(clock(second / 2), (Level::Ok, "0.500 s ahead".to_owned()));
    assert_eq!(clock(-2 * second), (Level::Warning, "2.000 s behind".to_owned()));
    assert_eq!(clock(-61 * second).0, Level::Failed);
    assert_eq!(clock(i128::MAX).0, Level::Failed);
}

const QUICK: Patience = Patience {
    start: Duration::from_secs(60),
    each: Duration::from_secs(60),
    slow: Duration::from_secs(60),
    ahead: Duration::from_millis(40),
};

fn who(host: &str, uid: u32) -> Who {
    Who { node: format!("{host}-8000"), host: host.into(), uid }
}

async fn both(a: Env, b: Env, root: &str, uids: (u32, u32), p: Patience) -> (Vec<Line>, Vec<Line>) {
    let (one, two) = (who("one", uids.0), who("two", uids.1));
    tokio::join!(meet(&a, root, "t", &one, p), meet(&b, root, "t", &two, p))
}

#[tokio::test]
async fn two_nodes_meet() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    // Twice under one token: nothing is left behind.
    for _ in 0..2 {
        let (a, b) = both(real::env(), real::env(), root, (uid(), uid()), QUICK).await;
        assert_eq!((bad(&a), bad(&b)), (vec![], vec![]), "{a:?} {b:?}");
        assert_eq!(a.len().max(b.len()), 9, "{a:?} {b:?}");
        let won = |l: &[Line]| -> Vec<usize> {
            let all = l.iter().filter_map(|l| l.note.strip_prefix("one wins each time: here "));
            all.map(|n| n[..1].parse().unwrap()).collect()
        };
        let sums: Vec<_> = won(&a).iter().zip(won(&b)).map(|(x, y)| x + y).collect();
        assert_eq!(sums, [5, 5]);
        assert!(a.iter().chain(&b).any(|l| l.note.starts_with("two-8000 on two")));
    }
    assert_eq!(real::env().fs.list(&format!("{root}/temp")).await.unwrap(), []);
}

#[tokio::test]
async fn what_the_two_do_not_agree_on_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let has = |l: &[Line], what: &str, part: &str| {
        l.iter().any(|l| l.what == what && l.level == Level::Failed && l.note.contains(part))
    };
    for (n, fault) in [Fault::LinkReplaces, Fault::CreateOpens].into_iter().enumerate() {
        let root = format!("{root}/{n}");
        let (a, b) = both(faulty(fault), faulty(fault), &root, (uid(), uid()), QUICK).await;
        let what = ["link by both to one name", "exclusive create by both"][n];
        let found = has(&a, what, "both nodes") || has(&b, what, "both nodes");
        assert!(found, "{fault:?}: {a:?} {b:?}");
    }
    let other = format!("{root}/uid");
    let (a, b) = both(real::env(), real::env(), &other, (uid(), uid() + 1), QUICK).await;
    assert!(has(&a, "user id on both", "must be equal") && has(&b, "user id on both", "must"));
    assert!(has(&b, "owner of the other's files", ""));
    // Nobody there; nothing seen; too slow.
    let short = Patience { start: Duration::from_millis(50), ..QUICK };
    let alone = meet(&real::env(), &format!("{root}/alone"), "t", &who("one", 0), short).await;
    assert!(has(&alone, "the two nodes", "nothing seen"), "{alone:?}");
    let used = format!("{root}/used");
    for _ in 0..2 {
        meet(&real::env(), &used, "t", &who("one", 0), short).await;
    }
    let third = meet(&real::env(), &used, "t", &who("one", 0), short).await;
    assert!(has(&third, "the two nodes", "take a new one"), "{third:?}");
    let short = Patience { each: Duration::from_millis(300), ..QUICK };
    let blind = format!("{root}/blind");
    let (a, b) =
        both(faulty(Fault::Blind), faulty(Fault::Blind), &blind, (uid(), uid()), short).await;
    assert!(has(&a, "the two nodes", "nothing seen") && has(&b, "the two nodes", "nothing seen"));
    assert!(has(&a, "the two nodes", "ping.0") || has(&b, "the two nodes", "ping.0"));
    let slow = Patience { slow: Duration::ZERO, ..QUICK };
    let (a, b) =
        both(real::env(), real::env(), &format!("{root}/slow"), (uid(), uid()), slow).await;
    let warned: Vec<_> = a.iter().chain(&b).filter(|l| l.level == Level::Warning).collect();
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[0].note.contains("lookupcache"));
}

#[test]
fn tokens() {
    for good in ["a", "Run-7_x"] {
        assert!(is_token(good));
    }
    for bad in ["", "a/b", "..", "a b", &"x".repeat(65)] {
        assert!(!is_token(bad), "{bad}");
    }
}
