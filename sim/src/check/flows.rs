//! DURABLE_ACK and EXACTLY_ONCE: what the API gives back is what clients sent,
//! all that was acknowledged, each once, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use velociraptor::services::Server;
use velociraptor::services::event_view::EventView;
use velociraptor::services::events::EventKey;
use velociraptor::services::flows::Rows;
use velociraptor::services::flows::job::lines;
use velociraptor::store::paths::Client;
use velociraptor::store::uploads::{Holes, Upload};
use velociraptor_proto::proto::ArtifactCollectorContext;
use velociraptor_proto::proto::artifact_collector_context::State;

use super::Found;
use crate::client::upload_name;
use crate::cluster::{Cluster, Handle};
use crate::ledger::{Content, Fact, Fate, Job, Ledger, ToldFlow, now, upload_bytes};

/// What was acknowledged shows at the latest after this: applied by the master,
/// and a complete upload put into its place.
fn shown(c: &Cluster) -> Duration {
    Duration::from_secs(2).max(far(c))
}

/// The moment of an audit.
struct When<'a> {
    name: &'a str,
    /// What was acknowledged longer ago shows.
    shown: Duration,
}

impl std::fmt::Display for When<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A hundred calls to the file server, one after the other, at the slowest.
pub fn far(c: &Cluster) -> Duration {
    c.store * 300
}

/// What the server tells of one flow.
struct Told {
    context: Option<ArtifactCollectorContext>,
    results: BTreeMap<String, Vec<String>>,
    logs: Vec<String>,
    /// By session and number.
    uploads: BTreeMap<(String, i64), Option<Vec<u8>>>,
    /// How many processes of its client there had been when it was told: more than
    /// when the book was taken, if one has started since.
    processes: u32,
}

/// Flows that users were told of and that are not over, in words.
pub async fn open(c: &Handle) -> Vec<String> {
    let flows: Vec<(String, String)> = {
        let books = c.books().lock();
        let present = |f: &&ToldFlow| books.clients[f.client].awake;
        let all = books.flows.iter().filter(present);
        // What was seen to be over does not open again, unless it is asked for again:
        // FLOW_MONOTONIC.
        let over = |k: &(String, String), f: &ToldFlow| {
            let last = books.seen.get(k).and_then(|all| all.last());
            last.is_some_and(|s| s.rank == 2) && f.asked.is_empty()
        };
        let keys = all.map(|f| ((books.clients[f.client].id.clone(), f.flow.clone()), f));
        keys.filter(|(k, f)| !over(k, f)).map(|(k, _)| k).collect()
    };
    let answer = c.master().call(move |server| async move {
        let org = server.root();
        let mut out = Vec::new();
        for (client, flow) in flows {
            match server.flow(&org, &client, &flow).await {
                Ok(Some(f)) if matches!(f.state(), State::Finished | State::Error) => {}
                Ok(Some(f)) => out.push(format!("{client} {flow} is {:?}", f.state())),
                Ok(None) => {}
                Err(e) => out.push(format!("{client} {flow} cannot be read: {e}")),
            }
        }
        out
    });
    answer.await.unwrap_or_else(|_| vec!["the master is gone".into()])
}

/// Everything that can be read back, against the books.
pub async fn audit(c: &Handle, name: &str, found: &mut Found) {
    let when = &When { name, shown: shown(c.cluster()) };
    let books = c.books().lock().clone();
    for f in &books.flows {
        let id = books.clients[f.client].id.clone();
        if f.deleting {
            gone(c, &books, f, id, when, found).await;
            continue;
        }
        let told = ask(c, &books, f, id).await;
        match told {
            None => found.add("NO_HANG", format!("{when}: the master does not answer")),
            Some(Err(e)) => found.add("DURABLE_ACK", format!("{when}: {}: {e}", whose(&books, f))),
            Some(Ok(told)) => compare(&books, f, &told, when, found),
        }
    }
    // Taken again: what clients sent meanwhile is no matter, what they were
    // acknowledged before is.
    events(c, &books, when, found).await;
    facts(c, &books, when, found).await;
}

/// What users were told is deleted is not there, in whatever form.
async fn gone(
    c: &Handle,
    books: &Ledger,
    f: &ToldFlow,
    client: String,
    when: &When<'_>,
    found: &mut Found,
) {
    let flow = f.flow.clone();
    let left = c.master().call(move |server| async move {
        let org = server.root();
        let shown = server.flow(&org, &client, &flow).await.map_err(|e| e.to_string())?;
        let files = server.files_of_flow(&org, &client, &flow).await;
        let files = files.map_err(|e| e.to_string())?;
        let live = org.state().flows.contains_key(&(client, flow));
        Ok::<_, String>((shown.is_some(), live, files.into_iter().map(|r| r.path).next()))
    });
    match left.await {
        Err(_) => found.add("NO_HANG", format!("{when}: the master does not answer")),
        Ok(Err(e)) => found.add("DURABLE_ACK", format!("{when}: {}: {e}", whose(books, f))),
        Ok(Ok(left)) => {
            found.check(!f.deleted || left == (false, false, None), "DURABLE_ACK", || {
                let (shown, live, file) = left;
                let who = whose(books, f);
                format!("{when}: {who} was deleted; shown {shown}, in memory {live}, file {file:?}")
            })
        }
    }
}

