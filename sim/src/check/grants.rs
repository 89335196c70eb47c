//! TASK_ONCE, the other half: a task goes out only where and to whom a durable
//! record lets it. The records are those that were written to journals; whether
//! each became durable is DURABLE_ACK's matter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use velociraptor::store::journal::{Found, HEADER, Segment, take_frame};
use velociraptor_proto::journal::decision::Kind as DecisionKind;
use velociraptor_proto::journal::record::Kind;

use super::Found as Violations;
use crate::cluster::node_name;
use crate::ledger::{Ledger, Task, Written};

/// Calls `see` with every record that was written to a journal: its path, when,
/// and what it is.
pub fn records(l: &Ledger, mut see: impl FnMut(&str, Duration, &Found)) {
    for (path, writes) in &l.journals {
        let segment = Arc::new(Segment::of_path(path.as_str()));
        for w in writes {
            let (mut rest, mut at) = body(w);
            while let Some(Ok(f)) = take_frame(&rest, at, &segment) {
                see(path, w.at, &f);
                let len = (f.end - f.start) as usize;
                if len == 0 || len > rest.len() {
                    break;
                }
                rest = rest.slice(len..);
                at = f.end;
            }
        }
    }
}

/// Frames of one write, without the file's header.
fn body(w: &Written) -> (Bytes, u64) {
    if w.offset == 0 && w.data.starts_with(&HEADER) {
        let mut data = BytesMut::from(&w.data[..]);
        return (data.split_off(HEADER.len()).freeze(), HEADER.len() as u64);
    }
    (w.data.clone(), w.offset)
}

/// To whom, and through which node, a task may go, and since when.
type Right = (Vec<u8>, String, Duration);

/// Everything that was sent, against what was granted.
pub fn check(l: &Ledger, found: &mut Violations) {
    let mut rights: BTreeMap<u64, Vec<Right>> = BTreeMap::new();
    records(l, |path, at, f| {
        let Some(Kind::Decision(d)) = &f.record.kind else { return };
        let writer = path.split('/').rev().nth(2).unwrap_or_default();
        let node = |named: &str| if named.is_empty() { writer } else { named }.to_owned();
        match &d.kind {
            Some(DecisionKind::Schedule(s)) if s.granted => {
                for t in &s.tasks {
                    let right = (s.cipher_hash.clone(), node(&s.node), at);
                    rights.entry(t.task_id).or_default().push(right);
                }
            }
            Some(DecisionKind::Grant(g) | DecisionKind::Claim(g)) => {
                for id in &g.task_id {
                    let right = (g.cipher_hash.clone(), node(&g.node), at);
                    rights.entry(*id).or_default().push(right);
                }
            }
            _ => {}
        }
    });
    for (i, b) in l.clients.iter().enumerate() {
        for r in b.received.iter().filter(|r| r.what == Task::Flow && r.task != 0) {
            let host = r.via.split("//").nth(1).and_then(|h| h.split(':').next());
            let node = node_name(host.unwrap_or_default());
            let given = rights.get(&r.task).map(Vec::as_slice).unwrap_or_default();
            let right =
                |(cipher, to, since): &Right| *cipher == r.cipher && *to == node && *since <= r.at;
            found.check(given.iter().any(right), "TASK_ONCE", || {
                let name = |(c, n, at): &Right| {
                    let own = if *c == r.cipher { "to it" } else { "to another process" };
                    format!("{own} through {n} at {at:?}")
                };
                let names: Vec<String> = given.iter().map(name).collect();
                format!(
                    "{} went to client {i}, process {}, through {node} at {:?}; granted: {names:?}",
                    r.session, r.process, r.at
                )
            });
        }
    }
}
