//! VQL plugins and functions: common, endpoint and server.

pub mod server;

use std::sync::Arc;

/// The callables of a query on this host that belongs to no server.
pub fn local_registry() -> Arc<vql::Registry> {
    let mut registry = vql::Registry::standard();
    server::artifact::register(&mut registry);
    Arc::new(registry)
}
