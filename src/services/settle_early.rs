//! What lives long does not keep old journals.
//!
//! A journal file goes only after all older ones of its process, so one flow that
//! stays open for days would keep everything that came since. When a process has
//! more than `journal.keep_bytes` of closed journal files, flows that go on and need
//! one of the oldest are put into stock files as far as they have come, by the steps
//! of every settling: the record that says so is the newest, and more that comes
//! opens the flow again on top of its files. Tasks that wait for their client get
//! the file in which a stock server looks for them. When twice as much is kept, flows
//! that are not quiet follow, and events of the day, which get a file each time.
//!
//! Nothing is copied from journal to journal: places of records stay what they are,
//! for those who replay them as for those who read along. A flow is written only if
//! what it has is less than what the process keeps, and again only after half of
//! `journal.keep_bytes` have passed, so that the work is a share of the traffic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::events::{EventKey, LiveEvents};
use super::flows::{LiveFlow, Rows, SETTLE_GRACE, rows_path};
use super::server::{Org, Server, ServiceError};
use super::state::FlowKey;
use crate::store::StoreError;
use crate::store::journal::Segment;
use crate::store::paths::Client;

/// Things written in one pass, at most: the next is seconds later.
const AT_ONCE: usize = 1024;

/// Numbers for metrics.
#[derive(Debug, Default)]
pub struct Early {
    /// Bytes of closed journal files of all processes, at the last look.
    pub kept: AtomicU64,
    /// Flows put into stock files before their end, since the start.
    pub flows: AtomicU64,
    /// Files of events made before their day was over, since the start.
    pub events: AtomicU64,
    /// Tasks that got files while they waited, since the start.
    pub tasks: AtomicU64,
}

/// The oldest journal files of processes that keep too many.
#[derive(Debug, Default)]
struct Old {
    segments: BTreeSet<Arc<Segment>>,
    /// Bytes that the process keeps which has most.
    kept: u64,
}

impl Server {
    /// Lets go of old journals where too many are kept; see the module.
    pub(crate) async fn settle_early(&self) {
        let keep = self.options.keep_bytes;
        let old = match self.old_journals(keep).await {
            Ok(old) => old,
            Err(e) => return tracing::warn!(error = %e, "sizes of journals not known"),
        };
        if old.segments.is_empty() || keep == 0 {
            return;
        }
        let mut done = 0;
        let hasty = old.kept > keep.saturating_mul(2);
        for org in self.orgs() {
            done += self.file_tasks(&org, &old).await;
            if hasty {
                done += self.file_events(&org, &old).await;
            }
            for key in self.early_flows(&org, &old, hasty) {
                if !self.standing.may_decide() || done >= AT_ONCE {
                    break;
                }
                match self.pause_flow(&org, &key, old.kept).await {
                    Ok(true) => done += 1,
                    Ok(false) => {}
                    Err(e) => {
                        tracing::warn!(client = key.0, flow = key.1, error = %e,
                            "flow that keeps old journals not put into stock files yet");
                    }
                }
            }
        }
        if done > 0 {
            tracing::info!(done, kept = old.kept, "old journals given up by what goes on");
            // Which flows clients work on is in their records.
            self.orgs().iter().for_each(|o| o.state().clients.dirty = true);
            self.snapshot_clients().await;
        }
    }

    /// Files of which half of `keep` and more comes later in the same journal, for
    /// processes whose closed files are more than `keep`, bytes.
    async fn old_journals(&self, keep: u64) -> Result<Old, ServiceError> {
        let (mut old, mut all) = (Old::default(), 0);
        for p in self.processes.all() {
            let own = p.id == self.processes.me;
            let present = match own {
                true => self.journal.end().file,
                false => self.processes.positions.of(&p.id).file,
            };
            let closed: Vec<Arc<Segment>> = {
                let files = p.files();
                files.journal.range(..present).map(|(_, s)| s.clone()).collect()
            };
            let mut sizes = Vec::with_capacity(closed.len());
            for s in closed {
                if s.end().is_none() {
                    match self.env.fs.stat(&s.path).await {
                        Ok(meta) => s.close(meta.len),
                        // Its owner has just removed it.
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                        Err(e) => return Err(StoreError::from(e).into()),
                    }
                }
                let size = s.end().unwrap_or(0);
                sizes.push((s, size));
            }
            let kept: u64 = sizes.iter().map(|(_, n)| n).sum();
            all += kept;
            if kept <= keep {
                continue;
            }
            old.kept = old.kept.max(kept);
            let mut later = 0;
            for (s, size) in sizes.into_iter().rev() {
                if later >= keep / 2 {
                    old.segments.insert(s);
                }
                later += size;
            }
        }
        self.early.kept.store(all, Ordering::Relaxed);
        Ok(old)
    }

