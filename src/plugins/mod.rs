//! VQL plugins and functions: common, endpoint and server.

#[cfg(test)]
mod cancel_tests;
pub mod common;
pub mod endpoint;
pub mod server;

use std::sync::Arc;

/// The callables of a query on this host that belongs to no server.
pub fn local_registry() -> Arc<vql::Registry> {
    let mut registry = endpoint_registry();
    server::artifact::register(&mut registry);
    Arc::new(registry)
}

/// The callables of an endpoint: the language's own, files, and the host.
pub fn endpoint_registry() -> vql::Registry {
    let mut registry = vql::Registry::standard();
    common::register(&mut registry);
    endpoint::register(&mut registry);
    registry
}
