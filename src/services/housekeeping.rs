//! The background work of a server: objects behind decisions, settling, the
//! client snapshot, and the deletion of journals that nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;

use super::events::{EventKey, day_of};
use super::server::{Org, Server, ServiceError};
use super::state::FlowKey;
use crate::env::Mutant;
use crate::store::journal::Level;

/// How long after midnight a day's events may still arrive, microseconds.
const DAY_GRACE: u64 = 60_000_000;

/// How often it is looked what may be deleted: each time the last POSTs of all
/// clients are written before.
const GARBAGE: Duration = Duration::from_secs(5);

/// Flows, or sets of events, that are put into stock files at once: with a file server
/// 60 ms away each takes most of a second, nearly all of it waiting.
const AT_ONCE: usize = 16;

/// How often files of forms are looked at for old ones.
const FORMS: Duration = Duration::from_secs(6 * 3600);

/// How often tools that event queries wait for are fetched.
const TOOLS: Duration = Duration::from_secs(300);

/// Failures of one pass that speak against the store, and not against what failed.
const ILL: usize = 32;

/// The longest that an ill store is left in peace before the next pass.
const LEFT_IN_PEACE: Duration = Duration::from_secs(30);

/// Failures of a pass that are told one by one.
const TOLD: usize = 5;

/// What to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// What is complete.
    Due,
    /// Everything, so that a stock server reads the whole tree.
    All,
}