fn whose(books: &Ledger, f: &ToldFlow) -> String {
    format!("flow {} of client {} ({})", f.flow, f.client, books.clients[f.client].id)
}

/// Jobs of a flow, of every client that bears the id.
fn jobs<'a>(books: &'a Ledger, f: &ToldFlow) -> Vec<&'a Job> {
    let id = books.clients[f.client].id.as_str();
    let all = books.books(id).flat_map(|i| books.clients[i].jobs.iter());
    all.filter(|j| f.has(&j.session)).collect()
}

async fn ask(
    c: &Handle,
    books: &Ledger,
    f: &ToldFlow,
    client: String,
) -> Option<Result<Told, String>> {
    let mut sets = BTreeSet::new();
    let mut uploads = BTreeSet::new();
    for j in jobs(books, f) {
        match &j.content {
            Content::Rows { set, .. } => drop(sets.insert(set.clone())),
            Content::Chunk { number, .. } => drop(uploads.insert((j.session.clone(), *number))),
            _ => {}
        }
    }
    let flow = f.flow.clone();
    let call = move |server: Arc<Server>| async move {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let org = server.root();
        let context = server.flow(&org, &client, &flow).await.map_err(|e| text(&e))?;
        let mut told = Told {
            context,
            results: BTreeMap::new(),
            logs: vec![],
            uploads: BTreeMap::new(),
            processes: 0,
        };
        for set in sets {
            let which = Rows::Results(server.reveal(&set));
            let rows = server.rows(&org, &client, &flow, &which, 0, u64::MAX).await;
            let rows = rows.map_err(|e| format!("rows of {which:?}: {e}"))?;
            let rows = rows.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
            told.results.insert(set, rows);
        }
        let logs = server.rows(&org, &client, &flow, &Rows::Logs, 0, u64::MAX).await;
        for l in logs.map_err(|e| format!("log: {e}"))? {
            let v: serde_json::Value = serde_json::from_slice(&l).map_err(|e| text(&e))?;
            told.logs.push(v["message"].as_str().unwrap_or_default().to_owned());
        }
        let path = Client { org: &org.id, id: &client };
        let path = path.flow(&flow);
        for n in uploads {
            let at = path.upload("file", &["sim".to_owned(), upload_name(&n.0, n.1)]);
            let file = Upload::open(&server.tree, &at).await.map_err(|e| text(&e))?;
            let data = match file {
                None => None,
                Some(u) => {
                    let size = u.size(Holes::Padded).map_err(|e| text(&e))?;
                    Some(u.read(Holes::Padded, 0, size as usize).await.map_err(|e| text(&e))?)
                }
            };
            told.uploads.insert(n, data.map(|d| d.to_vec()));
        }
        Ok(told)
    };
    let mut told = c.master().call(call).await.ok();
    if let Some(Ok(told)) = &mut told {
        told.processes = c.books().lock().clients[f.client].processes;
    }
    told
}

