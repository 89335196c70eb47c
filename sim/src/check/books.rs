//! What the clients' books alone tell: TASK_ONCE, WAKE_BOUND, LIMITS, NO_HANG.

use std::time::Duration;

use super::Found;
use crate::cluster::Cluster;
use crate::ledger::{ClientBook, Ledger, Part, Task, ToldFlow};

/// Flows not urgent that a client may have at once: 2 + its concurrency.
const FLOWS: usize = 4;
/// Longest answer to a POST of results: the commit's deadline, and a little.
const CONTROL: Duration = Duration::from_secs(25);
/// The longest hold of a reader: `max_poll`, 30 s of spread, and a little.
const READER: Duration = Duration::from_secs(crate::cluster::MAX_POLL + 30 + 5);
/// From the task to the socket, besides the network.
const WAKE: Duration = Duration::from_millis(5);
/// From a cancel, or the end of all trouble, until its client has stopped: a poll, and a
/// question before it.
const STOPPED: Duration = Duration::from_secs(100);
/// Once a client is held again.
const HELD_AGAIN: Duration = Duration::from_secs(5);

/// All of them.
pub fn check(l: &Ledger, cluster: &Cluster, found: &mut Found) {
    for (i, b) in l.clients.iter().enumerate() {
        once(l, i, b, found);
        limits(i, b, found);
        answers(l, i, b, cluster.is_socket(i), found);
    }
    for f in &l.flows {
        // A further run asked for after a cancel goes on; what the cancel met does not.
        let cancelled = f.cancelled.or(f.cancelled_first);
        woken(l, &ToldFlow { cancelled, ..f.clone() }, cluster, found);
        for r in &f.runs {
            let (flow, plan, cancelled) = (r.session.clone(), r.plan.clone(), r.cancelled);
            woken(l, &ToldFlow { flow, plan, cancelled, at: r.at, ..f.clone() }, cluster, found);
        }
        stopped(l, f, found);
    }
}

/// What a user was told is cancelled is not worked on for long: its client is told,
/// whatever was restarted meanwhile.
fn stopped(l: &Ledger, f: &ToldFlow, found: &mut Found) {
    let (b, Some(told)) = (&l.clients[f.client], f.cancelled) else { return };
    if b.cloned || !b.can_answer || !b.awake || l.books(&b.id).count() > 1 {
        return;
    }
    // As long as it was there, and nothing was broken.
    let healthy = l.troubles.iter().map(|t| t.to.unwrap_or(Duration::MAX)).max();
    let since = told.max(healthy.unwrap_or_default());
    let there = b.exchanges.iter().filter(|x| x.process == b.processes);
    let since = since.max(there.clone().map(|x| x.from).min().unwrap_or(Duration::MAX));
    let until = there.map(|x| x.to.unwrap_or(x.from)).max().unwrap_or_default();
    let works = |e: &crate::ledger::Execution| {
        e.over.is_none() && e.process == b.processes && e.at <= since
    };
    let works =
        b.executions.iter().filter(|(s, _)| f.has(s)).find(|(_, all)| all.iter().any(works));
    if let Some((session, _)) = works {
        found.check(until < since.saturating_add(STOPPED), "DURABLE_ACK", || {
            format!(
                "{session} was told to be cancelled at {told:?}; client {} still works on it at \
                 {until:?}",
                f.client
            )
        });
    }
}

/// A task runs at most once, a cancel never comes with it nor without it.
fn once(l: &Ledger, i: usize, b: &ClientBook, found: &mut Found) {
    if b.cloned {
        return; // told of by the first book with that id
    }
    let all: Vec<&ClientBook> = l.books(&b.id).map(|n| &l.clients[n]).collect();
    let sessions = all.iter().flat_map(|b| b.executions.keys());
    let sessions: std::collections::BTreeSet<&String> = sessions.collect();
    for s in sessions {
        let runs: Vec<_> = all.iter().filter_map(|b| b.executions.get(s)).flatten().collect();
        found.check(runs.len() <= 1, "TASK_ONCE", || {
            let times: Vec<String> =
                runs.iter().map(|r| format!("{:?} in process {}", r.at, r.process)).collect();
            format!("{s} ran {} times on client {i}: {}", runs.len(), times.join(", "))
        });
    }
    for b in &all {
        for (n, r) in b.received.iter().enumerate().filter(|(_, r)| r.what == Task::Cancel) {
            let of = |x: &&crate::ledger::Received| x.session == r.session && x.what == Task::Flow;
            let before = &b.received[..n];
            let known = all.iter().any(|o| o.received.iter().any(|x| of(&x) && x.at <= r.at));
            found.check(known, "TASK_ONCE", || {
                format!(
                    "client {i} got a cancel of {} at {:?}, which it never got",
                    r.session, r.at
                )
            });
            let together = before
                .iter()
                .chain(&b.received[n + 1..])
                .find(|x| of(x) && x.process == r.process && x.reply == r.reply);
            found.check(together.is_none(), "TASK_ONCE", || {
                format!("client {i} got {} and its cancel in one reply, at {:?}", r.session, r.at)
            });
        }
    }
}

