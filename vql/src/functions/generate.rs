//! generate(): one run of a query whose rows go to all who listen.

use crate::eval;
use crate::log::Level;
use crate::query::Query;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::stream::RowStream;
use crate::value::Value;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Rows a listener may be behind before the query waits for it.
const BEHIND: usize = 64;
/// Longest wait for the listeners that `fan_out` asks for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn register(registry: &mut Registry) {
    let generate = Signature::new("generate", "A query that runs once for all who read it.")
        .arg("name", ArgType::String, "Those who give the same name read the same run.")
        .arg("query", ArgType::Any, "The query.")
        .arg("delay", ArgType::Int, "Milliseconds to wait for further readers.")
        .arg("with_file_buffer", ArgType::Bool, "Accepted; the query waits for its readers.")
        .arg("fan_out", ArgType::Int, "Readers to wait for.")
        .arg("description", ArgType::String, "Accepted.")
        .version(3);
    registry.function_sync(generate, |scope, args| {
        let query = args.any("query");
        let key = args.opt_string("name")?.unwrap_or_else(|| query.go_text());
        if !lock(&scope.shared_value::<Running>().0).contains_key(&key) {
            scope.log(Level::Default, format!("generate: new query {key}"));
        }
        let start = Start {
            delay: Duration::from_millis(u64::try_from(args.int("delay")?).unwrap_or(0)),
            fan_out: usize::try_from(args.int("fan_out")?).unwrap_or(0),
            query,
            scope: scope.clone(),
        };
        let running = scope.shared_value::<Running>();
        let listen = move |_: &Scope| listen(&running, &key, &start);
        Ok(Value::Query(Arc::new(Query::host(listen))))
    });
}

/// Generators that run, by name.
#[derive(Default)]
struct Running(Mutex<BTreeMap<String, Arc<Generator>>>);

/// One run.
#[derive(Default)]
struct Generator {
    listeners: Mutex<Vec<mpsc::Sender<Value>>>,
    joined: tokio::sync::Notify,
}

/// How to begin one.
#[derive(Clone)]
struct Start {
    delay: Duration,
    fan_out: usize,
    query: Value,
    scope: Scope,
}

fn listen(running: &Arc<Running>, key: &str, start: &Start) -> RowStream {
    let (sender, receiver) = mpsc::channel(BEHIND);
    let mut all = lock(&running.0);
    match all.get(key) {
        Some(generator) => {
            lock(&generator.listeners).push(sender);
            generator.joined.notify_one();
        }
        None => {
            let generator = Arc::new(Generator::default());
            lock(&generator.listeners).push(sender);
            all.insert(key.to_owned(), generator.clone());
            let (running, key, start) = (running.clone(), key.to_owned(), start.clone());
            tokio::spawn(async move {
                let cancel = start.scope.cancellation().clone();
                let _ = cancel.run_until_cancelled(generator.run(start)).await;
                lock(&running.0).remove(&key);
                // Their streams end.
                lock(&generator.listeners).clear();
            });
        }
    }
    drop(all);
    Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
        let row = receiver.recv().await?;
        Some((row, receiver))
    }))
}

/// Rows that went through a queue name their source, here none.
fn with_source(row: Value) -> Value {
    let mut row = row.into_row();
    if !row.contains("_Source") {
        row.set("_Source", "");
    }
    row.into()
}

impl Generator {
    async fn run(&self, start: Start) {
        tokio::time::sleep(start.delay).await;
        let enough = async {
            while lock(&self.listeners).len() < start.fan_out {
                self.joined.notified().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, enough).await;
        let mut rows = eval::rows(&start.query, &start.scope);
        loop {
            let next = tokio::select! {
                biased;
                row = rows.next() => row,
                () = self.deserted() => None,
            };
            let Some(row) = next else { return };
            let listeners = lock(&self.listeners).clone();
            let mut any = false;
            let row = with_source(row);
            for listener in &listeners {
                any |= listener.send(row.clone()).await.is_ok();
            }
            if !any {
                return;
            }
            lock(&self.listeners).retain(|l| !l.is_closed());
        }
    }

    /// Resolves when nobody listens.
    async fn deserted(&self) {
        loop {
            let listeners = lock(&self.listeners).clone();
            for listener in &listeners {
                listener.closed().await;
            }
            if lock(&self.listeners).iter().all(mpsc::Sender::is_closed) {
                return;
            }
        }
    }
}
