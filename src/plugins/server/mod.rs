//! Functions and plugins that work on the server's own data. Each checks the
//! caller's rights itself; what is not permitted is a log line and no rows.

use std::sync::Arc;

use super::common::spill;
use vql::{LogSink, Registry, Scope, ScopeBuilder};

mod args;
pub mod artifact;
mod artifacts;
mod certificate;
mod clients;
mod cluster;
mod deletion;
mod events;
mod exports;
pub mod files;
mod flows;
mod guard;
pub mod hunt_results;
mod hunts;
mod imports;
mod inventory;
mod links;
mod mail;
mod monitoring;
mod notebooks;
mod orgs;
mod parallel;
mod personal;
mod results;
pub mod session;
mod store_path;
mod timelines;
mod tools;
mod users;

#[cfg(test)]
mod own_tests;
#[cfg(test)]
pub(crate) mod tests;

pub use session::Session;

/// Adds everything in this room; what is there already is put behind the rights
/// it needs on a server.
pub fn register(registry: &mut Registry) {
    guard::install(registry);
    artifact::register(registry);
    artifacts::register(registry);
    certificate::register(registry);
    clients::register(registry);
    cluster::register(registry);
    deletion::register(registry);
    events::register(registry);
    exports::register(registry);
    files::register(registry);
    flows::register(registry);
    hunts::register(registry);
    imports::register(registry);
    inventory::register(registry);
    links::register(registry);
    mail::register(registry);
    monitoring::register(registry);
    notebooks::register(registry);
    orgs::register(registry);
    parallel::register(registry);
    personal::register(registry);
    results::register(registry);
    timelines::register(registry);
    tools::register(registry);
    users::register(registry);
}

/// The callables of a query on the server.
pub fn registry() -> Arc<Registry> {
    let mut registry = super::endpoint_registry();
    register(&mut registry);
    Arc::new(registry)
}

/// A root scope for a query of `session`.
pub fn scope(
    registry: Arc<Registry>,
    session: Arc<Session>,
    log: impl LogSink + 'static,
    cancel: tokio_util::sync::CancellationToken,
) -> Scope {
    let clock = session.server.env.clock.clone();
    let now = move || vql::Time::try_from(clock.now()).unwrap_or(vql::Time::UNIX_EPOCH);
    let env = Arc::new(session.server.env.clone());
    let server = &session.server;
    let written = server.counters.query_spilled_bytes.clone();
    let spill = spill::spill(&env, server.options.query_memory_bytes, written);
    let accessors = Arc::new(files::of_host(&session));
    ScopeBuilder::new(registry)
        .extension(accessors)
        .log(log)
        .clock(now)
        .cancel(cancel)
        .extension(session)
        .extension(env)
        .extension(spill)
        .build()
}
