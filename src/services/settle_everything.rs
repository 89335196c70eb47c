//! Everything into stock files at once, on a datastore whose servers are stopped:
//! also flows that run, days that are not over, and files of which more will come.
//!
//! Each step is that of normal operation, so it may be cut short anywhere and begun
//! again. What a later server of ours needs to go on with a flow is what it needs
//! for a flow of a stock server: its files, and which flows a client works on. The
//! pieces of unfinished files are kept beside them.

use std::sync::Arc;

use serde::Serialize;

use super::checkpoint;
use super::events::EventKey;
use super::handover::Handed;
use super::housekeeping::Settle;
use super::server::{Org, Server, ServiceError, fleet_dir};
use super::state::FlowKey;
use crate::store::StoreError;
use crate::store::journal::{journal_path, process_dir};

/// What was put into stock files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// Flows, of which `open_flows` had not ended.
    pub flows: usize,
    /// Flows that may go on.
    pub open_flows: usize,
    /// Sets of events: one client, artifact and day.
    pub event_sets: usize,
    /// Rows in them.
    pub event_rows: u64,
    /// Uploads that were complete.
    pub uploads: usize,
    /// Uploads of which a part was there.
    pub partial_uploads: usize,
    /// Tasks in the stock queue.
    pub tasks: usize,
    /// Clients in the snapshot.
    pub clients: usize,
    /// Journal files that were deleted.
    pub journal_files: usize,
    /// Journal files that are still there.
    pub journals_left: usize,
    /// Of them those that hold nothing but `waiting_to_enrol`.
    pub journals_waiting: usize,
    /// POSTs of clients that never enrolled: sealed, so that they have no stock form.
    pub waiting_to_enrol: usize,
}

/// How far it is: what, how many of how many.
pub type Told<'a> = &'a (dyn Fn(&str, usize, usize) + Send + Sync);

/// How often a flow that changes while it is written is written again.
const TRIES: usize = 5;

impl Server {
    /// Puts everything into stock files. Call it on a master that serves nobody, of
    /// which every other process has ended.
    pub async fn settle_everything(
        self: &Arc<Self>,
        told: Told<'_>,
    ) -> Result<Settled, ServiceError> {
        self.bury_all();
        self.bury_again().await;
        let left = |o: &Arc<Org>| {
            let deleted = &o.state().clients.deleted;
            !deleted.suspects().is_empty() || !deleted.open_hunts().is_empty()
        };
        if self.orgs().iter().any(left) {
            let text = "files of something that was deleted could not be removed; see the log";
            return Err(ServiceError::Invalid(text.into()));
        }
        // What no minion has taken is queued; what one has may have been sent.
        self.take_all_back().await;
        let mut done = Settled::default();
        for org in self.orgs() {
            self.settle_flows(&org, told, &mut done).await?;
            self.settle_all_events(&org, told, &mut done).await?;
            self.settle_hunts(&org, Settle::All).await;
            done.tasks += self.store_unsent(&org).await?;
            self.remove_spent_tasks(&org).await;
            let now = self.env.clock.micros();
            org.state().clients.iter_mut().for_each(|c| c.queue.put_down(now));
            self.store_flow_indexes(&org).await;
            done.clients += org.state().clients.len();
        }
        told("client records", 0, done.clients);
        self.snapshot_clients().await;
        for org in self.orgs() {
            if org.state().clients.dirty {
                return Err(ServiceError::Invalid("the client snapshot was not written".into()));
            }
        }
        self.delete_journals(told, &mut done).await?;
        Ok(done)
    }

    async fn settle_flows(
        &self,
        org: &Arc<Org>,
        told: Told<'_>,
        done: &mut Settled,
    ) -> Result<(), ServiceError> {
        let keys: Vec<FlowKey> = org.state().flows.keys().cloned().collect();
        for (i, key) in keys.iter().enumerate() {
            told("flows", i, keys.len());
            self.after_progress(org, key).await?;
            let flow = org.state().flows.get(key).cloned();
            let Some(flow) = flow else { continue };
            let open = !flow.over();
            done.flows += 1;
            done.open_flows += usize::from(open);
            done.uploads += flow.uploads.values().filter(|u| u.winner().is_some()).count();
            done.partial_uploads += super::part_uploads::keep(self, org, key, &flow).await?;
            let mut tries = 0;
            while org.state().flows.contains_key(key) {
                if tries == TRIES {
                    return Err(ServiceError::Invalid(format!(
                        "flow {} of client {} changes while it is written",
                        key.1, key.0
                    )));
                }
                tries += 1;
                self.settle_flow(org, key).await?;
            }
        }
        Ok(())
    }

    async fn settle_all_events(
        &self,
        org: &Arc<Org>,
        told: Told<'_>,
        done: &mut Settled,
    ) -> Result<(), ServiceError> {
        let keys: Vec<EventKey> = {
            let state = org.state();
            let mut keys: Vec<EventKey> =
                state.events.sets.keys().chain(state.events.filing.keys()).cloned().collect();
            keys.sort();
            keys.dedup();
            keys
        };
        for (i, key) in keys.iter().enumerate() {
            told("event days", i, keys.len());
            let rows = org.state().events.sets.get(key).map_or(0, |s| s.rows());
            self.settle_events(org, key).await?;
            done.event_sets += 1;
            done.event_rows += rows;
        }
        Ok(())
    }

    /// Deletes the journals: those of others first, since ours says what became of
    /// theirs.
    async fn delete_journals(
        &self,
        told: Told<'_>,
        done: &mut Settled,
    ) -> Result<(), ServiceError> {
        told("journals", 0, self.journal_files());
        let fs = &*self.env.fs;
        let before = self.journal_files();
        // Sealed batches of clients that never enrolled have no stock form: they go
        // on into a file of their own.
        let waiting = self.handover().take();
        let keep_from = match waiting.is_empty() {
            true => u64::MAX,
            false => self.journal.roll().await?.file,
        };
        for handed in waiting {
            let Handed::Post(post) = handed else { continue };
            let body = post.body.read(fs).await.map_err(StoreError::from)?;
            let kind = velociraptor_proto::journal::record::Kind::Quarantine(post.about);
            self.commit(kind, vec![body], vec![]).await?;
            done.waiting_to_enrol += 1;
        }
        self.collect_garbage().await;
        let fleet = fleet_dir(&self.tree.root);
        let others = self.processes.others();
        let left: usize = others.iter().map(|p| p.files().journal.len()).sum();
        checkpoint::write(self).await?;
        if left == 0 {
            // Ours go only when the others' certainly do not come back.
            for node in fs.list(&fleet).await.map_err(StoreError::from)? {
                let dir = format!("{fleet}/{}", node.name);
                for e in fs.list(&dir).await.map_err(StoreError::from)? {
                    if node.is_dir && e.is_dir {
                        let synced = fs.sync_dir(&format!("{dir}/{}", e.name)).await;
                        synced.map_err(StoreError::from)?;
                    }
                }
            }
            let me = self.process();
            let end = self.journal.end().file;
            for k in (0..=end).filter(|k| *k < keep_from) {
                match fs.remove(&journal_path(&fleet, &me, k)).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StoreError::from(e).into());
                    }
                    _ => {
                        self.processes.own().files().journal.remove(&k);
                    }
                }
            }
            fs.sync_dir(&process_dir(&fleet, &me)).await.map_err(StoreError::from)?;
        }
        done.journals_left = self.journal_files();
        if left == 0 {
            done.journals_waiting = done.journals_left;
        }
        done.journal_files = before.saturating_sub(done.journals_left);
        Ok(())
    }
}
