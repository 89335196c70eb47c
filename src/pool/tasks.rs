//! Tasks the virtual clients through the API, at a steady rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::book::Book;
use crate::env::Env;

/// Calls under way at once.
const CALLS: usize = 64;

/// What is asked of the clients.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The artifact.
    pub artifact: String,
    /// How many tasks in all.
    pub tasks: usize,
    /// Tasks a second.
    pub rate: f64,
    /// How long a client is left alone after each of its tasks.
    pub think: Duration,
}

/// Tasks that were accepted.
#[derive(Debug, Default)]
pub struct Tasks {
    scheduled: Mutex<BTreeMap<(String, String), Scheduled>>,
    failed: Mutex<(u64, String)>,
}

/// When a task was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Scheduled {
    /// Before the call.
    pub called: Instant,
    /// The server's answer, which it gives when the task is durable.
    pub answered: Instant,
}

impl Tasks {
    /// By client and flow.
    pub fn all(&self) -> BTreeMap<(String, String), Scheduled> {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many were accepted.
    pub fn len(&self) -> usize {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Nothing was accepted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many calls failed, and why the last one did. What became of them is
    /// not known: they are no tasks here.
    pub fn failed(&self) -> (u64, String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Schedules until the plan is done or `stop` is cancelled. Clients get their
/// turn in the order of their ids; returns when every call was answered.
pub async fn schedule(
    env: &Env,
    api: &Api,
    book: &Arc<Book>,
    plan: &Plan,
    tasks: &Arc<Tasks>,
    stop: &CancellationToken,
) {
    const VQL: &str = "SELECT collect_client(client_id=Client, artifacts=Name, env=dict()).flow_id AS F FROM scope()";
    let ids = book.ids();
    let calls = Arc::new(Semaphore::new(CALLS));
    let gap = Duration::from_secs_f64(1.0 / plan.rate.max(0.001));
    let mut due = Instant::now();
    let mut last: BTreeMap<usize, Instant> = BTreeMap::new();
    for n in 0..plan.tasks {
        let who = n % ids.len().max(1);
        let Some(id) = ids.get(who).cloned() else { return };
        let rested = last.get(&who).map_or(due, |at| *at + plan.think);
        let wait = tokio::time::sleep_until(due.max(rested));
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            permit = async { wait.await; calls.clone().acquire_owned().await } => permit,
        };
        let Ok(permit) = permit else { break };
        due = (due + gap).max(Instant::now());
        last.insert(who, Instant::now());
        let (api, tasks, name) = (api.clone(), tasks.clone(), plan.artifact.clone());
        env.spawn(async move {
            let called = Instant::now();
            let rows = api.query(VQL, &[("Client", &id), ("Name", &name)]).await;
            let answered = Instant::now();
            let flow = match rows {
                Ok(rows) => {
                    let flow = rows.first().and_then(|r| r.get("F")).and_then(|f| f.as_str());
                    flow.map(str::to_owned).ok_or_else(|| "the server made no flow".to_owned())
                }
                Err(e) => Err(format!("{e:#}")),
            };
            match flow {
                Ok(flow) => {
                    let mut all = tasks.scheduled.lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert((id, flow), Scheduled { called, answered });
                }
                Err(why) => {
                    let mut failed = tasks.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    *failed = (failed.0 + 1, why);
                }
            }
            drop(permit);
        });
    }
    let _ = calls.acquire_many(CALLS as u32).await;
}
