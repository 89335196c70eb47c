//! What may go: journal files, files with bulk data, directories.
//!
//! A file goes when nothing in memory refers to it. A master's journal goes only
//! after the records that its decisions cover: deleted in the other order, what is
//! settled would be found again and not that it is settled. Each owner removes its
//! own files; those of the dead are removed by the master.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use velociraptor_proto::fleet::Release;

use super::Role;
use super::table::{Applied, Files, Proc};
use crate::env::Mutant;
use crate::services::checkpoint;
use crate::services::server::{Server, ServiceError};
use crate::store::StoreError;
use crate::store::journal::{Position, ProcessId, Segment, marker_path, process_dir};

/// A living process is asked for a new file at most this often.
const ROLL_EVERY: Duration = Duration::from_secs(60);

/// How often it is looked what a dead process has left.
const CLEAR_EVERY: Duration = Duration::from_secs(60);

/// Folders of an epoch's directory in which nothing is of use once its process is
/// dead. What people may want to read (`aside`, `poison`, `quarantine`) stays.
const OF_NO_USE: [&str; 3] = ["probe", "beat", "reserve"];

/// A file to delete, of this process.
struct Doomed {
    of: Arc<Proc>,
    what: What,
    segment: Arc<Segment>,
}

enum What {
    Journal(u64),
    Spill(String),
}

/// Only the table refers to it.
fn unused(s: &Arc<Segment>) -> bool {
    Arc::strong_count(s) == 1
}

impl Server {
    /// Deletes files and directories that nobody needs, and finds those that living
    /// processes may delete.
    pub async fn collect_garbage(&self) {
        let kept = self.env.sabotage.is(Mutant::KeepJournals);
        if !self.is_master() || !self.standing.may_decide() || kept {
            return;
        }
        self.expire_tombstones();
        loop {
            self.capture_covers().await;
            let doomed = self.doomed();
            let journals = doomed.iter().any(|d| matches!(d.what, What::Journal(_)));
            let releasable = self.mark_releasable();
            if (journals || releasable)
                && let Err(e) = checkpoint::write(self).await
            {
                tracing::error!(error = %e, "checkpoint not written; journals stay");
                self.processes.others().iter().for_each(|p| p.life().released = false);
                return;
            }
            self.processes.others().iter().for_each(|p| p.life().released = true);
            let mut progress = false;
            for d in doomed {
                progress |= self.delete(d).await;
            }
            for p in self.processes.others() {
                match self.clear_away(&p).await {
                    Ok(gone) => progress |= gone,
                    Err(e) => {
                        tracing::warn!(process = %p.id, error = %e, "what it left is not removed yet");
                    }
                }
            }
            if !progress {
                return;
            }
        }
    }

    /// Notes for each closed file of this master how far others had been applied
    /// by then. Never in the middle of a record: what recognised it as a repeat may
    /// be in that file.
    async fn capture_covers(&self) {
        let own = self.processes.own();
        let closed: Vec<u64> = {
            let files = own.files();
            let closed = files.journal.iter().filter(|(_, s)| s.end().is_some());
            closed.map(|(k, _)| *k).filter(|k| !files.covers.contains_key(k)).collect()
        };
        if closed.is_empty() {
            return;
        }
        let mut cover = BTreeMap::new();
        for p in self.processes.others() {
            let _between_records = p.tail.lock().await;
            cover.insert(p.id.clone(), self.processes.positions.of(&p.id));
        }
        let mut files = own.files();
        for k in closed {
            files.covers.insert(k, cover.clone());
        }
    }

