//! FLOW_MONOTONIC: what users see of a flow never goes back. Also watches that
//! users get answers.

use std::time::Duration;

use tokio::time::sleep;
use velociraptor::services::flows::Rows;
use velociraptor_proto::proto::artifact_collector_context::State;

use crate::cluster::Handle;
use crate::ledger::{Ledger, Seen, now};

/// Longest a user waits for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What is over and has not changed for this long is looked at now and then only.
const QUIET: Duration = Duration::from_secs(15);
/// One round in so many looks at everything.
const ROUNDS: u64 = 25;

/// Looks at all flows again and again.
pub async fn watch(c: Handle) {
    for round in 0u64.. {
        sleep(Duration::from_millis(700)).await;
        patience(&mut c.books().lock());
        let flows: Vec<(String, String)> = {
            let books = c.books().lock();
            let all = books.flows.iter().filter(|f| !f.deleting);
            let keys = all.map(|f| (books.clients[f.client].id.clone(), f.flow.clone()));
            let quiet = |k: &(String, String)| {
                let last = books.seen.get(k).and_then(|all| all.last());
                last.is_some_and(|s| s.rank == 2 && s.at + QUIET < now())
            };
            keys.filter(|k| round.is_multiple_of(ROUNDS) || !quiet(k)).collect()
        };
        let seen = c.master().call(move |server| async move {
            let org = server.root();
            let mut out = Vec::new();
            for (client, flow) in flows {
                let Ok(Some(f)) = server.flow(&org, &client, &flow).await else { continue };
                let mut readable = 0;
                let mut failed = false;
                for set in &f.artifacts_with_results {
                    let which = Rows::Results(set.clone());
                    match server.row_count(&org, &client, &flow, &which).await {
                        Ok(n) => readable += n,
                        Err(_) => failed = true,
                    }
                }
                let rank = match f.state() {
                    State::Unset | State::Running | State::Waiting => 0,
                    State::InProgress | State::Unresponsive => 1,
                    State::Error | State::Finished => 2,
                };
                let seen = Seen {
                    at: now(),
                    rank,
                    state: format!("{:?}", f.state()),
                    status: f.status.clone(),
                    rows: f.total_collected_rows,
                    readable: if failed { u64::MAX } else { readable },
                    logs: f.total_logs,
                    bytes: f.total_uploaded_bytes,
                };
                out.push(((client, flow), seen));
            }
            out
        });
        let Ok(seen) = seen.await else { continue };
        let mut books = c.books().lock();
        for (key, seen) in seen {
            judge(&mut books, &key, seen);
        }
    }
}

fn patience(books: &mut Ledger) {
    let late: Vec<_> = books.asked.iter().filter(|(t, _)| now() > *t + ANSWER).cloned().collect();
    for key in late {
        books.asked.remove(&key);
        let story = format!("a user waits since {:?} for: {}", key.0, key.1);
        books.complain("NO_HANG", story);
    }
}

fn judge(books: &mut Ledger, key: &(String, String), new: Seen) {
    let before = books.seen.get(key).and_then(|all| all.last().cloned());
    let mut wrong = Vec::new();
    if let Some(old) = &before {
        // Each time it is asked for again it may open once.
        let opens = |s: &[Seen]| s.windows(2).filter(|w| w[0].rank == 2 && w[1].rank < 2).count();
        let opened = books.seen.get(key).map_or(0, |all| opens(all));
        let asked = books.flows.iter().find(|f| f.flow == key.1).map_or(0, |f| f.asked.len());
        if new.rank < old.rank && old.rank == 2 && opened >= asked {
            wrong.push(format!("went from {} to {}", old.state, new.state));
        }
        for (what, a, b) in [
            ("rows", old.rows, new.rows),
            ("log lines", old.logs, new.logs),
            ("upload bytes", old.bytes, new.bytes),
        ] {
            if b < a {
                wrong.push(format!("counted {a} {what} and now {b}"));
            }
        }
        if new.readable < old.readable && old.readable != u64::MAX {
            wrong.push(format!("had {} rows to read and now {}", old.readable, new.readable));
        }
    }
    if new.state == "Finished" && new.readable < new.rows {
        wrong.push(format!("is finished with {} rows, and has {}", new.rows, new.readable));
    }
    let fresh = before.as_ref().is_none_or(|old| Seen { at: new.at, ..old.clone() } != new);
    let at = new.at;
    if fresh {
        books.seen.entry(key.clone()).or_default().push(new);
    }
    for w in wrong {
        books.complain("FLOW_MONOTONIC", format!("at {at:?} flow {} of {} {w}", key.1, key.0));
    }
}
