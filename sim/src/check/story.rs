//! What led to a violation, told from the books: the troubles of the run, and
//! what happened to the flows that are named.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Violation;
use crate::ledger::{ClientBook, Content, Fate, Ledger, Task};

/// Most lines told.
const LINES: usize = 60;

/// Troubles are told as long before and after what happened to the flows.
const AROUND: Duration = Duration::from_secs(30);

/// A POST that takes so long is told too.
const LONG: Duration = Duration::from_secs(1);

/// Names of flows in a text.
fn flows(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .filter(|w| w.len() == 15 && w.starts_with("F."))
}

/// The story in the order of time.
pub fn tell(l: &Ledger, violations: &[Violation]) -> Vec<String> {
    let named: BTreeSet<&str> = violations.iter().take(4).flat_map(|v| flows(&v.story)).collect();
    let named = |session: &str| named.contains(session.split('/').next().unwrap_or_default());
    let mut all: Vec<(Duration, String)> = Vec::new();
    for f in l.flows.iter().filter(|f| named(&f.flow)) {
        all.push((f.at, format!("{}: the user is told that it is scheduled", f.flow)));
        for r in &f.runs {
            all.push((r.at, format!("{}: the user is told that it is scheduled", r.session)));
        }
        if f.deleting {
            let told = if f.deleted { "" } else { ", and nobody is told so" };
            all.push((f.at, format!("{} will be deleted{told}", f.flow)));
        }
        if let Some(at) = f.cancelled {
            all.push((at, format!("{}: the user is told that it is cancelled", f.flow)));
        }
    }
    for (i, b) in l.clients.iter().enumerate() {
        let about = b.received.iter().any(|r| named(&r.session));
        for p in (2..=b.processes).filter(|_| about) {
            if let Some(x) = b.exchanges.iter().find(|x| x.process == p) {
                all.push((x.from, format!("client {i} has ended and runs again, process {p}")));
            }
        }
        for r in b.received.iter().filter(|r| named(&r.session)) {
            let what = match r.what {
                Task::Flow => "the task",
                Task::Cancel => "the cancel",
                Task::Question => "a question",
                Task::Table(_) => "a table",
            };
            let (s, p, via) = (&r.session, r.process, &r.via);
            all.push((r.at, format!("{s}: {what} reaches client {i}, process {p}, from {via}")));
        }
        for (s, e) in b.executions.iter().filter(|(s, _)| named(s)) {
            for (over, e) in e.iter().filter_map(|e| Some((e.over?, e))) {
                let how = if e.cancelled { "cancelled" } else { "done" };
                all.push((over, format!("{s}: {how} on client {i}")));
            }
        }
        for j in b.jobs.iter().filter(|j| named(&j.session)) {
            let Content::Stats { rows, complete } = j.content else { continue };
            let Fate::Acknowledged(at) = j.fate else { continue };
            let unknown = if j.execution == u32::MAX { " (it does not know the flow)" } else { "" };
            let end = if complete { ", the last" } else { "" };
            let text =
                format!("{}: a report of {rows} rows{end}{unknown} goes to {}", j.session, j.via);
            all.push((at, text));
        }
    }
    for (key, seen) in l.seen.iter().filter(|(k, _)| named(&k.1)) {
        for s in seen {
            let text = format!(
                "{}: users see {} {:?}, {} rows counted, {} readable",
                key.1, s.state, s.status, s.rows, s.readable
            );
            all.push((s.at, text));
        }
    }
    let times = || all.iter().map(|(at, _)| *at);
    let from = times().min().unwrap_or_default().saturating_sub(AROUND);
    let to = times().max().map_or(Duration::MAX, |at| at + AROUND);
    let mut around = Vec::new();
    for t in &l.troubles {
        around.push((t.from, format!("trouble begins: {}", t.what)));
        if let Some(to) = t.to {
            around.push((to, format!("trouble and its aftermath over: {}", t.what)));
        }
    }
    // What its client said meanwhile, and how long it waited for answers.
    let about = |b: &ClientBook| b.received.iter().any(|r| named(&r.session));
    for (i, b) in l.clients.iter().enumerate().filter(|(_, b)| about(b)) {
        for x in b.exchanges.iter().filter(|x| (from + AROUND..=to).contains(&x.from)) {
            let short = x.to.is_some_and(|to| to < x.from + LONG);
            if !x.reader && x.good && short {
                continue;
            }
            let what = if x.reader { "poll" } else { "POST" };
            let how = if x.good { "" } else { ", refused or unanswered" };
            let text = format!("client {i} begins a {what}, over at {:?}{how}", x.to);
            around.push((x.from, text));
        }
    }
    all.extend(around.into_iter().filter(|(at, _)| (from..=to).contains(at)));
    all.sort();
    let skip = all.len().saturating_sub(LINES);
    all.into_iter().skip(skip).map(|(t, text)| format!("{t:>12.3?} {text}")).collect()
}