    /// Flows that go on and need one of the old files; `hasty`: also those that are
    /// not quiet.
    fn early_flows(&self, org: &Org, old: &Old, hasty: bool) -> Vec<FlowKey> {
        let now = self.env.clock.micros();
        let state = org.state();
        let due = |f: &LiveFlow| {
            let quiet = now >= f.last_received.saturating_add(SETTLE_GRACE);
            (quiet || hasty) && f.can_pause() && f.segments().any(|s| old.segments.contains(s))
        };
        state.flows.iter().filter(|(_, f)| due(f)).map(|(k, _)| k.clone()).collect()
    }

    /// Events of which some are in an old file get a file.
    async fn file_events(&self, org: &Org, old: &Old) -> usize {
        let due: Vec<EventKey> = {
            let state = org.state();
            let needs =
                |s: &LiveEvents| s.parts.iter().any(|p| old.segments.contains(&p.extent.segment));
            let all = state.events.sets.iter().filter(|(_, set)| needs(set));
            all.map(|(key, _)| key.clone()).take(AT_ONCE).collect()
        };
        let mut done = 0;
        for key in due {
            if !self.standing.may_decide() {
                break;
            }
            let _alone = self.housekeeping.lock().await;
            match self.settle_events(org, &key).await {
                Ok(()) => done += 1,
                Err(e) => tracing::warn!(client = key.client, artifact = key.artifact, error = %e,
                    "events that keep old journals not put into a file yet"),
            }
        }
        self.early.events.fetch_add(done as u64, Ordering::Relaxed);
        done
    }

    /// Puts what a flow has into stock files, if that is less than `most` bytes.
    async fn pause_flow(&self, org: &Org, key: &FlowKey, most: u64) -> Result<bool, ServiceError> {
        // What removes files of the same flow waits.
        let _alone = self.housekeeping.lock().await;
        let Some(f) = org.state().flows.get(key).cloned() else { return Ok(false) };
        let mut bytes = f.live_bytes();
        for name in f.results.iter().filter(|(_, set)| set.base > 0).map(|(name, _)| name) {
            let at = rows_path(org, &key.0, &key.1, &Rows::Results(name.clone()));
            let path = self.tree.root.file(&at).map_err(StoreError::from)?;
            bytes += self.env.fs.stat(&path).await.map_err(StoreError::from)?.len;
        }
        if bytes > most {
            return Ok(false);
        }
        self.settle_flow(org, key).await?;
        let paused = !org.state().flows.contains_key(key);
        if paused {
            self.early.flows.fetch_add(1, Ordering::Relaxed);
        }
        Ok(paused)
    }

    /// Tasks that wait for their client and are in an old file get files of the stock
    /// queue, as at a clean stop.
    async fn file_tasks(&self, org: &Org, old: &Old) -> usize {
        let waiting: Vec<_> = {
            let state = org.state();
            let all = state.clients.iter();
            let of = |(id, c): (&String, &super::clients::Client)| {
                let tasks = c.queue.waiting_in(&old.segments);
                tasks.into_iter().map(|t| (id.clone(), t)).collect::<Vec<_>>()
            };
            all.flat_map(of).take(AT_ONCE).collect()
        };
        let mut done = 0;
        for (client, task) in waiting {
            let path = Client { org: &org.id, id: &client };
            let _alone = self.housekeeping.lock().await;
            if org.state().clients.get(&client).is_none() {
                continue;
            }
            if let Err(e) = self.tree.set(&path.task(task.task_id), &task).await {
                tracing::warn!(client, error = %e, "task that waits got no file yet");
                continue;
            }
            let mut state = org.state();
            state.clients.with_files.insert(client.clone());
            if let Some(c) = state.clients.get_mut(&client) {
                c.queue.file_made(task.task_id);
            }
            self.early.tasks.fetch_add(1, Ordering::Relaxed);
            done += 1;
        }
        done
    }
}
