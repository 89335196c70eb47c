//! Group commit: one task writes and syncs for everyone who waits.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use velociraptor_proto::journal::Record;

use super::epoch::process_dir;
use super::feed::{Feed, Feeds, Group};
use super::frame::{HEADER, encode_frame};
use super::pace::Pace;
use super::position::Position;
use super::process::ProcessId;
use super::segment::Segment;
use super::space::{Refused, Space, Worth, is_full};
use crate::env::{Env, File, Mutant, Open};

/// How a journal behaves; see the settings file for the defaults' names.
#[derive(Clone, Debug)]
pub struct Options {
    /// A new file is started when one grows past this. Default 64 MiB.
    pub roll_bytes: u64,
    /// Most bytes written as one group, on a store whose commits take long. Default 8 MiB.
    pub group_bytes: usize,
    /// Most bytes waiting to be committed; callers wait beyond. Default 256 MiB.
    pub waiting_bytes: usize,
    /// A commit not finished by then is answered as failed. Default 20 s.
    pub deadline: Duration,
    /// Bytes kept free for decisions on a full store; see [`Space`]. Default 0:
    /// no reserve, and nothing is refused before a write fails.
    pub reserve_bytes: u64,
    /// How long after the last look, when something is written, the file is
    /// looked for by name. Default 5 s.
    ///
    /// A process that stood still for minutes may have been taken for dead and
    /// its files deleted: what it writes to an open file without a name is lost.
    pub verify_every: Duration,
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
            reserve_bytes: 0,
            verify_every: Duration::from_secs(5),
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
    /// There is too little space for it; nothing was written.
    #[error(transparent)]
    Full(#[from] Refused),
    /// The journal is closed: the process is stopping.
    #[error("journal is closed")]
    Closed,
    /// Not this process's to decide, as far as it knows: another may be master.
    #[error(
        "this server cannot tell at the moment whether it is still the master; {}",
        if *.written { "whether this counts will show" } else { "nothing was done" }
    )]
    Refused {
        /// Whether the record was written all the same.
        written: bool,
    },
}

/// A record on stable storage.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The file that holds it.
    pub segment: Arc<Segment>,
    /// Where its payload starts in that file.
    pub payload: u64,
    /// Where the record ends.
    pub end: Position,
}

/// Completes a record just before it is written; the second argument says that
/// it is the first of its file. Records are completed in the order in which
/// they are in the file.
pub type Stamp = Arc<dyn Fn(&mut Record, bool) + Send + Sync>;

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
    worth: Worth,
    record: Record,
    payload: Vec<Bytes>,
    spills: Vec<Arc<dyn File>>,
    size: usize,
    done: oneshot::Sender<Result<Committed, CommitError>>,
    _room: OwnedSemaphorePermit,
}

enum Command {
    Commit(Box<Request>),
    Roll(oneshot::Sender<io::Result<Position>>),
}

/// Handle to the journal of this process. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    tx: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
    options: Arc<Options>,
    stats: Arc<JournalStats>,
    shared: Arc<Shared>,
    space: Arc<Space>,
}

/// What the writer tells.
#[derive(Debug, Default)]
struct Shared {
    end: Mutex<Position>,
    feeds: Feeds,
}

