//! The operating system's network, clock, randomness and file system.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::cpu::{CpuPool, InPlace};
use super::fs::parent;
use super::sided::Sided;
use super::{
    Clock, Conn, Details, DirEntry, Entropy, Env, File, FileSystem, Listener, Meta, Net, Open,
    Side, Spawn,
};

/// File operations in flight at once; more wait. Keeps a stalled mount from
/// taking every thread of the process.
const FS_POOL: usize = 128;

/// The same for what people ask: theirs alone, as theirs are threads and cores.
const FS_POOL_GUI: usize = 32;

/// The production environment. All tasks share the current runtime.
pub fn env() -> Env {
    env_with(None)
}

/// A runtime for each [`Side`].
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// Of [`Side::Frontend`].
    pub frontend: tokio::runtime::Handle,
    /// Of [`Side::Gui`].
    pub gui: tokio::runtime::Handle,
}

/// The production environment; a task runs on the runtime of its side, wherever it
/// is started. Without runtimes all share the current one.
pub fn env_with(runtimes: Option<Runtimes>) -> Env {
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Env {
        net: Arc::new(TokioNet),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy(crypto.secure_random)),
        fs: Arc::new(OsFs { slots: slots(FS_POOL, FS_POOL_GUI, runtimes.as_ref()) }),
        cpu: Arc::new(CpuPool::new(cores(), runtimes.as_ref())),
        tasks: Arc::new(Sides(runtimes)),
        crypto,
        sabotage: super::Sabotage::NONE,
    }
}

/// The production environment without what keeps people apart from clients: all tasks share the
/// current runtime, and long work is done by the task that needs it, in whose thread everything
/// else waits meanwhile. For measuring what that separation is worth.
pub fn undivided() -> Env {
    Env { cpu: Arc::new(InPlace), ..env() }
}

/// Open files that this process may have, which it takes all of first: what a shell or
/// a service manager gives by default is meant for programs with few connections.
pub fn open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    // None is unlimited; the kernel's own default for that is 2^20.
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Processor cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get())
}

/// For each thread of a runtime to call as it starts: makes it `behind` steps nicer (nice(1): 19
/// at most) than the thread that calls this, so that other threads get the CPU first. Nobody
/// needs a right for that; where it fails all the same the thread stays as it is.
pub fn standing_behind(behind: i32) -> impl Fn() + Send + Sync + Clone + 'static {
    // With Linux both calls mean the thread that calls, not its process; and a thread starts
    // as nice as the one that made it, so that steps would add up.
    let nice = rustix::process::getpriority_process(None).map(|now| (now + behind).min(19));
    move || {
        if let Ok(nice) = nice {
            let _ = rustix::process::setpriority_process(None, nice);
        }
    }
}

struct Sides(Option<Runtimes>);

impl Spawn for Sides {
    fn spawn(&self, side: Side, task: BoxFuture<'static, ()>) {
        match (&self.0, side) {
            (Some(r), Side::Frontend) => drop(r.frontend.spawn(task)),
            (Some(r), Side::Gui) => drop(r.gui.spawn(task)),
            (None, _) => drop(tokio::spawn(task)),
        }
    }
}

/// File operations at once, counted for each side by itself: whoever runs on the runtime of
/// the GUI does not queue behind clients.
type Slots = Sided<Arc<Semaphore>>;

fn slots(frontend: usize, gui: usize, runtimes: Option<&Runtimes>) -> Arc<Slots> {
    let so_many = |n| Arc::new(Semaphore::new(n));
    Arc::new(Sided::new(runtimes, so_many(frontend), so_many(gui)))
}

struct TokioNet;
struct TokioListener(tokio::net::TcpListener);

