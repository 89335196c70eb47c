//! Tasks of clients that nobody holds, as files: what a minion may hand out while
//! it has no master.
//!
//! In a client's directory `<task>.new` is being made, `<task>` is anybody's to
//! take, `<task>.<node>.<epoch>` that process's and nobody else's. Each step is a
//! RENAME, so the file server decides who gets it; one whose reply was lost is
//! resolved by looking for its target, a name that only one process makes.
//!
//! Knows files; not who may take what when.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use velociraptor_proto::proto::VeloMessage;

use crate::env::fs::{create_own, read_limited};
use crate::env::{Env, FileSystem, Open};
use crate::services::ids::OrgId;
use crate::store::journal::ProcessId;

/// Largest task that is read, bytes.
const LIMIT: usize = 64 << 20;

/// The file of a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskFile {
    /// A master is about to leave it here, or was when it ended.
    New(u64),
    /// Whoever renames it may hand it out.
    Free(u64),
    /// One process's to hand out.
    Taken(u64, ProcessId),
}

impl fmt::Display for TaskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New(id) => write!(f, "{id}.new"),
            Self::Free(id) => write!(f, "{id}"),
            Self::Taken(id, p) => write!(f, "{id}.{}.{}", p.node, p.epoch),
        }
    }
}

impl TaskFile {
    /// From a name; `None` if it is not of that form.
    pub fn parse(name: &str) -> Option<Self> {
        let (id, rest) = name.split_once('.').map_or((name, None), |(a, b)| (a, Some(b)));
        let number: u64 = id.parse().ok()?;
        if number.to_string() != id {
            return None;
        }
        match rest {
            None => Some(Self::Free(number)),
            Some("new") => Some(Self::New(number)),
            Some(who) => {
                let (node, epoch) = who.rsplit_once('.')?;
                let named = !node.is_empty() && !epoch.is_empty();
                named.then(|| Self::Taken(number, ProcessId::new(node, epoch)))
            }
        }
    }

    /// The task.
    pub fn id(&self) -> u64 {
        match self {
            Self::New(id) | Self::Free(id) | Self::Taken(id, _) => *id,
        }
    }
}

/// The files of tasks, as one process works on them.
pub struct TaskFiles {
    env: Env,
    root: String,
    me: ProcessId,
    looks: AtomicU64,
}

impl fmt::Debug for TaskFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFiles").field("root", &self.root).finish_non_exhaustive()
    }
}