impl Server {
    /// Runs until `stop` is cancelled.
    pub async fn keep_house(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        let mut last_snapshot = tokio::time::Instant::now();
        let mut last_garbage = last_snapshot;
        let mut last_forms = last_snapshot;
        let mut last_tools = last_snapshot;
        let mut pause = self.options.settle_every;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if !self.is_master() {
                continue;
            }
            // Stock files are derived: they can wait, decisions cannot.
            if self.journal.space().level() < Level::Last {
                let began = tokio::time::Instant::now();
                let failed = self.settle(Settle::Due).await;
                pause = pause_after(failed, began.elapsed(), self.options.settle_every);
            }
            let due = Duration::from_secs(self.options.snapshot_seconds);
            if last_snapshot.elapsed() >= due {
                last_snapshot = tokio::time::Instant::now();
                self.snapshot_clients().await;
            }
            if self.standing.may_decide() {
                self.bury_again().await;
                self.end_lost_again().await;
            }
            if last_forms.elapsed() >= FORMS && self.standing.may_decide() {
                last_forms = tokio::time::Instant::now();
                if let Err(error) = self.remove_old_form_files().await {
                    tracing::warn!(%error, "old files of forms were not removed; tried again later");
                }
            }
            if last_tools.elapsed() >= TOOLS {
                last_tools = tokio::time::Instant::now();
                let server = self.clone();
                // Fetching may take long, and settling must not wait for it.
                self.env.spawn(async move { server.prepare_wanted().await });
            }
            if last_garbage.elapsed() >= GARBAGE {
                last_garbage = tokio::time::Instant::now();
                if self.journal.space().level() < Level::Last && self.standing.may_decide() {
                    self.settle_early().await;
                }
                self.collect_garbage().await;
            }
        }
    }

    /// Before the process ends: everything into stock files. What a minion has
    /// is in its journal.
    pub async fn settle_all(&self) {
        if !self.is_master() {
            return self.standing.release().await;
        }
        if !self.options.minions {
            self.take_all_back().await;
        }
        self.settle(Settle::All).await;
        self.snapshot_clients().await;
        self.collect_garbage().await;
        self.standing.release().await;
    }

    /// Settles what is due, or everything. Failures are logged and tried again by the
    /// next pass. Returns how many there were.
    pub async fn settle(&self, how: Settle) -> usize {
        let now = self.env.clock.micros();
        let failures = Failures::default();
        let failures = &failures;
        let hasty = self.env.sabotage.is(Mutant::SettleAtComplete);
        for org in self.orgs() {
            let _alone = self.housekeeping.lock().await;
            let (dirty, announce, browse, uploads, flows, events) = {
                let state = org.state();
                let pick = |f: &dyn Fn(&super::flows::LiveFlow) -> bool| -> Vec<FlowKey> {
                    state.flows.iter().filter(|(_, v)| f(v)).map(|(k, _)| k.clone()).collect()
                };
                let dirty = pick(&|f| f.dirty && f.context.is_some());
                let announce = pick(&|f| f.ready_to_announce(now));
                let browse = pick(&|f| f.to_browse());
                let uploads = pick(&|f| {
                    f.uploads.values().any(|u| u.winner().is_some_and(|(_, a)| !a.settled))
                });
                let mut flows = pick(&|f| {
                    // Pieces of a file have no stock form: they wait in the journal.
                    (how == Settle::All && f.uploads_complete())
                        || f.ready_to_settle(now)
                        || (hasty && f.ended_at.is_some())
                });
                // Minions deliver it while this master is away. A cancel that waits for a
                // client, perhaps for ever, is no reason.
                let left = |(client, flow): &FlowKey| {
                    state.clients.get(client).is_some_and(|c| c.queue.begins_elsewhere(flow))
                };
                flows.retain(|key| !left(key));
                let today = day_of(now.saturating_sub(DAY_GRACE));
                let due = |k: &&EventKey| how == Settle::All || k.day < today;
                // What was begun is finished whatever the day.
                let events: BTreeSet<EventKey> = (state.events.sets.keys().filter(due))
                    .chain(state.events.filing.keys())
                    .cloned()
                    .collect();
                (dirty, announce, browse, uploads, flows, events)
            };
            // Files with stock names are the master's alone.
            let sure = || self.standing.may_decide();
            // Each step for all of them before the next: files of a flow are given their
            // names in this order. Within a step flows do not share files.
            let org = &org;
            // What the latest interrogation of a client says counts: in order.
            let mut ends: BTreeMap<String, Vec<FlowKey>> = BTreeMap::new();
            for key in announce {
                ends.entry(key.0.clone()).or_default().push(key);
            }
            each(ends.into_values(), sure, |keys| async move {
                for key in keys.into_iter().take_while(|_| sure()) {
                    failures.note(&key, self.after_progress(org, &key).await);
                }
            })
            .await;
            each(dirty, sure, |key| async move {
                failures.note(&key, self.write_flow_objects(org, &key).await);
            })
            .await;
            each(uploads, sure, |key| async move {
                failures.note(&key, super::settle_uploads::place_complete(self, org, &key).await);
            })
            .await;
            // Of two flows that list the same folder the later one is right: in order.
            for key in browse.into_iter().take_while(|_| sure()) {
                failures.note(&key, self.browse(org, &key).await);
            }
            each(flows, sure, |key| async move {
                failures.note(&key, self.settle_flow(org, &key).await);
            })
            .await;
            each(events, sure, |key| async move {
                if let Err(e) = self.settle_events(org, &key).await
                    && failures.tell()
                {
                    tracing::error!(client = key.client, artifact = key.artifact, day = key.day,
                        error = %e, "events not settled; tried again");
                }
            })
            .await;
            self.settle_hunts(org, how).await;
            if sure() {
                self.remove_spent_tasks(org).await;
            }
            if how == Settle::All && sure() {
                self.store_tasks(org).await;
                self.store_flow_indexes(org).await;
            }
        }
        failures.sum_up()
    }

    async fn store_tasks(&self, org: &Arc<Org>) {
        if let Err(e) = self.store_unsent(org).await {
            tracing::error!(error = %e, "tasks not stored for a stock server");
        }
    }

    /// Puts unsent tasks where a stock server looks for them. Returns how many.
    pub(super) async fn store_unsent(&self, org: &Arc<Org>) -> Result<usize, ServiceError> {
        let tasks: Vec<_> = {
            let state = org.state();
            let all = state.clients.iter();
            all.flat_map(|(id, c)| c.queue.unsent().map(move |t| (id.clone(), t.clone()))).collect()
        };
        for (client, task) in &tasks {
            let path = crate::store::paths::Client { org: &org.id, id: client };
            self.tree.set(&path.task(task.task_id), task).await?;
        }
        Ok(tasks.len())
    }

    /// Deletes files of the stock queue whose tasks were sent or withdrawn: a later
    /// start, or a stock server, would send them once more.
    pub(super) async fn remove_spent_tasks(&self, org: &Arc<Org>) {
        let spent: Vec<(String, u64)> = {
            let mut state = org.state();
            let clients = &mut state.clients;
            let with = std::mem::take(&mut clients.with_files);
            let mut spent = Vec::new();
            for id in with {
                let Some(c) = clients.get(&id) else { continue };
                spent.extend(c.queue.spent().into_iter().map(|t| (id.clone(), t)));
                if c.queue.has_files() {
                    clients.with_files.insert(id);
                }
            }
            spent
        };
        for (client, task) in spent {
            let path = crate::store::paths::Client { org: &org.id, id: &client };
            match self.tree.delete(&path.task(task)).await {
                Ok(()) => {
                    if let Some(c) = org.state().clients.get_mut(&client) {
                        c.queue.file_gone(task);
                    }
                }
                Err(e) => tracing::warn!(client, task, error = %e,
                    "file of a task that was sent not removed; tried again"),
            }
        }
    }

    /// The list of each client's flows that stock pages through.
    pub(super) async fn store_flow_indexes(&self, org: &Arc<Org>) {
        let clients: Vec<String> = org.state().clients.iter().map(|(id, _)| id.clone()).collect();
        for client in clients {
            if let Err(e) = self.store_flow_index(org, &client).await {
                tracing::warn!(client, error = %e, "list of flows not written; stock rebuilds it");
            }
        }
    }

    async fn store_flow_index(&self, org: &Arc<Org>, client: &str) -> Result<(), ServiceError> {
        let mut rows = Vec::new();
        for flow in self.flow_ids(org, client).await?.into_iter().rev() {
            let Some(c) = self.flow(org, client, &flow).await? else { continue };
            let request = c.request.unwrap_or_default();
            rows.push(serde_json::json!({
                "FlowId": flow,
                "Artifacts": request.artifacts,
                "Created": c.create_time,
                "Creator": request.creator,
            }));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let path = crate::store::paths::Client { org: &org.id, id: client }.flow_index();
        let blob = super::settle::blob(&rows);
        let Some((data, index)) = crate::store::resultset::canonical(&blob) else { return Ok(()) };
        self.tree.set_file(&path, &data).await?;
        self.tree.set_file(&path.index(), &index).await?;
        Ok(())
    }

    /// Writes the stock snapshot of every organisation that changed.
    pub async fn snapshot_clients(&self) {
        for org in self.orgs() {
            if !self.standing.may_decide() {
                return;
            }
            let (infos, pins, changed) = {
                let mut state = org.state();
                let changed = std::mem::take(&mut state.clients.dirty);
                let infos: Vec<_> = state.clients.iter().map(|(_, c)| c.record()).collect();
                (infos, std::mem::take(&mut state.clients.pins), changed)
            };
            if infos.is_empty() && !changed {
                continue;
            }
            // The pins go when the snapshot that covers them is durable.
            if let Err(e) = crate::store::snapshot::save(&self.tree, &org.id, &infos).await {
                tracing::error!(org = %org.id, error = %e, "client snapshot not written");
                let mut state = org.state();
                state.clients.dirty = true;
                state.clients.pins.extend(pins);
            }
        }
    }
}

