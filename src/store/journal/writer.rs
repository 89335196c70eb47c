//! Group commit: one task writes and syncs for everyone who waits.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{join_all, try_join_all};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use velociraptor_proto::journal::Record;

use super::frame::{HEADER, encode_frame};
use super::segment::Segment;
use crate::env::{Env, File, Open};

/// How a journal behaves; see the settings file for the defaults' names.
#[derive(Clone, Debug)]
pub struct Options {
    /// A new file is started when one grows past this. Default 64 MiB.
    pub roll_bytes: u64,
    /// Most bytes written as one group. Default 8 MiB.
    pub group_bytes: usize,
    /// Most bytes waiting to be committed; callers wait beyond. Default 256 MiB.
    pub waiting_bytes: usize,
    /// A commit not finished by then is answered as failed. Default 20 s.
    pub deadline: Duration,
    /// Breaks promise 1 on purpose: answers before the group is written. Only
    /// for the test that shows that such a server loses data.
    pub acknowledge_early: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            roll_bytes: 64 << 20,
            group_bytes: 8 << 20,
            waiting_bytes: 256 << 20,
            deadline: Duration::from_secs(20),
            acknowledge_early: false,
        }
    }
}

/// Why a record is not known to be committed. It may still turn out to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The file server refused or failed.
    #[error("journal: {0}")]
    Io(Arc<io::Error>),
    /// The file server did not answer in time.
    #[error("journal: not committed within {0:?}")]
    Deadline(Duration),
    /// The journal is closed: the process is stopping.
    #[error("journal is closed")]
    Closed,
}

/// A record on stable storage.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The file that holds it.
    pub segment: Arc<Segment>,
    /// Where its payload starts in that file.
    pub payload: u64,
}

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct JournalStats {
    /// Records committed.
    pub records: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Groups written: each costs one WRITE and one COMMIT.
    pub groups: AtomicU64,
    /// Groups that failed.
    pub failures: AtomicU64,
    /// Files started.
    pub files: AtomicU64,
}

struct Request {
    record: Record,
    payload: Vec<Bytes>,
    spills: Vec<Arc<dyn File>>,
    size: usize,
    done: oneshot::Sender<Result<Committed, CommitError>>,
    _room: OwnedSemaphorePermit,
}

/// Handle to the journal of this process. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    tx: mpsc::UnboundedSender<Request>,
    room: Arc<Semaphore>,
    options: Arc<Options>,
    stats: Arc<JournalStats>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Journal {
    /// Starts the journal in the epoch directory `dir` (absolute).
    pub async fn start(env: &Env, dir: String, options: Options) -> io::Result<Self> {
        let (tx, rx) = mpsc::unbounded_channel();
        let stats = Arc::new(JournalStats::default());
        let room = Arc::new(Semaphore::new(options.waiting_bytes.min(Semaphore::MAX_PERMITS)));
        let options = Arc::new(options);
        let mut w = Writer {
            env: env.clone(),
            dir,
            options: options.clone(),
            stats: stats.clone(),
            next: 0,
            current: None,
        };
        // The first file is made now, so that a store that cannot be written
        // stops the start instead of the first client.
        w.current = Some(w.open_next().await?);
        env.spawn(w.run(rx));
        Ok(Self { tx, room, options, stats })
    }

    /// Counters.
    pub fn stats(&self) -> &JournalStats {
        &self.stats
    }

    /// Bytes accepted and not yet committed.
    pub fn waiting_bytes(&self) -> usize {
        self.options.waiting_bytes.saturating_sub(self.room.available_permits())
    }

    /// Commits a record with its payload, and syncs `spills` in the same group.
    ///
    /// Returns when all of it is on stable storage. On an error the record may
    /// still be found at recovery; readers recognise duplicates.
    pub async fn commit(
        &self,
        record: Record,
        payload: Vec<Bytes>,
        spills: Vec<Arc<dyn File>>,
    ) -> Result<Committed, CommitError> {
        let size: usize = payload.iter().map(Bytes::len).sum::<usize>() + 256;
        let permits = u32::try_from(size.min(self.options.waiting_bytes)).unwrap_or(u32::MAX);
        let wait = async {
            let room = self.room.clone().acquire_many_owned(permits).await;
            let room = room.map_err(|_| CommitError::Closed)?;
            let (done, rx) = oneshot::channel();
            let request = Request { record, payload, spills, size, done, _room: room };
            self.tx.send(request).map_err(|_| CommitError::Closed)?;
            rx.await.map_err(|_| CommitError::Closed)?
        };
        match tokio::time::timeout(self.options.deadline, wait).await {
            Ok(r) => r,
            Err(_) => Err(CommitError::Deadline(self.options.deadline)),
        }
    }
}