impl Shared {
    fn set_end(&self, end: Position) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Journal {
    /// Starts the journal of `process` below the directory `fleet` (absolute).
    pub async fn start(
        env: &Env,
        fleet: &str,
        process: ProcessId,
        options: Options,
        stamp: Option<Stamp>,
    ) -> io::Result<Self> {
        let (tx, rx) = mpsc::unbounded_channel();
        let stats = Arc::new(JournalStats::default());
        let room = Arc::new(Semaphore::new(options.waiting_bytes.min(Semaphore::MAX_PERMITS)));
        let options = Arc::new(options);
        let shared = Arc::new(Shared::default());
        let dir = process_dir(fleet, &process);
        let space = Arc::new(Space::new(env, dir, options.reserve_bytes));
        let mut w = Writer {
            env: env.clone(),
            space: space.clone(),
            fleet: fleet.to_owned(),
            process,
            pace: Pace::new(options.group_bytes),
            options: options.clone(),
            stats: stats.clone(),
            shared: shared.clone(),
            stamp,
            next: 0,
            current: None,
        };
        // The first file is made now, so that a store that cannot be written
        // stops the start instead of the first client.
        w.current = Some(w.open_next().await?);
        env.spawn(w.run(rx));
        Ok(Self { tx, room, options, stats, shared, space })
    }

    /// The end of what is committed.
    pub fn end(&self) -> Position {
        *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is committed from now on, as it lies in the files. At
    /// most `limit` bytes wait for the reader; beyond, the oldest are lost.
    pub fn subscribe(&self, limit: usize) -> Feed {
        self.shared.feeds.subscribe(limit)
    }

    /// Begins a new file, unless the present one holds nothing. Returns where
    /// the next record goes.
    pub async fn roll(&self) -> Result<Position, CommitError> {
        let (done, rx) = oneshot::channel();
        self.tx.send(Command::Roll(done)).map_err(|_| CommitError::Closed)?;
        match tokio::time::timeout(self.options.deadline, rx).await {
            Ok(Ok(r)) => r.map_err(|e| CommitError::Io(Arc::new(e))),
            Ok(Err(_)) => Err(CommitError::Closed),
            Err(_) => Err(CommitError::Deadline(self.options.deadline)),
        }
    }

    /// Counters.
    pub fn stats(&self) -> &JournalStats {
        &self.stats
    }

    /// How much room the store has, and what is taken.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The same, to be kept.
    pub fn space_handle(&self) -> Arc<Space> {
        self.space.clone()
    }

    /// Bytes accepted and not yet committed.
    pub fn waiting_bytes(&self) -> usize {
        self.options.waiting_bytes.saturating_sub(self.room.available_permits())
    }

    /// Commits a decision; see [`Journal::commit_worth`].
    pub async fn commit(
        &self,
        record: Record,
        payload: Vec<Bytes>,
        spills: Vec<Arc<dyn File>>,
    ) -> Result<Committed, CommitError> {
        self.commit_worth(Worth::Decision, record, payload, spills).await
    }

    /// Commits a record with its payload, and syncs `spills` before its group is written.
    ///
    /// Returns when all of it is on stable storage. On an error the record may
    /// still be found at recovery; readers recognise duplicates. When the store
    /// is nearly full, what is worth too little is refused.
    pub async fn commit_worth(
        &self,
        worth: Worth,
        record: Record,
        payload: Vec<Bytes>,
        spills: Vec<Arc<dyn File>>,
    ) -> Result<Committed, CommitError> {
        self.space.admit(worth)?;
        let size: usize = payload.iter().map(Bytes::len).sum::<usize>() + 256;
        let permits = u32::try_from(size.min(self.options.waiting_bytes)).unwrap_or(u32::MAX);
        let wait = async {
            let room = self.room.clone().acquire_many_owned(permits).await;
            let room = room.map_err(|_| CommitError::Closed)?;
            let (done, rx) = oneshot::channel();
            let request = Request { worth, record, payload, spills, size, done, _room: room };
            self.tx.send(Command::Commit(Box::new(request))).map_err(|_| CommitError::Closed)?;
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
    number: u64,
    at: u64,
    verified: Instant,
}

impl Current {
    fn end(&self) -> Position {
        Position { file: self.number, offset: self.at }
    }
}

struct Writer {
    env: Env,
    fleet: String,
    process: ProcessId,
    options: Arc<Options>,
    stats: Arc<JournalStats>,
    shared: Arc<Shared>,
    stamp: Option<Stamp>,
    space: Arc<Space>,
    pace: Pace,
    next: u64,
    current: Option<Current>,
}

impl Writer {
    async fn run(mut self, mut rx: mpsc::UnboundedReceiver<Command>) {
        while let Some(first) = rx.recv().await {
            let (mut size, mut group, mut rolls) = (0, Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    // It was answered as failed: nobody counts on it any more.
                    Command::Commit(r) if r.done.is_closed() => {}
                    Command::Commit(r) => {
                        size += r.size;
                        group.push(*r);
                    }
                    Command::Roll(done) => rolls.push(done),
                }
                if size < self.pace.bytes() && rolls.is_empty() {
                    next = rx.try_recv().ok();
                }
            }
            if !group.is_empty() {
                self.commit(group).await;
            }
            for done in rolls {
                let _ = done.send(self.roll().await);
            }
        }
        self.shared.feeds.close();
        if let Some(c) = self.current.take()
            && let Err(e) = c.file.sync().await
        {
            tracing::warn!(error = %e, "closing the journal");
        }
    }

    async fn roll(&mut self) -> io::Result<Position> {
        if let Some(c) = &self.current
            && c.at == HEADER.len() as u64
        {
            return Ok(c.end());
        }
        let next = self.open_next().await?;
        let end = next.end();
        if let Some(old) = self.current.replace(next) {
            old.segment.close(old.at);
        }
        self.shared.set_end(end);
        Ok(end)
    }

    /// The file that takes the next group.
    async fn take_current(&mut self) -> io::Result<Current> {
        if let Some(c) = &self.current
            && c.at >= self.options.roll_bytes
        {
            self.roll().await?;
        }
        match self.current.take() {
            Some(c) => Ok(c),
            None => self.open_next().await,
        }
    }

    async fn commit(&mut self, group: Vec<Request>) {
        let Err((group, e)) = self.try_commit(group).await else { return };
        if !is_full(&e) || !self.space.met_full().await {
            return self.fail(group, e);
        }
        // The reserve is given up: what it was kept for has room now.
        let level = self.space.level();
        let (again, refused): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|r| level.takes(r.worth));
        self.fail(refused, e);
        if !again.is_empty()
            && let Err((group, e)) = self.try_commit(again).await
        {
            self.fail(group, e);
        }
    }

    /// Writes and answers a group; gives it back if that fails.
    async fn try_commit(
        &mut self,
        mut group: Vec<Request>,
    ) -> Result<(), (Vec<Request>, io::Error)> {
        let mut current = match self.take_current().await {
            Ok(c) => c,
            Err(e) => return Err((group, e)),
        };
        let mut buf = BytesMut::with_capacity(group.iter().map(|r| r.size).sum());
        let mut places = Vec::with_capacity(group.len());
        let mut spills: BTreeMap<usize, Arc<dyn File>> = BTreeMap::new();
        for r in &mut group {
            let start = buf.len();
            if let Some(stamp) = &self.stamp {
                stamp(&mut r.record, start == 0 && current.at == HEADER.len() as u64);
            }
            let payload = encode_frame(&mut buf, &r.record, &r.payload);
            let end = Position { file: current.number, offset: current.at + buf.len() as u64 };
            places.push((current.at + (start + payload) as u64, end));
            for s in &r.spills {
                spills.insert(Arc::as_ptr(s).cast::<()>().addr(), s.clone());
            }
        }
        let answer = |i: usize, segment: &Arc<Segment>| Committed {
            segment: segment.clone(),
            payload: places[i].0,
            end: places[i].1,
        };
        let mut group: Vec<Option<Request>> = group.into_iter().map(Some).collect();
        if self.options.acknowledge_early || self.env.sabotage.is(Mutant::AcknowledgeEarly) {
            for (i, slot) in group.iter_mut().enumerate() {
                if let Some(r) = slot.take() {
                    let _ = r.done.send(Ok(answer(i, &current.segment)));
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (start, data) = (current.end(), buf.freeze());
        let began = Instant::now();
        let written = async {
            // First what the records refer to: were they written at the same time, a record
            // could outlive the data. It was not acknowledged, so the client would send it
            // again, and be taken for one who repeats what is stored.
            if !self.env.sabotage.is(Mutant::SkipSpillSync) {
                // All of them to their end: an error that nobody hears is not told again.
                let synced = join_all(spills.values().map(|f| f.sync())).await;
                synced.into_iter().collect::<io::Result<()>>()?;
            }
            current.file.write_at(current.at, data.clone()).await?;
            if self.env.sabotage.is(Mutant::SkipJournalSync) {
                return Ok(());
            }
            current.file.sync().await?;
            self.verify(&mut current.verified, &current.segment).await
        }
        .await;
        match written {
            Ok(()) => {
                self.pace.took(began.elapsed());
                current.at += data.len() as u64;
                self.stats.groups.fetch_add(1, Ordering::Relaxed);
                self.stats.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                let end = current.end();
                self.shared.set_end(end);
                for (i, slot) in group.into_iter().enumerate() {
                    self.stats.records.fetch_add(1, Ordering::Relaxed);
                    if let Some(r) = slot {
                        let _ = r.done.send(Ok(answer(i, &current.segment)));
                    }
                }
                self.current = Some(current);
                self.shared.feeds.publish(&Group { start, end, data });
                Ok(())
            }
            // Never sync that descriptor again: the kernel may have dropped the
            // pages and cleared the error. The next group opens the next file.
            Err(e) => {
                current.segment.close(current.at);
                Err((group.into_iter().flatten().collect(), e))
            }
        }
    }

    /// Whether the file still has its name, if that was not looked at lately.
    async fn verify(&self, last: &mut Instant, segment: &Segment) -> io::Result<()> {
        if last.elapsed() < self.options.verify_every {
            return Ok(());
        }
        match self.env.fs.stat(&segment.path).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{}: deleted while it was written; was this process taken for dead?",
                    segment.path
                ),
            )),
            // A question that fails tells nothing.
            Err(_) => Ok(()),
            Ok(_) => {
                *last = Instant::now();
                Ok(())
            }
        }
    }

    fn fail(&self, group: Vec<Request>, e: io::Error) {
        if group.is_empty() {
            return;
        }
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = %e, records = group.len(), "journal group failed; clients keep their data");
        let e = Arc::new(e);
        for r in group {
            let _ = r.done.send(Err(CommitError::Io(e.clone())));
        }
    }

    async fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file: Arc<dyn File> = self.env.fs.open(path, Open::CreateNew).await?.into();
        file.write_at(0, Bytes::from_static(&HEADER)).await?;
        let dir = process_dir(&self.fleet, &self.process);
        let synced = join_all([file.sync(), self.env.fs.sync_dir(&dir)]).await;
        synced.into_iter().collect::<io::Result<()>>()?;
        Ok(file)
    }

    async fn open_next(&mut self) -> io::Result<Current> {
        let number = self.next;
        self.next += 1;
        let segment = Arc::new(Segment::journal(&self.fleet, &self.process, number));
        let made = self.create(&segment.path).await;
        if made.is_err() {
            // Nothing is in it, and nothing else knows of it.
            let _ = self.env.fs.remove(&segment.path).await;
        }
        let file = made?;
        self.stats.files.fetch_add(1, Ordering::Relaxed);
        let at = HEADER.len() as u64;
        Ok(Current { file, segment, number, at, verified: Instant::now() })
    }
}
