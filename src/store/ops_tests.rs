use super::*;
use crate::env::fs::replace;
use crate::store::testing::scratch;

#[tokio::test]
async fn counts_by_kind() {
    let (_d, t) = scratch();
    let fs = CountingFs::new(t.fs.clone());
    let path = format!("{}/a/b", t.root.ds);
    replace(&fs, &format!("{}/temp/1", t.root.ds), &path, b"hello").await.unwrap();
    let c = fs.counts();
    assert_eq!((c.create, c.write, c.sync, c.close, c.rename, c.sync_dir), (1, 1, 1, 1, 1, 1));
    assert_eq!((c.bytes_written, c.failed, c.total()), (5, 0, 6));
    let f = fs.open(&path, Open::Read).await.unwrap();
    assert_eq!(f.read_at(1, 99).await.unwrap(), b"ello");
    assert!(fs.stat("/nowhere/at/all").await.is_err());
    assert!(fs.open(&format!("{path}/x"), Open::Read).await.is_err());
    fs.list(&t.root.ds).await.unwrap();
    fs.remove(&path).await.unwrap();
    let d = fs.counts().since(&c);
    assert_eq!((d.open, d.read, d.stat, d.list, d.remove, d.bytes_read), (2, 1, 1, 1, 1, 4));
    assert_eq!(d.failed, 1, "a missing name is an answer, a file as directory is not");
    assert!(d.named().contains(&("stat", 1)));
}

/// Never answers.
struct Stalled;

impl FileSystem for Stalled {
    fn open<'a>(&'a self, _: &'a str, _: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        async { Ok(Box::new(StalledFile) as Box<dyn File>) }.boxed()
    }
    fn list<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        std::future::pending().boxed()
    }
    fn stat<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        std::future::pending().boxed()
    }
    fn rename<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn link<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn remove_dir<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn create_dir<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn sync_dir<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn free_space<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        std::future::pending().boxed()
    }
}

#[derive(Debug)]
struct StalledFile;

impl File for StalledFile {
    fn read_at(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        std::future::pending().boxed()
    }
    fn write_at(&self, _: u64, _: Bytes) -> BoxFuture<'_, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        std::future::pending().boxed()
    }
    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        std::future::pending().boxed()
    }
    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        std::future::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_store_does_not_hang_its_callers() {
    let fs = DeadlineFs::new(Arc::new(Stalled), DEADLINE);
    let t = tokio::time::Instant::now();
    let e = fs.stat("/store/x").await.unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    assert!(e.to_string().starts_with("/store/x: no answer within 20s"), "{e}");
    assert_eq!(t.elapsed(), DEADLINE);
    assert_eq!(fs.rename("/a", "/b").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(fs.list("/a").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let f = fs.open("/a", Open::Write).await.unwrap();
    assert_eq!(f.write_at(0, Bytes::new()).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(f.sync().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(f.close().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_guarded_world_counts_what_ran_out_of_time() {
    let mut env = crate::env::real::env();
    env.fs = Arc::new(Stalled);
    let (env, counts) = guard(&env, Duration::from_secs(1));
    assert!(env.fs.stat("/x").await.is_err());
    assert_eq!((counts.counts().stat, counts.counts().failed), (1, 1));
}