struct Current {
    file: Arc<dyn File>,
    segment: Arc<Segment>,
    at: u64,
}

struct Writer {
    env: Env,
    dir: String,
    options: Arc<Options>,
    stats: Arc<JournalStats>,
    next: u64,
    current: Option<Current>,
}

impl Writer {
    async fn run(mut self, mut rx: mpsc::UnboundedReceiver<Request>) {
        while let Some(first) = rx.recv().await {
            let mut size = first.size;
            let mut group = vec![first];
            while size < self.options.group_bytes {
                match rx.try_recv() {
                    Ok(r) => {
                        size += r.size;
                        group.push(r);
                    }
                    Err(_) => break,
                }
            }
            self.commit(group).await;
        }
        if let Some(c) = self.current.take()
            && let Err(e) = c.file.sync().await
        {
            tracing::warn!(error = %e, "closing the journal");
        }
    }

    async fn commit(&mut self, group: Vec<Request>) {
        let current = match self.current.take() {
            Some(c) if c.at < self.options.roll_bytes => Ok(c),
            _ => self.open_next().await,
        };
        let mut current = match current {
            Ok(c) => c,
            Err(e) => return self.fail(group, e),
        };
        let mut buf = BytesMut::new();
        let mut places = Vec::with_capacity(group.len());
        let mut spills: BTreeMap<usize, Arc<dyn File>> = BTreeMap::new();
        for r in &group {
            let start = buf.len();
            let payload = encode_frame(&mut buf, &r.record, &r.payload);
            places.push(current.at + (start + payload) as u64);
            for s in &r.spills {
                spills.insert(Arc::as_ptr(s).cast::<()>().addr(), s.clone());
            }
        }
        let answer = |i: usize, segment: &Arc<Segment>| Committed {
            segment: segment.clone(),
            payload: places[i],
        };
        let mut group: Vec<Option<Request>> = group.into_iter().map(Some).collect();
        if self.options.acknowledge_early {
            for (i, slot) in group.iter_mut().enumerate() {
                if let Some(r) = slot.take() {
                    let _ = r.done.send(Ok(answer(i, &current.segment)));
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let bytes = buf.len() as u64;
        let written = async {
            current.file.write_at(current.at, buf.freeze()).await?;
            let spills: Vec<_> = spills.values().cloned().collect();
            let (journal, spilled) =
                tokio::join!(current.file.sync(), try_join_all(spills.iter().map(|f| f.sync())));
            journal.and(spilled.map(drop))
        }
        .await;
        match written {
            Ok(()) => {
                current.at += bytes;
                self.stats.groups.fetch_add(1, Ordering::Relaxed);
                self.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
                for (i, slot) in group.into_iter().enumerate() {
                    self.stats.records.fetch_add(1, Ordering::Relaxed);
                    if let Some(r) = slot {
                        let _ = r.done.send(Ok(answer(i, &current.segment)));
                    }
                }
                self.current = Some(current);
            }
            // Never sync that descriptor again: the kernel may have dropped the
            // pages and cleared the error. The next group opens the next file.
            Err(e) => self.fail(group.into_iter().flatten().collect(), e),
        }
    }

    fn fail(&self, group: Vec<Request>, e: io::Error) {
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = %e, records = group.len(), "journal group failed; clients keep their data");
        let e = Arc::new(e);
        for r in group {
            let _ = r.done.send(Err(CommitError::Io(e.clone())));
        }
    }

    async fn open_next(&mut self) -> io::Result<Current> {
        let path = format!("{}/{}.journal", self.dir, self.next);
        self.next += 1;
        let file: Arc<dyn File> = self.env.fs.open(&path, Open::CreateNew).await?.into();
        file.write_at(0, Bytes::from_static(&HEADER)).await?;
        let synced = join_all([file.sync(), self.env.fs.sync_dir(&self.dir)]).await;
        synced.into_iter().collect::<io::Result<()>>()?;
        self.stats.files.fetch_add(1, Ordering::Relaxed);
        Ok(Current { file, segment: Arc::new(Segment { path }), at: HEADER.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use velociraptor_proto::journal::{Post, record::Kind};

    fn post(n: u64) -> Record {
        Record { kind: Some(Kind::Post(Post { received: n, ..Default::default() })) }
    }

    async fn journal(dir: &str, options: Options) -> (Env, Journal) {
        let env = crate::env::real::env();
        let epoch = take_epoch(&env, dir, "n1").await.unwrap();
        let j = Journal::start(&env, format!("{dir}/n1/{}", epoch.name()), options).await.unwrap();
        (env, j)
    }

    async fn read_back(env: &Env, dir: &str) -> (Vec<(u64, Bytes)>, Vec<TornTail>) {
        let (mut out, mut torn) = (Vec::new(), Vec::new());
        for p in existing_segments(env, dir).await.unwrap() {
            let t = scan(&*env.fs, &p, |f| {
                let Some(Kind::Post(post)) = f.record.kind else { return };
                out.push((post.received, f.payload));
            });
            torn.extend(t.await.unwrap());
        }
        (out, torn)
    }

    #[tokio::test]
    async fn what_is_committed_is_found_and_extents_read_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_str().unwrap();
        let options = Options { roll_bytes: 400, ..Default::default() };
        let (env, j) = journal(dir, options).await;
        let mut done = Vec::new();
        for n in 0..20u64 {
            let body = Bytes::from(vec![n as u8; 100]);
            done.push(j.commit(post(n), vec![body], vec![]).await.unwrap());
        }
        assert!(j.stats().files.load(Ordering::Relaxed) > 1, "rolled");
        for (n, c) in done.iter().enumerate() {
            let e = Extent { segment: c.segment.clone(), offset: c.payload, len: 100 };
            assert_eq!(e.read(&*env.fs).await.unwrap(), vec![n as u8; 100]);
        }
        let (found, torn) = read_back(&env, dir).await;
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert!(torn.is_empty());
    }

    #[tokio::test]
    async fn a_torn_tail_is_told_and_ignored() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_str().unwrap();
        let (env, j) = journal(dir, Options::default()).await;
        for n in 0..3 {
            j.commit(post(n), vec![], vec![]).await.unwrap();
        }
        let path = existing_segments(&env, dir).await.unwrap().remove(0);
        let f = env.fs.open(&path, Open::Write).await.unwrap();
        let end = f.size().await.unwrap();
        f.write_at(end, Bytes::from_static(&[9, 0, 0, 0, 1, 2, 3])).await.unwrap();
        let (found, torn) = read_back(&env, dir).await;
        assert_eq!(found.len(), 3);
        assert_eq!((torn[0].offset, torn[0].ignored), (end, 7));
    }

    #[tokio::test]
    async fn many_waiters_share_few_groups() {
        let tmp = tempfile::tempdir().unwrap();
        let (_env, j) = journal(tmp.path().to_str().unwrap(), Options::default()).await;
        let all: Vec<_> =
            (0..200).map(|n| j.commit(post(n), vec![Bytes::from_static(b"x")], vec![])).collect();
        for r in join_all(all).await {
            r.unwrap();
        }
        let groups = j.stats().groups.load(Ordering::Relaxed);
        assert!(groups < 100, "200 commits took {groups} groups");
    }

    #[tokio::test]
    async fn epochs_are_never_shared() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_str().unwrap();
        let env = crate::env::real::env();
        let a = take_epoch(&env, dir, "n").await.unwrap();
        let b = take_epoch(&env, dir, "n").await.unwrap();
        assert!(a < b && a.number + 1 == b.number);
    }
}
