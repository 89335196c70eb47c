//! The chain of renames itself: one of all who try has it, and everybody else
//! knows that they have not.

use sim::explore::{self, Limits, Stage};
use velociraptor::services::fleet::chain::{Chain, Link};
use velociraptor::store::journal::ProcessId;

use crate::FLEET;

fn chain(stage: &Stage, process: usize) -> Chain {
    let me = ProcessId::new(format!("n{process}"), "00000001-aa");
    Chain::new(&stage.env(process), FLEET, format!("{FLEET}/master"), &me)
}

/// Names of the chain at the server.
fn links(stage: &Stage) -> Vec<Link> {
    let names = stage.names();
    let names = names.iter().filter_map(|n| n.strip_prefix("/s/fleet/master/"));
    names.filter_map(Link::parse).collect()
}

/// The state of the chain before the race: held by a process that is not in it.
async fn begun(stage: &Stage) -> Link {
    let old = ProcessId::new("old", "00000009-ff");
    let first = Link::default().taken_by(&old, 1);
    let c = Chain::new(&stage.god(), FLEET, format!("{FLEET}/master"), &old);
    assert!(c.begin(&first).await.unwrap());
    first
}

/// Each of `n` processes tries once to take `from`; exactly one may believe that
/// it has it, and the server agrees. A process that was told of a failure believes
/// nothing and tries again.
async fn race(stage: Stage, n: usize, begin: bool) -> Result<(), String> {
    let from = if begin { Link::default() } else { begun(&stage).await };
    let tasks: Vec<_> = (0..n)
        .map(|p| {
            let (c, from) = (chain(&stage, p), from.clone());
            tokio::spawn(async move {
                let to = from.taken_by(c.me(), 1);
                loop {
                    let done = if begin { c.begin(&to).await } else { c.shift(&from, &to).await };
                    match done {
                        Ok(mine) => return mine.then_some(to),
                        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            })
        })
        .collect();
    let mut winners = Vec::new();
    for t in tasks {
        winners.extend(t.await.map_err(|e| e.to_string())?);
    }
    let there = links(&stage);
    if winners.len() != 1 || there != winners {
        return Err(format!("{winners:?} believe to have it, there is {there:?}"));
    }
    Ok(())
}

fn tried(limits: Limits, n: usize, begin: bool) -> usize {
    match explore::all(limits, |stage| race(stage, n, begin)) {
        Ok(runs) => {
            println!("{runs} orders");
            runs
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn two_take_it_and_one_has_it() {
    let limits = Limits { depth: 16, lost: 1, ..Limits::default() };
    let runs = tried(limits, 2, false);
    assert!(runs > 50, "{runs} orders");
}

#[test]
fn three_take_it_with_answers_lost_or_late() {
    let limits = Limits { depth: 5, lost: 2, doubt: true, ..Limits::default() };
    let runs = tried(limits, 3, false);
    assert!(runs > 1000, "{runs} orders");
    if let Err(e) = explore::some(limits, 0..3000, |stage| race(stage, 3, false)) {
        panic!("{e}");
    }
}

#[test]
fn two_begin_it_and_one_has_it() {
    let limits = Limits { depth: 10, lost: 1, ..Limits::default() };
    let runs = tried(limits, 2, true);
    assert!(runs > 1000, "{runs} orders");
    let limits = Limits { lost: 3, doubt: true, ..Limits::default() };
    if let Err(e) = explore::some(limits, 0..3000, |stage| race(stage, 3, true)) {
        panic!("{e}");
    }
}

/// The holder goes on while another takes it over: whoever holds it at the end
/// knows it, and the other knows that it does not.
async fn takeover(stage: Stage) -> Result<(), String> {
    let first = begun(&stage).await;
    let old = Chain::new(
        &stage.env(0),
        FLEET,
        format!("{FLEET}/master"),
        &ProcessId::new("old", "00000009-ff"),
    );
    let holder = tokio::spawn(async move {
        let mut at = first;
        for _ in 0..2 {
            let next = at.next();
            match old.shift(&at, &next).await {
                Ok(true) => at = next,
                Ok(false) => return None,
                Err(e) => panic!("{e}"),
            }
        }
        Some(at)
    });
    let new = chain(&stage, 1);
    let taker = tokio::spawn(async move {
        loop {
            let Some(top) = new.look().await.unwrap().pop() else { continue };
            if top.holder.as_ref() == Some(new.me()) {
                return top;
            }
            let to = top.taken_by(new.me(), 0);
            if new.shift(&top, &to).await.unwrap() {
                return to;
            }
        }
    });
    let held = holder.await.map_err(|e| e.to_string())?;
    let taken = taker.await.map_err(|e| e.to_string())?;
    let there = links(&stage);
    if there != std::slice::from_ref(&taken) {
        return Err(format!("taken as {taken}, but there is {there:?}"));
    }
    match held {
        Some(at) if taken.beat != 0 || at.term >= taken.term => Err(format!("{at} and {taken}")),
        _ => Ok(()),
    }
}

#[test]
fn a_holder_that_is_replaced_notices() {
    let limits = Limits { depth: 10, lost: 1, ..Limits::default() };
    match explore::all(limits, takeover) {
        Ok(runs) => assert!(runs > 500, "{runs} orders"),
        Err(e) => panic!("{e}"),
    }
}