fn compare(books: &Ledger, f: &ToldFlow, told: &Told, when: &When<'_>, found: &mut Found) {
    let who = whose(books, f);
    let Some(context) = &told.context else {
        found.add("DURABLE_ACK", format!("{when}: {who} was told to a user and is not there"));
        return;
    };
    let jobs = jobs(books, f);
    // Of several executions one is stored: TASK_ONCE speaks of that.
    let mut ran: BTreeMap<&str, usize> = BTreeMap::new();
    for i in books.books(&books.clients[f.client].id) {
        let all = &books.clients[i].executions;
        all.iter().filter(|(s, _)| f.has(s)).for_each(|(s, e)| {
            *ran.entry(s).or_default() += e.len();
        });
    }
    let runs: usize = ran.values().sum();
    let once = ran.values().all(|n| *n <= 1);
    let mut sets: BTreeMap<&str, Vec<Sent>> = BTreeMap::new();
    let mut logs: Vec<Sent> = Vec::new();
    for j in &jobs {
        match &j.content {
            Content::Rows { set, lines } => {
                sets.entry(set)
                    .or_default()
                    .extend(lines.iter().map(|l| Sent::of(l, j, once, when)));
            }
            Content::Logs(lines) => logs.extend(lines.iter().map(|l| Sent::of(l, j, once, when))),
            _ => {}
        }
    }
    if runs == 0 && context.state() == State::Error && f.cancelled.is_none() {
        // Only where the client cannot tell whether it has it.
        let b = &books.clients[f.client];
        let excuse = told.processes > 1 || !b.can_answer || books.books(&b.id).count() > 1;
        found.check(excuse, "TASK_ONCE", || {
            format!("{when}: {who} never ran and ended in an error: {}", context.status)
        });
    }
    let complete = context.state() == State::Finished;
    if let Some(last) = f.runs.last().filter(|r| complete && f.asked.last() <= Some(&r.at)) {
        found.check(ran.contains_key(last.session.as_str()), "DURABLE_ACK", || {
            format!("{when}: {who} is finished, and its run {} never ran", last.session)
        });
    }
    let mut stored = 0;
    for (set, sent) in &sets {
        let have = told.results.get(*set).map(Vec::as_slice).unwrap_or_default();
        stored += have.len() as u64;
        sequence(&format!("{when}: rows of {who}"), sent, have, (complete && once, true), found);
    }
    sequence(&format!("{when}: log of {who}"), &logs, &told.logs, (false, false), found);
    if complete {
        found.check(stored == context.total_collected_rows, "EXACTLY_ONCE", || {
            format!("{when}: {who} counts {} rows and has {stored}", context.total_collected_rows)
        });
    }
    if f.cancelled.is_some() && !books.ended_before_cancel(f) {
        found.check(context.state() == State::Error, "FLOW_MONOTONIC", || {
            format!("{when}: {who} was cancelled and is now {:?}", context.state())
        });
    }
    uploads(books, f, told, &jobs, when, found);
}

/// A line a client sent.
#[derive(Clone, Debug)]
struct Sent<'a> {
    line: &'a str,
    /// The server said that it has it.
    promised: bool,
    /// By 200, not by a request to enrol.
    answered: bool,
    /// Which frontend said so.
    via: &'a str,
    /// Whose line it is.
    session: &'a str,
}

impl<'a> Sent<'a> {
    fn of(line: &'a str, job: &'a Job, promised: bool, when: &When<'_>) -> Self {
        // The master shows what a minion took a moment later.
        let promised = promised && job.fate.promised_before(now().saturating_sub(when.shown));
        let answered = matches!(job.fate, Fate::Acknowledged(_));
        Self { line, promised, answered, via: &job.via, session: &job.session }
    }
}

/// `have` is to be `sent` in order, less what was never promised. Rows have
/// places and are in order whatever way they took; the rest is in order for
/// each frontend it came through.
fn sequence(
    what: &str,
    sent: &[Sent<'_>],
    have: &[String],
    (complete, strict): (bool, bool),
    found: &mut Found,
) {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, s) in sent.iter().enumerate() {
        places.entry(s.line).or_insert(i);
    }
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for line in have {
        let Some(at) = places.get(line.as_str()) else {
            found.add("EXACTLY_ONCE", format!("{what}: {line} was never sent"));
            return;
        };
        if !seen.insert(*at) {
            found.add("EXACTLY_ONCE", format!("{what}: {line} is there twice"));
            return;
        }
        // Whether an unanswered one went the same way is not known.
        // A line begins with who made it.
        let whose = line.split(',').next().unwrap_or_default();
        // Runs of one flow lie between each other, each in its order.
        let run = sent[*at].session;
        let lane = if strict { ("", "", run) } else { (sent[*at].via, whose, run) };
        // What came before its client was enrolled is taken up later.
        let known = strict || (sent[*at].promised && sent[*at].answered);
        if known && last.insert(lane, *at).is_some_and(|l| l > *at) {
            found.add("EXACTLY_ONCE", format!("{what}: {line} is out of order"));
            return;
        }
    }
    let missing = sent.iter().enumerate().filter(|(i, s)| s.promised && !seen.contains(i));
    let missing: Vec<&str> = missing.map(|(_, s)| s.line).collect();
    if let Some(first) = missing.first() {
        let n = missing.len();
        let story = format!("{what}: {n} acknowledged and not there, the first is {first}");
        found.add("DURABLE_ACK", story);
    } else if complete && seen.len() < sent.len() {
        let n = sent.len() - seen.len();
        found.add("FLOW_MONOTONIC", format!("{what}: finished, and {n} are missing"));
    }
}

