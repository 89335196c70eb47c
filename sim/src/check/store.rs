//! DERIVED and BOUNDED: after a clean stop the stock tree holds everything, and
//! nothing else is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Found;
use super::flows::far;
use crate::client::Order;
use crate::cluster::Handle;
use crate::ledger::{Content, Execution, Ledger, ToldFlow};
use crate::nfs::FileServer;
use crate::watch::is_stock;

/// Grace before a flow that is over is settled.
const GRACE: Duration = Duration::from_secs(30);
/// And a little; where the file server is far, what a hundred calls to it take.
const LITTLE: Duration = Duration::from_secs(6);

/// Once nobody is there any more, nothing of them is kept in memory but what is
/// incomplete.
pub async fn at_rest(c: &Handle, found: &mut Found) {
    let clients = c.books().lock().clients.len();
    for client in 0..clients {
        c.order(client, Order::Leave).await;
    }
    c.sleep(GRACE + LITTLE.max(far(c.cluster()))).await;
    let books = c.books().lock().clone();
    for f in c.cluster().frontends() {
        let held = c.frontend(&f).call(|server| async move { server.sessions.len() });
        if let Ok(n) = held.await {
            found.check(n == 0, "BOUNDED", || format!("{f} holds {n} clients that are gone"));
        }
    }
    let over: Vec<(String, String)> = (books.flows.iter())
        .filter(|f| !f.deleting && whole(&books, f))
        .map(|f| (books.clients[f.client].id.clone(), f.flow.clone()))
        .collect();
    let live = c.master().call(move |server| async move {
        let org = server.root();
        let state = org.state();
        over.into_iter().filter(|k| state.flows.contains_key(k)).collect::<Vec<_>>()
    });
    for (client, flow) in live.await.unwrap_or_default() {
        found.add("BOUNDED", format!("flow {flow} of {client} is whole and not settled"));
    }
}

/// Whether a client's one execution of a flow ended and all of it was taken.
fn whole(books: &Ledger, f: &ToldFlow) -> bool {
    let id = books.clients[f.client].id.as_str();
    let all = books.books(id).flat_map(|i| &books.clients[i].executions);
    let runs: Vec<_> = all.filter(|(s, _)| f.has(s)).map(|(_, e)| e).collect();
    let mut jobs =
        books.books(id).flat_map(|i| &books.clients[i].jobs).filter(|j| f.has(&j.session));
    let once =
        |e: &&Vec<Execution>| matches!(&e[..], [one] if one.over.is_some() && !one.cancelled);
    // All of its runs, as far as anybody asked for them.
    runs.len() == 1 + f.asked.len() && runs.iter().all(once) && jobs.all(|j| j.fate.promised())
}

/// Stops everything cleanly and reads the tree with nobody's help.
pub async fn settled(c: &Handle, found: &mut Found) {
    let store = c.hosts().store();
    for f in c.cluster().frontends().iter().rev() {
        if !c.stop(f).await {
            found.add("NO_HANG", format!("{f} does not stop"));
        }
    }
    c.sleep(Duration::from_millis(100)).await;
    let books = c.books().lock().clone();
    sets(&books, store, found);
    let alone = c.cluster().frontends().len() == 1 && c.cluster().spare.is_none();
    left(&books, store, alone, found);
}

/// Every result set has the rows its client sent, and an index that fits.
fn sets(books: &Ledger, store: &FileServer, found: &mut Found) {
    let mut lines_of: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for path in store.names().iter().filter(|p| is_stock(p)) {
        let Some(data) = store.read(path) else { continue };
        if let Some(of) = path.strip_suffix(".json.index") {
            let rows = store.read(&format!("{of}.json")).unwrap_or_default();
            let ends: Vec<usize> =
                rows.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
            let mut starts = vec![0];
            starts.extend(&ends);
            starts.pop();
            let index: Vec<u64> = data
                .chunks_exact(8)
                .map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default()) & 0xff_ffff_ffff)
                .collect();
            let fits = index.len() == starts.len()
                && index.iter().zip(&starts).all(|(a, b)| *a == *b as u64);
            found.check(fits, "DERIVED", || {
                format!(
                    "{path}: {} entries for {} rows, or other places",
                    index.len(),
                    starts.len()
                )
            });
        } else if path.ends_with(".json") {
            let rows = data.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec);
            lines_of.insert(path.clone(), rows.collect());
        }
    }
    for f in &books.flows {
        let id = &books.clients[f.client].id;
        if f.deleting {
            let root = format!("/clients/{id}/");
            let all = store.names();
            let file = all.iter().find(|p| p.contains(&root) && p.contains(&f.flow));
            found.check(!f.deleted || file.is_none(), "DURABLE_ACK", || {
                format!("after a clean stop {} of {id}, deleted, has {file:?}", f.flow)
            });
            continue;
        }
        if half_uploaded(books, f) {
            continue; // pieces of a file have no stock form; the flow waits in the journal
        }
        let sent: Vec<&String> = books
            .books(id)
            .flat_map(|i| books.clients[i].jobs.iter())
            .filter(|j| f.has(&j.session) && j.fate.promised())
            .filter_map(|j| match &j.content {
                Content::Rows { lines, .. } => Some(lines),
                _ => None,
            })
            .flatten()
            .collect();
        let root = format!("/clients/{id}/artifacts/");
        let mine = |p: &&String| p.starts_with(&root) && p.contains(&f.flow);
        let have: usize = lines_of.keys().filter(mine).map(|p| lines_of[p].len()).sum();
        found.check(have >= sent.len(), "DERIVED", || {
            format!(
                "after a clean stop the stock files of flow {} of {id} hold {have} rows; {} were \
                 acknowledged",
                f.flow,
                sent.len()
            )
        });
    }
}

/// Whether an upload of the flow was begun and not ended.
fn half_uploaded(books: &Ledger, f: &ToldFlow) -> bool {
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
    for i in books.books(&books.clients[f.client].id) {
        for j in books.clients[i].jobs.iter().filter(|j| f.has(&j.session)) {
            if let Content::Chunk { number, eof, .. } = j.content {
                begun.insert((i, &j.session, j.execution, number));
                if eof && j.fate.promised() {
                    ended.insert((i, &j.session, j.execution, number));
                }
            }
        }
    }
    begun != ended
}

/// Private files that a process of no work has no use for.
fn left(books: &Ledger, store: &FileServer, alone: bool, found: &mut Found) {
    let names = store.names();
    let count = |part: &str| names.iter().filter(|n| n.contains(part)).count();
    let epochs = names.iter().filter(|n| n.ends_with("/epoch")).count();
    let journals = names.iter().filter(|n| n.ends_with(".journal")).count();
    let waits: bool = books.flows.iter().any(|f| half_uploaded(books, f));
    // What a minion leaves, the master removes a while later.
    let waits = waits || !alone;
    found.check(waits || journals <= epochs, "BOUNDED", || {
        format!("{journals} journal files of {epochs} processes are left after a clean stop")
    });
    let spills = count("/spill/");
    let waiting = books.flows.iter().filter(|f| half_uploaded(books, f)).count();
    found.check(waits || spills <= waiting, "BOUNDED", || format!("{spills} spill files are left"));
    let temporary = count("/temp/");
    // A crash may leave one for each file that was being written.
    found.check(temporary <= 64, "BOUNDED", || format!("{temporary} temporary files are left"));
}
