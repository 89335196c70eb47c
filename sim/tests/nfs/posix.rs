//! One host and no faults: the model is a POSIX file system. The reference is
//! the real one below a temporary directory, through production's own `Env`.

use super::*;
use proptest::prelude::*;
use sim::disk::Disk;

const NAMES: [&str; 6] = ["/a", "/b", "/d", "/d/a", "/d/e", "/d/e/f"];

#[derive(Clone, Debug)]
enum Step {
    Open(usize, u8, Open),
    Close(u8),
    Write(u8, u16, u16),
    Read(u8, u16, u16),
    Size(u8),
    Sync(u8),
    Stat(usize),
    List(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Remove(usize),
    RemoveDir(usize),
    MakeDir(usize),
    Same(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let handle = || 0..4u8;
    let how = prop_oneof![Just(Open::Read), Just(Open::Write), Just(Open::CreateNew)];
    prop_oneof![
        4 => (name(), handle(), how).prop_map(|(n, h, o)| Step::Open(n, h, o)),
        1 => handle().prop_map(Step::Close),
        4 => (handle(), 0..9000u16, 1..9000u16).prop_map(|(h, o, n)| Step::Write(h, o, n)),
        4 => (handle(), 0..12000u16, 0..12000u16).prop_map(|(h, o, n)| Step::Read(h, o, n)),
        1 => handle().prop_map(Step::Size),
        1 => handle().prop_map(Step::Sync),
        2 => name().prop_map(Step::Stat),
        1 => name().prop_map(Step::List),
        2 => (name(), name()).prop_map(|(a, b)| Step::Rename(a, b)),
        2 => (name(), name()).prop_map(|(a, b)| Step::Link(a, b)),
        1 => name().prop_map(Step::Remove),
        1 => name().prop_map(Step::RemoveDir),
        1 => name().prop_map(Step::MakeDir),
        1 => (name(), name()).prop_map(|(a, b)| Step::Same(a, b)),
    ]
}

/// What a step showed, without what may differ (paths, times, numbers).
fn shown<T: std::fmt::Debug>(r: io::Result<T>) -> String {
    match r {
        Ok(v) => format!("{v:?}"),
        Err(e) => format!("{:?}", e.kind()),
    }
}

struct World {
    fs: Fs,
    root: String,
    handles: [Option<Box<dyn File>>; 4],
}

impl World {
    fn new(fs: Fs, root: String) -> World {
        World { fs, root, handles: [None, None, None, None] }
    }

    async fn run(&mut self, n: usize, step: &Step) -> String {
        let at = |i: &usize| format!("{}{}", self.root, NAMES[*i]);
        let open = |h: &u8| self.handles[usize::from(*h)].as_deref();
        match step {
            Step::Open(name, h, how) => {
                let opened = match self.fs.open(&at(name), *how).await {
                    // Opening a directory for reading is allowed and useless.
                    Ok(f)
                        if f.read_at(0, 1)
                            .await
                            .is_err_and(|e| e.kind() == ErrorKind::IsADirectory) =>
                    {
                        Err(ErrorKind::IsADirectory.into())
                    }
                    r => r,
                };
                match opened {
                    Ok(f) => {
                        self.handles[usize::from(*h)] = Some(f);
                        "opened".into()
                    }
                    Err(e) => shown::<()>(Err(e)),
                }
            }
            Step::Close(h) => match self.handles[usize::from(*h)].take() {
                Some(f) => shown(f.close().await),
                None => String::new(),
            },
            Step::Write(h, off, len) => match open(h) {
                Some(f) => {
                    let data = vec![b'a' + (n % 26) as u8; usize::from(*len)];
                    // Not open for writing: the kernel says EBADF, the model refuses.
                    let r = f.write_at(u64::from(*off), data.into()).await;
                    if r.is_ok() { "written".into() } else { "refused".into() }
                }
                None => String::new(),
            },
            Step::Read(h, off, len) => match open(h) {
                Some(f) => {
                    let r = f.read_at(u64::from(*off), usize::from(*len)).await;
                    shown(r.map(|v| String::from_utf8_lossy(&v).into_owned()))
                }
                None => String::new(),
            },
            Step::Size(h) => match open(h) {
                Some(f) => shown(f.size().await),
                None => String::new(),
            },
            Step::Sync(h) => match open(h) {
                Some(f) => shown(f.sync().await),
                None => String::new(),
            },
            Step::Stat(name) => shown(self.fs.stat(&at(name)).await.map(|m| (m.len, m.is_dir))),
            Step::List(name) => {
                let visible = |l: Vec<velociraptor::env::DirEntry>| {
                    let seen = l.into_iter().filter(|e| !e.name.starts_with(".nfs"));
                    seen.collect::<Vec<_>>()
                };
                shown(self.fs.list(&at(name)).await.map(visible))
            }
            Step::Rename(a, b) => shown(self.fs.rename(&at(a), &at(b)).await),
            Step::Link(a, b) => shown(self.fs.link(&at(a), &at(b)).await),
            Step::Remove(a) => shown(self.fs.remove(&at(a)).await),
            Step::RemoveDir(a) => shown(self.fs.remove_dir(&at(a)).await),
            Step::MakeDir(a) => shown(self.fs.create_dir(&at(a)).await),
            Step::Same(a, b) => {
                let (a, b) = (self.fs.stat(&at(a)).await, self.fs.stat(&at(b)).await);
                match (a, b) {
                    (Ok(a), Ok(b)) => format!("{}", a.inode == b.inode),
                    _ => String::new(),
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Model {
    V4,
    V3,
    Choppy,
    Noac,
    Local,
}

fn model(which: Model) -> Fs {
    let options = match which {
        Model::V4 => MountOptions::kernel(),
        Model::V3 => MountOptions::kernel().v3(),
        Model::Choppy => MountOptions::default().choppy(),
        Model::Noac => MountOptions::noac().v3(),
        Model::Local => return Disk::default().mount("a", Duration::ZERO),
    };
    nas().mount("a", options)
}

fn compare(which: Model, steps: &[Step]) {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    rt.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap().to_owned();
        let mut real = World::new(velociraptor::env::real::env().fs, root);
        let mut here = World::new(model(which), String::new());
        for (n, s) in steps.iter().enumerate() {
            // What remains hidden after a removal keeps a directory from going.
            if matches!(s, Step::RemoveDir(_)) || matches!(s, Step::Rename(..)) {
                real.handles = Default::default();
                here.handles = Default::default();
                secs(1.0).await;
            }
            let (a, b) = (real.run(n, s).await, here.run(n, s).await);
            assert_eq!(a, b, "{which:?}, step {n}: {s:?}, real and model");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn version_4_alone_is_posix(steps in prop::collection::vec(step(), 1..60)) {
        compare(Model::V4, &steps);
    }

    #[test]
    fn version_3_alone_is_posix(steps in prop::collection::vec(step(), 1..60)) {
        compare(Model::V3, &steps);
    }

    #[test]
    fn small_calls_and_early_write_back_alone_are_posix(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        compare(Model::Choppy, &steps);
    }

    #[test]
    fn without_caches_alone_is_posix(steps in prop::collection::vec(step(), 1..60)) {
        compare(Model::Noac, &steps);
    }

    #[test]
    fn a_local_disk_is_posix(steps in prop::collection::vec(step(), 1..60)) {
        compare(Model::Local, &steps);
    }
}