fn uploads(
    books: &Ledger,
    f: &ToldFlow,
    told: &Told,
    jobs: &[&Job],
    when: &When<'_>,
    found: &mut Found,
) {
    let who = whose(books, f);
    let placed = now().saturating_sub(when.shown);
    for ((session, number), have) in &told.uploads {
        // Of one execution: TASK_ONCE speaks of the others.
        let chunks: Vec<&&Job> = jobs
            .iter()
            .filter(|j| matches!(&j.content, Content::Chunk { number: n, .. } if n == number))
            .filter(|j| j.execution == 0 && j.session == *session)
            .collect();
        let ended = chunks.iter().any(|j| matches!(j.content, Content::Chunk { eof: true, .. }));
        let promised = ended && chunks.iter().all(|j| j.fate.promised_before(placed));
        let id = books.clients[f.client].id.as_str();
        let expected = books.books(id).find_map(|i| {
            let size = books.sizes.get(&(i, session.clone(), 0, *number))?;
            Some(upload_bytes(i, session, 0, *number, *size))
        });
        match (have, expected) {
            (None, _) if promised => found.add(
                "DURABLE_ACK",
                format!("{when}: upload {number} of {who} was acknowledged whole and is not there"),
            ),
            (Some(data), Some(expected)) if data[..] != expected[..] => found.add(
                "EXACTLY_ONCE",
                format!(
                    "{when}: upload {number} of {who} has {} bytes of {}, differing from byte {}",
                    data.len(),
                    expected.len(),
                    data.iter().zip(&expected[..]).take_while(|(a, b)| a == b).count()
                ),
            ),
            _ => {}
        }
    }
}

async fn events(c: &Handle, books: &Ledger, when: &When<'_>, found: &mut Found) {
    let mut wanted: BTreeMap<(String, String), Vec<Sent>> = BTreeMap::new();
    for b in &books.clients {
        for j in &b.jobs {
            if let Content::Events { artifact, lines } = &j.content {
                wanted
                    .entry((b.id.clone(), artifact.clone()))
                    .or_default()
                    .extend(lines.iter().map(|l| Sent::of(l, j, true, when)));
            }
        }
    }
    for ((client, artifact), sent) in wanted {
        let (id, hidden) = (client.clone(), artifact.clone());
        let rows = c.master().call(move |server| async move {
            let name = server.reveal(&hidden);
            stored_events(&server, &id, &name).await
        });
        let what = format!("{when}: events of {client}");
        match rows.await {
            Err(_) => found.add("NO_HANG", format!("{what}: the master does not answer")),
            Ok(Err(e)) => found.add("DURABLE_ACK", format!("{what}: {e}")),
            Ok(Ok(rows)) => {
                // What came after the books were read is not known to them.
                let known: BTreeSet<&str> = sent.iter().map(|s| s.line).collect();
                let rows: Vec<String> =
                    rows.into_iter().filter(|r| known.contains(r.as_str())).collect();
                sequence(&what, &sent, &rows, (false, false), found);
            }
        }
    }
}

/// Rows of an event artifact as a reader finds them: day files, then journals;
/// less the members that the server adds.
async fn stored_events(
    server: &Server,
    client: &str,
    artifact: &str,
) -> Result<Vec<String>, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let org = server.root();
    let mut out = Vec::new();
    let any = EventKey {
        client: client.to_owned(),
        artifact: artifact.to_owned(),
        day: String::new(),
        logs: false,
    };
    let EventView { files, live } = server.events(&org, &any).await.map_err(|e| text(&e))?;
    let mut rows = files.all();
    while let Some(row) = rows.next().await.map_err(|e| text(&e))? {
        out.push(plain(&row.shown())?);
    }
    for (key, part) in live {
        let blob = server.event_rows(&key, &part).await.map_err(|e| text(&e))?;
        for line in lines(&blob) {
            out.push(plain(line)?);
        }
    }
    Ok(out)
}

/// The row as the client wrote it: everything it made is there in its order.
fn plain(row: &[u8]) -> Result<String, String> {
    let v: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(row).map_err(|e| format!("row {row:?}: {e}"))?;
    let mut own = serde_json::Map::new();
    for k in ["c", "p", "t", "n", "i"] {
        if let Some(x) = v.get(k) {
            own.insert(k.to_owned(), x.clone());
        }
    }
    Ok(serde_json::Value::Object(own).to_string())
}

/// FACTS_CONVERGE: what users were told of clients is so.
async fn facts(c: &Handle, books: &Ledger, when: &When<'_>, found: &mut Found) {
    let mut last: BTreeMap<(usize, &str), bool> = BTreeMap::new();
    for (_, fact) in &books.facts {
        match fact {
            Fact::Label(i, l) => last.insert((*i, l), true),
            Fact::NoLabel(i, l) => last.insert((*i, l), false),
        };
    }
    for ((client, label), wanted) in last {
        let id = books.clients[client].id.clone();
        let labels = c.master().call(move |server| async move {
            let org = server.root();
            let state = org.state();
            state.clients.get(&id).map(|c| c.info.labels.clone()).unwrap_or_default()
        });
        let Ok(labels) = labels.await else { continue };
        let has = labels.iter().any(|l| l == label);
        found.check(has == wanted, "FACTS_CONVERGE", || {
            format!("{when}: client {client} has labels {labels:?}, told of {label}: {wanted}")
        });
    }
}
