//! Which processes of a deployment may live, for one that needs them all to have
//! ended.
//!
//! Told by the chain that every process holds for its node: at once on the same
//! machine, otherwise by watching whether it moves.

use futures::future::join_all;
use tokio::time::Instant;

use super::chain::{Chain, Link};
use super::hold::Holder;
use super::running::{self, Running};
use super::watch::{Rules, Verdict, Watch};
use crate::env::Env;
use crate::services::beat;
use crate::store::StoreError;
use crate::store::journal::ProcessId;

/// Processes that live, as far as `me` can tell; those of its own node are not
/// looked at. Takes as long as `rules` want to be sure.
pub async fn living(
    env: &Env,
    fleet: &str,
    me: &ProcessId,
    rules: Rules,
) -> Result<Vec<Holder>, StoreError> {
    let here = Running::here(env).await;
    let nodes = env.fs.list(fleet).await?.into_iter();
    let watched = nodes
        .filter(|n| n.is_dir && n.name != me.node)
        .map(|n| (beat::dir(fleet, &n.name), &here))
        .map(|(dir, here)| watch(env, fleet, dir, me, here, rules));
    let seen: Result<Vec<Option<Holder>>, StoreError> =
        join_all(watched).await.into_iter().collect();
    Ok(seen?.into_iter().flatten().collect())
}

/// Who holds the chain in `dir` and lives.
async fn watch(
    env: &Env,
    fleet: &str,
    dir: String,
    me: &ProcessId,
    here: &Running,
    rules: Rules,
) -> Result<Option<Holder>, StoreError> {
    // Looking at a chain would make its directory.
    if env.fs.list(&dir).await?.is_empty() {
        return Ok(None);
    }
    let chain = Chain::new(env, fleet, dir, me);
    let (mut watch, start) = (Watch::new(rules), Instant::now());
    loop {
        let began = start.elapsed();
        let top = chain.look().await?.pop();
        let held = top.as_ref().and_then(|l| Some((l, l.holder.as_ref()?)));
        if let Some((link, process)) = held {
            let running = running::of(env, fleet, process).await?;
            if let Some(r) = &running
                && r.has_ended(env, here).await
            {
                return Ok(None);
            }
            match watch.see(link, began, start.elapsed()) {
                Verdict::Gone => return Ok(None),
                Verdict::Wait => {}
                Verdict::Alive => {
                    let (process, term) = (process.clone(), link.term);
                    return Ok(Some(Holder { process, running, term }));
                }
            }
        } else if top.is_some() || start.elapsed() > rules.stale {
            // Given up in good order; or begun and never held.
            return Ok(None);
        }
        tokio::time::sleep(rules.poll()).await;
    }
}

/// Whether a process that is named in a chain lives, without a change to the store:
/// `None` if only watching could tell.
pub async fn lives(env: &Env, fleet: &str, link: &Link) -> Result<Option<bool>, StoreError> {
    let Some(process) = &link.holder else { return Ok(Some(false)) };
    let Some(running) = running::of(env, fleet, process).await? else { return Ok(None) };
    let here = Running::here(env).await;
    if running.has_ended(env, &here).await {
        return Ok(Some(false));
    }
    Ok(running.is_here(&here).then_some(true))
}