impl Net for TokioNet {
    fn bind(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        async move {
            let l = tokio::net::TcpListener::bind(addr)
                .await
                .map_err(|e| io::Error::new(e.kind(), format!("listen on {addr}: {e}")))?;
            Ok(Box::new(TokioListener(l)) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Conn>> {
        async move {
            if host.starts_with('/') {
                let s = tokio::net::UnixStream::connect(host).await;
                let s =
                    s.map_err(|e| io::Error::new(e.kind(), format!("connect to {host}: {e}")))?;
                return Ok(Box::pin(s) as Conn);
            }
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let s = tokio::net::TcpStream::connect((host, port))
                .await
                .map_err(|e| io::Error::new(e.kind(), format!("connect to {host}:{port}: {e}")))?;
            s.set_nodelay(true)?;
            Ok(Box::pin(s) as Conn)
        }
        .boxed()
    }
}

impl Listener for TokioListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Conn, SocketAddr)>> {
        async move {
            let (s, peer) = self.0.accept().await?;
            s.set_nodelay(true)?;
            Ok((Box::pin(s) as Conn, peer))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

struct SystemClock;
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn boot(&self) -> std::time::Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        std::time::Duration::try_from(t).unwrap_or_default()
    }
}

struct OsEntropy(&'static dyn rustls::crypto::SecureRandom);
impl Entropy for OsEntropy {
    fn fill(&self, buf: &mut [u8]) {
        // The kernel's generator does not fail once the system is up.
        self.0.fill(buf).expect("operating system randomness");
    }
}

struct OsFs {
    slots: Arc<Slots>,
}

#[derive(Debug)]
struct OsFile {
    file: Arc<std::fs::File>,
    path: Arc<str>,
    slots: Arc<Slots>,
}

fn named<T>(path: &str, r: io::Result<T>) -> io::Result<T> {
    r.map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

/// Runs `work` on a thread once a slot is free. The slot belongs to the work, not
/// to its caller: one that gives up leaves it taken until the call returns. Nor is a
/// place in the queue the caller's: a query that looks at a row leaves the call that
/// reads ahead alone, and everybody else would wait for it. Work whose caller has
/// given up before it began is not done.
async fn blocking<T: Send + 'static>(
    slots: &Arc<Slots>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let slots = slots.here().clone();
    let (tell, told) = oneshot::channel();
    let begin = |slot: OwnedSemaphorePermit, tell: oneshot::Sender<io::Result<T>>| {
        tokio::task::spawn_blocking(move || {
            if !tell.is_closed() {
                let _ = tell.send(work());
            }
            drop(slot);
        })
    };
    match slots.clone().try_acquire_owned() {
        Ok(slot) => drop(begin(slot, tell)),
        Err(_) => drop(tokio::spawn(async move {
            let mut tell = tell;
            tokio::select! {
                biased;
                () = tell.closed() => {}
                Ok(slot) = slots.acquire_owned() => drop(begin(slot, tell)),
                else => {}
            }
        })),
    }
    told.await.map_err(|_| io::Error::other("the work was aborted"))?
}

/// Runs `f`; if a parent directory was missing, makes it and tries once more.
fn with_parent<T>(path: &str, f: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match f() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_dirs(parent(path))?;
            f()
        }
        r => r,
    }
}

fn make_dirs(path: &str) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl FileSystem for OsFs {
    fn open<'a>(&'a self, path: &'a str, how: Open) -> BoxFuture<'a, io::Result<Box<dyn File>>> {
        let (p, slots) = (path.to_owned(), self.slots.clone());
        async move {
            let file = blocking(&self.slots, move || {
                let mut o = std::fs::OpenOptions::new();
                o.read(true);
                let file = match how {
                    Open::Read => o.open(&p),
                    Open::Write => o.write(true).open(&p),
                    Open::CreateNew => {
                        o.write(true).create_new(true).mode(0o600);
                        with_parent(&p, || o.open(&p))
                    }
                };
                named(&p, file)
            })
            .await?;
            Ok(Box::new(OsFile { file: Arc::new(file), path: path.into(), slots }) as Box<dyn File>)
        }
        .boxed()
    }

    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<Vec<DirEntry>>> {
        let d = dir.to_owned();
        blocking(&self.slots, move || {
            let mut out = Vec::new();
            let rd = match std::fs::read_dir(&d) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(out),
                r => named(&d, r)?,
            };
            for e in rd {
                let e = e?;
                let is_dir = e.file_type()?.is_dir();
                out.push(DirEntry { name: e.file_name().to_string_lossy().into_owned(), is_dir });
            }
            out.sort(); // readdir order is not an interface
            Ok(out)
        })
        .boxed()
    }

    fn stat<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Meta>> {
        let p = path.to_owned();
        blocking(&self.slots, move || {
            let m = named(&p, std::fs::metadata(&p))?;
            Ok(Meta {
                len: if m.is_dir() { 0 } else { m.len() },
                is_dir: m.is_dir(),
                modified: m.modified()?,
                inode: m.ino(),
            })
        })
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let (f, t) = (from.to_owned(), to.to_owned());
        blocking(&self.slots, move || named(&t, with_parent(&t, || std::fs::rename(&f, &t))))
            .boxed()
    }

    fn link<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let (f, t) = (from.to_owned(), to.to_owned());
        blocking(&self.slots, move || named(&t, with_parent(&t, || std::fs::hard_link(&f, &t))))
            .boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let p = path.to_owned();
        blocking(&self.slots, move || named(&p, std::fs::remove_file(&p))).boxed()
    }

    fn remove_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let p = path.to_owned();
        blocking(&self.slots, move || named(&p, std::fs::remove_dir(&p))).boxed()
    }

    fn create_dir<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let p = path.to_owned();
        blocking(&self.slots, move || named(&p, make_dirs(&p))).boxed()
    }

    fn sync_dir<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let d = dir.to_owned();
        blocking(&self.slots, move || named(&d, std::fs::File::open(&d).and_then(|f| f.sync_all())))
            .boxed()
    }

    fn free_space<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<u64>> {
        let p = path.to_owned();
        blocking(&self.slots, move || {
            let s = named(&p, rustix::fs::statvfs(&*p).map_err(io::Error::from))?;
            if s.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
                let e = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
                return named(&p, Err(e));
            }
            Ok(s.f_bavail.saturating_mul(s.f_frsize))
        })
        .boxed()
    }

    fn details<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Details>> {
        let p = path.to_owned();
        blocking(&self.slots, move || {
            let m = named(&p, std::fs::metadata(&p))?;
            let device = (rustix::fs::major(m.dev()), rustix::fs::minor(m.dev()));
            Ok(Details { uid: m.uid(), device })
        })
        .boxed()
    }
}

