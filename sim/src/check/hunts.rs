//! HUNT_EXACT and HUNT_RATE: each client that a hunt is for has exactly one flow of
//! it, nobody else has one, counts are those of its clients, and no second had more
//! recruits than agreed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use velociraptor::services::hunts::flow_of_hunt;
use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;
use velociraptor_proto::proto::HuntStats;
use velociraptor_proto::proto::artifact_collector_context::State;

use super::Found;
use super::grants::records;
use crate::cluster::{HUNT_RATE, Handle};
use crate::ledger::{Fact, Ledger, Task, ToldFlow, ToldHunt, Whom};

/// A client's flow of a hunt.
struct Flow {
    id: String,
    state: State,
    /// It is over, and all of it is there or not waited for any longer.
    told: bool,
    rows: u64,
    bytes: u64,
}

/// What the server tells of a hunt: its counts, and each client's flow.
type Told = (HuntStats, BTreeMap<String, Flow>);

async fn ask(c: &Handle, id: &str) -> Result<Option<Told>, String> {
    let id = id.to_owned();
    let call = move |server: std::sync::Arc<velociraptor::services::Server>| async move {
        let org = server.root();
        let Some(hunt) = server.hunt(&org, &id, false) else { return Ok(None) };
        let members = server.hunt_members(&org, &id).map_err(|e| e.to_string())?;
        let mut out = BTreeMap::new();
        for (client, m) in members {
            let flow = server.flow(&org, &client, &m.flow).await.map_err(|e| e.to_string())?;
            let f = flow.unwrap_or_default();
            let announced = {
                let state = org.state();
                let live = state.flows.get(&(client.clone(), m.flow.clone()));
                live.is_none_or(|l| l.announced)
            };
            let (rows, bytes) = (f.total_collected_rows, f.total_uploaded_bytes);
            let told = over(f.state()) && announced;
            out.insert(client, Flow { id: m.flow, state: f.state(), told, rows, bytes });
        }
        Ok(Some((hunt.stats.unwrap_or_default(), out)))
    };
    c.master().call(call).await.map_err(|_| "the master is gone".to_owned())?
}

/// Flows of hunts that clients got are audited like those that users were told of.
pub fn adopt(c: &Handle) {
    let mut books = c.books().lock();
    let mut new = Vec::new();
    for h in &books.hunts {
        let flow = flow_of_hunt(&h.id);
        for (client, b) in books.clients.iter().enumerate() {
            let got = b.received.iter().find(|r| r.session == flow && r.what == Task::Flow);
            let known = books.flows.iter().any(|f| f.client == client && f.flow == flow);
            if let (Some(r), false) = (got, known) {
                let (flow, plan) = (flow.clone(), h.plan.clone());
                new.push(ToldFlow {
                    client,
                    flow,
                    plan,
                    at: r.at,
                    cancelled: None,
                    cancelled_first: None,
                    deleting: false,
                    deleted: false,
                    runs: vec![],
                    asked: vec![],
                });
            }
        }
    }
    books.flows.extend(new);
}

/// Clients that must have it, and those that may; by id.
fn wanted(books: &Ledger, h: &ToldHunt) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
    for (i, b) in books.clients.iter().enumerate() {
        let tried = |l: &String| books.tried.contains(&(i, l.clone()));
        let told = |l: &String| books.facts.iter().any(|(_, f)| *f == Fact::Label(i, l.clone()));
        let (m, y) = match &h.whom {
            Whom::All => (true, true),
            Whom::Label(l) => (told(l), tried(l)),
            // Recruited before it got the label, perhaps.
            Whom::Not(l) => (!tried(l), true),
            Whom::Nobody => (false, false),
        };
        if m && b.awake {
            must.insert(b.id.clone());
        }
        if y {
            may.insert(b.id.clone());
        }
    }
    (must, may)
}

/// What hunts still have to do, in words.
pub async fn open(c: &Handle) -> Vec<String> {
    if c.books().lock().hunts.is_empty() {
        return vec![];
    }
    let books = c.books().lock().clone();
    let mut out = Vec::new();
    for h in books.hunts.iter().filter(|h| !h.deleted) {
        let told = match ask(c, &h.id).await {
            Ok(Some(t)) => t,
            // The audit tells.
            Ok(None) => continue,
            Err(e) => {
                out.push(format!("{} cannot be read: {e}", h.id));
                continue;
            }
        };
        let (must, _) = wanted(&books, h);
        let full = h.limit > 0 && told.1.len() as u64 >= h.limit;
        if h.runs == Some(true) && !full {
            let waiting = must.iter().filter(|id| !told.1.contains_key(*id)).count();
            let room = if h.limit > 0 { h.limit as usize - told.1.len() } else { usize::MAX };
            if waiting.min(room) > 0 {
                out.push(format!("{} has still {waiting} clients to recruit", h.id));
            }
        }
        let awake = |id: &String| books.books(id).any(|i| books.clients[i].awake);
        let running = told.1.iter().filter(|(id, m)| !over(m.state) && awake(id)).count();
        if running > 0 {
            out.push(format!("{}: {running} of its flows are not over", h.id));
        }
    }
    out
}

