//! chain(): several queries one after another, or all at once.

use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::stream::Emitter;
use crate::value::Key;
use crate::{Args, Error, Scope};
use futures::StreamExt;
use std::sync::Arc;
use tokio::task::JoinSet;

pub(super) fn register(registry: &mut Registry) {
    let chain = Signature::new("chain", "The rows of all queries given.")
        .arg("async", ArgType::Bool, "Runs them at the same time.")
        .any_args();
    let combine = Signature::new("combine", "The rows of all queries given, run at once.");
    registry.plugin_async(combine.any_args(), |scope, args, emitter| async move {
        all(scope, args, emitter, true).await
    });
    registry.plugin_async(chain, |scope, args, emitter| async move {
        let parallel = args.bool("async")?;
        all(scope, args, emitter, parallel).await
    });
}

async fn all(scope: Scope, args: Args, emitter: Emitter, parallel: bool) -> Result<(), Error> {
    let names = args.names().filter(|name| name.as_str() != "async");
    let names: Vec<Key> = names.cloned().collect();
    let args = Arc::new(args);
    if !parallel {
        for name in names {
            run(&args, &name, &scope, &emitter).await?;
        }
        return Ok(());
    }
    let mut tasks = JoinSet::new();
    for name in names {
        let (args, scope, emitter) = (args.clone(), scope.clone(), emitter.clone());
        tasks.spawn(async move { run(&args, &name, &scope, &emitter).await });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn run(args: &Args, name: &str, scope: &Scope, emitter: &Emitter) -> Result<(), Error> {
    let mut rows = args.rows_in(name, &scope.child());
    while let Some(row) = rows.next().await {
        emitter.send(row).await?;
    }
    Ok(())
}
