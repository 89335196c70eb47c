//! The role as a whole, under orders chosen at random, with time passing at bad
//! moments: two never believe to have it, and somebody gets it.

use std::time::Duration;

use sim::explore::{self, Limits, Stage};
use velociraptor::services::fleet::term::TermError;

use crate::{Masters, acquire};

/// Process `p` starts after `p` seconds; odd ones insist.
async fn roles(stage: Stage, n: usize) -> Result<(), String> {
    let masters = Masters::default();
    let starts: Vec<_> = (0..n)
        .map(|p| {
            let (env, masters) = (stage.env(p), masters.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(p as u64)).await;
                let name = format!("n{p}");
                let got = acquire(&env, &name, p % 2 == 1).await;
                if let Ok(term) = &got {
                    masters.add(&name, term);
                }
                masters.check()?;
                Ok::<_, String>(got)
            })
        })
        .collect();
    let watching = masters.clone();
    let watching = tokio::spawn(async move { watching.watch(Duration::from_secs(60)).await });
    let (mut got, mut held) = (0, 0);
    for s in starts {
        match s.await.map_err(|e| e.to_string())?? {
            Ok(_) => got += 1,
            Err(TermError::Held(_) | TermError::Lost(_)) => held += 1,
            // A call was told to have failed: such a start ends.
            Err(TermError::Store(_)) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    watching.await.map_err(|e| e.to_string())??;
    if got == 0 && held > 0 {
        return Err("somebody is said to be master, and nobody is".into());
    }
    Ok(())
}

#[test]
fn two_never_believe_to_be_master() {
    let limits = Limits { lost: 4, pauses: (Duration::from_millis(700), 12), ..Limits::default() };
    if let Err(e) = explore::some(limits, 0..400, |stage| roles(stage, 3)) {
        panic!("{e}");
    }
    let limits = Limits { doubt: true, ..limits };
    if let Err(e) = explore::some(limits, 0..400, |stage| roles(stage, 3)) {
        panic!("{e}");
    }
}

/// A master dies without a word: the next start waits and takes over, and the
/// dead one's last rename may still land.
async fn death(stage: Stage) -> Result<(), String> {
    let first = acquire(&stage.env(0), "n0", false).await.map_err(|e| e.to_string())?;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    stage.kill(0);
    let began = tokio::time::Instant::now();
    let second = acquire(&stage.env(1), "n1", false).await.map_err(|e| e.to_string())?;
    if first.may_decide() || !second.may_decide() || second.number() != 2 {
        return Err("the first one is still master".into());
    }
    match began.elapsed().as_secs() {
        8..=20 => Ok(()),
        s => Err(format!("took over after {s} s")),
    }
}

#[test]
fn a_dead_master_is_replaced_in_time() {
    let limits = Limits { depth: 6, ..Limits::default() };
    if let Err(e) = explore::all(limits, death) {
        panic!("{e}");
    }
}
