//! A datastore whose servers are stopped, put into stock files by a process that
//! serves nobody.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::{Displaced, frontend, options};
use crate::config::Loaded;
use crate::env::Env;
use crate::services::fleet::hold::Holder;
use crate::services::fleet::living::living;
use crate::services::fleet::processes::Processes;
use crate::services::inspect;
use crate::services::server::fleet_dir;
use crate::services::settle_everything::{Settled, Told};
use crate::services::{Options, Server, ServiceError};
use crate::store::StoreRoot;
use crate::store::journal::ProcessId;

/// The node this process is: a name of its own, so that it takes nobody's.
pub const NODE: &str = "settle";

/// How long a master whose role was taken may need to end.
const ENDING: Duration = Duration::from_secs(60);

/// The directories of a configuration.
pub fn root(loaded: &Loaded) -> anyhow::Result<StoreRoot> {
    let store = &loaded.config.datastore;
    anyhow::ensure!(!store.location().is_empty(), "Datastore.location is not set");
    Ok(StoreRoot::new(store.location(), store.filestore_directory()))
}

/// Puts everything into stock files; `None`: everything is. A process that lives is
/// refused by name, unless it is a master and `takeover` is given: that one ends then.
pub async fn settle(
    env: &Env,
    loaded: &Loaded,
    definitions: &[String],
    takeover: bool,
    told: Told<'_>,
) -> anyhow::Result<Option<Settled>> {
    let limit = Duration::from_millis(loaded.settings.limits.store_timeout_ms);
    let (env, _) = crate::store::ops::guard(env, limit);
    let root = root(loaded)?;
    let fleet = fleet_dir(&root);
    let mut options = Options { node: NODE.into(), ..options(loaded, definitions) };
    options.fleet.offline = true;
    options.standing.term.takeover = takeover;
    // Nothing is received for which room would have to be kept.
    options.journal.reserve_bytes = 0;
    let rules = options.standing.term.rules();
    // A name under which nobody else looks.
    let me = ProcessId::new(NODE, format!("look-{:016x}", env.entropy.next_u64()));
    let mut alive = living(&env, &fleet, &me, rules).await?;
    if takeover && let Some(master) = inspect::master(&env, &fleet).await? {
        alive.retain(|h| h.process != master);
    }
    refuse(&alive)?;
    if inspect::is_settled(&env, &root).await? {
        return Ok(None);
    }
    told("journals are read", 0, 0);
    let server = match Server::open(env.clone(), root, options).await {
        Err(ServiceError::NotMaster(why)) => return Err(Displaced(why).into()),
        opened => opened.with_context(|| format!("datastore {}", fleet))?,
    };
    let done = work(&env, loaded, &server, &fleet, rules, told).await;
    server.standing.release().await;
    done.map(Some)
}

async fn work(
    env: &Env,
    loaded: &Loaded,
    server: &Arc<Server>,
    fleet: &str,
    rules: crate::services::fleet::watch::Rules,
    told: Told<'_>,
) -> anyhow::Result<Settled> {
    // A master that was deposed ends by itself; what it took until then is in its journal.
    let begun = Instant::now();
    loop {
        let alive = living(env, fleet, &server.process(), rules).await?;
        if alive.is_empty() {
            break;
        }
        if begun.elapsed() > ENDING {
            refuse(&alive)?;
        }
        told("a deposed master ends", 0, 0);
        tokio::time::sleep(rules.beat).await;
    }
    Processes::new(server.clone()).look().await;
    let frontend = frontend(env, loaded, server.clone(), true)?;
    frontend.take_over().await;
    frontend.hand_back();
    server.settle_everything(told).await.context("what was settled stays; run it again")
}

fn refuse(alive: &[Holder]) -> Result<(), Displaced> {
    if alive.is_empty() {
        return Ok(());
    }
    let who: Vec<String> = alive.iter().map(Holder::describe).collect();
    Err(Displaced(format!("servers work on this datastore: {}. Stop them first", who.join("; "))))
}

/// What the datastore holds that is not in stock files.
pub async fn status(env: &Env, loaded: &Loaded) -> anyhow::Result<inspect::Report> {
    let limit = Duration::from_millis(loaded.settings.limits.store_timeout_ms);
    let (env, _) = crate::store::ops::guard(env, limit);
    let names = crate::crypto::names::NameCipher::new(&loaded.config.obfuscation_nonce());
    let beat = options(loaded, &[]).standing.term.beat;
    // A process that missed one beat lives all the same.
    let watch = beat * 3;
    Ok(inspect::inspect(&env, &root(loaded)?, &names, watch).await?)
}
