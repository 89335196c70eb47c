//! The processes of the deployment as one of them knows them: their files, how
//! far each has been applied, and whether they live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::Instant;

use super::Role;
use super::positions::Positions;
use super::tail::Tail;
use crate::store::journal::{Epoch, Position, ProcessId, Segment};

/// What a process has on the store, as far as somebody may need it.
#[derive(Debug, Default)]
pub(in crate::services) struct Files {
    /// Journal files that are there, by number.
    pub journal: BTreeMap<u64, Arc<Segment>>,
    /// Files with bulk data that records refer to, by name.
    pub spills: BTreeMap<String, Arc<Segment>>,
    /// On the process that writes them: the last record that refers to each.
    pub referred: BTreeMap<String, Position>,
    /// For a master's journal file: how far others had been applied when it was
    /// closed. It goes after those.
    pub covers: BTreeMap<u64, BTreeMap<ProcessId, Position>>,
    /// The first file holds nothing but the record that opens a master's journal.
    pub opening_alone: bool,
}

/// What is known of the life of another process.
#[derive(Debug, Default)]
pub(in crate::services) struct Life {
    /// There is a stream.
    pub streamed: bool,
    /// A later process of its node runs.
    pub superseded: bool,
    /// Its node's last sign of life, and when it was new.
    pub sign: Option<(u64, Instant)>,
    /// Since when it counts as dead.
    pub dead_since: Option<Instant>,
    /// It ended certainly: the process that runs under this node's name has seen to
    /// that before it started.
    pub certainly_dead: bool,
    /// Its clock at some moment up to which everything has been applied,
    /// microseconds.
    pub watermark: u64,
    /// A clock and the end of the journal then, not yet reached.
    pub ahead: Option<(u64, Position)>,
    /// The end of the journal at its last beat.
    pub last_end: Option<Position>,
    /// Highest number of a journal file that is known to exist.
    pub newest: Option<u64>,
    /// When it was last told to begin a new file.
    pub rolled: Option<Instant>,
    /// What it may delete is safe to delete.
    pub released: bool,
    /// Everything there was has been applied, when it was last looked at; looked at
    /// since it ended.
    pub read_out: bool,
    /// When it was last looked what it left.
    pub cleared: Option<Instant>,
}

/// One process.
#[derive(Debug)]
pub(in crate::services) struct Proc {
    /// Its name.
    pub id: ProcessId,
    /// Order among the starts of its node.
    pub epoch: Option<Epoch>,
    /// What it is.
    pub role: Role,
    /// Held while something of its journal is read and applied.
    pub tail: AsyncMutex<Tail>,
    files: Mutex<Files>,
    life: Mutex<Life>,
    fleet: Arc<str>,
}

impl Proc {
    fn new(fleet: &Arc<str>, id: ProcessId, role: Role) -> Self {
        Self {
            epoch: Epoch::parse(&id.epoch),
            tail: AsyncMutex::default(),
            files: Mutex::default(),
            life: Mutex::default(),
            fleet: fleet.clone(),
            id,
            role,
        }
    }

    /// Its files.
    pub fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it lives.
    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its journal file of that number.
    pub fn journal(&self, file: u64) -> Arc<Segment> {
        let make = || Arc::new(Segment::journal(&self.fleet, &self.id, file));
        self.files().journal.entry(file).or_insert_with(make).clone()
    }

    /// Its file with bulk data of that name; a path is cut to its name, since hosts
    /// may have the store mounted at different places.
    pub fn spill(&self, path: &str) -> Arc<Segment> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let make = || Arc::new(Segment::spill(&self.fleet, &self.id, name));
        self.files().spills.entry(name.to_owned()).or_insert_with(make).clone()
    }

    /// A file of that number exists.
    pub fn saw_file(&self, file: u64) {
        let mut life = self.life();
        life.newest = life.newest.max(Some(file));
    }

    /// Whether it counts as dead, and has for at least `time`.
    pub fn dead_for(&self, time: Duration) -> bool {
        let life = self.life();
        !life.streamed
            && life.dead_since.is_some_and(|t| life.certainly_dead || t.elapsed() >= time)
    }
}

/// Numbers of what was done for other processes, since the start.
#[derive(Debug, Default)]
pub struct Applied {
    /// Records applied.
    pub records: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Frames of which everything had been applied before.
    pub repeats: AtomicU64,
    /// Times that something had to be read from the store because it was missing
    /// in the stream.
    pub gaps: AtomicU64,
    /// Records that could not be understood, set aside.
    pub poison: AtomicU64,
    /// Decisions of processes that are not, or no longer, the master.
    pub refused_decisions: AtomicU64,
    /// Tombstones dropped because there were too many.
    pub tombstones_dropped: AtomicU64,
}

