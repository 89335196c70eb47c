//! The plugins of the language which need no host.

mod chain;
mod conditional;
mod dedup;
mod delay;
mod fifo;
mod flatten;
mod foreach;
mod query;
mod sequence;
mod simple;
mod tables;

pub(crate) use fifo::Fifos;

use crate::registry::Registry;

/// Adds them all.
pub(crate) fn register(registry: &mut Registry) {
    chain::register(registry);
    dedup::register(registry);
    delay::register(registry);
    fifo::register(registry);
    conditional::register(registry);
    flatten::register(registry);
    foreach::register(registry);
    query::register(registry);
    sequence::register(registry);
    simple::register(registry);
    tables::register(registry);
}