/// `Ok(false)` for an absent file.
fn found(r: io::Result<()>) -> io::Result<bool> {
    match r {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

impl TaskFiles {
    /// Below the directory `fleet`, for the process `me`.
    pub fn new(env: &Env, fleet: &str, me: &ProcessId) -> Self {
        let root = format!("{fleet}/tasks");
        Self { env: env.clone(), root, me: me.clone(), looks: AtomicU64::new(0) }
    }

    fn fs(&self) -> &dyn FileSystem {
        &*self.env.fs
    }

    fn org(&self, org: &OrgId) -> String {
        format!("{}/{org}", self.root)
    }

    fn dir(&self, org: &OrgId, client: &str) -> String {
        format!("{}/{org}/{client}", self.root)
    }

    fn path(&self, org: &OrgId, client: &str, f: &TaskFile) -> String {
        format!("{}/{f}", self.dir(org, client))
    }

    /// This process's name for a task.
    pub fn mine(&self, id: u64) -> TaskFile {
        TaskFile::Taken(id, self.me.clone())
    }

    /// Makes the file of a task, on stable storage, under a name that nobody takes.
    pub async fn make(&self, org: &OrgId, client: &str, task: &VeloMessage) -> io::Result<()> {
        let path = self.path(org, client, &TaskFile::New(task.task_id));
        create_own(self.fs(), &path, &task.encode_to_vec()).await?;
        self.fs().sync_dir(&self.dir(org, client)).await
    }

    /// Lets anybody take the file `from`. Nothing happens if it is gone.
    pub async fn free(&self, org: &OrgId, client: &str, from: &TaskFile) -> io::Result<()> {
        let to = self.path(org, client, &TaskFile::Free(from.id()));
        found(self.fs().rename(&self.path(org, client, from), &to).await)?;
        Ok(())
    }

    /// Takes the file `from`. `false`: it is not there, and not this process's. An
    /// error: not known, and it may still happen.
    pub async fn take(&self, org: &OrgId, client: &str, from: &TaskFile) -> io::Result<bool> {
        let to = self.path(org, client, &self.mine(from.id()));
        if found(self.fs().rename(&self.path(org, client, from), &to).await)? {
            return Ok(true);
        }
        self.refresh(&self.dir(org, client)).await?;
        found(self.fs().stat(&to).await.map(drop))
    }

    /// The message in the file of a task; `None`: it is not there.
    pub async fn read(
        &self,
        org: &OrgId,
        client: &str,
        f: &TaskFile,
    ) -> io::Result<Option<VeloMessage>> {
        let path = self.path(org, client, f);
        let data = match read_limited(self.fs(), &path, LIMIT).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            r => r?,
        };
        let bad = |e: String| io::Error::new(ErrorKind::InvalidData, format!("{path}: {e}"));
        let m = VeloMessage::decode(data.as_slice()).map_err(|e| bad(e.to_string()))?;
        match m.task_id == f.id() {
            true => Ok(Some(m)),
            false => Err(bad(format!("it holds task {}", m.task_id))),
        }
    }

    /// A client's files as the server has them now, in order of task.
    pub async fn list(&self, org: &OrgId, client: &str) -> io::Result<Vec<TaskFile>> {
        let dir = self.dir(org, client);
        self.refresh(&dir).await?;
        let names = self.fs().list(&dir).await?;
        let mut out: Vec<TaskFile> =
            names.iter().filter_map(|e| TaskFile::parse(&e.name)).collect();
        out.sort_by_key(TaskFile::id);
        Ok(out)
    }

    /// Clients that have files, as the server has them now.
    pub async fn clients(&self, org: &OrgId) -> io::Result<Vec<String>> {
        let dir = self.org(org);
        self.refresh(&dir).await?;
        let names = self.fs().list(&dir).await?;
        Ok(names.into_iter().filter(|e| e.is_dir).map(|e| e.name).collect())
    }

    /// Whether there ever were any, as far as this host knows.
    pub async fn any(&self) -> io::Result<bool> {
        Ok(!self.fs().list(&self.root).await?.is_empty())
    }

    /// Removes the files of tasks that are over, and the directory if none is left.
    pub async fn remove(
        &self,
        org: &OrgId,
        client: &str,
        over: impl Fn(u64) -> bool,
    ) -> io::Result<()> {
        let (gone, left): (Vec<_>, Vec<_>) =
            self.list(org, client).await?.into_iter().partition(|f| over(f.id()));
        for f in gone {
            found(self.fs().remove(&self.path(org, client, &f)).await)?;
        }
        if left.is_empty() {
            // A look of somebody else keeps it until the next time.
            let _ = self.fs().remove_dir(&self.dir(org, client)).await;
        }
        Ok(())
    }

    /// Makes this host forget what it believes of a directory, by changing it.
    async fn refresh(&self, dir: &str) -> io::Result<()> {
        let n = self.looks.fetch_add(1, Ordering::Relaxed);
        let path = format!("{dir}/look.{}.{}.{n}", self.me.node, self.me.epoch);
        match self.fs().open(&path, Open::CreateNew).await {
            Ok(f) => f.close().await?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        found(self.fs().remove(&path).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: u64) -> VeloMessage {
        VeloMessage { session_id: "F.1".into(), task_id: id, ..Default::default() }
    }

    #[test]
    fn names_are_read_back() {
        let p = ProcessId::new("web.example.com-8000", "00000003-0a0b0c0d");
        for f in [TaskFile::New(5), TaskFile::Free(5), TaskFile::Taken(5, p)] {
            assert_eq!(TaskFile::parse(&f.to_string()), Some(f));
        }
        for bad in ["", "x", "05", "5.", "5.newer", "5.n.", "5..e", "look.n.e.1"] {
            assert_eq!(TaskFile::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn one_has_it_at_a_time() {
        let tmp = tempfile::tempdir().unwrap();
        let fleet = tmp.path().to_str().unwrap();
        let env = crate::env::real::env();
        let of = |n: &str| TaskFiles::new(&env, fleet, &ProcessId::new(n, "00000001-aa"));
        let (master, minion, other) = (of("m"), of("n1"), of("n2"));
        let (org, c) = (OrgId::root(), "C.1");
        assert!(!master.any().await.unwrap() && master.clients(&org).await.unwrap().is_empty());
        master.make(&org, c, &task(1)).await.unwrap();
        assert!(!minion.take(&org, c, &TaskFile::Free(1)).await.unwrap(), "not yet");
        master.free(&org, c, &TaskFile::New(1)).await.unwrap();
        assert_eq!(minion.read(&org, c, &TaskFile::Free(1)).await.unwrap(), Some(task(1)));
        for _ in 0..2 {
            assert!(minion.take(&org, c, &TaskFile::Free(1)).await.unwrap(), "also asked twice");
        }
        for f in [TaskFile::New(1), TaskFile::Free(1)] {
            assert!(!other.take(&org, c, &f).await.unwrap());
            assert!(!master.take(&org, c, &f).await.unwrap());
        }
        assert_eq!(master.list(&org, c).await.unwrap(), [minion.mine(1)]);
        assert!(master.take(&org, c, &minion.mine(1)).await.unwrap());
        assert!(!minion.take(&org, c, &TaskFile::Free(1)).await.unwrap());
        // A call of an earlier master that comes late frees nothing.
        other.free(&org, c, &TaskFile::New(1)).await.unwrap();
        master.free(&org, c, &minion.mine(1)).await.unwrap();
        assert_eq!(master.list(&org, c).await.unwrap(), [master.mine(1)]);
        master.free(&org, c, &master.mine(1)).await.unwrap();
        assert!(other.take(&org, c, &TaskFile::Free(1)).await.unwrap());
        assert_eq!(master.clients(&org).await.unwrap(), ["C.1"]);
        master.remove(&org, c, |id| id > 1).await.unwrap();
        assert_eq!(master.list(&org, c).await.unwrap().len(), 1);
        master.remove(&org, c, |_| true).await.unwrap();
        assert!(master.clients(&org).await.unwrap().is_empty());
        assert_eq!(other.read(&org, c, &other.mine(1)).await.unwrap(), None);
    }
}
