//! What a run met: proof that the dangerous moments were there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use velociraptor_proto::journal::record::Kind;

use super::grants::records;
use crate::ledger::{ClientBook, Content, Fate, Ledger, Part, Received, Task, ToldFlow};

/// What a hundred seeds of every scenario must have met, and how often.
pub const REQUIRED: &[(&str, u64)] = &[
    ("fail-over in the middle of an upload", 50),
    ("crash between sync and acknowledgement", 50),
    ("resume with a stale epoch", 50),
    ("ENOSPC", 20),
    ("ESTALE", 20),
    ("replay", 20),
    ("clone of an id", 20),
    ("task after a lost wake", 20),
    ("message in two records", 20),
    ("cancel", 20),
    ("question about a flow", 20),
    ("client restart", 20),
    ("leap", 20),
    ("link cut", 20),
    ("store nearly full", 20),
    ("store stalled", 20),
    ("store off", 20),
    ("machine off", 20),
    ("process killed", 20),
    ("machine goes on", 20),
];

/// What `seeds` seeds have met too seldom: what, how often, how often it should.
pub fn short(
    coverage: &BTreeMap<String, u64>,
    seeds: u64,
) -> impl Iterator<Item = (&'static str, u64, u64)> {
    let met = |what: &str| coverage.get(what).copied().unwrap_or(0);
    REQUIRED.iter().filter_map(move |(what, least)| {
        let (n, least) = (met(what), (least * seeds).div_ceil(100));
        (n < least).then_some((*what, n, least))
    })
}

/// Adds what the books tell.
pub fn count(l: &Ledger, coverage: &mut BTreeMap<&'static str, u64>) {
    let mut add = |what: &'static str, n: usize| *coverage.entry(what).or_default() += n as u64;
    add("flow", l.flows.len());
    for b in &l.clients {
        add("job", b.jobs.len());
        add("job acknowledged", b.jobs.iter().filter(|j| j.fate.promised()).count());
        add("POST", b.exchanges.len());
        add("POST failed", b.exchanges.iter().filter(|x| x.to.is_some() && !x.good).count());
        add("question about a flow", asked(b));
        add("clone of an id", usize::from(b.cloned));
    }
    add("fail-over in the middle of an upload", uploads(l));
    let (crashes, twice) = commits(l);
    add("crash between sync and acknowledgement", crashes);
    add("message in two records", twice);
    add("task after a lost wake", late(l));
}

fn asked(b: &ClientBook) -> usize {
    b.received.iter().filter(|r| r.what == Task::Question).count()
}

/// Uploads whose pieces were taken by several frontends, or by several starts
/// of one.
fn uploads(l: &Ledger) -> usize {
    type Pieces<'a> = Vec<(Duration, &'a str)>;
    let mut pieces: BTreeMap<(usize, &str, u32, i64), Pieces<'_>> = BTreeMap::new();
    for (i, b) in l.clients.iter().enumerate() {
        for j in &b.jobs {
            if let (Content::Chunk { number, .. }, Fate::Acknowledged(at)) = (&j.content, j.fate) {
                let key = (i, j.session.as_str(), j.execution, *number);
                pieces.entry(key).or_default().push((at, j.via.as_str()));
            }
        }
    }
    let broken = |p: &&Pieces<'_>| {
        let frontends: BTreeSet<&str> = p.iter().map(|x| x.1).collect();
        let (first, last) = (p.first().map(|x| x.0), p.last().map(|x| x.0));
        frontends.len() > 1
            || first.zip(last).is_some_and(|(a, b)| a < b && l.broken(Part::Host, a, b))
    };
    pieces.values().filter(broken).count()
}

/// Jobs that were in a journal before a host went away and acknowledged only
/// after it; and jobs that were written more than once.
fn commits(l: &Ledger) -> (usize, usize) {
    let mut written: BTreeMap<Vec<u8>, Vec<Duration>> = BTreeMap::new();
    records(l, |_, at, f| {
        if let Some(Kind::Post(p)) = &f.record.kind {
            for j in &p.jobs {
                written.entry(j.hash.clone()).or_default().push(at);
            }
        }
    });
    let twice = written.values().filter(|w| w.len() > 1).count();
    let down: Vec<Duration> =
        l.troubles.iter().filter(|t| t.part == Part::Host).map(|t| t.from).collect();
    let mut crashes = 0;
    for j in l.clients.iter().flat_map(|b| &b.jobs) {
        let Fate::Acknowledged(at) = j.fate else { continue };
        let first = written.get(j.hash.as_slice()).and_then(|w| w.iter().min());
        let between = |t: &Duration| first.is_some_and(|f| f < t) && *t < at;
        crashes += usize::from(down.iter().any(between));
    }
    (crashes, twice)
}

/// Tasks that reached their client long after they were told.
fn late(l: &Ledger) -> usize {
    let late = |f: &&ToldFlow| {
        let of = |r: &&Received| r.session == f.flow && r.what == Task::Flow;
        let got = l.clients[f.client].received.iter().find(of);
        got.is_some_and(|r| r.at > f.at + Duration::from_secs(1))
    };
    l.flows.iter().filter(late).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_told() {
        let all = |n: u64| REQUIRED.iter().map(|r| (r.0.to_owned(), r.1 * n / 100)).collect();
        assert_eq!(short(&all(100), 100).count(), 0);
        let half: BTreeMap<String, u64> = all(50);
        assert_eq!(short(&half, 50).count(), 0);
        assert_eq!(short(&half, 100).count(), REQUIRED.len());
        let mut one = all(100);
        one.insert("replay".into(), 19);
        assert_eq!(short(&one, 100).collect::<Vec<_>>(), [("replay", 19, 20)]);
    }
}
