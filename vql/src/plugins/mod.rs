//! The plugins of the language which need no host.

mod chain;
mod conditional;
mod flatten;
mod foreach;
mod query;
mod simple;

use crate::registry::Registry;

/// Adds them all.
pub(crate) fn register(registry: &mut Registry) {
    chain::register(registry);
    conditional::register(registry);
    flatten::register(registry);
    foreach::register(registry);
    query::register(registry);
    simple::register(registry);
}