/// Never more flows at once than agreed.
fn limits(i: usize, b: &ClientBook, found: &mut Found) {
    let mut edges: Vec<(Duration, i64)> = Vec::new();
    for e in b.executions.values().flatten().filter(|e| !e.urgent) {
        edges.push((e.at, 1));
        if let Some(over) = e.over {
            edges.push((over, -1));
        }
    }
    // An end and a beginning at one time: the end comes first.
    edges.sort();
    let mut open = 0;
    for (at, change) in edges {
        open += change;
        // Those of processes that ended never end in the book.
        if open > FLOWS as i64 && b.processes == 1 {
            found.add("LIMITS", format!("client {i} has {open} flows at {at:?}"));
            return;
        }
    }
}

/// Every POST is answered within its limit. Where packets or the whole server
/// are gone, the client's own limit ends it.
fn answers(l: &Ledger, i: usize, b: &ClientBook, socket: bool, found: &mut Found) {
    for x in &b.exchanges {
        let Some(to) = x.to else { continue };
        if x.reader && socket {
            continue; // held until there is a task, however long
        }
        let limit = if x.reader { READER } else { CONTROL };
        // A failed try is repeated and then waited after.
        let late = to - x.from > limit && x.good;
        // Where the store is gone the answer is that it is.
        let network = l.broken(Part::Network, x.from, to) || l.broken(Part::Host, x.from, to);
        found.check(!late || network, "NO_HANG", || {
            let kind = if x.reader { "poll" } else { "POST" };
            format!("a {kind} of client {i} took from {:?} to {to:?}", x.from)
        });
    }
}

/// A held client has its task at once; another within seconds of being held.
fn woken(l: &Ledger, f: &ToldFlow, cluster: &Cluster, found: &mut Found) {
    let b = &l.clients[f.client];
    if b.cloned || l.books(&b.id).count() > 1 || f.cancelled.is_some() || f.deleting {
        return;
    }
    // Given up: TASK_ONCE asks whether there was a reason.
    let seen = l.seen.get(&(b.id.clone(), f.flow.clone()));
    if seen.is_some_and(|s| s.iter().any(|s| s.state == "Error")) {
        return;
    }
    let got = b.received.iter().find(|r| r.session == f.flow && r.what == Task::Flow);
    let got = got.map(|r| r.at);
    // Tasks that wait for a slot wait for the client. That a slot is free again,
    // the server hears a little later.
    let busy = |from: Duration, to: Duration| {
        let open = |e: &&crate::ledger::Execution| {
            e.at <= to && e.over.is_none_or(|o| o + Duration::from_secs(3) >= from)
        };
        !f.plan.urgent && b.executions.values().flatten().filter(open).count() + 1 >= FLOWS
    };
    let trips = cluster.network.1 * if cluster.minions > 0 { 2 } else { 1 };
    let bound = trips + WAKE + cluster.tick * 2;
    // Sent at the latest when its poll has certainly arrived.
    let arrived = cluster.network.1 * 2 + cluster.tick * 4;
    let polls: Vec<_> = b.exchanges.iter().filter(|x| x.reader).collect();
    for x in &polls {
        let from = x.from + arrived + Duration::from_millis(100);
        let to = x.to.unwrap_or(Duration::MAX);
        if to <= f.at || got.is_some_and(|g| g < from.max(f.at)) {
            continue;
        }
        let (since, limit) = match from <= f.at {
            true => (f.at, bound),
            false => (from, HELD_AGAIN),
        };
        // What a client that came again is asked it cannot answer while it repeats a POST.
        let posts = b.exchanges.iter().filter(|e| !e.reader && e.from <= since && from > f.at);
        let mute = posts.map(|e| e.to.unwrap_or(Duration::MAX)).filter(|to| *to > since).max();
        let since = mute.unwrap_or(since);
        // Held all the time, and nothing broken.
        let end = since.saturating_add(limit);
        if to < end || l.troubled(x.from, end) || end > last(l) || busy(f.at.min(since), end) {
            continue;
        }
        found.check(got.is_some_and(|g| g <= end), "WAKE_BOUND", || {
            format!(
                "client {} is held since {:?}; {} was told at {:?} and came at {got:?}, not by {end:?}",
                f.client, x.from, f.flow, f.at
            )
        });
        return;
    }
}

/// The last thing in any book.
fn last(l: &Ledger) -> Duration {
    l.clients.iter().flat_map(|b| &b.exchanges).map(|x| x.from).max().unwrap_or_default()
}