impl Applied {
    pub(in crate::services) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Effects of other processes' records that are acted on at the same time.
const ACTING: usize = 256;

/// All processes, this one included.
#[derive(Debug)]
pub struct ProcessTable {
    pub(in crate::services) fleet: Arc<str>,
    pub(in crate::services) me: ProcessId,
    pub(in crate::services) positions: Arc<Positions>,
    /// What was done for others.
    pub applied: Applied,
    pub(in crate::services) acting: Arc<Semaphore>,
    /// Records recognised as repeats, before they are passed over: which of their
    /// jobs, or all.
    pub(in crate::services) repeats: Mutex<BTreeMap<(ProcessId, Position), BTreeSet<u32>>>,
    /// All that were ever master, as far as something of them is left, in order.
    masters: Mutex<Vec<ProcessId>>,
    table: Mutex<BTreeMap<ProcessId, Arc<Proc>>>,
}

impl ProcessTable {
    pub(in crate::services) fn new(fleet: &str, me: ProcessId, role: Role) -> Self {
        let fleet: Arc<str> = fleet.into();
        let own = Arc::new(Proc::new(&fleet, me.clone(), role));
        Self {
            table: Mutex::new(BTreeMap::from([(me.clone(), own)])),
            fleet,
            me,
            positions: Arc::default(),
            applied: Applied::default(),
            acting: Arc::new(Semaphore::new(ACTING)),
            repeats: Mutex::default(),
            masters: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Arc<Proc>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process, if it is known.
    pub(in crate::services) fn get(&self, id: &ProcessId) -> Option<Arc<Proc>> {
        self.lock().get(id).cloned()
    }

    /// The process; one that is new here is `role`, and begins at `from`.
    pub(in crate::services) fn admit(
        &self,
        id: &ProcessId,
        role: Role,
        from: Position,
    ) -> Arc<Proc> {
        let mut table = self.lock();
        if let Some(p) = table.get(id) {
            return p.clone();
        }
        let p = Arc::new(Proc::new(&self.fleet, id.clone(), role));
        self.positions.advance(id, from);
        table.insert(id.clone(), p.clone());
        p
    }

    /// Processes that were master, in order, this one last.
    pub(in crate::services) fn masters(&self) -> Vec<ProcessId> {
        self.masters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::services) fn set_masters(&self, masters: Vec<ProcessId>) {
        *self.masters.lock().unwrap_or_else(PoisonError::into_inner) = masters;
    }

    /// Nothing of the process is left.
    pub(in crate::services) fn remove(&self, id: &ProcessId) {
        self.lock().remove(id);
        self.positions.forget(id);
    }

    /// This process.
    pub(in crate::services) fn own(&self) -> Arc<Proc> {
        let make = || Arc::new(Proc::new(&self.fleet, self.me.clone(), Role::Master));
        self.lock().entry(self.me.clone()).or_insert_with(make).clone()
    }

    /// All, by name.
    pub(in crate::services) fn all(&self) -> Vec<Arc<Proc>> {
        self.lock().values().cloned().collect()
    }

    /// All but this one, by name.
    pub(in crate::services) fn others(&self) -> Vec<Arc<Proc>> {
        self.lock().values().filter(|p| p.id != self.me).cloned().collect()
    }

    /// Completes decisions with what this process had applied.
    pub fn stamp(&self) -> crate::store::journal::Stamp {
        self.positions.stamp()
    }

    /// How far the journal of `process` has been applied.
    pub fn position(&self, process: &ProcessId) -> Position {
        self.positions.of(process)
    }

    /// How far the journals of all other processes have been applied.
    pub fn positions(&self) -> BTreeMap<ProcessId, Position> {
        self.positions.all()
    }

    /// Up to when, by the clock of the process that is furthest behind, everything
    /// that any other process committed has been applied, microseconds. `None`: there
    /// is no other.
    pub fn watermark(&self) -> Option<u64> {
        let others = self.others().into_iter();
        let mut marks = others.filter_map(|p| {
            let life = p.life();
            (!life.certainly_dead).then_some(life.watermark)
        });
        let first = marks.next()?;
        Some(marks.fold(first, u64::min))
    }

    /// Processes known, this one included, and how many of them live, as far as
    /// is known.
    pub fn count(&self) -> (usize, usize) {
        let all = self.all();
        let living = all.iter().filter(|p| p.life().dead_since.is_none()).count();
        (all.len(), living)
    }

    /// Journal files of all processes that are known to exist.
    pub fn journal_files(&self) -> usize {
        self.all().iter().map(|p| p.files().journal.len()).sum()
    }

    pub(in crate::services) fn take_repeat(
        &self,
        process: &ProcessId,
        end: Position,
    ) -> Option<BTreeSet<u32>> {
        let mut all = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(process.clone(), end))
    }

    pub(in crate::services) fn note_repeat(
        &self,
        process: ProcessId,
        end: Position,
        jobs: impl IntoIterator<Item = u32>,
    ) {
        // One that lies behind has been passed over.
        if self.positions.of(&process) < end {
            let mut all = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert((process, end), jobs.into_iter().collect());
        }
    }
}