/// Works on each of these, [`AT_ONCE`] at once, begun in their order. None is begun
/// that `sure` speaks against.
async fn each<K, F: Future<Output = ()>>(
    keys: impl IntoIterator<Item = K>,
    sure: impl Fn() -> bool,
    work: impl Fn(K) -> F,
) {
    let keys = futures::stream::iter(keys).take_while(|_| futures::future::ready(sure()));
    keys.for_each_concurrent(AT_ONCE, work).await;
}

/// How long it is until the next pass, after one that took `took` and in which `failed`
/// could not be done: a store that takes nothing is asked a fifth of the time.
fn pause_after(failed: usize, took: Duration, every: Duration) -> Duration {
    match failed {
        0..ILL => every,
        _ => took.saturating_mul(4).clamp(every, LEFT_IN_PEACE.max(every)),
    }
}

/// Counts what a pass could not do, and tells of the first.
#[derive(Default)]
struct Failures(AtomicUsize);

impl Failures {
    /// Counts one. Whether it is to be told.
    fn tell(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < TOLD
    }

    fn note(&self, (client, flow): &FlowKey, done: Result<(), ServiceError>) {
        if let Err(e) = done
            && self.tell()
        {
            tracing::error!(client, flow, error = %e, "flow not brought into order; tried again");
        }
    }

    fn sum_up(&self) -> usize {
        let failed = self.0.load(Ordering::Relaxed);
        if failed > TOLD {
            tracing::error!(failed, "flows and events not brought into order; tried again");
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn an_ill_store_is_left_in_peace_and_a_bad_flow_holds_up_nobody() {
        let (every, ms) = (Duration::from_millis(500), Duration::from_millis);
        assert_eq!(pause_after(0, ms(9000), every), every);
        assert_eq!(pause_after(ILL - 1, ms(9000), every), every);
        assert_eq!(pause_after(ILL, ms(20), every), every);
        assert_eq!(pause_after(12_000, ms(2000), every), ms(8000));
        assert_eq!(pause_after(12_000, ms(60_000), every), LEFT_IN_PEACE);
        let slow = Duration::from_secs(60);
        assert_eq!(pause_after(ILL, ms(20), slow), slow, "never sooner than without failures");
    }

    #[tokio::test]
    async fn several_at_once_in_order_and_none_begun_when_it_is_not_sure() {
        let (now, most, done) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let begun = RefCell::new(Vec::new());
        let sure = || begun.borrow().len() < 40;
        each(0..100, sure, |key| {
            begun.borrow_mut().push(key);
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                now.set(now.get() - 1);
                done.set(done.get() + 1);
            }
        })
        .await;
        assert_eq!(*begun.borrow(), (0..40).collect::<Vec<_>>());
        assert_eq!((most.get(), done.get()), (AT_ONCE, 40), "what was begun is finished");
    }
}