impl OsFile {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, io::Result<T>> {
        let (f, p) = (self.file.clone(), self.path.clone());
        blocking(&self.slots, move || named(&p, work(&f))).boxed()
    }
}

impl File for OsFile {
    fn read_at(&self, off: u64, len: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.run(move |f| {
            let have = f.metadata()?.len().saturating_sub(off);
            // Files of /proc say that they are empty and are not.
            let want = usize::try_from(have).unwrap_or(usize::MAX).max(4096).min(len);
            let mut out = vec![0; want];
            let mut done = 0;
            while done < want {
                match f.read_at(&mut out[done..], off + done as u64)? {
                    0 => break,
                    n => done += n,
                }
            }
            out.truncate(done);
            Ok(out)
        })
    }

    fn write_at(&self, off: u64, data: bytes::Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.run(move |f| f.write_all_at(&data, off))
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.run(|f| Ok(f.metadata()?.len()))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.run(|f| f.sync_data())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        // close(2) reports flush errors that std swallows on drop, so whoever
        // acknowledges anything must have synced before.
        async move {
            let OsFile { file, slots, .. } = *self;
            blocking(&slots, move || {
                drop(file);
                Ok(())
            })
            .await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_task_runs_on_its_side_wherever_it_is_started() {
        let runtime = |name: &str| {
            let mut b = tokio::runtime::Builder::new_multi_thread();
            b.worker_threads(1).thread_name(name).build().unwrap()
        };
        let (frontend, gui) = (runtime("frontend"), runtime("gui"));
        let handles = Runtimes { frontend: frontend.handle().clone(), gui: gui.handle().clone() };
        let env = env_with(Some(handles));
        let (tell, told) = std::sync::mpsc::channel();
        for from in [&frontend, &gui] {
            for side in [Side::Frontend, Side::Gui] {
                let (tasks, tell) = (env.tasks.clone(), tell.clone());
                from.spawn(async move {
                    tasks.spawn(
                        side,
                        Box::pin(async move {
                            let name = std::thread::current().name().map(str::to_owned);
                            tell.send((side, name)).unwrap();
                        }),
                    );
                });
            }
        }
        for _ in 0..4 {
            let (side, name) = told.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
            let want = if side == Side::Gui { "gui" } else { "frontend" };
            assert_eq!(name.as_deref(), Some(want));
        }
    }

    /// Work of clients takes every slot of theirs, and never ends: what people ask is
    /// done all the same, on both the CPU pool and the store.
    #[test]
    fn people_do_not_queue_behind_clients() {
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(FS_POOL + 64)
                .enable_all()
                .build()
                .unwrap()
        };
        let (clients, people) = (runtime(), runtime());
        let sides = Runtimes { frontend: clients.handle().clone(), gui: people.handle().clone() };
        let slots = [slots(2, 2, Some(&sides)), slots(2, 2, None)];
        let (done, told) = mpsc::channel();
        let (begun, has_begun) = mpsc::channel();
        let (end, ended) = tokio::sync::watch::channel(());
        for (n, slots) in slots.iter().enumerate() {
            for _ in 0..3 {
                let (slots, begun, mut ended) = (slots.clone(), begun.clone(), ended.clone());
                clients.spawn(async move {
                    let here = slots.here().clone();
                    let slot = here.acquire().await.unwrap();
                    begun.send(()).unwrap();
                    let _ = ended.changed().await;
                    drop(slot);
                });
            }
            (0..2).for_each(|_| has_begun.recv_timeout(Duration::from_secs(20)).unwrap());
            let (slots, done) = (slots.clone(), done.clone());
            people.spawn(async move {
                let here = slots.here().clone();
                let _slot = here.acquire().await.unwrap();
                let _ = done.send(n);
            });
        }
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(0));
        let shared = told.recv_timeout(Duration::from_millis(200));
        assert!(shared.is_err(), "with one set of slots they wait: {shared:?}");
        drop(end);
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(1));
        let env = env_with(Some(sides));
        let read = people.block_on(async move {
            env.offload(|| 5).await.zip(env.fs.stat("/").await.ok().map(|m| m.is_dir))
        });
        assert_eq!(read, Some((5, true)));
    }
}