    async fn delete(&self, d: Doomed) -> bool {
        let path = d.segment.path.clone();
        match self.env.fs.remove(&path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path, error = %e, "unused journal file not removed");
                return false;
            }
            _ => tracing::debug!(path, "unused journal file removed"),
        }
        let mut files = d.of.files();
        match d.what {
            What::Journal(k) => drop((files.journal.remove(&k), files.covers.remove(&k))),
            What::Spill(name) => drop((files.spills.remove(&name), files.referred.remove(&name))),
        }
        true
    }

    /// Whether what others wrote up to there is gone.
    fn covered_is_gone(&self, cover: &BTreeMap<ProcessId, Position>) -> bool {
        cover.iter().all(|(id, at)| {
            let Some(p) = self.processes.get(id) else { return true };
            let files = p.files();
            files.journal.keys().next().is_none_or(|k| Position::start_of(*k) >= *at)
        })
    }

    /// Whether a process that was master before `p` has left anything. When all have
    /// certainly ended none will write again, so that only its journal counts.
    fn predecessors_remain(&self, p: &Proc) -> bool {
        let masters = self.processes.masters();
        let at = masters.iter().position(|id| *id == p.id).unwrap_or(0);
        let offline = self.options.fleet.offline;
        let left = |p: Arc<Proc>| !offline || !p.files().journal.is_empty();
        masters[..at].iter().any(|id| self.processes.get(id).is_some_and(left))
    }

    /// Files to delete here and now: this process's own, and those of the dead.
    fn doomed(&self) -> Vec<Doomed> {
        let mut out = Vec::new();
        for p in self.processes.all() {
            let own = p.id == self.processes.me;
            let for_good = !own && self.dead_for_good(&p);
            if !own && !p.dead_for(Duration::ZERO) {
                continue;
            }
            let at = self.processes.positions.of(&p.id);
            let newest = match own {
                true => Some(self.journal.end().file),
                false => p.life().newest,
            };
            let candidates: Vec<u64> = p.files().journal.keys().copied().collect();
            for k in candidates {
                let last = newest.is_none_or(|n| k >= n);
                let applied = own || k < at.file || (for_good && self.read_out(&p, k, at));
                let early = self.env.sabotage.is(Mutant::DeleteJournalsEarly);
                let free = p.files().journal.get(&k).is_some_and(|s| early || unused(s));
                if !applied || (last && !for_good) || !free {
                    break;
                }
                if p.role == Role::Master && !self.decisions_may_go(&p, k) {
                    // What only opens a journal is needed longer than what follows.
                    if k == 0 && p.files().opening_alone {
                        continue;
                    }
                    break;
                }
                let files = p.files();
                let Some(segment) = files.journal.get(&k) else { break };
                segment.doom();
                let what = What::Journal(k);
                out.push(Doomed { of: p.clone(), what, segment: segment.clone() });
            }
            if (own || for_good) && !self.env.sabotage.is(Mutant::KeepSpills) {
                let files = p.files();
                let spills = files.spills.iter().filter(|(_, s)| unused(s));
                out.extend(spills.map(|(name, s)| Doomed {
                    of: p.clone(),
                    what: What::Spill(name.clone()),
                    segment: s.clone(),
                }));
            }
        }
        out
    }

    /// Whether the last file of a dead process was read to its end.
    fn read_out(&self, p: &Proc, k: u64, at: Position) -> bool {
        k == at.file && p.life().read_out
    }

    fn decisions_may_go(&self, p: &Proc, k: u64) -> bool {
        let cover = p.files().covers.get(&k).cloned();
        // A file that another process wrote after we read what it decided holds no
        // decision that counts.
        let cover = cover.or_else(|| (p.id != self.processes.me).then(BTreeMap::new));
        cover.is_some_and(|c| self.covered_is_gone(&c)) && !(k == 0 && self.predecessors_remain(p))
    }

    /// It will not write any more, as far as anybody can tell.
    fn dead_for_good(&self, p: &Proc) -> bool {
        p.dead_for(self.options.fleet.dead_after)
    }

    /// Marks what living processes may delete. `true`: there is a journal among it
    /// that was not before.
    fn mark_releasable(&self) -> bool {
        let mut some = false;
        for p in self.processes.others().iter().filter(|p| p.life().streamed) {
            let at = self.processes.positions.of(&p.id);
            let files = p.files();
            for s in free_journals(&files, at).filter(|s| !s.is_doomed()) {
                s.doom();
                some = true;
            }
            files.spills.values().filter(|s| unused(s)).for_each(|s| s.doom());
        }
        some
    }

    /// What each living process may delete. It is told again until it has.
    pub(in crate::services) fn releases(&self) -> Vec<(ProcessId, Release)> {
        let mut out = Vec::new();
        for p in self.processes.others() {
            if !p.life().streamed || !p.life().released {
                continue;
            }
            let at = self.processes.positions.of(&p.id);
            let (journal_files, spills, idle) = {
                let files = p.files();
                let free = free_journals(&files, at);
                let journals: Vec<u64> =
                    free.filter(|s| s.is_doomed()).filter_map(|s| s.file()).collect();
                let spills = files.spills.iter().filter(|(_, s)| unused(s) && s.is_doomed());
                let spills: Vec<String> = spills.map(|(name, _)| name.clone()).collect();
                let present = files.journal.get(&at.file);
                let idle = files.journal.len() == 1
                    && present.is_some_and(unused)
                    && at > Position::start_of(at.file);
                (journals, spills, idle)
            };
            let roll = idle && {
                let mut life = p.life();
                let due = life.rolled.is_none_or(|t| t.elapsed() >= ROLL_EVERY)
                    && life.last_end == Some(at);
                if due {
                    life.rolled = Some(Instant::now());
                }
                due
            };
            if roll || !journal_files.is_empty() || !spills.is_empty() {
                let applied = Some(at.into());
                out.push((p.id.clone(), Release { journal_files, spills, roll, applied }));
            }
        }
        out
    }

    /// Removes what a dead process left beside its journal, and its directory when
    /// nothing is left. The newest epoch of a node stays: its number is the node's
    /// memory of how often it started.
    ///
    /// `true`: nothing is left of it.
    async fn clear_away(&self, p: &Arc<Proc>) -> Result<bool, ServiceError> {
        if !self.dead_for_good(p) || !p.files().journal.is_empty() {
            return Ok(false);
        }
        let last = p.life().cleared.replace(Instant::now());
        if last.is_some_and(|t| t.elapsed() < CLEAR_EVERY) {
            p.life().cleared = last;
            return Ok(false);
        }
        let fs = &*self.env.fs;
        let dir = process_dir(&self.processes.fleet, &p.id);
        let names = fs.list(&dir).await.map_err(StoreError::from)?;
        // A chain that was begun and got no further goes on from there.
        if names.iter().any(|e| e.name.ends_with(".journal") || e.name.starts_with("first-")) {
            return Ok(false);
        }
        let mut left = false;
        for e in names.iter().filter(|e| e.is_dir) {
            left |= !self.clear_folder(p, &format!("{dir}/{}", e.name), &e.name).await?;
        }
        let all = self.processes.all();
        let newest = !all.iter().any(|q| q.id.node == p.id.node && q.epoch > p.epoch);
        if left || newest || (p.role == Role::Master && self.predecessors_remain(p)) {
            return Ok(false);
        }
        // The marker last: it says what the process was.
        for e in names.iter().filter(|e| !e.is_dir && e.name != "epoch") {
            gone(fs.remove(&format!("{dir}/{}", e.name)).await)?;
        }
        gone(fs.remove(&marker_path(&self.processes.fleet, &p.id)).await)?;
        gone(fs.remove_dir(&dir).await)?;
        self.processes.remove(&p.id);
        tracing::info!(process = %p.id, "nothing is left of an ended process");
        Ok(true)
    }

    /// Empties a folder of a dead process's directory. `false`: something stays.
    async fn clear_folder(&self, p: &Proc, dir: &str, name: &str) -> Result<bool, ServiceError> {
        let fs = &*self.env.fs;
        let spills = name == "spill";
        let mut empty = true;
        for file in fs.list(dir).await.map_err(StoreError::from)? {
            let needed = spills && p.files().spills.contains_key(&file.name);
            if needed || !(spills || OF_NO_USE.contains(&name)) {
                empty = false;
            } else {
                gone(fs.remove(&format!("{dir}/{}", file.name)).await)?;
            }
        }
        if empty {
            gone(fs.remove_dir(dir).await)?;
        }
        Ok(empty)
    }

    /// Forgets tombstones that no process can need, and the oldest if there are too
    /// many.
    pub(in crate::services) fn expire_tombstones(&self) {
        let now = self.env.clock.micros();
        let margin = self.options.fleet.tombstone.as_micros() as u64;
        let before = match self.processes.watermark() {
            Some(mark) => mark.min(now).saturating_sub(margin),
            None => u64::MAX,
        };
        let orgs = self.orgs();
        let mut hashes = 0;
        for org in &orgs {
            let mut state = org.state();
            state.tombstones.expire(before);
            hashes += state.tombstones.hashes();
        }
        let mut dropped = 0;
        while hashes > self.options.fleet.tombstone_hashes {
            let oldest = orgs.iter().filter_map(|o| Some((o.state().tombstones.oldest()?, o)));
            let Some((_, org)) = oldest.min_by_key(|(t, _)| *t) else { break };
            let mut state = org.state();
            let had = state.tombstones.hashes();
            state.tombstones.drop_oldest();
            hashes -= had - state.tombstones.hashes();
            dropped += 1;
        }
        if dropped > 0 {
            Applied::add(&self.processes.applied.tombstones_dropped, dropped);
            tracing::warn!(
                dropped,
                "too much is remembered of settled flows: the oldest is forgotten"
            );
        }
    }

    /// On a minion: the master needs these files of ours no more.
    pub async fn release(&self, r: &Release) {
        let own = self.processes.own();
        let end = self.journal.end().file;
        for k in &r.journal_files {
            if *k >= end {
                tracing::error!(file = k, "asked to remove a journal file in use; it stays");
                continue;
            }
            let path = Segment::journal(&self.processes.fleet, &own.id, *k).path;
            if self.remove_released(&path).await {
                own.files().journal.remove(k);
            }
        }
        let applied = r.applied.map(Position::from);
        for name in &r.spills {
            let free = {
                let files = own.files();
                let referred = files.referred.get(name).copied();
                files.spills.get(name).is_some_and(unused) && referred <= applied
            };
            // In use, or a later record refers to it: the master says so again.
            if free && self.remove_released(&own.spill(name).path).await {
                let mut files = own.files();
                files.spills.remove(name);
                files.referred.remove(name);
            }
        }
        if r.roll
            && let Err(e) = self.journal.roll().await
        {
            tracing::warn!(error = %e, "no new journal file");
        }
    }

    async fn remove_released(&self, path: &str) -> bool {
        match self.env.fs.remove(path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path, error = %e, "released file not removed");
                false
            }
            _ => true,
        }
    }
}

/// Journal files of a living process that nobody needs, in order.
fn free_journals(files: &Files, at: Position) -> impl Iterator<Item = &Arc<Segment>> {
    let before = files.journal.range(..at.file);
    before.map(|(_, s)| s).take_while(|s| unused(s))
}

fn gone(r: std::io::Result<()>) -> Result<(), ServiceError> {
    match r {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::from(e).into()),
        _ => Ok(()),
    }
}