fn over(s: State) -> bool {
    matches!(s, State::Finished | State::Error)
}

/// Every hunt, against the books.
pub async fn audit(c: &Handle, when: &str, found: &mut Found) {
    let books = c.books().lock().clone();
    for h in &books.hunts {
        let told = match ask(c, &h.id).await {
            Ok(t) => t,
            Err(e) => {
                found.add("NO_HANG", format!("{when}: {}: {e}", h.id));
                continue;
            }
        };
        let Some(told) = told else {
            // A deletion of which nobody was told may have happened.
            found.check(h.deleted || h.runs.is_none(), "DURABLE_ACK", || {
                format!("{when}: hunt {} was told to a user and is not there", h.id)
            });
            continue;
        };
        found.check(!h.deleted, "DURABLE_ACK", || {
            format!("{when}: hunt {} was deleted and is there", h.id)
        });
        compare(&books, h, &told, when, found);
    }
}

fn compare(books: &Ledger, h: &ToldHunt, (stats, members): &Told, when: &str, found: &mut Found) {
    let flow = flow_of_hunt(&h.id);
    let (must, may) = wanted(books, h);
    if h.runs == Some(true) && h.limit == 0 {
        for id in must.iter().filter(|id| !members.contains_key(*id)) {
            found.add("HUNT_EXACT", format!("{when}: {} has not recruited {id}", h.id));
        }
    }
    for (id, m) in members {
        found.check(may.contains(id), "HUNT_EXACT", || {
            format!("{when}: {} recruited {id}, for which it is not", h.id)
        });
        found.check(m.id == flow && m.state != State::Unset, "HUNT_EXACT", || {
            format!("{when}: {id} has flow {} of {}, {:?}", m.id, h.id, m.state)
        });
    }
    for b in &books.clients {
        let got = b.received.iter().filter(|r| r.session == flow && r.what == Task::Flow).count();
        let runs = b.executions.get(&flow).map_or(0, Vec::len);
        found.check(runs <= 1, "HUNT_EXACT", || {
            format!("{when}: {} ran {runs} times on {}", h.id, b.id)
        });
        found.check(got == 0 || members.contains_key(&b.id), "HUNT_EXACT", || {
            format!("{when}: {} got {flow} and is not a client of {}", b.id, h.id)
        });
    }
    found.check(h.limit == 0 || members.len() as u64 <= h.limit, "HUNT_EXACT", || {
        format!("{when}: {} has {} clients, of {} it may have", h.id, members.len(), h.limit)
    });
    let ends: Vec<_> = members.values().filter(|m| m.told).collect();
    let want = HuntStats {
        stopped: stats.stopped,
        total_clients_scheduled: members.len() as u64,
        total_finished_clients: ends.len() as u64,
        total_clients_with_errors: ends.iter().filter(|m| m.state == State::Error).count() as u64,
        total_clients_with_results: ends.iter().filter(|m| m.rows > 0).count() as u64,
        total_collected_rows: ends.iter().map(|m| m.rows).sum(),
        total_uploaded_bytes: ends.iter().map(|m| m.bytes).sum(),
        ..HuntStats::default()
    };
    found.check(*stats == want, "HUNT_EXACT", || {
        format!("{when}: {} counts {stats:?}, and its flows add up to {want:?}", h.id)
    });
}

/// What journals tell of recruiting: how fast, and nobody after the end.
pub fn pace(l: &Ledger, found: &mut Found) {
    let mut first: BTreeMap<(String, String), u64> = BTreeMap::new();
    let stopped: BTreeMap<&str, Duration> =
        l.hunts.iter().filter_map(|h| Some((h.id.as_str(), h.stopped?))).collect();
    let mut late = BTreeSet::new();
    records(l, |_, at, f| {
        let Some(Kind::Decision(d)) = &f.record.kind else { return };
        let Some(DecisionKind::Schedule(s)) = &d.kind else { return };
        if s.hunt_id.is_empty() {
            return;
        }
        let time = first.entry((s.hunt_id.clone(), d.client_id.clone())).or_insert(d.time);
        *time = d.time.min(*time);
        if stopped.get(s.hunt_id.as_str()).is_some_and(|end| at > *end) {
            late.insert((s.hunt_id.clone(), d.client_id.clone()));
        }
    });
    for (hunt, client) in late {
        found.add("HUNT_EXACT", format!("{hunt} recruited {client} after it was stopped"));
    }
    let mut times: Vec<u64> = first.into_values().collect();
    times.sort_unstable();
    let rate = HUNT_RATE as usize;
    let crowd = times.windows(rate + 1).find(|w| w[rate] - w[0] < 1_000_000);
    if let Some(w) = crowd {
        found.add(
            "HUNT_RATE",
            format!("{} clients were recruited within {} µs", rate + 1, w[rate] - w[0]),
        );
    }
}
